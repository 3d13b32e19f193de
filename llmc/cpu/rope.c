// Rotary position embedding, reference. Su et al. 2021 (RoFormer), half-split pairs: (i, i + D/2).
#include "common.h"
#include "ops.h"

void rope_forward(floatX* x, const float* table, int N, int T, int heads, int D, int ld, stream_t stream) {
    (void)stream;
    REQUIRE(D % 8 == 0, "rope: D=%d is not a multiple of 8", D);
    REQUIRE((size_t)heads * D <= (size_t)ld, "rope: %d heads of %d do not fit in rows of %d", heads, D, ld);
    int half = D / 2;
    #pragma omp parallel for
    for (int row = 0; row < N; row++) {
        const float* angle = table + (size_t)(row % T) * half * 2;
        for (int h = 0; h < heads; h++) {
            floatX* head = x + (size_t)row * ld + (size_t)h * D;
            for (int i = 0; i < half; i++) {
                double cosine = angle[2 * i], sine = angle[2 * i + 1];
                double a = head[i], b = head[i + half];
                head[i]        = ROUND(a * cosine - b * sine);
                head[i + half] = ROUND(a * sine + b * cosine);
            }
        }
    }
}

void matmul_rope_forward(floatX* out, const floatX* inp, const floatX* weight, const float* table, int N, int T, int heads, int D, int C, int OC,
                         struct MatmulPlans* plans, stream_t stream) {
    matmul_forward(out, inp, weight, N, C, OC, plans, stream);
    rope_forward(out, table, N, T, heads, D, OC, stream);
}

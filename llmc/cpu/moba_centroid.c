// Block means of the keys, reference.
#include "common.h"
#include "ops.h"

void moba_centroid(float* centroid, const floatX* k, AttnShape shape, int block, stream_t stream) {
    (void)stream;
    int T = shape.T, H = shape.H, D = shape.D, n = ceil_div(T, block);
    REQUIRE(D % 8 == 0 && block > 0, "moba_centroid: D=%d must be a multiple of 8, block=%d positive", D, block);
    #pragma omp parallel for collapse(3)
    for (int b = 0; b < shape.B; b++) {
        for (int h = 0; h < H; h++) {
            for (int j = 0; j < n; j++) {
                int from = j * block, to = min_int(from + block, T);
                float* mean = centroid + (((size_t)b * H + h) * n + j) * D;
                for (int d = 0; d < D; d += 8) {
                    double sum[8] = {0};
                    for (int t = from; t < to; t++) {
                        const floatX* key = k + ((size_t)b * T + t) * shape.ldk + (size_t)h * D + d;
                        for (int i = 0; i < 8; i++) { sum[i] += key[i]; }
                    }
                    for (int i = 0; i < 8; i++) { mean[d + i] = sum[i] / (to - from); }
                }
            }
        }
    }
}

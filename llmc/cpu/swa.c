// Sliding-window and dense causal attention on the CPU: a query at a time (see attn_rows.h).
#include "ops.h"
#include "attn_rows.h"

const char* swa_refusal(int head_dim) {
    return head_dim > 0 && head_dim % 8 == 0 ? NULL : "multiples of 8";
}

void swa_forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, AttnShape shape, int window, stream_t stream) {
    (void)stream;
    const int T = shape.T, H = shape.H, D = shape.D;
    const double scale = 1 / sqrt((double)D);
    #pragma omp parallel
    {
        double* score = (double*)xmalloc((size_t)(T + D) * sizeof(double));
        double* acc = score + T;
        #pragma omp for collapse(3)
        for (int b = 0; b < shape.B; b++) {
            for (int h = 0; h < H; h++) {
                for (int t = 0; t < T; t++) {
                    size_t first = (size_t)b * T, row = first + t;
                    lse[((size_t)b * H + h) * T + t] =
                        attend(acc, score, q + row * shape.ldq + h * D, k + first * shape.ldk + h * D, shape.ldk,
                               v + first * shape.ldv + h * D, shape.ldv, window <= t ? t - window + 1 : 0, t + 1, D, scale);
                    for (int d = 0; d < D; d++) { out[row * shape.ldo + h * D + d] = ROUND(acc[d]); }
                }
            }
        }
        free(score);
    }
}

// The gradient of turned rows (rope_forward) becomes that of the rows before: pair (i, i + D/2) turns back by the angle of its position.
// rows: count of D, from position t on
static void turn_back(double* rows, const float* rope, int t, int count, int D) {
    int half = D / 2;
    for (int r = 0; r < count; r++) {
        const float* angle = rope + (size_t)(t + r) * D;
        double* row = rows + (size_t)r * D;
        for (int i = 0; i < half; i++) {
            double cosine = angle[2 * i], sine = angle[2 * i + 1], a = row[i], b = row[i + half];
            row[i]        = a * cosine + b * sine;
            row[i + half] = b * cosine - a * sine;
        }
    }
}

// one thread per head: its dk and dv are sums over queries in ascending order
void swa_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, const floatX* q,
                  const floatX* k, const floatX* v, const float* rope, AttnShape shape, int window, void* scratch, stream_t stream) {
    (void)scratch; (void)stream;
    const int T = shape.T, H = shape.H, D = shape.D;
    const double scale = 1 / sqrt((double)D);
    #pragma omp parallel for collapse(2)
    for (int b = 0; b < shape.B; b++) {
        for (int h = 0; h < H; h++) {
            size_t first = (size_t)b * T;
            double* dk_sum = (double*)xcalloc((size_t)(2 * T + 1) * D, sizeof(double));
            double *dv_sum = dk_sum + (size_t)T * D, *dq_sum = dv_sum + (size_t)T * D;
            for (int t = 0; t < T; t++) {
                const floatX* dout_row = dout + (first + t) * shape.ldo + h * D;
                double delta = dot_row(dout_row, out + (first + t) * shape.ldo + h * D, D);
                attend_backward(dq_sum, dk_sum, dv_sum, dout_row, q + (first + t) * shape.ldq + h * D,
                                k + first * shape.ldk + h * D, shape.ldk, v + first * shape.ldv + h * D, shape.ldv,
                                lse[((size_t)b * H + h) * T + t], delta, window <= t ? t - window + 1 : 0, t + 1, D, scale);
                if (rope != NULL) { turn_back(dq_sum, rope, t, 1, D); }
                store_head(dq + (first + t) * shape.ldq + h * D, shape.ldq, dq_sum, 1, D);
            }
            if (rope != NULL) { turn_back(dk_sum, rope, 0, T, D); }
            store_head(dk + first * shape.ldk + h * D, shape.ldk, dk_sum, T, D);
            store_head(dv + first * shape.ldv + h * D, shape.ldv, dv_sum, T, D);
            free(dk_sum);
        }
    }
}

size_t swa_backward_scratch(AttnShape shape, int window) { (void)shape; (void)window; return 0; }

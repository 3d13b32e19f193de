// MoBA attention on the CPU: each query attends to every block it sees on its own (see attn_rows.h), and the parts are merged by their
// log-sum-exp. That is the formula of one softmax over all the keys, written the way the kernels compute it, so that the rounded twin
// rounds where they store bf16: a routed block's part of out, and its part of dq (the "slots"). The own block's part never leaves fp32.
// Routing comes from route.sel; the lists are for kernels.
#include "ops.h"
#include "attn_rows.h"

const char* moba_attn_refusal(int head_dim, int block, int topk) {
    return head_dim > 0 && head_dim % 8 == 0 && block >= 1 && topk >= 1 && topk <= MOBA_MAX_TOPK ? NULL
         : "head dims that are multiples of 8, blocks of 1 or more keys, top-k 1 to 32";
}

// keys of query t's i-th part: the own block up to t first (i = 0), then the blocks sel names; false when there are no more
static bool part_of(int* from, int* to, const uint16_t* sel, int i, int t, int block, int topk) {
    if (i == 0) { *from = t / block * block; *to = t + 1; return true; }
    if (i == topk || sel[i - 1] == MOBA_NONE) { return false; }
    *from = sel[i - 1] * block;
    *to = *from + block;
    return true;
}

// out (D) and the return value (lse) of one query; part, score: room for topk * D and block numbers
static double attend_parts(double* out, double* part, double* score, const uint16_t* sel, const floatX* q, const floatX* k, int ldk,
                           const floatX* v, int ldv, int t, int D, int block, int topk, double scale) {
    double lse[MOBA_MAX_TOPK], max = -INFINITY, sum = 0;
    int parts = 0;
    for (int from, to; part_of(&from, &to, sel, parts, t, block, topk); parts++) {
        lse[parts] = attend(part + (size_t)parts * D, score, q, k, ldk, v, ldv, from, to, D, scale);
        max = fmax(max, lse[parts]);
    }
    for (int d = 0; d < D; d++) { out[d] = 0; }
    for (int i = 0; i < parts; i++) {
        double weight = exp(lse[i] - max);
        sum += weight;
        for (int d = 0; d < D; d++) { out[d] += weight * (i == 0 ? part[d] : ROUND(part[(size_t)i * D + d])); }
    }
    for (int d = 0; d < D; d++) { out[d] /= sum; }
    return max + log(sum);
}

void moba_attn_forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, MobaRoute route,
                       AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream) {
    (void)scratch; (void)scratch_bytes; (void)stream;
    const int T = shape.T, H = shape.H, D = shape.D;
    const double scale = 1 / sqrt((double)D);
    #pragma omp parallel
    {
        double* score = (double*)xmalloc(((size_t)block + (size_t)(topk + 1) * D) * sizeof(double));
        double *acc = score + block, *part = acc + D;
        #pragma omp for collapse(3)
        for (int b = 0; b < shape.B; b++) {
            for (int h = 0; h < H; h++) {
                for (int t = 0; t < T; t++) {
                    size_t first = (size_t)b * T, row = first + t, head_row = ((size_t)b * H + h) * T + t;
                    lse[head_row] = attend_parts(acc, part, score, route.sel + head_row * (topk - 1), q + row * shape.ldq + h * D,
                                                 k + first * shape.ldk + h * D, shape.ldk, v + first * shape.ldv + h * D, shape.ldv,
                                                 t, D, block, topk, scale);
                    for (int d = 0; d < D; d++) { out[row * shape.ldo + h * D + d] = ROUND(acc[d]); }
                }
            }
        }
        free(score);
    }
}

// one thread per head: its dk and dv are sums over queries in ascending order
void moba_attn_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse,
                        const floatX* q, const floatX* k, const floatX* v, MobaRoute route,
                        AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream) {
    (void)scratch; (void)scratch_bytes; (void)stream;
    const int T = shape.T, H = shape.H, D = shape.D;
    const double scale = 1 / sqrt((double)D);
    #pragma omp parallel for collapse(2)
    for (int b = 0; b < shape.B; b++) {
        for (int h = 0; h < H; h++) {
            size_t first = (size_t)b * T;
            double* dk_sum = (double*)xcalloc((size_t)(2 * T + 2) * D, sizeof(double));
            double *dv_sum = dk_sum + (size_t)T * D, *dq_sum = dv_sum + (size_t)T * D, *dq_part = dq_sum + D;
            for (int t = 0; t < T; t++) {
                size_t head_row = ((size_t)b * H + h) * T + t;
                const floatX* dout_row = dout + (first + t) * shape.ldo + h * D;
                double delta = dot_row(dout_row, out + (first + t) * shape.ldo + h * D, D);
                int from, to;
                for (int i = 0; part_of(&from, &to, route.sel + head_row * (topk - 1), i, t, block, topk); i++) {
                    attend_backward(dq_part, dk_sum, dv_sum, dout_row, q + (first + t) * shape.ldq + h * D,
                                    k + first * shape.ldk + h * D, shape.ldk, v + first * shape.ldv + h * D, shape.ldv,
                                    lse[head_row], delta, from, to, D, scale);
                    for (int d = 0; d < D; d++) { dq_sum[d] = i == 0 ? dq_part[d] : dq_sum[d] + ROUND(dq_part[d]); }
                }
                store_head(dq + (first + t) * shape.ldq + h * D, shape.ldq, dq_sum, 1, D);
            }
            store_head(dk + first * shape.ldk + h * D, shape.ldk, dk_sum, T, D);
            store_head(dv + first * shape.ldv + h * D, shape.ldv, dv_sum, T, D);
            free(dk_sum);
        }
    }
}

size_t moba_attn_forward_scratch(AttnShape shape, int block, int topk, size_t cap) {
    (void)shape; (void)block; (void)topk; (void)cap;
    return 0;
}

size_t moba_attn_backward_scratch(AttnShape shape, int block, int topk, size_t cap) {
    (void)shape; (void)block; (void)topk; (void)cap;
    return 0;
}

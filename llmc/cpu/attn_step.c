// One new query a head against cached rows, reference: two passes over the keys, sums in fp64. The kernels keep P in fp32: nothing but
// the output is rounded.
#include "attn_rows.h"
#include "common.h"
#include "ops.h"

void attn_step_topk(uint16_t* sel, const floatX* q, const float* centroid, int H, int D, int past, int topk, void* scratch, stream_t stream) {
    (void)stream;
    REQUIRE(topk >= 2 && topk <= MOBA_MAX_TOPK, "attn_step_topk: topk=%d is outside [2, %d]", topk, MOBA_MAX_TOPK);
    REQUIRE(past >= 0 && past <= MOBA_NONE, "attn_step_topk: %d blocks do not fit in 16 bits; use longer blocks", past);
    float* score = (float*)scratch;
    int slots = topk - 1, count = min_int(slots, past);
    for (int h = 0; h < H; h++) {
        for (int j = 0; j < past; j++) {
            double sum = 0;
            for (int d = 0; d < D; d++) { sum += (double)q[h * D + d] * centroid[((size_t)j * H + h) * D + d]; }
            score[j] = isnan(sum) ? -INFINITY : (float)sum;
        }
        // a block is in if fewer than `count` others come before it: higher scores, and the same score at a lower index
        int picked = 0;
        for (int j = 0; j < past; j++) {
            int before = 0;
            for (int i = 0; i < past; i++) { before += score[i] > score[j] || (score[i] == score[j] && i < j); }
            if (before < count) { sel[h * slots + picked++] = (uint16_t)j; }
        }
        while (picked < slots) { sel[h * slots + picked++] = MOBA_NONE; }
    }
}

size_t attn_step_topk_scratch(int H, int past) { (void)H; return (size_t)max_int(past, 1) * sizeof(float); }

typedef struct { double max, sum; double* out; } Softmax;       // sum and out (D) are relative to exp(max)

// the rows [from, to): k and v point at the head's columns of row 0
static void add_rows(Softmax* s, const floatX* q, const floatX* k, const floatX* v, int ld, int from, int to, int D, double scale) {
    double max = s->max;
    for (int u = from; u < to; u++) { max = fmax(max, scale * dot_row(q, k + (size_t)u * ld, D)); }
    double shrink = exp(s->max - max);
    s->max = max;
    s->sum *= shrink;
    for (int d = 0; d < D; d++) { s->out[d] *= shrink; }
    for (int u = from; u < to; u++) {
        double p = exp(scale * dot_row(q, k + (size_t)u * ld, D) - max);
        s->sum += p;
        add_row(s->out, p, v + (size_t)u * ld, D);
    }
}

void attn_step_forward(floatX* out, const floatX* q, const floatX* k, const floatX* v, const uint16_t* sel, int H, int D, int from, int to,
                       int block, int slots, void* scratch, stream_t stream) {
    (void)scratch; (void)stream;
    REQUIRE(from >= 0 && from < to, "attn_step_forward: the run of rows [%d, %d) is empty", from, to);
    const double scale = 1 / sqrt((double)D);
    #pragma omp parallel for
    for (int h = 0; h < H; h++) {
        Softmax s = {-INFINITY, 0, (double*)xcalloc((size_t)D, sizeof(double))};
        const floatX *query = q + h * D, *keys = k + h * D, *values = v + h * D;
        add_rows(&s, query, keys, values, H * D, from, to, D, scale);
        for (int i = 0; i < slots && sel[h * slots + i] != MOBA_NONE; i++) {
            int first = sel[h * slots + i] * block;
            add_rows(&s, query, keys, values, H * D, first, first + block, D, scale);
        }
        for (int d = 0; d < D; d++) { out[h * D + d] = ROUND(s.out[d] / s.sum); }
        free(s.out);
    }
}

size_t attn_step_forward_scratch(int H, int D, int rows, int slots) { (void)H; (void)D; (void)rows; (void)slots; return 0; }

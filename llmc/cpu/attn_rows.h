// One query against one run of keys: the piece that sliding-window, dense and MoBA attention share on the CPU.
// Rows are `ld` elements apart; sums are fp64. The rounded twin rounds what tensor cores read: P before P V and dS before its products,
// both relative to their own row (the kernels' P is relative to a running maximum, which is the same to a bf16 ulp);
// the sum of P is that of the unrounded values, in the kernels too.
#ifndef ATTN_ROWS_H
#define ATTN_ROWS_H

#include "common.h"
#include "dtype.h"

static inline double dot_row(const floatX* a, const floatX* b, int D) {
    double sum = 0;
    #pragma omp simd reduction(+:sum)
    for (int d = 0; d < D; d++) { sum += (double)a[d] * (double)b[d]; }
    return sum;
}

static inline void add_row(double* to, double factor, const floatX* row, int D) {
    #pragma omp simd
    for (int d = 0; d < D; d++) { to[d] += factor * (double)row[d]; }
}

// out = softmax(scale q . k_u) v_u over from <= u < to (a run of at least one key), returns the log of the sum of exponentials
// out: (D)    score: room for to - from numbers
static inline double attend(double* out, double* score, const floatX* q, const floatX* k, int ldk, const floatX* v, int ldv,
                            int from, int to, int D, double scale) {
    double max = -INFINITY, sum = 0;
    for (int u = from; u < to; u++) {
        score[u - from] = scale * dot_row(q, k + (size_t)u * ldk, D);
        max = fmax(max, score[u - from]);
    }
    for (int d = 0; d < D; d++) { out[d] = 0; }
    for (int u = from; u < to; u++) {
        double p = exp(score[u - from] - max);
        sum += p;
        add_row(out, ROUND(p), v + (size_t)u * ldv, D);
    }
    for (int d = 0; d < D; d++) { out[d] /= sum; }
    return max + log(sum);
}

// Gradients of the same for one query, P again from lse and delta = dout . out:
//   dv_u += P dout     dS = P (dout . v_u - delta)     dq = scale dS k_u (set)     dk_u += scale dS q
// dq: (D)    dk, dv: (T, D) of this head
static inline void attend_backward(double* dq, double* dk, double* dv, const floatX* dout, const floatX* q, const floatX* k, int ldk,
                                   const floatX* v, int ldv, double lse, double delta, int from, int to, int D, double scale) {
    for (int d = 0; d < D; d++) { dq[d] = 0; }
    for (int u = from; u < to; u++) {
        const floatX* key = k + (size_t)u * ldk;
        double p  = exp(scale * dot_row(q, key, D) - lse);
        double ds = ROUND(p * (dot_row(dout, v + (size_t)u * ldv, D) - delta));
        add_row(dv + (size_t)u * D, ROUND(p), dout, D);
        add_row(dq, scale * ds, key, D);
        add_row(dk + (size_t)u * D, scale * ds, q, D);
    }
}

// one head's fp64 sums (T, D) into its rows of a floatX tensor
static inline void store_head(floatX* to, int ld, const double* sums, int T, int D) {
    for (int t = 0; t < T; t++) {
        for (int d = 0; d < D; d++) { to[(size_t)t * ld + d] = ROUND(sums[(size_t)t * D + d]); }
    }
}

#endif

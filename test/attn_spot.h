// Attention of single queries and single blocks of keys, straight from the formula in fp64, for sequences too long to be computed whole:
// MoBA, and sliding-window and dense attention. With `rounded` it rounds to bf16 where a kernel does (as the rnd_ reference: P, dS, routed
// parts of out and dq, the outputs), so that the budget of check_budget can be derived on the sampled elements.
// B = 1; tensors are dense (T, H, D), as bits of bf16.
#ifndef ATTN_SPOT_H
#define ATTN_SPOT_H

#include "test.h"

enum { SPOT_MAX_D = 128 };

typedef struct {
    int T, H, D, block, topk;
    int window;                           // 0: MoBA.  Otherwise query t sees keys t - window + 1 .. t, and topk is 1
    const uint16_t *q, *k, *v, *dout;
    const uint16_t* sel;                  // (H, T, topk - 1)
    bool rounded;
} Spot;

static inline double spot_round(const Spot* s, double x) { return s->rounded ? bf16_to_float(float_to_bf16((float)x)) : x; }

static inline const uint16_t* spot_row(const Spot* s, const uint16_t* x, int head, int t) { return x + ((size_t)t * s->H + head) * s->D; }

static inline void spot_load(const Spot* s, double* to, const uint16_t* x, int head, int t) {
    const uint16_t* row = spot_row(s, x, head, t);
    for (int d = 0; d < s->D; d++) { to[d] = bf16_to_float(row[d]); }
}

static inline double spot_dot(const double* a, const uint16_t* row, int D) {
    double sum = 0;
    #pragma omp simd reduction(+:sum)
    for (int d = 0; d < D; d++) { sum += a[d] * bf16_to_float(row[d]); }
    return sum;
}

static inline void spot_add(double* to, double factor, const uint16_t* row, int D) {
    #pragma omp simd
    for (int d = 0; d < D; d++) { to[d] += factor * bf16_to_float(row[d]); }
}

// the first key of query t's window, or of its own block
static inline int spot_first(const Spot* s, int t) {
    if (s->window == 0) { return t / s->block * s->block; }
    return t < s->window ? 0 : t - s->window + 1;
}

// keys [*from, *to) of query t's i-th part: the window or the own block up to t, then the picked blocks; false when there are no more
static inline bool spot_part(const Spot* s, int head, int t, int i, int* from, int* to) {
    if (i == 0) { *from = spot_first(s, t); *to = t + 1; return true; }
    if (i == s->topk) { return false; }
    uint16_t pick = s->sel[((size_t)head * s->T + t) * (s->topk - 1) + i - 1];
    if (pick == MOBA_NONE) { return false; }
    *from = pick * s->block;
    *to = *from + s->block;
    return true;
}

// One query: its output, the log of its sum of exponentials, and what its gradients need.
typedef struct { double q[SPOT_MAX_D], dout[SPOT_MAX_D], out[SPOT_MAX_D], lse, delta; } SpotQuery;

// part (D) = softmax(q . k / sqrt(D)) v over keys [from, to); returns its log-sum-exp
static inline double spot_attend(const Spot* s, double* part, const SpotQuery* query, int head, int from, int to) {
    double *score = (double*)malloc((size_t)(to - from) * sizeof(double)), max = -INFINITY, sum = 0;
    for (int u = from; u < to; u++) {
        score[u - from] = spot_dot(query->q, spot_row(s, s->k, head, u), s->D) / sqrt((double)s->D);
        max = fmax(max, score[u - from]);
    }
    for (int d = 0; d < s->D; d++) { part[d] = 0; }
    for (int u = from; u < to; u++) {
        double p = exp(score[u - from] - max);
        sum += p;
        spot_add(part, spot_round(s, p), spot_row(s, s->v, head, u), s->D);
    }
    for (int d = 0; d < s->D; d++) { part[d] /= sum; }
    free(score);
    return max + log(sum);
}

static inline SpotQuery spot_query(const Spot* s, int head, int t) {
    SpotQuery r;
    double part[MOBA_MAX_TOPK][SPOT_MAX_D], lse[MOBA_MAX_TOPK], max = -INFINITY, sum = 0;
    int parts = 0;
    spot_load(s, r.q, s->q, head, t);
    spot_load(s, r.dout, s->dout, head, t);
    for (int from, to; spot_part(s, head, t, parts, &from, &to); parts++) {
        lse[parts] = spot_attend(s, part[parts], &r, head, from, to);
        max = fmax(max, lse[parts]);
    }
    for (int d = 0; d < s->D; d++) { r.out[d] = 0; }
    for (int i = 0; i < parts; i++) {
        double weight = exp(lse[i] - max);
        sum += weight;
        for (int d = 0; d < s->D; d++) { r.out[d] += weight * (i == 0 ? part[i][d] : spot_round(s, part[i][d])); }
    }
    r.lse = max + log(sum);
    r.delta = 0;
    for (int d = 0; d < s->D; d++) {
        r.out[d] = spot_round(s, r.out[d] / sum);
        r.delta += r.dout[d] * r.out[d];
    }
    return r;
}

// P and dS (rounded) of the query and one key
static inline void spot_pair(const Spot* s, double* p, double* ds, const SpotQuery* query, int head, int u) {
    *p = exp(spot_dot(query->q, spot_row(s, s->k, head, u), s->D) / sqrt((double)s->D) - query->lse);
    *ds = spot_round(s, *p * (spot_dot(query->dout, spot_row(s, s->v, head, u), s->D) - query->delta));
    *p = spot_round(s, *p);
}

// dq (D): the own part stays fp64, those of picked blocks pass through bf16 slots
static inline void spot_dq(const Spot* s, double* dq, const SpotQuery* query, int head, int t) {
    for (int d = 0; d < s->D; d++) { dq[d] = 0; }
    for (int i = 0, from, to; spot_part(s, head, t, i, &from, &to); i++) {
        double part[SPOT_MAX_D] = {0}, p, ds;
        for (int u = from; u < to; u++) {
            spot_pair(s, &p, &ds, query, head, u);
            spot_add(part, ds / sqrt((double)s->D), spot_row(s, s->k, head, u), s->D);
        }
        for (int d = 0; d < s->D; d++) { dq[d] += i == 0 ? part[d] : spot_round(s, part[d]); }
    }
    for (int d = 0; d < s->D; d++) { dq[d] = spot_round(s, dq[d]); }
}

// The share of query t in dk and dv (fp64 sums over rows of D, row 0 is key `first`) of keys [from, to)
static inline void spot_add_keys(const Spot* s, double* dk, double* dv, const SpotQuery* query, int head, int t, int first, int from, int to) {
    for (int u = from; u < to; u++) {
        double p, ds;
        spot_pair(s, &p, &ds, query, head, u);
        spot_add(dv + (size_t)(u - first) * s->D, p, spot_row(s, s->dout, head, t), s->D);
        spot_add(dk + (size_t)(u - first) * s->D, ds / sqrt((double)s->D), spot_row(s, s->q, head, t), s->D);
    }
}

// dk, dv (block, D) of block j, given the later queries that picked it; its own queries are added. Both are set, zero beyond T.
static inline void spot_block(const Spot* s, float* dk, float* dv, int head, int j, const int* callers, int count) {
    int first = j * s->block, end = first + s->block < s->T ? first + s->block : s->T;
    size_t n = (size_t)s->block * s->D;
    double *dk_sum = (double*)calloc(2 * n, sizeof(double)), *dv_sum = dk_sum + n;
    for (int i = 0; i < count + end - first; i++) {
        int t = i < count ? callers[i] : first + i - count;
        SpotQuery query = spot_query(s, head, t);
        spot_add_keys(s, dk_sum, dv_sum, &query, head, t, first, first, t < end ? t + 1 : end);
    }
    for (size_t i = 0; i < n; i++) { dk[i] = (float)spot_round(s, dk_sum[i]); dv[i] = (float)spot_round(s, dv_sum[i]); }
    free(dk_sum);
}

// dk, dv (to - from, D) of keys [from, to) behind a window, given lse and delta = dout . out of all queries (H, T): then only pairs with
// these keys are computed.
static inline void spot_window_keys(const Spot* s, float* dk, float* dv, int head, int from, int to, const float* lse, const double* delta) {
    int end = to - 1 + s->window < s->T ? to - 1 + s->window : s->T;
    size_t n = (size_t)(to - from) * s->D;
    double *dk_sum = (double*)calloc(2 * n, sizeof(double)), *dv_sum = dk_sum + n;
    for (int t = from; t < end; t++) {
        SpotQuery query;
        spot_load(s, query.q, s->q, head, t);
        spot_load(s, query.dout, s->dout, head, t);
        query.lse = lse[(size_t)head * s->T + t];
        query.delta = delta[(size_t)head * s->T + t];
        int seen = spot_first(s, t);
        spot_add_keys(s, dk_sum, dv_sum, &query, head, t, from, seen > from ? seen : from, t < to ? t + 1 : to);
    }
    for (size_t i = 0; i < n; i++) { dk[i] = (float)spot_round(s, dk_sum[i]); dv[i] = (float)spot_round(s, dv_sum[i]); }
    free(dk_sum);
}

// bits of bf16 normals, four to a random word: 65536 different values are enough for inputs
static inline uint16_t* spot_normals(size_t n, uint64_t seed) {
    enum { POOL = 1 << 16 };
    uint16_t *pool = (uint16_t*)malloc(POOL * sizeof(uint16_t)), *x = (uint16_t*)malloc((n + 3) * sizeof(uint16_t));
    for (int i = 0; i < POOL; i++) { pool[i] = float_to_bf16((float)test_normal(&seed)); }
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = test_bits(&seed);
        for (int e = 0; e < 4; e++) { x[i + e] = pool[(bits >> (16 * e)) & 0xffff]; }
    }
    free(pool);
    return x;
}

// an exact problem of normals; sel is the caller's
static inline Spot spot_open(int T, int H, int D, int block, int topk, int window) {
    size_t n = (size_t)T * H * D;
    Spot s = {T, H, D, block, topk, window, spot_normals(n, 1), spot_normals(n, 2), spot_normals(n, 3), spot_normals(n, 4), NULL, false};
    return s;
}
static inline void spot_close(Spot* s) { free((void*)s->q); free((void*)s->k); free((void*)s->v); free((void*)s->dout); }

#endif

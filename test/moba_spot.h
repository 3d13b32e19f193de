// MoBA attention of single queries and single blocks of keys, straight from the formula in fp64, for sequences too long to be computed whole.
// With `rounded` it rounds to bf16 where a kernel does (as the rnd_ reference: P, dS, routed parts of out and dq, the outputs), so that the
// budget of check_budget can be derived on the sampled elements. B = 1; tensors are dense (T, H, D), as bits of bf16.
#ifndef MOBA_SPOT_H
#define MOBA_SPOT_H

#include "test.h"

enum { SPOT_MAX_D = 128, SPOT_MAX_BLOCK = 1024 };

typedef struct {
    int T, H, D, block, topk;
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

// keys [*from, *to) of query t's i-th part: the own block up to t, then the picked blocks; false when there are no more
static inline bool spot_part(const Spot* s, int head, int t, int i, int* from, int* to) {
    const uint16_t* picks = s->sel + ((size_t)head * s->T + t) * (s->topk - 1);
    if (i == 0) { *from = t / s->block * s->block; *to = t + 1; return true; }
    if (i == s->topk || picks[i - 1] == MOBA_NONE) { return false; }
    *from = picks[i - 1] * s->block;
    *to = *from + s->block;
    return true;
}

// One query: its output, the log of its sum of exponentials, and what its gradients need.
typedef struct { double q[SPOT_MAX_D], dout[SPOT_MAX_D], out[SPOT_MAX_D], lse, delta; } SpotQuery;

// part (D) = softmax(q . k / sqrt(D)) v over keys [from, to); returns its log-sum-exp
static inline double spot_attend(const Spot* s, double* part, const SpotQuery* query, int head, int from, int to) {
    double score[SPOT_MAX_BLOCK], max = -INFINITY, sum = 0;
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

// dk, dv (block, D) of block j, given the later queries that picked it; its own queries are added. Both are set, zero beyond T.
static inline void spot_block(const Spot* s, float* dk, float* dv, int head, int j, const int* callers, int count) {
    int first = j * s->block, end = first + s->block < s->T ? first + s->block : s->T, D = s->D;
    size_t n = (size_t)s->block * D;
    double *dk_sum = (double*)calloc(2 * n, sizeof(double)), *dv_sum = dk_sum + n;
    for (int i = 0; i < count + end - first; i++) {
        int t = i < count ? callers[i] : first + i - count;
        SpotQuery query = spot_query(s, head, t);
        for (int u = first; u < end && u <= t; u++) {
            double p, ds;
            spot_pair(s, &p, &ds, &query, head, u);
            spot_add(dv_sum + (size_t)(u - first) * D, p, spot_row(s, s->dout, head, t), D);
            spot_add(dk_sum + (size_t)(u - first) * D, ds / sqrt((double)D), spot_row(s, s->q, head, t), D);
        }
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

#endif

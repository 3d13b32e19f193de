// What test_moba_large and test_swa_large share: attn_spot.h held against whole results at a small length, and kernels at lengths that
// no reference computes whole held against attn_spot.h on samples.
#ifndef ATTN_LARGE_H
#define ATTN_LARGE_H

#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "attn_problem.h"
#include "cuda_common.cuh"
#endif
#include "attn_case.h"
#include "attn_spot.h"

// ---- the spot checks against whole results ------------------------------------------------------------------------------------------
enum { WHOLE_T = 300, WHOLE_H = 2, WHOLE_D = 16, WHOLE_N = WHOLE_T * WHOLE_H * WHOLE_D };

typedef struct { float out[WHOLE_N], lse[WHOLE_H * WHOLE_T], dq[WHOLE_N], dk[WHOLE_N], dv[WHOLE_N]; } Whole;
typedef struct { float *q, *k, *v, *dout; } WholeInputs;

static inline float* whole_floats(const uint16_t* bits) {
    float* x = (float*)malloc(WHOLE_N * sizeof(float));
    for (int i = 0; i < WHOLE_N; i++) { x[i] = bf16_to_float(bits[i]); }
    return x;
}
static inline WholeInputs whole_inputs(const Spot* s) {
    WholeInputs in = {whole_floats(s->q), whole_floats(s->k), whole_floats(s->v), whole_floats(s->dout)};
    return in;
}
static inline void whole_inputs_free(WholeInputs* in) { free(in->q); free(in->k); free(in->v); free(in->dout); }

static inline AttnShape whole_shape(void) {
    const int C = WHOLE_H * WHOLE_D;
    AttnShape shape = {1, WHOLE_T, WHOLE_H, WHOLE_D, C, C, C, C, ATTN_AUTO};
    return shape;
}

// out, lse and dq of every query
static inline void whole_queries(Whole* w, const Spot* s) {
    for (int head = 0; head < WHOLE_H; head++) {
        for (int t = 0; t < WHOLE_T; t++) {
            SpotQuery query = spot_query(s, head, t);
            double dq[SPOT_MAX_D];
            size_t at = ((size_t)t * WHOLE_H + head) * WHOLE_D;
            spot_dq(s, dq, &query, head, t);
            w->lse[head * WHOLE_T + t] = (float)query.lse;
            for (int d = 0; d < WHOLE_D; d++) { w->out[at + d] = (float)query.out[d]; w->dq[at + d] = (float)dq[d]; }
        }
    }
}

// a block's dk and dv (rows of D from key `first` on) into their places
static inline void whole_keys(Whole* w, const float* dk, const float* dv, int head, int first, int end) {
    for (int u = first; u < end && u < WHOLE_T; u++) {
        memcpy(w->dk + ((size_t)u * WHOLE_H + head) * WHOLE_D, dk + (u - first) * WHOLE_D, WHOLE_D * sizeof(float));
        memcpy(w->dv + ((size_t)u * WHOLE_H + head) * WHOLE_D, dv + (u - first) * WHOLE_D, WHOLE_D * sizeof(float));
    }
}

static inline double distance(const float* a, const float* b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) { sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]); }
    return sqrt(sum);
}

// found and expected may be `share` of the 2-norm of (scale_a - scale_b) apart
static inline void whole_check(const Whole* found, const Whole* expected, const Whole* scale_a, const Whole* scale_b, double share) {
    #define FIELD(x, n) do { double apart = distance(found->x, expected->x, n), allowed = share * distance(scale_a->x, scale_b->x, n); \
        CHECK(apart <= allowed, "%s: 2-norm %.3g apart, allowed %.3g", #x, apart, allowed); } while (0)
    FIELD(out, WHOLE_N);
    FIELD(dq, WHOLE_N);
    FIELD(dk, WHOLE_N);
    FIELD(dv, WHOLE_N);
    #undef FIELD
    for (int i = 0; i < WHOLE_H * WHOLE_T; i++) { CHECK_NEAR(found->lse[i], expected->lse[i], 1e-5); }
}

#ifndef LLMC_CPU
// ---- the kernels at length ------------------------------------------------------------------------------------------------------------
// Two heads, at the end of rows that have room for `wide` of them: with 12, as in the 124M model, a million rows of q, k, v are more than
// 2^31 elements. Outputs start as poison.
typedef struct {
    AttnShape shape;
    char label[80];                       // for messages
    int C, at;                            // wide * D; column of the first head
    floatX *qv, *k, *dout, *out, *dqv, *dk;
    float* lse;
} Large;

static inline void* poisoned(size_t bytes) {
    void* to = device_malloc(bytes);
    CUDA_CHECK(cudaMemset(to, 0xff, bytes));
    return to;
}
static inline floatX* poisoned_rows(int T, int ld) { return (floatX*)poisoned((size_t)T * ld * 2); }

// columns [at, at + width) of the (T, ld) tensor
static inline void columns_set(floatX* to, const uint16_t* dense, int T, int width, int ld, int at) {
    size_t row = (size_t)width * 2;
    void* from = device_from(dense, T * row);
    CUDA_CHECK(cudaMemcpy2D(to + at, (size_t)ld * 2, from, row, row, T, cudaMemcpyDeviceToDevice));
    device_free(from);
}
static inline floatX* columns_from(const uint16_t* dense, int T, int width, int ld, int at) {      // poison elsewhere
    floatX* to = poisoned_rows(T, ld);
    columns_set(to, dense, T, width, ld, at);
    return to;
}
static inline uint16_t* columns_to_host(const floatX* from, int T, int width, int ld, int at) {
    size_t row = (size_t)width * 2;
    void* to = device_malloc(T * row);
    CUDA_CHECK(cudaMemcpy2D(to, row, from + at, (size_t)ld * 2, row, T, cudaMemcpyDeviceToDevice));
    uint16_t* dense = (uint16_t*)host_from(to, T * row);
    device_free(to);
    return dense;
}

static inline Large large_open(const Spot* s, int wide, AttnPath path) {
    Large l;
    int width = s->H * s->D;
    l.C = wide * s->D;
    l.at = l.C - width;
    AttnShape shape = {1, s->T, s->H, s->D, 3 * l.C, l.C, 3 * l.C, l.C, path};
    l.shape = shape;
    int used = snprintf(l.label, sizeof l.label, "T %d, D %d, %s", s->T, s->D, attn_path_name(path));
    if (s->window > 0) { snprintf(l.label + used, sizeof l.label - used, ", window %d", s->window); }
    l.qv = columns_from(s->q, s->T, width, 3 * l.C, l.at);
    columns_set(l.qv, s->v, s->T, width, 3 * l.C, 2 * l.C + l.at);
    l.k = columns_from(s->k, s->T, width, l.C, l.at);
    l.dout = columns_from(s->dout, s->T, width, l.C, l.at);
    l.out = poisoned_rows(s->T, l.C);
    l.dqv = poisoned_rows(s->T, 3 * l.C);
    l.dk = poisoned_rows(s->T, l.C);
    l.lse = (float*)poisoned((size_t)s->H * s->T * sizeof(float));
    return l;
}
static inline void large_close(Large* l) {
    void* all[] = {l->qv, l->k, l->dout, l->out, l->dqv, l->dk, l->lse};
    for (int i = 0; i < 7; i++) { device_free(all[i]); }
}

typedef struct { uint16_t *out, *dq, *dk, *dv; float* lse; } LargeResults;      // on the host: (T, H, D), and lse (H, T)

static inline uint16_t* large_columns(const char* what, const Large* l, const floatX* from, int ld, int at) {
    int width = l->shape.H * l->shape.D;
    uint16_t* x = columns_to_host(from, l->shape.T, width, ld, at);
    size_t n = (size_t)l->shape.T * width, nans = 0;
    #pragma omp parallel for reduction(+:nans)
    for (size_t i = 0; i < n; i++) { nans += (x[i] & 0x7fff) > 0x7f80; }
    CHECK(nans == 0, "%zu of %zu elements of %s are NaN, or were not written (%s)", nans, n, what, l->label);
    return x;
}
static inline LargeResults large_results(const Large* l) {
    LargeResults r = {large_columns("out", l, l->out, l->C, l->at),         large_columns("dq", l, l->dqv, 3 * l->C, l->at),
                      large_columns("dk", l, l->dk, l->C, l->at),           large_columns("dv", l, l->dqv, 3 * l->C, 2 * l->C + l->at),
                      (float*)host_from(l->lse, (size_t)l->shape.H * l->shape.T * sizeof(float))};
    return r;
}
static inline void large_results_free(LargeResults* r) { free(r->out); free(r->dq); free(r->dk); free(r->dv); free(r->lse); }

// kernel, exact and rounded values of the sampled elements
typedef struct { size_t n; float *kernel, *exact, *rounded; } Samples;

static inline Samples samples_open(size_t n) {
    Samples x = {n, (float*)malloc(n * sizeof(float)), (float*)malloc(n * sizeof(float)), (float*)malloc(n * sizeof(float))};
    return x;
}
static inline void samples_check(const char* what, Samples* x, const Large* l, double terms) {
    char label[176];
    snprintf(label, sizeof label, "%s (%s)", what, l->label);
    check_budget(label, x->kernel, x->exact, x->rounded, x->n, terms);
    free(x->kernel); free(x->exact); free(x->rounded);
}

// to (rows, D): rows from `first` on of a head of x, zero beyond T
static inline void sample_rows(float* to, const uint16_t* x, const Spot* s, int head, int first, int rows) {
    for (int t = first; t < first + rows; t++, to += s->D) {
        for (int d = 0; d < s->D; d++) { to[d] = t < s->T ? bf16_to_float(spot_row(s, x, head, t)[d]) : 0; }
    }
}

// out, lse and dq of the queries at[i] of head[i], which see at most `keys` keys
static inline void check_queries(const Large* l, const LargeResults* found, const Spot* exact, const int* head, const int* at, int queries,
                                 int keys, const char* which) {
    int D = exact->D;
    Samples out = samples_open((size_t)queries * D), dq = samples_open((size_t)queries * D), lse = samples_open(queries);
    #pragma omp parallel for schedule(dynamic)
    for (int task = 0; task < 2 * queries; task++) {
        int i = task / 2;
        size_t to = (size_t)i * D;
        double dq_row[SPOT_MAX_D];
        Spot s = *exact;
        s.rounded = task % 2;
        SpotQuery query = spot_query(&s, head[i], at[i]);
        spot_dq(&s, dq_row, &query, head[i], at[i]);
        (s.rounded ? lse.rounded : lse.exact)[i] = (float)query.lse;
        for (int d = 0; d < D; d++) {
            (s.rounded ? out.rounded : out.exact)[to + d] = (float)query.out[d];
            (s.rounded ? dq.rounded : dq.exact)[to + d] = (float)dq_row[d];
        }
        if (s.rounded) { continue; }
        sample_rows(out.kernel + to, found->out, exact, head[i], at[i], 1);
        sample_rows(dq.kernel + to, found->dq, exact, head[i], at[i], 1);
        lse.kernel[i] = found->lse[(size_t)head[i] * exact->T + at[i]];
    }
    char what[80];
    #define NAME(x) (snprintf(what, sizeof what, x " of %s", which), what)
    samples_check(NAME("out"), &out, l, keys);
    samples_check(NAME("lse"), &lse, l, keys + D);                       // scores are sums of D terms
    samples_check(NAME("dq"), &dq, l, keys);
    #undef NAME
}
#endif

#endif

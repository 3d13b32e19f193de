// What the GPU cases of swa and moba_attn share: one problem, three results (kernel, exact reference, rounded reference), compared.
// Rows are laid out as in a layer with a key convolution: q at column 0 and v at column 2C of a (B*T, 3C) product, k dense beside it.
#ifndef ATTN_PROBLEM_H
#define ATTN_PROBLEM_H

#include "ref.h"
#include "attn_case.h"

typedef struct {
    AttnShape shape;
    int C;                    // H * D
    size_t rows, n;           // B*T, B*T*C
    float *qv, *k, *dout;     // host, rounded to bf16
    floatX *qv_dev, *k_dev, *dout_dev;
} AttnProblem;

// The paths to test here: the portable kernels, and on compute capability 9.0 the Hopper ones.
static inline int attn_paths(AttnPath path[2]) {
    path[0] = ATTN_PORTABLE;
    path[1] = ATTN_HOPPER;
    return device_open(0).capability == 90 ? 2 : 1;
}

typedef struct { float *out, *lse, *dqv, *dk; } AttnResults;             // on the host
typedef struct { floatX *out, *dqv, *dk; float* lse; } AttnOutputs;      // on the device

static inline void problem_upload(AttnProblem* p) {
    p->qv_dev = device_from_floats(p->qv, 3 * p->n);
    p->k_dev = device_from_floats(p->k, p->n);
    p->dout_dev = device_from_floats(p->dout, p->n);
}
static inline void problem_unload(AttnProblem* p) {
    device_free(p->qv_dev); device_free(p->k_dev); device_free(p->dout_dev);
}

// sharpness scales the keys: 1 gives scores of N(0, 1), more a softmax with few winners
static inline AttnProblem problem_open(int B, int T, int H, int D, float sharpness) {
    AttnProblem p;
    p.shape = attn_shape(B, T, H, D);
    p.C = H * D;
    p.rows = (size_t)B * T;
    p.n = p.rows * p.C;
    p.qv = attn_normals(3 * p.n, 11);
    p.k = attn_normals(p.n, 12);
    p.dout = attn_normals(p.n, 13);
    for (size_t i = 0; i < p.n; i++) { p.k[i] *= sharpness; }
    problem_upload(&p);
    return p;
}
static inline void problem_close(AttnProblem* p) {
    free(p->qv); free(p->k); free(p->dout);
    problem_unload(p);
}

// another token at position t of a problem with B = 1
static inline void problem_change_token(AttnProblem* p, int t) {
    for (int c = 0; c < 3 * p->C; c++) { p->qv[(size_t)t * 3 * p->C + c] += 1; }
    for (int c = 0; c < p->C; c++)     { p->k[(size_t)t * p->C + c] += 1; }
    problem_unload(p);
    problem_upload(p);
}

static inline AttnOutputs outputs_open(const AttnProblem* p) {
    AttnOutputs o;
    o.out = (floatX*)device_poisoned(p->n * 2);
    o.dqv = (floatX*)device_poisoned(3 * p->n * 2);
    o.dk = (floatX*)device_poisoned(p->n * 2);
    o.lse = (float*)device_poisoned(p->rows * p->shape.H * 4);
    return o;
}
static inline AttnResults outputs_close(const AttnProblem* p, AttnOutputs* o) {
    AttnResults r;
    r.out = floats_from(o->out, p->n);
    r.lse = (float*)host_from(o->lse, p->rows * p->shape.H * 4);
    r.dqv = floats_from(o->dqv, 3 * p->n);
    r.dk = floats_from(o->dk, p->n);
    device_free(o->out); device_free(o->dqv); device_free(o->dk); device_free(o->lse);
    return r;
}

static inline float* floats_poisoned(size_t n) { return (float*)memset(malloc(n * sizeof(float)), 0xff, n * sizeof(float)); }

static inline AttnResults results_open(const AttnProblem* p) {           // for a reference to fill
    AttnResults r;
    r.out = floats_poisoned(p->n);
    r.lse = floats_poisoned(p->rows * p->shape.H);
    r.dqv = floats_poisoned(3 * p->n);
    r.dk = floats_poisoned(p->n);
    return r;
}
static inline void results_free(AttnResults* r) { free(r->out); free(r->lse); free(r->dqv); free(r->dk); }

// ---- comparing --------------------------------------------------------------------------------------------------------
// columns [from, from + C) of the (rows, 3C) product
static inline float* product_columns(const AttnProblem* p, const float* wide, int from) {
    float* x = (float*)malloc(p->n * sizeof(float));
    for (size_t row = 0; row < p->rows; row++) { memcpy(x + row * p->C, wide + row * 3 * p->C + from, (size_t)p->C * sizeof(float)); }
    return x;
}
static inline void check_columns(const char* what, const AttnProblem* p, const AttnResults* kernel, const AttnResults* exact,
                                 const AttnResults* rounded, int from) {
    float *a = product_columns(p, kernel->dqv, from), *b = product_columns(p, exact->dqv, from), *c = product_columns(p, rounded->dqv, from);
    check_budget(what, a, b, c, p->n, p->shape.T);
    free(a); free(b); free(c);
}

// A query that sees one key has P = 1 whatever the scores: dq and dk are exactly zero, and a kernel may only show the fp32 rounding of
// dS = dout . v - delta, two sums of D terms that cancel (1e-6 sqrt(D) of a term), times an element of k or q, times 1/sqrt(D).
static inline void check_vanishing(const AttnProblem* p, const AttnResults* kernel) {
    double largest = 0;
    for (size_t i = 0; i < 3 * p->n; i++) { largest = fmax(largest, fabs(p->qv[i])); }
    for (size_t i = 0; i < p->n; i++)     { largest = fmax(largest, fmax(fabs(p->k[i]), fabs(p->dout[i]))); }
    double bound = 1e-6 * pow(largest, 3);
    for (size_t row = 0; row < p->rows; row++) {
        for (int c = 0; c < p->C; c++) {
            CHECK_NEAR(kernel->dqv[row * 3 * p->C + c], 0, bound);
            CHECK_NEAR(kernel->dk[row * p->C + c], 0, bound);
        }
    }
}

// Everything within budget, and k's columns of the product, which are no gradient's, still poison. one_key: every query sees one key.
static inline void check_results(const AttnProblem* p, const AttnResults* kernel, const AttnResults* exact, const AttnResults* rounded,
                                 bool one_key, const char* label) {
    int T = p->shape.T;
    char what[160];
    #define NAME(x) (snprintf(what, sizeof what, "%s (T %d, D %d, %s)", x, T, p->shape.D, label), what)
    check_budget(NAME("out"), kernel->out, exact->out, rounded->out, p->n, T);
    check_budget(NAME("lse"), kernel->lse, exact->lse, rounded->lse, p->rows * p->shape.H, T + p->shape.D);      // scores are sums of D terms
    check_columns(NAME("dv"), p, kernel, exact, rounded, 2 * p->C);
    if (one_key) { check_vanishing(p, kernel); }
    else {
        check_columns(NAME("dq"), p, kernel, exact, rounded, 0);
        check_budget(NAME("dk"), kernel->dk, exact->dk, rounded->dk, p->n, T);
    }
    #undef NAME
    for (size_t row = 0; row < p->rows; row++) {
        for (int c = p->C; c < 2 * p->C; c++) { CHECK(isnan(kernel->dqv[row * 3 * p->C + c]), "k's columns of row %zu were written", row); }
    }
}

static inline void check_same(const AttnProblem* p, const AttnResults* a, const AttnResults* b, const char* when) {
    CHECK(memcmp(a->out, b->out, p->n * 4) == 0, "out differs %s", when);
    CHECK(memcmp(a->lse, b->lse, p->rows * p->shape.H * 4) == 0, "lse differs %s", when);
    CHECK(memcmp(a->dqv, b->dqv, 3 * p->n * 4) == 0, "dq or dv differs %s", when);
    CHECK(memcmp(a->dk, b->dk, p->n * 4) == 0, "dk differs %s", when);
}

static inline void check_repeat(const AttnProblem* p, const AttnResults* first, const AttnResults* again, int repeat) {
    char when[80];
    snprintf(when, sizeof when, "in repeat %d (T %d, D %d, %s)", repeat, p->shape.T, p->shape.D, attn_path_name(p->shape.path));
    check_same(p, first, again, when);
}

// B = 1: outputs before token t are the same to the bit, token t's is not
static inline void check_causal(const AttnProblem* p, const AttnResults* before, const AttnResults* after, int t) {
    CHECK(memcmp(before->out, after->out, (size_t)t * p->C * 4) == 0, "an output before the changed token changed");
    size_t at = (size_t)t * p->C;
    CHECK(memcmp(before->out + at, after->out + at, (size_t)p->C * 4) != 0, "the changed token's output did not change");
}

#endif

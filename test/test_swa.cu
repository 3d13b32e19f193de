// Sliding-window and dense causal attention.
#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "ref.h"
#endif
#include "attn_case.h"

#ifdef LLMC_CPU
// everything a forward needs, q, k, v from one (B*T, 3*H*D) product
typedef struct { AttnShape shape; size_t rows, n; float *qkv, *out, *lse; } Forward;

static Forward forward_open(int B, int T, int H, int D, uint64_t seed) {
    Forward f;
    f.shape = attn_shape(B, T, H, D);
    f.shape.ldk = 3 * H * D;
    f.rows = (size_t)B * T;
    f.n = f.rows * H * D;
    f.qkv = attn_normals(3 * f.n, seed);
    f.out = attn_normals(f.n, seed + 1);            // garbage: outputs are set
    f.lse = attn_normals(f.rows * H, seed + 2);
    return f;
}
static void forward_run(Forward* f, int window) {
    int C = f->shape.H * f->shape.D;
    swa_forward(f->out, f->lse, f->qkv, f->qkv + C, f->qkv + 2 * C, f->shape, window, NULL);
}
static void forward_close(Forward* f) { free(f->qkv); free(f->out); free(f->lse); }

TEST(swa_two_tokens_by_hand) {
    // one head of 8: q1 . k0 / sqrt(8) = ln 3, q1 . k1 = 0, so token 1 weighs v0 : v1 as 3 : 1
    AttnShape shape = attn_shape(1, 2, 1, 8);
    float q[48] = {0}, k[16] = {0}, out[16], lse[2];
    q[24] = (float)(log(3.0) * sqrt(8.0));
    k[0] = 1;
    float* v = q + 16;
    v[0] = 4; v[1] = 8; v[24] = 12; v[25] = -8;
    swa_forward(out, lse, q, k, v, shape, 2, NULL);
    CHECK_NEAR(out[0], 4, 0);
    CHECK_NEAR(out[1], 8, 0);
    CHECK_NEAR(out[8], 6, 1e-5);
    CHECK_NEAR(out[9], 4, 1e-5);
    CHECK_NEAR(lse[0], 0, 1e-6);
    CHECK_NEAR(lse[1], log(4.0), 1e-6);
}

TEST(swa_window_1_copies_v) {
    Forward f = forward_open(2, 7, 2, 8, 1);
    forward_run(&f, 1);
    for (size_t row = 0; row < f.rows; row++) {
        for (int c = 0; c < 16; c++) { CHECK_NEAR(f.out[row * 16 + c], f.qkv[row * 48 + 32 + c], 0); }
    }
    forward_close(&f);
}

TEST(swa_window_of_T_or_more_is_dense) {
    Forward a = forward_open(1, 13, 2, 16, 2), b = forward_open(1, 13, 2, 16, 2);
    forward_run(&a, 13);
    forward_run(&b, 1 << 30);
    CHECK(memcmp(a.out, b.out, a.n * sizeof(float)) == 0, "window T and window 2^30 differ");
    CHECK(memcmp(a.lse, b.lse, a.rows * 2 * sizeof(float)) == 0, "their lse differ");
    forward_close(&a);
    forward_close(&b);
}

// softmax over an explicit mask, written down a second time
TEST(swa_equals_masked_softmax) {
    int B = 2, T = 21, H = 2, D = 8, C = H * D, window = 6;
    Forward f = forward_open(B, T, H, D, 3);
    forward_run(&f, window);
    for (int b = 0; b < B; b++) for (int h = 0; h < H; h++) for (int t = 0; t < T; t++) {
        double sum = 0, out[8] = {0};
        for (int u = 0; u < T; u++) {
            const float *q = f.qkv + ((size_t)b * T + t) * 3 * C + h * D, *k = f.qkv + ((size_t)b * T + u) * 3 * C + C + h * D, *v = k + C;
            double s = 0;
            for (int d = 0; d < D; d++) { s += (double)q[d] * k[d]; }
            double p = u <= t && t - u < window ? exp(s / sqrt((double)D)) : 0;
            sum += p;
            for (int d = 0; d < D; d++) { out[d] += p * v[d]; }
        }
        for (int d = 0; d < D; d++) { CHECK_NEAR(f.out[((size_t)b * T + t) * C + h * D + d], out[d] / sum, 2e-6); }
        CHECK_NEAR(f.lse[((size_t)b * H + h) * T + t], log(sum), 1e-5);
    }
    forward_close(&f);
}

TEST(swa_never_looks_ahead) {
    Forward a = forward_open(1, 20, 2, 8, 4), b = forward_open(1, 20, 2, 8, 4);
    for (size_t i = 12 * 48; i < 13 * 48; i++) { b.qkv[i] += 1; }     // token 12
    forward_run(&a, 5);
    forward_run(&b, 5);
    CHECK(memcmp(a.out, b.out, 12 * 16 * sizeof(float)) == 0, "an output before the changed token changed");
    CHECK(memcmp(a.out + 12 * 16, b.out + 12 * 16, 16 * sizeof(float)) != 0, "the changed token's output did not change");
    CHECK(memcmp(a.out + 17 * 16, b.out + 17 * 16, 3 * 16 * sizeof(float)) == 0, "a window of 5 reached 5 tokens back");
    forward_close(&a);
    forward_close(&b);
}

TEST(swa_refuses_odd_head_dims) {
    CHECK(swa_refusal(64) == NULL && swa_refusal(24) == NULL, "multiples of 8 are refused");
    CHECK(swa_refusal(12) != NULL && swa_refusal(0) != NULL, "12 or 0 is not refused");
}
#endif

#ifndef LLMC_CPU
// One problem three times: kernel (bf16, on the device), exact and rounded reference (floats). Rows as in a layer: q, v in a wide product.
typedef struct { float *out, *lse, *dqv, *dk; } Results;
typedef struct {
    AttnShape shape;
    int window, C;
    size_t n, rows;
    float *qv, *k, *dout;
    floatX *qv_dev, *k_dev, *dout_dev;
} Problem;

static Problem problem_open(int B, int T, int H, int D, int window, float sharpness) {
    Problem p;
    p.shape = attn_shape(B, T, H, D);
    p.window = window;
    p.C = H * D;
    p.rows = (size_t)B * T;
    p.n = p.rows * p.C;
    p.qv = attn_normals(3 * p.n, 11);
    p.k = attn_normals(p.n, 12);
    p.dout = attn_normals(p.n, 13);
    for (size_t i = 0; i < p.n; i++) { p.k[i] *= sharpness; }
    p.qv_dev = device_from_floats(p.qv, 3 * p.n);
    p.k_dev = device_from_floats(p.k, p.n);
    p.dout_dev = device_from_floats(p.dout, p.n);
    return p;
}
static void problem_close(Problem* p) {
    free(p->qv); free(p->k); free(p->dout);
    device_free(p->qv_dev); device_free(p->k_dev); device_free(p->dout_dev);
}
static void results_free(Results* r) { free(r->out); free(r->lse); free(r->dqv); free(r->dk); }

// Reads a device buffer of bf16 pairs of rows back; the middle third of a dqv row belongs to no one and must still be poison.
static Results problem_kernel(const Problem* p) {
    floatX* out = (floatX*)device_poisoned(p->n * 2);
    float* lse = (float*)device_poisoned(p->rows * p->shape.H * 4);
    floatX *dqv = (floatX*)device_poisoned(3 * p->n * 2), *dk = (floatX*)device_poisoned(p->n * 2);
    size_t bytes = swa_backward_scratch(p->shape);
    void* scratch = device_poisoned(bytes);
    const floatX* v = p->qv_dev + 2 * p->C;
    swa_forward(out, lse, p->qv_dev, p->k_dev, v, p->shape, p->window, NULL);
    swa_backward(dqv, dk, dqv + 2 * p->C, p->dout_dev, out, lse, p->qv_dev, p->k_dev, v, p->shape, p->window, scratch, NULL);
    Results r = {floats_from(out, p->n), (float*)host_from(lse, p->rows * p->shape.H * 4), floats_from(dqv, 3 * p->n), floats_from(dk, p->n)};
    device_free(out); device_free(lse); device_free(dqv); device_free(dk); device_free(scratch);
    return r;
}

static Results results_open(const Problem* p) {
    Results r;
    r.out = attn_normals(p->n, 1);
    r.lse = attn_normals(p->rows * p->shape.H, 2);
    r.dqv = attn_normals(3 * p->n, 3);
    r.dk = attn_normals(p->n, 4);
    return r;
}
static Results problem_exact(const Problem* p) {
    Results r = results_open(p);
    const float* v = p->qv + 2 * p->C;
    ref_swa_forward(r.out, r.lse, p->qv, p->k, v, p->shape, p->window, NULL);
    ref_swa_backward(r.dqv, r.dk, r.dqv + 2 * p->C, p->dout, r.out, r.lse, p->qv, p->k, v, p->shape, p->window, NULL, NULL);
    return r;
}
static Results problem_rounded(const Problem* p) {
    Results r = results_open(p);
    const float* v = p->qv + 2 * p->C;
    rnd_swa_forward(r.out, r.lse, p->qv, p->k, v, p->shape, p->window, NULL);
    rnd_swa_backward(r.dqv, r.dk, r.dqv + 2 * p->C, p->dout, r.out, r.lse, p->qv, p->k, v, p->shape, p->window, NULL, NULL);
    return r;
}

// columns [from, from + C) of the (rows, 3C) product
static float* columns(const float* wide, size_t rows, int C, int from) {
    float* x = (float*)malloc(rows * C * sizeof(float));
    for (size_t row = 0; row < rows; row++) { memcpy(x + row * C, wide + row * 3 * C + from, (size_t)C * sizeof(float)); }
    return x;
}
static void check_columns(const char* what, const Problem* p, const Results* kernel, const Results* exact, const Results* rounded, int from) {
    float *a = columns(kernel->dqv, p->rows, p->C, from), *b = columns(exact->dqv, p->rows, p->C, from), *c = columns(rounded->dqv, p->rows, p->C, from);
    check_budget(what, a, b, c, p->n, p->shape.T);
    free(a); free(b); free(c);
}

// A query that sees one key has P = 1 whatever the scores: dq and dk are exactly zero, and a kernel may only show the fp32 rounding of
// dS = dout . v - delta, two sums of D terms that cancel (1e-6 sqrt(D) of a term), times an element of k or q, times 1/sqrt(D).
static void check_vanishing(const Problem* p, const Results* kernel) {
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

static void swa_case(int B, int T, int H, int D, int window, float sharpness) {
    Problem p = problem_open(B, T, H, D, window, sharpness);
    Results kernel = problem_kernel(&p), exact = problem_exact(&p), rounded = problem_rounded(&p);
    char what[96];
    #define NAME(x) (snprintf(what, sizeof what, "%s (T %d, D %d, window %d)", x, T, D, window), what)
    check_budget(NAME("out"), kernel.out, exact.out, rounded.out, p.n, T);
    check_budget(NAME("lse"), kernel.lse, exact.lse, rounded.lse, p.rows * H, T + D);
    bool constant = window == 1 || T == 1;
    if (constant) { check_vanishing(&p, &kernel); }
    else {
        check_columns(NAME("dq"), &p, &kernel, &exact, &rounded, 0);
        check_budget(NAME("dk"), kernel.dk, exact.dk, rounded.dk, p.n, T);
    }
    check_columns(NAME("dv"), &p, &kernel, &exact, &rounded, 2 * p.C);
    #undef NAME
    for (size_t row = 0; row < p.rows; row++) {
        for (int c = 0; c < p.C; c++) { CHECK(isnan(kernel.dqv[row * 3 * p.C + p.C + c]), "a gradient was written into k's columns of row %zu", row); }
    }
    results_free(&kernel); results_free(&exact); results_free(&rounded);
    problem_close(&p);
}

static void swa_windows(int T, int D) {
    int windows[] = {1, 64, 100, 256, T, 1 << 30};
    for (int i = 0; i < 6; i++) { swa_case(1, T, 2, D, windows[i], 1); }
}

GPU_TEST(swa_within_budget_D64_T1)      { swa_windows(1, 64); }
GPU_TEST(swa_within_budget_D64_T63)     { swa_windows(63, 64); }
GPU_TEST(swa_within_budget_D64_T64)     { swa_windows(64, 64); }
GPU_TEST(swa_within_budget_D64_T65)     { swa_windows(65, 64); }
GPU_TEST(swa_within_budget_D64_T300)    { swa_windows(300, 64); }
GPU_TEST(swa_within_budget_D64_T1000)   { swa_windows(1000, 64); }
GPU_TEST(swa_within_budget_D128_T127)   { swa_windows(127, 128); }
GPU_TEST(swa_within_budget_D128_T129)   { swa_windows(129, 128); }
GPU_TEST(swa_within_budget_D128_T300)   { swa_windows(300, 128); }
GPU_TEST(swa_within_budget_D128_T1000)  { swa_windows(1000, 128); }
GPU_TEST(swa_within_budget_two_sequences) { swa_case(2, 200, 3, 64, 77, 1); swa_case(2, 130, 1, 128, 1000, 1); }
GPU_TEST(swa_within_budget_sharp_softmax) { swa_case(1, 300, 1, 64, 300, 12); swa_case(1, 300, 1, 128, 90, 12); }

GPU_TEST(swa_repeats_to_the_bit) {
    Problem p = problem_open(2, 500, 2, 64, 200, 1);
    Results first = problem_kernel(&p);
    for (int i = 0; i < 10; i++) {
        Results again = problem_kernel(&p);
        CHECK(memcmp(first.out, again.out, p.n * 4) == 0, "out differs in repeat %d", i);
        CHECK(memcmp(first.lse, again.lse, p.rows * 2 * 4) == 0, "lse differs in repeat %d", i);
        CHECK(memcmp(first.dqv, again.dqv, 3 * p.n * 4) == 0, "dq or dv differs in repeat %d", i);
        CHECK(memcmp(first.dk, again.dk, p.n * 4) == 0, "dk differs in repeat %d", i);
        results_free(&again);
    }
    results_free(&first);
    problem_close(&p);
}

GPU_TEST(swa_gpu_never_looks_ahead) {
    Problem a = problem_open(1, 200, 1, 64, 150, 1);
    Results before = problem_kernel(&a);
    for (int c = 0; c < 3 * 64; c++) { a.qv[(size_t)130 * 192 + c] += 1; }
    for (int c = 0; c < 64; c++) { a.k[(size_t)130 * 64 + c] += 1; }
    device_free(a.qv_dev); device_free(a.k_dev);
    a.qv_dev = device_from_floats(a.qv, 3 * a.n);
    a.k_dev = device_from_floats(a.k, a.n);
    Results after = problem_kernel(&a);
    CHECK(memcmp(before.out, after.out, 130 * 64 * 4) == 0, "an output before the changed token changed");
    CHECK(memcmp(before.out + 130 * 64, after.out + 130 * 64, 64 * 4) != 0, "the changed token's output did not change");
    results_free(&before); results_free(&after);
    problem_close(&a);
}

GPU_TEST(swa_refuses_other_head_dims) {
    CHECK(swa_refusal(64) == NULL && swa_refusal(128) == NULL, "64 or 128 is refused");
    CHECK(swa_refusal(96) != NULL && swa_refusal(32) != NULL, "96 or 32 is not refused");
}
#endif

TEST_MAIN()

// MoBA attention with the routing given: picked by the test (attn_case.h), so that this file does not depend on moba_topk.
#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "ref.h"
#endif
#include "attn_case.h"

#ifdef LLMC_CPU
// a forward and a backward on random inputs; q, v in one wide product, k dense as the key convolution leaves it
typedef struct {
    AttnShape shape;
    PickedRoute route;
    int C;
    size_t n, rows;
    float *qv, *k, *dout, *out, *lse, *dqv, *dk;
} Case;

static Case case_open(int B, int T, int H, int D, int block, int topk, PickKind kind) {
    Case c;
    c.shape = attn_shape(B, T, H, D);
    c.route = picked_route(B, H, T, block, topk, kind, 31);
    c.C = H * D;
    c.rows = (size_t)B * T;
    c.n = c.rows * c.C;
    c.qv = attn_normals(3 * c.n, 1);
    c.k = attn_normals(c.n, 2);
    c.dout = attn_normals(c.n, 3);
    c.out = attn_normals(c.n, 4);                   // outputs hold garbage: they are set
    c.lse = attn_normals(c.rows * H, 5);
    c.dqv = attn_normals(3 * c.n, 6);
    c.dk = attn_normals(c.n, 7);
    return c;
}
static void case_close(Case* c) {
    picked_free(&c->route);
    free(c->qv); free(c->k); free(c->dout); free(c->out); free(c->lse); free(c->dqv); free(c->dk);
}
static void case_moba(Case* c) {
    const float* v = c->qv + 2 * c->C;
    moba_attn_forward(c->out, c->lse, c->qv, c->k, v, picked_view(&c->route), c->shape, c->route.block, c->route.topk, NULL, 0, NULL);
    moba_attn_backward(c->dqv, c->dk, c->dqv + 2 * c->C, c->dout, c->out, c->lse, c->qv, c->k, v, picked_view(&c->route), c->shape,
                       c->route.block, c->route.topk, NULL, 0, NULL);
}
static void case_dense(Case* c) {
    const float* v = c->qv + 2 * c->C;
    swa_forward(c->out, c->lse, c->qv, c->k, v, c->shape, c->shape.T, NULL);
    swa_backward(c->dqv, c->dk, c->dqv + 2 * c->C, c->dout, c->out, c->lse, c->qv, c->k, v, c->shape, c->shape.T, NULL, NULL);
}

TEST(moba_attn_three_tokens_by_hand) {
    // blocks of 1, top-k 2, one head of 8: token 2 picks block 0 and sees keys 0 and 2, weights 1 : 3
    AttnShape shape = attn_shape(1, 3, 1, 8);
    float q[72] = {0}, k[24] = {0}, out[24], lse[3];
    uint16_t sel[3] = {MOBA_NONE, 0, 0};
    MobaRoute route = {sel, NULL, NULL};
    q[48] = (float)(log(3.0) * sqrt(8.0));
    k[16] = 1;
    float* v = q + 16;
    v[0] = 8; v[24] = 100; v[48] = 4;
    moba_attn_forward(out, lse, q, k, v, route, shape, 1, 2, NULL, 0, NULL);
    CHECK_NEAR(out[0], 8, 0);
    CHECK_NEAR(out[8], 54, 1e-5);                   // keys 0 and 1 with equal weights
    CHECK_NEAR(out[16], 5, 1e-5);
    CHECK_NEAR(lse[0], 0, 1e-6);
    CHECK_NEAR(lse[2], log(4.0), 1e-6);
}

TEST(moba_attn_all_blocks_equal_dense) {
    int shapes[][3] = {{40, 8, 5}, {40, 8, 7}, {37, 8, 5}, {7, 8, 1}, {7, 8, 4}, {1, 8, 2}};     // T, block, topk >= n
    for (int i = 0; i < 6; i++) {
        Case a = case_open(2, shapes[i][0], 2, 8, shapes[i][1], shapes[i][2], PICK_RANDOM);
        Case b = case_open(2, shapes[i][0], 2, 8, shapes[i][1], shapes[i][2], PICK_RANDOM);
        case_moba(&a);
        case_dense(&b);
        for (size_t j = 0; j < a.n; j++) {
            CHECK_NEAR(a.out[j], b.out[j], 1e-5);
            CHECK_NEAR(a.dk[j], b.dk[j], 1e-5);
        }
        for (size_t j = 0; j < 3 * a.n; j++) { CHECK_NEAR(a.dqv[j], b.dqv[j], 1e-5); }
        for (size_t j = 0; j < a.rows * 2; j++) { CHECK_NEAR(a.lse[j], b.lse[j], 1e-5); }
        case_close(&a);
        case_close(&b);
    }
}

TEST(moba_attn_topk_1_is_block_local) {
    int B = 2, T = 22, H = 2, D = 8, block = 5, C = H * D;
    Case c = case_open(B, T, H, D, block, 1, PICK_RANDOM);
    case_moba(&c);
    for (int b = 0; b < B; b++) for (int h = 0; h < H; h++) for (int t = 0; t < T; t++) {
        double sum = 0, out[8] = {0};
        for (int u = t - t % block; u <= t; u++) {
            const float *q = c.qv + ((size_t)b * T + t) * 3 * C + h * D, *k = c.k + ((size_t)b * T + u) * C + h * D;
            double s = 0;
            for (int d = 0; d < D; d++) { s += (double)q[d] * k[d]; }
            double p = exp(s / sqrt((double)D));
            sum += p;
            for (int d = 0; d < D; d++) { out[d] += p * c.qv[((size_t)b * T + u) * 3 * C + 2 * C + h * D + d]; }
        }
        for (int d = 0; d < D; d++) { CHECK_NEAR(c.out[((size_t)b * T + t) * C + h * D + d], out[d] / sum, 2e-6); }
    }
    case_close(&c);
}

TEST(moba_attn_sees_only_picked_blocks) {
    // everyone picks block 0, nobody else may matter: changing block 1 changes only block 1's own queries
    int T = 40, block = 8;
    Case a = case_open(1, T, 1, 8, block, 2, PICK_LOW), b = case_open(1, T, 1, 8, block, 2, PICK_LOW);
    for (int t = block; t < 2 * block; t++) {
        for (int d = 0; d < 8; d++) { b.k[t * 8 + d] += 1; b.qv[t * 24 + 16 + d] += 1; }
    }
    case_moba(&a);
    case_moba(&b);
    CHECK(memcmp(a.out, b.out, 8 * 8 * sizeof(float)) == 0, "block 0 saw block 1");
    CHECK(memcmp(a.out + 8 * 8, b.out + 8 * 8, 8 * 8 * sizeof(float)) != 0, "block 1 did not see itself");
    CHECK(memcmp(a.out + 16 * 8, b.out + 16 * 8, 24 * 8 * sizeof(float)) == 0, "a query saw block 1 without picking it");
    case_close(&a);
    case_close(&b);
}

TEST(moba_attn_never_looks_ahead) {
    Case a = case_open(1, 40, 2, 8, 8, 3, PICK_RANDOM), b = case_open(1, 40, 2, 8, 8, 3, PICK_RANDOM);
    for (int c = 0; c < 48; c++) { b.qv[21 * 48 + c] += 1; }
    for (int c = 0; c < 16; c++) { b.k[21 * 16 + c] += 1; }
    case_moba(&a);
    case_moba(&b);
    CHECK(memcmp(a.out, b.out, 21 * 16 * sizeof(float)) == 0, "an output before the changed token changed");
    CHECK(memcmp(a.out + 21 * 16, b.out + 21 * 16, 16 * sizeof(float)) != 0, "the changed token's output did not change");
    case_close(&a);
    case_close(&b);
}

TEST(moba_attn_refuses_bad_shapes) {
    CHECK(moba_attn_refusal(64, 128, 8) == NULL && moba_attn_refusal(8, 3, 32) == NULL, "a good shape is refused");
    CHECK(moba_attn_refusal(12, 128, 8) && moba_attn_refusal(64, 0, 8) && moba_attn_refusal(64, 64, 33), "a bad shape is not refused");
}
#endif

#ifndef LLMC_CPU
// One problem three times: kernel (bf16, on the device), exact and rounded reference (floats). Rows as in a layer: q, v in a wide product.
typedef struct { float *out, *lse, *dqv, *dk; } Results;
typedef struct {
    AttnShape shape;
    PickedRoute route;
    MobaRoute route_dev;
    int C;
    size_t n, rows;
    float *qv, *k, *dout;
    floatX *qv_dev, *k_dev, *dout_dev;
} Problem;

static Problem problem_open(int B, int T, int H, int D, int block, int topk, PickKind kind) {
    Problem p;
    p.shape = attn_shape(B, T, H, D);
    p.route = picked_route(B, H, T, block, topk, kind, 41);
    p.C = H * D;
    p.rows = (size_t)B * T;
    p.n = p.rows * p.C;
    p.qv = attn_normals(3 * p.n, 21);
    p.k = attn_normals(p.n, 22);
    p.dout = attn_normals(p.n, 23);
    p.qv_dev = device_from_floats(p.qv, 3 * p.n);
    p.k_dev = device_from_floats(p.k, p.n);
    p.dout_dev = device_from_floats(p.dout, p.n);
    // one element more than there is: with top-k 1 sel and list are empty
    p.route_dev.sel = (const uint16_t*)device_from(p.route.sel, picked_sel_count(&p.route) * 2 + 16);
    p.route_dev.list = (const int*)device_from(p.route.list, picked_sel_count(&p.route) * 4 + 16);
    p.route_dev.offset = (const int*)device_from(p.route.offset, picked_offset_count(&p.route) * 4);
    return p;
}
static void problem_close(Problem* p) {
    picked_free(&p->route);
    free(p->qv); free(p->k); free(p->dout);
    device_free(p->qv_dev); device_free(p->k_dev); device_free(p->dout_dev);
    device_free((void*)p->route_dev.sel); device_free((void*)p->route_dev.list); device_free((void*)p->route_dev.offset);
}
static void results_free(Results* r) { free(r->out); free(r->lse); free(r->dqv); free(r->dk); }

static Results problem_kernel(const Problem* p, size_t cap) {
    int block = p->route.block, topk = p->route.topk;
    floatX *out = (floatX*)device_poisoned(p->n * 2), *dqv = (floatX*)device_poisoned(3 * p->n * 2), *dk = (floatX*)device_poisoned(p->n * 2);
    float* lse = (float*)device_poisoned(p->rows * p->shape.H * 4);
    size_t forward = moba_attn_forward_scratch(p->shape, block, topk, cap), backward = moba_attn_backward_scratch(p->shape, block, topk, cap);
    void* scratch = device_poisoned(forward > backward ? forward : backward);
    const floatX* v = p->qv_dev + 2 * p->C;
    moba_attn_forward(out, lse, p->qv_dev, p->k_dev, v, p->route_dev, p->shape, block, topk, scratch, forward, NULL);
    moba_attn_backward(dqv, dk, dqv + 2 * p->C, p->dout_dev, out, lse, p->qv_dev, p->k_dev, v, p->route_dev, p->shape, block, topk,
                       scratch, backward, NULL);
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
    int block = p->route.block, topk = p->route.topk;
    ref_moba_attn_forward(r.out, r.lse, p->qv, p->k, v, picked_view(&p->route), p->shape, block, topk, NULL, 0, NULL);
    ref_moba_attn_backward(r.dqv, r.dk, r.dqv + 2 * p->C, p->dout, r.out, r.lse, p->qv, p->k, v, picked_view(&p->route), p->shape,
                           block, topk, NULL, 0, NULL);
    return r;
}
static Results problem_rounded(const Problem* p) {
    Results r = results_open(p);
    const float* v = p->qv + 2 * p->C;
    int block = p->route.block, topk = p->route.topk;
    rnd_moba_attn_forward(r.out, r.lse, p->qv, p->k, v, picked_view(&p->route), p->shape, block, topk, NULL, 0, NULL);
    rnd_moba_attn_backward(r.dqv, r.dk, r.dqv + 2 * p->C, p->dout, r.out, r.lse, p->qv, p->k, v, picked_view(&p->route), p->shape,
                           block, topk, NULL, 0, NULL);
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

static void moba_case(int B, int T, int H, int D, int block, int topk, PickKind kind) {
    Problem p = problem_open(B, T, H, D, block, topk, kind);
    Results kernel = problem_kernel(&p, SIZE_MAX), exact = problem_exact(&p), rounded = problem_rounded(&p);
    char what[128];
    #define NAME(x) (snprintf(what, sizeof what, "%s (T %d, D %d, block %d, top-k %d, picks %d)", x, T, D, block, topk, (int)kind), what)
    check_budget(NAME("out"), kernel.out, exact.out, rounded.out, p.n, T);
    check_budget(NAME("lse"), kernel.lse, exact.lse, rounded.lse, p.rows * H, T + D);
    bool constant = T == 1;
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

static void moba_lengths(int D, int block, int topk) {
    int lengths[] = {1, block - 1, block, block + 1, 300};
    for (int i = 0; i < 5; i++) { moba_case(1, lengths[i], 2, D, block, topk, PICK_RANDOM); }
}

GPU_TEST(moba_attn_within_budget_D64_block64_topk2)    { moba_lengths(64, 64, 2); }
GPU_TEST(moba_attn_within_budget_D64_block64_topk32)   { moba_lengths(64, 64, 32); }
GPU_TEST(moba_attn_within_budget_D64_block128_topk1)   { moba_lengths(64, 128, 1); }
GPU_TEST(moba_attn_within_budget_D64_block128_topk8)   { moba_lengths(64, 128, 8); }
GPU_TEST(moba_attn_within_budget_D64_block256_topk2)   { moba_lengths(64, 256, 2); }
GPU_TEST(moba_attn_within_budget_D128_block64_topk8)   { moba_lengths(128, 64, 8); }
GPU_TEST(moba_attn_within_budget_D128_block128_topk2)  { moba_lengths(128, 128, 2); }
GPU_TEST(moba_attn_within_budget_D128_block256_topk1)  { moba_lengths(128, 256, 1); }
GPU_TEST(moba_attn_within_budget_T1000)                { moba_case(1, 1000, 2, 64, 64, 8, PICK_RANDOM); moba_case(1, 1000, 1, 128, 128, 3, PICK_RANDOM); }
GPU_TEST(moba_attn_within_budget_two_sequences)        { moba_case(2, 300, 3, 64, 64, 3, PICK_RANDOM); moba_case(2, 200, 2, 128, 64, 2, PICK_RANDOM); }
GPU_TEST(moba_attn_within_budget_giant_list)           { moba_case(1, 1000, 1, 64, 64, 2, PICK_SINK); moba_case(1, 700, 1, 128, 64, 4, PICK_SINK); }
// lists beyond LIST_PIECE of moba_attn.cu, so that tails exist: of 4300 queries 4236 pick block 0
GPU_TEST(moba_attn_within_budget_list_with_tails)      { moba_case(1, 4300, 1, 64, 64, 2, PICK_SINK); moba_case(1, 2400, 2, 128, 128, 2, PICK_SINK); }
GPU_TEST(moba_attn_within_budget_empty_lists)          { moba_case(1, 700, 1, 64, 64, 3, PICK_LOW); moba_case(1, 500, 1, 128, 64, 2, PICK_LOW); }
GPU_TEST(moba_attn_within_budget_sparse_picks)         { moba_case(1, 700, 2, 64, 64, 8, PICK_SPARSE); }
GPU_TEST(moba_attn_within_budget_block512)             { moba_case(1, 1100, 1, 64, 512, 2, PICK_RANDOM); moba_case(1, 1100, 1, 64, 1024, 2, PICK_RANDOM); }

static void check_same(const Problem* p, const Results* a, const Results* b, const char* when) {
    CHECK(memcmp(a->out, b->out, p->n * 4) == 0, "out differs %s", when);
    CHECK(memcmp(a->lse, b->lse, p->rows * p->shape.H * 4) == 0, "lse differs %s", when);
    CHECK(memcmp(a->dqv, b->dqv, 3 * p->n * 4) == 0, "dq or dv differs %s", when);
    CHECK(memcmp(a->dk, b->dk, p->n * 4) == 0, "dk differs %s", when);
}

GPU_TEST(moba_attn_repeats_to_the_bit) {
    Problem p = problem_open(2, 500, 2, 64, 64, 4, PICK_SINK);
    Results first = problem_kernel(&p, SIZE_MAX);
    for (int i = 0; i < 10; i++) {
        Results again = problem_kernel(&p, SIZE_MAX);
        check_same(&p, &first, &again, "in a repeat");
        results_free(&again);
    }
    results_free(&first);
    problem_close(&p);
}

GPU_TEST(moba_attn_scratch_cap_changes_no_bit) {
    Problem p = problem_open(2, 400, 3, 64, 64, 4, PICK_RANDOM);
    Results all = problem_kernel(&p, SIZE_MAX), one = problem_kernel(&p, 0);      // a cap of 0 still gives one head's need
    size_t need = moba_attn_forward_scratch(p.shape, 64, 4, SIZE_MAX), least = moba_attn_forward_scratch(p.shape, 64, 4, 0);
    CHECK(least < need, "a cap of 0 asks for %zu of %zu bytes", least, need);
    Results some = problem_kernel(&p, need / 2);
    check_same(&p, &all, &one, "with scratch for one head");
    check_same(&p, &all, &some, "with scratch for half the heads");
    results_free(&all); results_free(&one); results_free(&some);
    problem_close(&p);
}

GPU_TEST(moba_attn_gpu_never_looks_ahead) {
    Problem a = problem_open(1, 300, 1, 64, 64, 3, PICK_RANDOM);
    Results before = problem_kernel(&a, SIZE_MAX);
    for (int c = 0; c < 3 * 64; c++) { a.qv[(size_t)210 * 192 + c] += 1; }
    for (int c = 0; c < 64; c++) { a.k[(size_t)210 * 64 + c] += 1; }
    device_free(a.qv_dev); device_free(a.k_dev);
    a.qv_dev = device_from_floats(a.qv, 3 * a.n);
    a.k_dev = device_from_floats(a.k, a.n);
    Results after = problem_kernel(&a, SIZE_MAX);
    CHECK(memcmp(before.out, after.out, 210 * 64 * 4) == 0, "an output before the changed token changed");
    CHECK(memcmp(before.out + 210 * 64, after.out + 210 * 64, 64 * 4) != 0, "the changed token's output did not change");
    results_free(&before); results_free(&after);
    problem_close(&a);
}

GPU_TEST(moba_attn_refuses_other_shapes) {
    CHECK(moba_attn_refusal(64, 64, 1) == NULL && moba_attn_refusal(128, 1024, 32) == NULL, "a good shape is refused");
    CHECK(moba_attn_refusal(96, 128, 8) && moba_attn_refusal(64, 96, 8) && moba_attn_refusal(64, 32, 8)
          && moba_attn_refusal(64, 2048, 8) && moba_attn_refusal(64, 128, 0) && moba_attn_refusal(64, 128, 33), "a bad shape is not refused");
}
#endif

TEST_MAIN()

// MoBA attention with the routing given: picked by the test (attn_case.h), so that this file does not depend on moba_topk.
#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#include "attn_case.h"
#else
#include "attn_problem.h"
#endif

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
    swa_backward(c->dqv, c->dk, c->dqv + 2 * c->C, c->dout, c->out, c->lse, c->qv, c->k, v, NULL, c->shape, c->shape.T, NULL, NULL);
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
// one element more than there is: with top-k 1 sel and list are empty
static MobaRoute route_upload(const PickedRoute* r) {
    MobaRoute route;
    route.sel = (const uint16_t*)device_from(r->sel, picked_sel_count(r) * sizeof(uint16_t) + 16);
    route.list = (const int*)device_from(r->list, picked_sel_count(r) * sizeof(int) + 16);
    route.offset = (const int*)device_from(r->offset, picked_offset_count(r) * sizeof(int));
    return route;
}
static void route_free(MobaRoute* r) { device_free((void*)r->sel); device_free((void*)r->list); device_free((void*)r->offset); }

static AttnResults moba_kernel(const AttnProblem* p, const PickedRoute* picked, size_t cap) {
    int block = picked->block, topk = picked->topk;
    MobaRoute route = route_upload(picked);
    AttnOutputs o = outputs_open(p);
    const floatX *q = p->qv_dev, *k = p->k_dev, *v = q + 2 * p->C;
    size_t forward = moba_attn_forward_scratch(p->shape, block, topk, cap);
    size_t backward = moba_attn_backward_scratch(p->shape, block, topk, cap);
    void* scratch = device_poisoned(forward > backward ? forward : backward);
    moba_attn_forward(o.out, o.lse, q, k, v, route, p->shape, block, topk, scratch, forward, NULL);
    moba_attn_backward(o.dqv, o.dk, o.dqv + 2 * p->C, p->dout_dev, o.out, o.lse, q, k, v, route, p->shape, block, topk,
                       scratch, backward, NULL);
    AttnResults r = outputs_close(p, &o);
    device_free(scratch);
    route_free(&route);
    return r;
}
static AttnResults moba_exact(const AttnProblem* p, const PickedRoute* picked) {
    AttnResults r = results_open(p);
    const float *q = p->qv, *k = p->k, *v = q + 2 * p->C;
    ref_moba_attn_forward(r.out, r.lse, q, k, v, picked_view(picked), p->shape, picked->block, picked->topk, NULL, 0, NULL);
    ref_moba_attn_backward(r.dqv, r.dk, r.dqv + 2 * p->C, p->dout, r.out, r.lse, q, k, v, picked_view(picked), p->shape,
                           picked->block, picked->topk, NULL, 0, NULL);
    return r;
}
static AttnResults moba_rounded(const AttnProblem* p, const PickedRoute* picked) {
    AttnResults r = results_open(p);
    const float *q = p->qv, *k = p->k, *v = q + 2 * p->C;
    rnd_moba_attn_forward(r.out, r.lse, q, k, v, picked_view(picked), p->shape, picked->block, picked->topk, NULL, 0, NULL);
    rnd_moba_attn_backward(r.dqv, r.dk, r.dqv + 2 * p->C, p->dout, r.out, r.lse, q, k, v, picked_view(picked), p->shape,
                           picked->block, picked->topk, NULL, 0, NULL);
    return r;
}

static void moba_sharp_case(int B, int T, int H, int D, int block, int topk, PickKind kind, float sharpness) {
    AttnProblem p = problem_open(B, T, H, D, sharpness);
    PickedRoute picked = picked_route(B, H, T, block, topk, kind, 41);
    AttnResults exact = moba_exact(&p, &picked), rounded = moba_rounded(&p, &picked);
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        p.shape.path = path[i];
        AttnResults kernel = moba_kernel(&p, &picked, SIZE_MAX);
        char label[80];
        snprintf(label, sizeof label, "block %d, top-k %d, picks %d, %s", block, topk, (int)kind, attn_path_name(path[i]));
        check_results(&p, &kernel, &exact, &rounded, T == 1, label);
        results_free(&kernel);
    }
    results_free(&exact); results_free(&rounded);
    picked_free(&picked);
    problem_close(&p);
}

static void moba_case(int B, int T, int H, int D, int block, int topk, PickKind kind) { moba_sharp_case(B, T, H, D, block, topk, kind, 1); }

static void moba_lengths(int D, int block, int topk) {
    int lengths[] = {1, block - 1, block, block + 1, 300};
    for (int i = 0; i < 5; i++) { moba_case(1, lengths[i], 2, D, block, topk, PICK_RANDOM); }
}

GPU_TEST(moba_attn_within_budget_D64_block64_topk2)   { moba_lengths(64, 64, 2); }
GPU_TEST(moba_attn_within_budget_D64_block64_topk32)  { moba_lengths(64, 64, 32); }
GPU_TEST(moba_attn_within_budget_D64_block128_topk1)  { moba_lengths(64, 128, 1); }
GPU_TEST(moba_attn_within_budget_D64_block128_topk8)  { moba_lengths(64, 128, 8); }
GPU_TEST(moba_attn_within_budget_D64_block256_topk2)  { moba_lengths(64, 256, 2); }
GPU_TEST(moba_attn_within_budget_D128_block64_topk8)  { moba_lengths(128, 64, 8); }
GPU_TEST(moba_attn_within_budget_D128_block128_topk2) { moba_lengths(128, 128, 2); }
GPU_TEST(moba_attn_within_budget_D128_block128_topk8) { moba_lengths(128, 128, 8); }
GPU_TEST(moba_attn_within_budget_D128_block256_topk1) { moba_lengths(128, 256, 1); }
GPU_TEST(moba_attn_within_budget_T1000) {
    moba_case(1, 1000, 2, 64, 64, 8, PICK_RANDOM);
    moba_case(1, 1000, 1, 128, 128, 3, PICK_RANDOM);
}
GPU_TEST(moba_attn_within_budget_large_blocks) {
    moba_case(1, 1100, 1, 64, 512, 2, PICK_RANDOM);
    moba_case(1, 1100, 1, 64, 1024, 2, PICK_RANDOM);
}

// D 128, each block size, more blocks than a query may pick
GPU_TEST(moba_attn_within_budget_D128_picks_7_of_15_blocks_of_64)  { moba_case(1, 1000, 2, 128, 64, 8, PICK_RANDOM); }
GPU_TEST(moba_attn_within_budget_D128_picks_7_of_15_blocks_of_128) { moba_case(1, 2000, 2, 128, 128, 8, PICK_RANDOM); }
GPU_TEST(moba_attn_within_budget_D128_picks_2_of_5_blocks_of_256)  { moba_case(1, 1500, 2, 128, 256, 3, PICK_RANDOM); }
GPU_TEST(moba_attn_within_budget_D128_picks_2_of_4_blocks_of_512)  { moba_case(1, 2200, 1, 128, 512, 3, PICK_RANDOM); }
GPU_TEST(moba_attn_within_budget_D128_picks_1_of_2_blocks_of_1024) { moba_case(1, 2600, 1, 128, 1024, 2, PICK_RANDOM); }

// one token short of 64 blocks of 128; the whole result, not samples of it
GPU_TEST(moba_attn_within_budget_D64_T8191)       { moba_case(1, 8191, 2, 64, 128, 8, PICK_RANDOM); }
GPU_TEST(moba_attn_within_budget_D128_T8191_sink) { moba_case(1, 8191, 2, 128, 128, 8, PICK_SINK); }

GPU_TEST(moba_attn_within_budget_two_sequences) {
    moba_case(2, 300, 3, 64, 64, 3, PICK_RANDOM);
    moba_case(2, 200, 2, 128, 64, 2, PICK_RANDOM);
}
GPU_TEST(moba_attn_within_budget_giant_list) {
    moba_case(1, 1000, 1, 64, 64, 2, PICK_SINK);
    moba_case(1, 700, 1, 128, 64, 4, PICK_SINK);
}
GPU_TEST(moba_attn_within_budget_list_with_tails) {        // lists beyond LIST_PIECE of moba_backward.cuh: of 4300 queries 4236 pick block 0
    moba_case(1, 4300, 1, 64, 64, 2, PICK_SINK);
    moba_case(1, 2400, 2, 128, 128, 2, PICK_SINK);
}
GPU_TEST(moba_attn_within_budget_empty_lists) {
    moba_case(1, 700, 1, 64, 64, 3, PICK_LOW);
    moba_case(1, 500, 1, 128, 64, 2, PICK_LOW);
}
GPU_TEST(moba_attn_within_budget_sparse_picks) { moba_case(1, 700, 2, 64, 64, 8, PICK_SPARSE); }

// few winners; then scores of +-100, whose exponentials leave the range of a float
GPU_TEST(moba_attn_within_budget_sharp) { moba_sharp_case(1, 700, 2, 64, 128, 3, PICK_RANDOM, 5); }
GPU_TEST(moba_attn_within_budget_sharpest) { moba_sharp_case(1, 700, 2, 64, 128, 3, PICK_RANDOM, 30); }

static void moba_repeats(int B, int T, int D, int block, int topk) {
    AttnProblem p = problem_open(B, T, 2, D, 1);
    PickedRoute picked = picked_route(B, 2, T, block, topk, PICK_SINK, 42);
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        p.shape.path = path[i];
        AttnResults first = moba_kernel(&p, &picked, SIZE_MAX);
        for (int repeat = 1; repeat <= 30; repeat++) {
            AttnResults again = moba_kernel(&p, &picked, SIZE_MAX);
            check_repeat(&p, &first, &again, repeat);
            results_free(&again);
        }
        results_free(&first);
    }
    picked_free(&picked);
    problem_close(&p);
}
GPU_TEST(moba_attn_repeats_to_the_bit_short) { moba_repeats(2, 500, 64, 64, 4); }
GPU_TEST(moba_attn_repeats_to_the_bit_D64)   { moba_repeats(1, 2300, 64, 128, 8); }        // block 0's list is longer than LIST_PIECE
GPU_TEST(moba_attn_repeats_to_the_bit_D128)  { moba_repeats(1, 2300, 128, 128, 8); }

GPU_TEST(moba_attn_scratch_cap_changes_no_bit) {
    AttnProblem p = problem_open(2, 400, 3, 64, 1);
    PickedRoute picked = picked_route(2, 3, 400, 64, 4, PICK_RANDOM, 43);
    size_t need = moba_attn_forward_scratch(p.shape, 64, 4, SIZE_MAX), least = moba_attn_forward_scratch(p.shape, 64, 4, 0);
    CHECK(least < need, "a cap of 0 asks for %zu of %zu bytes", least, need);
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        p.shape.path = path[i];
        AttnResults all = moba_kernel(&p, &picked, SIZE_MAX), some = moba_kernel(&p, &picked, need / 2);
        AttnResults one = moba_kernel(&p, &picked, 0);     // a cap of 0 still gives one head's need
        check_same(&p, &all, &some, "with scratch for half the heads");
        check_same(&p, &all, &one, "with scratch for one head");
        results_free(&all); results_free(&some); results_free(&one);
    }
    picked_free(&picked);
    problem_close(&p);
}

GPU_TEST(moba_attn_gpu_never_looks_ahead) {
    AttnProblem p = problem_open(1, 300, 1, 64, 1);
    PickedRoute picked = picked_route(1, 1, 300, 64, 3, PICK_RANDOM, 44);
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        p.shape.path = path[i];
        AttnResults before = moba_kernel(&p, &picked, SIZE_MAX);
        problem_change_token(&p, 210);
        AttnResults after = moba_kernel(&p, &picked, SIZE_MAX);
        check_causal(&p, &before, &after, 210);
        results_free(&before); results_free(&after);
    }
    picked_free(&picked);
    problem_close(&p);
}

GPU_TEST(moba_attn_refuses_other_shapes) {
    CHECK(moba_attn_refusal(64, 64, 1) == NULL && moba_attn_refusal(128, 1024, 32) == NULL, "a good shape is refused");
    CHECK(moba_attn_refusal(96, 128, 8) && moba_attn_refusal(64, 96, 8) && moba_attn_refusal(64, 32, 8) && moba_attn_refusal(64, 2048, 8),
          "a bad head dim or block is not refused");
    CHECK(moba_attn_refusal(64, 128, 0) && moba_attn_refusal(64, 128, 33), "a bad top-k is not refused");
}
#endif

TEST_MAIN()

// The newest token against a cache. It must give what the whole-sequence ops give for their last query.
#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "ref.h"
#endif
#include "attn_case.h"

typedef struct {
    int H, D, T, block, topk;
    float *q, *k, *v, *centroid;         // q: (H, D)   k, v: (T, H*D)   centroid: (T / block, H, D)
} StepCase;

static StepCase step_open(int H, int D, int T, int block, int topk, uint64_t seed) {
    size_t C = (size_t)H * D;
    StepCase s = {H, D, T, block, topk, attn_normals(C, seed), attn_normals(T * C, seed + 1), attn_normals(T * C, seed + 2), NULL};
    s.centroid = attn_normals((size_t)(T / block + 1) * C, seed + 3);
    return s;
}
static void step_close(StepCase* s) { free(s->q); free(s->k); free(s->v); free(s->centroid); }

#ifdef LLMC_CPU
static void step_run(float* out, const StepCase* s, const uint16_t* sel, int from, int to, int slots) {
    void* scratch = malloc(attn_step_forward_scratch(s->H, s->D, to - from, slots) + 16);
    attn_step_forward(out, s->q, s->k, s->v, sel, s->H, s->D, from, to, s->block, slots, scratch, NULL);
    free(scratch);
}

static void topk_run(uint16_t* sel, const float* q, const float* centroid, int H, int D, int past, int topk) {
    void* scratch = malloc(attn_step_topk_scratch(H, past));
    attn_step_topk(sel, q, centroid, H, D, past, topk, scratch, NULL);
    free(scratch);
}

TEST(attn_step_two_rows_by_hand) {
    // q . k0 / sqrt(8) = ln 3, q . k1 = 0: row 0 weighs 3/4
    float q[8] = {(float)(log(3.0) * sqrt(8.0))}, k[16] = {1}, v[16] = {4, 8}, out[8];
    v[8] = 12; v[9] = -8;
    attn_step_forward(out, q, k, v, NULL, 1, 8, 0, 2, 2, 0, NULL, NULL);
    CHECK_NEAR(out[0], 6, 1e-5);
    CHECK_NEAR(out[1], 4, 1e-5);
    attn_step_forward(out, q, k, v, NULL, 1, 8, 1, 2, 2, 0, NULL, NULL);
    CHECK_NEAR(out[0], 12, 0);
    // the same two rows, one as a picked block, one as the run
    uint16_t sel[2] = {0, MOBA_NONE};
    attn_step_forward(out, q, k, v, sel, 1, 8, 1, 2, 1, 2, NULL, NULL);
    CHECK_NEAR(out[0], 6, 1e-5);
    CHECK_NEAR(out[1], 4, 1e-5);
}

// the last token of a whole sequence through swa
TEST(attn_step_is_the_last_row_of_swa) {
    enum { H = 3, D = 16, C = H * D };
    static const int lengths[] = {1, 5, 40}, windows[] = {1, 4, 40, 1000};
    for (int i = 0; i < 3; i++) for (int w = 0; w < 4; w++) {
        int T = lengths[i], from = windows[w] < T ? T - windows[w] : 0;
        StepCase s = step_open(H, D, T, 8, 1, 21);
        AttnShape shape = {1, T, H, D, C, C, C, C, ATTN_AUTO};
        float *q = attn_normals((size_t)T * C, 3), *all = attn_normals((size_t)T * C, 4), *lse = attn_normals((size_t)T * H, 5), out[C];
        memcpy(q + (size_t)(T - 1) * C, s.q, sizeof out);
        swa_forward(all, lse, q, s.k, s.v, shape, windows[w], NULL);
        step_run(out, &s, NULL, from, T, 0);
        for (int c = 0; c < C; c++) { CHECK_NEAR(out[c], all[(size_t)(T - 1) * C + c], 1e-6); }
        free(q); free(all); free(lse);
        step_close(&s);
    }
}

// routing and attention of the last token of a whole sequence through moba_centroid, moba_topk, moba_index, moba_attn
static void check_last_row_of_moba(int T, int block, int topk) {
    enum { H = 2, D = 8, C = H * D };
    int n = (T + block - 1) / block, slots = topk - 1, past = (T - 1) / block;
    StepCase s = step_open(H, D, T, block, topk, (uint64_t)T);
    AttnShape shape = {1, T, H, D, C, C, C, C, ATTN_AUTO};
    float *q = attn_normals((size_t)T * C, 3), *all = attn_normals((size_t)T * C, 4), *lse = attn_normals((size_t)T * H, 5), out[C];
    float* centroid = attn_normals((size_t)n * C, 6);
    uint16_t *sel = (uint16_t*)calloc((size_t)H * T * slots + 1, 2), *picked = (uint16_t*)calloc((size_t)H * slots + 1, 2);
    memcpy(q + (size_t)(T - 1) * C, s.q, sizeof out);
    moba_centroid(centroid, s.k, shape, block, NULL);
    moba_topk(sel, q, centroid, shape, block, topk, NULL, NULL);
    MobaRoute route = {sel, NULL, NULL};
    moba_attn_forward(all, lse, q, s.k, s.v, route, shape, block, topk, NULL, 0, NULL);

    AttnShape blocks = {past, block, H, D, C, C, C, C, ATTN_AUTO};          // each complete block a sequence of its own: centroids block by block
    if (past) { moba_centroid(s.centroid, s.k, blocks, block, NULL); }
    if (slots) { topk_run(picked, s.q, s.centroid, H, D, past, topk); }
    for (int h = 0; h < H; h++) for (int i = 0; i < slots; i++) {
        CHECK_EQ(picked[h * slots + i], sel[((size_t)h * T + T - 1) * slots + i]);
    }
    step_run(out, &s, picked, past * block, T, slots);
    for (int c = 0; c < C; c++) { CHECK_NEAR(out[c], all[(size_t)(T - 1) * C + c], 1e-6); }
    free(q); free(all); free(lse); free(centroid); free(sel); free(picked);
    step_close(&s);
}

TEST(attn_step_is_the_last_row_of_moba) {
    static const int lengths[] = {1, 7, 8, 9, 63, 64, 65, 200};
    for (int i = 0; i < 8; i++) {
        check_last_row_of_moba(lengths[i], 8, 1);
        check_last_row_of_moba(lengths[i], 8, 3);
        check_last_row_of_moba(lengths[i], 16, 32);
    }
}
#endif

// ---- the rules of moba_topk, on either backend: one head, q the first unit vector, block j scores scores[j] ---------------------------
static void picks_expect(const float* scores, int past, int topk, const int* expected) {
    enum { D = 64, MAX = 16 };
    float q[D] = {1}, centroid[MAX * D] = {0};
    uint16_t sel[MOBA_MAX_TOPK];
    for (int j = 0; j < past; j++) { centroid[j * D] = scores[j]; }
    memset(sel, 0xab, sizeof sel);
#ifdef LLMC_CPU
    topk_run(sel, q, centroid, 1, D, past, topk);
#else
    floatX* q_dev = device_from_floats(q, D);
    float* centroid_dev = (float*)device_from(centroid, sizeof centroid);
    uint16_t* sel_dev = (uint16_t*)device_from(sel, sizeof sel);
    void* scratch = device_poisoned(attn_step_topk_scratch(1, past));
    attn_step_topk(sel_dev, q_dev, centroid_dev, 1, D, past, topk, scratch, NULL);
    uint16_t* found = (uint16_t*)host_from(sel_dev, sizeof sel);
    memcpy(sel, found, sizeof sel);
    free(found);
    device_free(q_dev); device_free(centroid_dev); device_free(sel_dev); device_free(scratch);
#endif
    for (int i = 0; i < topk - 1; i++) { CHECK(sel[i] == expected[i], "slot %d: block %d, expected %d", i, sel[i], expected[i]); }
    CHECK_EQ(sel[topk - 1], 0xabab);                                     // nothing beyond its slots
}

static void check_pick_rules(void) {
    const float inf = INFINITY;
    float order[] = {3, 1, -2, 5, 4, 0, 9, -1}, equal[] = {7, 7, 7, 7, 7}, zeros[] = {-0.0f, 0.0f, -0.0f, -1};
    float worst[] = {NAN, -inf, NAN, -inf}, some[] = {NAN, -5, -inf, NAN, -7}, top[] = {1, inf, 2, inf, NAN};
    int in_order[] = {3, 4, 6}, lowest[] = {0, 1, 2}, filled[] = {0, 1, 2, 4}, infinite[] = {1, 3};
    int few[] = {0, 1, MOBA_NONE, MOBA_NONE}, none[] = {MOBA_NONE, MOBA_NONE};
    picks_expect(order, 8, 4, in_order);
    picks_expect(equal, 5, 4, lowest);
    picks_expect(zeros, 4, 3, lowest);
    picks_expect(worst, 4, 4, lowest);
    picks_expect(some, 5, 5, filled);
    picks_expect(top, 5, 3, infinite);
    picks_expect(order, 2, 5, few);
    picks_expect(order, 0, 3, none);
}

#ifdef LLMC_CPU
TEST(attn_step_topk_keeps_the_rules_of_moba_topk) { check_pick_rules(); }
#endif

#ifndef LLMC_CPU
GPU_TEST(attn_step_topk_keeps_the_rules_of_moba_topk_gpu) { check_pick_rules(); }

// the run of rows [from, T), and blocks picked at random in front of it
static void step_case(int H, int D, int T, int from, int block, int topk, PickKind kind) {
    int C = H * D, slots = topk - 1;
    size_t rows = (size_t)T * C;
    uint64_t seed = 77;
    StepCase s = step_open(H, D, T, block, topk, 31);
    uint16_t* sel = (uint16_t*)malloc((size_t)H * slots * 2 + 2);
    for (int h = 0; h < H; h++) { pick_blocks(sel + h * slots, slots, from / block, kind, &seed); }
    floatX *q = device_from_floats(s.q, C), *k = device_from_floats(s.k, rows), *v = device_from_floats(s.v, rows);
    uint16_t* sel_dev = (uint16_t*)device_from(sel, (size_t)H * slots * 2 + 2);
    floatX* out_dev = (floatX*)device_poisoned(C * 2);
    void* scratch = device_poisoned(attn_step_forward_scratch(H, D, T - from, slots));
    float *exact = attn_normals(C, 1), *rounded = attn_normals(C, 2);
    ref_attn_step_forward(exact, s.q, s.k, s.v, sel, H, D, from, T, block, slots, NULL, NULL);
    rnd_attn_step_forward(rounded, s.q, s.k, s.v, sel, H, D, from, T, block, slots, NULL, NULL);
    float* first = NULL;
    for (int repeat = 0; repeat < 3; repeat++) {
        attn_step_forward(out_dev, q, k, v, sel_dev, H, D, from, T, block, slots, scratch, NULL);
        float* out = floats_from(out_dev, C);
        check_budget("out", out, exact, rounded, C, T - from + slots * block);
        CHECK(!first || memcmp(first, out, C * sizeof(float)) == 0, "a repeat gives other bits (T %d, from %d)", T, from);
        if (first) { free(out); } else { first = out; }
    }
    free(first); free(exact); free(rounded); free(sel);
    device_free(q); device_free(k); device_free(v); device_free(sel_dev); device_free(out_dev); device_free(scratch);
    step_close(&s);
}

GPU_TEST(attn_step_within_budget_run_of_rows) {
    static const int lengths[] = {1, 2, 15, 16, 17, 256, 257, 1000};
    for (int D = 64; D <= 128; D += 64) {
        for (int i = 0; i < 8; i++) {
            step_case(3, D, lengths[i], 0, 1 << 20, 1, PICK_RANDOM);
            step_case(2, D, lengths[i] + 50, 50, 1 << 20, 1, PICK_RANDOM);
        }
    }
    step_case(2, 64, 20000, 0, 1 << 20, 1, PICK_RANDOM);                // parts longer than the shortest
}

GPU_TEST(attn_step_within_budget_blocks) {
    for (int D = 64; D <= 128; D += 64) {
        step_case(2, D, 640 + 1,  640, 64, 8, PICK_RANDOM);
        step_case(2, D, 640 + 63, 640, 64, 8, PICK_SPARSE);
        step_case(3, D, 1280 + 128, 1280, 128, 3, PICK_SINK);
        step_case(1, D, 64 * 40 + 7, 64 * 40, 64, 32, PICK_RANDOM);
        step_case(2, D, 64 * 2 + 7, 64 * 2, 64, 8, PICK_RANDOM);        // fewer blocks than slots
        step_case(2, D, 30, 0, 64, 8, PICK_RANDOM);                     // none
    }
}

// Every disagreement with fp32 scores is a near-tie; `past` beyond one block of threads
GPU_TEST(attn_step_topk_agrees_with_the_reference) {
    enum { H = 4, D = 64, C = H * D, TOPK = 8, SLOTS = TOPK - 1 };
    static const int counts[] = {1, 7, 8, 64, 300, 1000};
    long agreed = 0, all = 0;
    for (int i = 0; i < 6; i++) {
        int past = counts[i];
        float *q = attn_normals(C, (uint64_t)i), *centroid = attn_normals((size_t)past * C, (uint64_t)i + 50);
        uint16_t exact[H * SLOTS];
        floatX* q_dev = device_from_floats(q, C);
        float* centroid_dev = (float*)device_from(centroid, (size_t)past * C * sizeof(float));
        uint16_t* sel_dev = (uint16_t*)device_poisoned(sizeof exact);
        void *scratch = device_poisoned(attn_step_topk_scratch(H, past)), *host_scratch = malloc(ref_attn_step_topk_scratch(H, past));
        ref_attn_step_topk(exact, q, centroid, H, D, past, TOPK, host_scratch, NULL);
        attn_step_topk(sel_dev, q_dev, centroid_dev, H, D, past, TOPK, scratch, NULL);
        uint16_t* found = (uint16_t*)host_from(sel_dev, sizeof exact);
        for (int j = 0; j < H * SLOTS; j++) { agreed += found[j] == exact[j]; all++; }
        free(q); free(centroid); free(found); free(host_scratch);
        device_free(q_dev); device_free(centroid_dev); device_free(sel_dev); device_free(scratch);
    }
    CHECK(agreed == all, "%ld of %ld picks agree; no two of these scores are closer than fp32 resolves", agreed, all);
}
#endif

TEST_MAIN()

#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "attn_problem.h"
#endif

// ---- rules that both backends keep to the letter: one head, every query is the first unit vector, block j scores scores[j] --------------
enum { RULE_D = 64, RULE_BLOCK = 64, RULE_T = 600, RULE_N = 10 };        // the last block is short

static const float inf = INFINITY, nan_score = NAN;

// sel of the op under test, (B, H, T, topk-1), after poison; q is dense
static uint16_t* topk_run(const float* q, const float* centroid, AttnShape shape, int block, int topk) {
    size_t picks = (size_t)shape.B * shape.H * shape.T * (topk - 1) + 1, rows = (size_t)shape.B * shape.T;
    uint16_t* sel = (uint16_t*)malloc(picks * sizeof(uint16_t));
    memset(sel, 0xab, picks * sizeof(uint16_t));                         // one more than is written
#ifdef LLMC_CPU
    (void)rows;
    moba_topk(sel, q, centroid, shape, block, topk, NULL, NULL);
#else
    size_t centroids = (size_t)shape.B * shape.H * ((shape.T + block - 1) / block) * shape.D;
    float* copy = (float*)malloc(rows * shape.ldq * sizeof(float));
    memcpy(copy, q, rows * shape.ldq * sizeof(float));
    floatX* device_q = device_from_floats(copy, rows * shape.ldq);
    float* device_centroid = (float*)device_from(centroid, centroids * sizeof(float));
    uint16_t* device_sel = (uint16_t*)device_from(sel, picks * sizeof(uint16_t));
    void* scratch = device_poisoned(moba_topk_scratch(shape, block, topk) + 4);
    moba_topk(device_sel, device_q, device_centroid, shape, block, topk, scratch, NULL);
    free(sel); free(copy);
    sel = (uint16_t*)host_from(device_sel, picks * sizeof(uint16_t));
    device_free(device_q); device_free(device_centroid); device_free(device_sel); device_free(scratch);
#endif
    return sel;
}

static uint16_t* topk_of_scores(const float scores[RULE_N], int T, int topk, AttnPath path) {
    AttnShape shape = {1, T, 1, RULE_D, RULE_D, RULE_D, RULE_D, RULE_D, path};
    float* q = (float*)calloc((size_t)T * RULE_D, sizeof(float));
    float centroid[RULE_N * RULE_D] = {0};
    for (int t = 0; t < T; t++) { q[(size_t)t * RULE_D] = 1; }
    for (int j = 0; j < RULE_N; j++) { centroid[j * RULE_D] = scores[j]; }
    uint16_t* sel = topk_run(q, centroid, shape, RULE_BLOCK, topk);
    CHECK_EQ(sel[(size_t)T * (topk - 1)], 0xabab);
    free(q);
    return sel;
}

// All queries of block `own` pick the blocks expected[0 .. topk-2].
static void topk_expect(const uint16_t* sel, int own, int topk, const int* expected) {
    int end = RULE_T < (own + 1) * RULE_BLOCK ? RULE_T : (own + 1) * RULE_BLOCK;
    for (int t = own * RULE_BLOCK; t < end; t++) {
        for (int i = 0; i < topk - 1; i++) {
            int found = sel[(size_t)t * (topk - 1) + i];
            CHECK(found == expected[i], "query %d, slot %d: block %d, expected %d", t, i, found, expected[i]);
        }
    }
}

static void topk_check_order(AttnPath path) {
    float scores[RULE_N] = {3, 1, -2, 5, 4, 0, 9, -1, 2, 100};           // a query of block 9 must not see block 9
    uint16_t* sel = topk_of_scores(scores, RULE_T, 4, path);
    int expected[RULE_N][3] = {{MOBA_NONE, MOBA_NONE, MOBA_NONE}, {0, MOBA_NONE, MOBA_NONE}, {0, 1, MOBA_NONE}, {0, 1, 2}, {0, 1, 3}, {0, 3, 4},
                               {0, 3, 4}, {3, 4, 6}, {3, 4, 6}, {3, 4, 6}};
    for (int own = 0; own < RULE_N; own++) { topk_expect(sel, own, 4, expected[own]); }
    free(sel);
}

static void topk_check_ties(AttnPath path) {
    float equal[RULE_N] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7}, some[RULE_N] = {1, 2, 2, 3, 2, 2, 3, 1, 2, 0};
    float zeros[RULE_N] = {-0.0f, 0.0f, -0.0f, 0.0f, -1, 0.0f, 0.0f, 0.0f, 0.0f, 0};
    uint16_t *sel_equal = topk_of_scores(equal, RULE_T, 4, path), *sel_some = topk_of_scores(some, RULE_T, 5, path);
    uint16_t* sel_zeros = topk_of_scores(zeros, RULE_T, 3, path);
    int lowest[] = {0, 1, 2}, mixed[] = {1, 2, 3, 6}, first_two[] = {0, 1};
    topk_expect(sel_equal, 9, 4, lowest);
    topk_expect(sel_some, 9, 5, mixed);
    topk_expect(sel_zeros, 9, 3, first_two);
    free(sel_equal); free(sel_some); free(sel_zeros);
}

static void topk_check_nan_and_infinity(AttnPath path) {
    float worst[RULE_N] = {nan_score, -inf, nan_score, -inf, nan_score, nan_score, -inf, -inf, nan_score, 0};
    float some[RULE_N] = {nan_score, -5, -inf, nan_score, -7, nan_score, nan_score, -inf, nan_score, 0};
    float top[RULE_N] = {1, inf, 2, inf, nan_score, 3, inf, 0, 4, 0};
    uint16_t *sel_worst = topk_of_scores(worst, RULE_T, 4, path), *sel_some = topk_of_scores(some, RULE_T, 5, path);
    uint16_t* sel_top = topk_of_scores(top, RULE_T, 3, path);
    int lowest[] = {0, 1, 2}, filled[] = {0, 1, 2, 4}, infinite[] = {1, 3}, all_of_three[] = {0, 1, 2, MOBA_NONE};
    topk_expect(sel_worst, 9, 4, lowest);
    topk_expect(sel_some, 9, 5, filled);
    topk_expect(sel_some, 3, 5, all_of_three);
    topk_expect(sel_top, 9, 3, infinite);
    free(sel_worst); free(sel_some); free(sel_top);
}

static void topk_check_few_blocks(AttnPath path) {
    float scores[RULE_N] = {0};
    int lengths[] = {1, 63, 64, 65, 130};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (int topk = 2; topk <= MOBA_MAX_TOPK; topk += 5) {
            uint16_t* sel = topk_of_scores(scores, lengths[i], topk, path);
            for (int t = 0; t < lengths[i]; t++) {
                for (int s = 0; s < topk - 1; s++) { CHECK_EQ(sel[t * (topk - 1) + s], s < t / RULE_BLOCK ? s : MOBA_NONE); }
            }
            free(sel);
        }
    }
    free(topk_of_scores(scores, RULE_T, 1, path));                       // writes nothing, which topk_of_scores checks
}

#ifdef LLMC_CPU
TEST(moba_topk_picks_the_highest_past_blocks) { topk_check_order(ATTN_AUTO); }
TEST(moba_topk_ties_go_to_the_lower_index)    { topk_check_ties(ATTN_AUTO); }
TEST(moba_topk_nan_counts_as_minus_infinity)  { topk_check_nan_and_infinity(ATTN_AUTO); }
TEST(moba_topk_takes_all_when_blocks_are_few) { topk_check_few_blocks(ATTN_AUTO); }

TEST(moba_topk_reads_its_own_sequence_and_head) {
    enum { B = 2, T = 12, H = 2, D = 8, LD = 24, BLOCK = 4, N = 3 };
    float q[B * T * LD], centroid[B * H * N * D];
    for (int i = 0; i < B * T * LD; i++) { q[i] = i % LD < H * D ? 1 : 1000; }
    for (int i = 0; i < B * H * N * D; i++) { centroid[i] = 0; }
    for (int bh = 0; bh < B * H; bh++) { centroid[(bh * N + (bh == 1 || bh == 2)) * D + 3] = 1; }   // heads 1 and 2 prefer block 1
    AttnShape shape = {B, T, H, D, LD, LD, LD, LD, ATTN_AUTO};
    uint16_t* sel = topk_run(q, centroid, shape, BLOCK, 2);
    for (int bh = 0; bh < B * H; bh++) {
        for (int t = 0; t < T; t++) { CHECK_EQ(sel[bh * T + t], t < 4 ? MOBA_NONE : t < 8 ? 0 : bh == 1 || bh == 2); }
    }
    free(sel);
}
#endif

#ifndef LLMC_CPU
static void topk_on_paths(void (*check)(AttnPath path)) {
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) { check(path[i]); }
}

GPU_TEST(moba_topk_kernel_picks_the_highest_past_blocks) { topk_on_paths(topk_check_order); }
GPU_TEST(moba_topk_kernel_ties_go_to_the_lower_index)    { topk_on_paths(topk_check_ties); }
GPU_TEST(moba_topk_kernel_nan_counts_as_minus_infinity)  { topk_on_paths(topk_check_nan_and_infinity); }
GPU_TEST(moba_topk_kernel_takes_all_when_blocks_are_few) { topk_on_paths(topk_check_few_blocks); }

static double topk_dot(const float* a, const float* b, int D) {
    double sum = 0;
    for (int d = 0; d < D; d++) { sum += (double)a[d] * b[d]; }
    return sum;
}

// How far the scores of two blocks may be apart and still come out in the wrong order. Per score: 2^-18 of each centroid element is left out
// by the split, and 2D products (high and low) are added in fp32, each addition wrong by at most 2^-23 of the terms' sum;
// sum |q_d c_d| <= |q||c|.
static double topk_tie_gap(const float* q, const float* a, const float* b, int D) {
    double per_norm = ldexp(1, -18) + 2 * D * ldexp(1, -23);
    return per_norm * sqrt(topk_dot(q, q, D)) * (sqrt(topk_dot(a, a, D)) + sqrt(topk_dot(b, b, D)));
}

static bool topk_has(const uint16_t* picks, int slots, int block) {
    for (int i = 0; i < slots; i++) {
        if (picks[i] == block) { return true; }
    }
    return false;
}

// One query: the right number of blocks, ascending, in the past; returns how many the expected picks lack, all of them near-ties.
static int topk_compare(const uint16_t* found, const uint16_t* expected, const float* q, const float* centroid, int t, int block, int slots, int D) {
    int want = t / block < slots ? t / block : slots, differ = 0;
    for (int i = 0; i < slots; i++) {
        if (i >= want) { CHECK(found[i] == MOBA_NONE, "query %d, slot %d: block %d, expected none", t, i, found[i]); continue; }
        CHECK(found[i] < t / block && (i == 0 || found[i] > found[i - 1]), "query %d, slot %d: block %d after %d", t, i, found[i],
              i > 0 ? found[i - 1] : -1);
        if (topk_has(expected, slots, found[i])) { continue; }
        differ++;
        for (int e = 0; e < want; e++) {
            if (topk_has(found, slots, expected[e])) { continue; }
            const float *a = centroid + (size_t)expected[e] * D, *b = centroid + (size_t)found[i] * D;
            double gap = topk_dot(q, a, D) - topk_dot(q, b, D);
            CHECK(gap <= topk_tie_gap(q, a, b, D), "query %d: block %d instead of %d, which scores %.9g more (a near-tie is %.3g)", t,
                  found[i], expected[e], gap, topk_tie_gap(q, a, b, D));
        }
    }
    return differ;
}

static float* topk_normals(size_t n, uint64_t seed) {
    float* x = (float*)malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) { x[i] = (float)test_normal(&seed); }
    return x;
}

// Kernel against reference from the same bf16 q and fp32 centroids; at least 99.9 % of the pairs agree. The first two elements of queries are
// 1, those of centroids +-offset and something, if there is an offset: then scores are small differences.
static void topk_check_scores(AttnShape s, int block, int topk, int repeats, float offset) {
    int n = (s.T + block - 1) / block, slots = topk - 1;
    size_t rows = (size_t)s.B * s.T, centroids = (size_t)s.B * s.H * n * s.D, picks = (size_t)s.B * s.H * s.T * slots;
    float *q = topk_normals(rows * s.ldq, s.T + topk), *centroid = topk_normals(centroids, 77);
    for (size_t i = 0; i < rows * s.ldq; i++) { q[i] = bf16_to_float(float_to_bf16(q[i])); }
    for (size_t i = 0; i < rows * s.ldq && offset != 0; i++) { q[i] = i % s.D < 2 ? 1 : 0; }
    for (size_t i = 0; i < centroids && offset != 0; i++) { centroid[i] += i % s.D == 0 ? offset : i % s.D == 1 ? -offset : 0; }
    uint16_t *expected = (uint16_t*)malloc(picks * 2), *found = topk_run(q, centroid, s, block, topk);
    ref_moba_topk(expected, q, centroid, s, block, topk, NULL, NULL);
    long differ = 0, pairs = 0;
    for (int b = 0; b < s.B; b++) {
        for (int h = 0; h < s.H; h++) {
            for (int t = 0; t < s.T; t++) {
                size_t bh = (size_t)b * s.H + h, at = (bh * s.T + t) * slots;
                differ += topk_compare(found + at, expected + at, q + ((size_t)b * s.T + t) * s.ldq + (size_t)h * s.D,
                                       centroid + bh * n * s.D, t, block, slots, s.D);
                pairs += t / block < slots ? t / block : slots;
            }
        }
    }
    CHECK(differ * 1000 <= pairs, "T=%d D=%d block=%d topk=%d, %s: %ld of %ld pairs differ", s.T, s.D, block, topk, attn_path_name(s.path),
          differ, pairs);
    for (int repeat = 1; repeat < repeats; repeat++) {
        uint16_t* again = topk_run(q, centroid, s, block, topk);
        CHECK(memcmp(again, found, picks * 2) == 0, "repeat %d differs (%s)", repeat, attn_path_name(s.path));
        free(again);
    }
    free(q); free(centroid); free(expected); free(found);
}

static void topk_check_shape(AttnShape s, int block, int topk, int repeats) { topk_check_scores(s, block, topk, repeats, 0); }

static void topk_check_8k(AttnPath path) {
    for (int D = 64; D <= 128; D += 64) {
        AttnShape shape = {1, 8192, 2, D, 6 * D, 2 * D, 2 * D, 2 * D, path};
        topk_check_shape(shape, 128, 8, 1);
        topk_check_shape(shape, 512, 8, 1);
        topk_check_shape(shape, 512, 2, 1);
        topk_check_shape(shape, 64, 32, 1);
        shape.T = 8191;
        topk_check_shape(shape, 128, 8, 1);
    }
}
GPU_TEST(moba_topk_kernel_agrees_with_the_reference_at_8k) { topk_on_paths(topk_check_8k); }

static void topk_check_ragged(AttnPath path) {
    int lengths[] = {1, 63, 65, 257, 1000, 2047}, topks[] = {2, 3, 5, 9, 16, 17, 32};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (size_t j = 0; j < sizeof topks / sizeof *topks; j++) {
            AttnShape narrow = {2, lengths[i], 1, 64, 72, 64, 64, 64, path}, wide = {1, lengths[i], 3, 128, 1152, 384, 384, 384, path};
            topk_check_shape(narrow, 64, topks[j], 1);
            topk_check_shape(wide, 128, topks[j], 1);
        }
    }
}
GPU_TEST(moba_topk_kernel_agrees_on_ragged_shapes) { topk_on_paths(topk_check_ragged); }

// bf16 centroids alone would score quite differently
static void topk_check_cancelling(AttnPath path) {
    AttnShape narrow = {1, 64 * 150, 1, 64, 64, 64, 64, 64, path}, wide = {1, 64 * 100, 1, 128, 128, 128, 128, 128, path};
    topk_check_scores(narrow, 64, 8, 1, 64);
    topk_check_scores(wide, 64, 12, 1, 64);
}
GPU_TEST(moba_topk_kernel_agrees_where_scores_cancel) { topk_on_paths(topk_check_cancelling); }

static void topk_check_repeats(AttnPath path) {
    AttnShape narrow = {2, 3000, 3, 64, 192, 192, 192, 192, path}, wide = {1, 2000, 2, 128, 256, 256, 256, 256, path};
    topk_check_shape(narrow, 64, 8, 31);
    topk_check_shape(wide, 128, 8, 31);
}
GPU_TEST(moba_topk_kernel_repeats_to_the_bit) { topk_on_paths(topk_check_repeats); }

// Scores that rise with the block, so that nearly every block enters every list, in steps of `step` equal ones; exact in bf16, so to the pick.
static void topk_check_rising(int topk, int step, float sign, AttnPath path) {
    enum { T = 64 * 200, D = 64, BLOCK = 64, N = 200 };
    AttnShape shape = {1, T, 1, D, D, D, D, D, path};
    float *q = (float*)calloc((size_t)T * D, sizeof(float)), *centroid = (float*)calloc(N * D, sizeof(float));
    for (int t = 0; t < T; t++) { q[(size_t)t * D] = 1; }
    for (int j = 0; j < N; j++) { centroid[j * D] = sign * (sign > 0 ? j / step : (N - j) / step); }
    size_t picks = (size_t)T * (topk - 1);
    uint16_t *expected = (uint16_t*)malloc(picks * 2), *found = topk_run(q, centroid, shape, BLOCK, topk);
    ref_moba_topk(expected, q, centroid, shape, BLOCK, topk, NULL, NULL);
    for (size_t i = 0; i < picks; i++) {
        CHECK(found[i] == expected[i], "topk %d, step %d, %s: query %zu, slot %zu: block %d, expected %d", topk, step, attn_path_name(path),
              i / (topk - 1), i % (topk - 1), found[i], expected[i]);
    }
    free(q); free(centroid); free(expected); free(found);
}

static void topk_check_all_rising(AttnPath path) {
    int topks[] = {2, 8, 16, 32};
    for (size_t i = 0; i < sizeof topks / sizeof *topks; i++) {
        for (int step = 1; step <= 9; step += 4) {
            topk_check_rising(topks[i], step, 1, path);
            topk_check_rising(topks[i], step, -1, path);
        }
    }
}
GPU_TEST(moba_topk_kernel_keeps_up_with_rising_scores) { topk_on_paths(topk_check_all_rising); }

static void topk_check_causal(AttnPath path) {                           // new q and centroids from block 20 on leave earlier picks alone
    enum { T = 2048, D = 64, BLOCK = 64, N = 32, TOPK = 8, CUT = 20 };
    AttnShape shape = {1, T, 1, D, D, D, D, D, path};
    float *q = topk_normals((size_t)T * D, 1), *centroid = topk_normals(N * D, 2);
    uint16_t* before = topk_run(q, centroid, shape, BLOCK, TOPK);
    for (int i = CUT * BLOCK * D; i < T * D; i++) { q[i] = -3 * q[i]; }
    for (int i = CUT * D; i < N * D; i++) { centroid[i] = 100 * centroid[i]; }
    uint16_t* after = topk_run(q, centroid, shape, BLOCK, TOPK);
    CHECK(memcmp(before, after, CUT * BLOCK * (TOPK - 1) * sizeof(uint16_t)) == 0, "a query before block %d picks differently", CUT);
    free(q); free(centroid); free(before); free(after);
}
GPU_TEST(moba_topk_kernel_does_not_look_ahead) { topk_on_paths(topk_check_causal); }

// the `slots` highest of blocks 0 .. past-1, best first, by scores in fp64; room for one more
static void topk_best_blocks(uint16_t* expected, const float* q, const float* centroid, int past, int slots, int D) {
    double best[MOBA_MAX_TOPK];
    int count = 0;
    for (int j = 0; j < past; j++) {                                     // insertion into a list kept best first
        double score = topk_dot(q, centroid + (size_t)j * D, D);
        int at = count;
        for (; at > 0 && score > best[at - 1]; at--) { best[at] = best[at - 1]; expected[at] = expected[at - 1]; }
        best[at] = score; expected[at] = (uint16_t)j;
        if (count < slots) { count++; }
    }
}

// A million tokens, block 64: 16384 blocks. Spot-checked on 1024 queries, scores in fp64.
GPU_TEST(moba_topk_kernel_at_a_million_tokens) {
    enum { T = 1 << 20, D = 64, BLOCK = 64, N = T / BLOCK, TOPK = 8, SLOTS = TOPK - 1, SAMPLES = 1024, POOL = 1 << 16 };
    float *pool = topk_normals(POOL, 1), *q = (float*)malloc((size_t)T * D * sizeof(float)), *centroid = topk_normals((size_t)N * D, 2);
    static uint16_t expected[SAMPLES][SLOTS + 1];
    int t[SAMPLES];
    uint64_t random = 3;
    for (size_t i = 0; i < (size_t)T * D; i++) { q[i] = bf16_to_float(float_to_bf16(pool[test_bits(&random) % POOL])); }
    for (int i = 0; i < SAMPLES; i++) { t[i] = i == 0 ? T - 1 : SLOTS * BLOCK + (int)(test_bits(&random) % (T - SLOTS * BLOCK)); }
    #pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < SAMPLES; i++) { topk_best_blocks(expected[i], q + (size_t)t[i] * D, centroid, t[i] / BLOCK, SLOTS, D); }
    AttnPath path[2];
    for (int p = 0, paths = attn_paths(path); p < paths; p++) {
        AttnShape shape = {1, T, 1, D, D, D, D, D, path[p]};
        uint16_t* sel = topk_run(q, centroid, shape, BLOCK, TOPK);
        long differ = 0;
        for (int i = 0; i < SAMPLES; i++) {
            differ += topk_compare(sel + (size_t)t[i] * SLOTS, expected[i], q + (size_t)t[i] * D, centroid, t[i], BLOCK, SLOTS, D);
        }
        CHECK(differ * 1000 <= (long)SAMPLES * SLOTS, "%s: %ld of %d pairs differ", attn_path_name(path[p]), differ, SAMPLES * SLOTS);
        free(sel);
    }
    free(pool); free(q); free(centroid);
}
#endif

TEST_MAIN()

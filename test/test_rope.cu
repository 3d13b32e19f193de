#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "cuda_common.cuh"
#include "product_rows.h"
#include "ref.h"
#endif
#include "rope_table.h"

#ifdef LLMC_CPU
TEST(rope_quarter_turn_by_hand) {
    enum { N = 4, T = 2, D = 8, HEADS = 2, LD = 24 };                    // two sequences; a third head that is not turned
    float table[T * D], x[N * LD], before[N * LD];
    for (int i = 0; i < D / 2; i++) {
        table[2 * i] = 1;     table[2 * i + 1] = 0;                      // t = 0: none
        table[D + 2 * i] = 0; table[D + 2 * i + 1] = 1;                  // t = 1: a quarter
    }
    for (int i = 0; i < N * LD; i++) { x[i] = before[i] = (float)(i + 1); }
    rope_forward(x, table, N, T, HEADS, D, LD, NULL);
    for (int row = 0; row < N; row++) {
        for (int c = 0; c < LD; c++) {
            const float* old = before + row * LD;
            bool turned = row % T == 1 && c < HEADS * D, first = c % D < D / 2;
            float expected = !turned ? old[c] : first ? -old[c + D / 2] : old[c - D / 2];
            CHECK(x[row * LD + c] == expected, "row %d column %d: %g, expected %g", row, c, (double)x[row * LD + c], (double)expected);
        }
    }
}

TEST(rope_scores_depend_on_distance_alone) {
    enum { T = 50, D = 16 };
    float *table = rope_table(T, D, 1), *q = test_normals(D, 1, 1), *k = test_normals(D, 2, 1), x[T * 2 * D];
    for (int t = 0; t < T; t++) {
        memcpy(x + t * 2 * D, q, D * sizeof(float));
        memcpy(x + t * 2 * D + D, k, D * sizeof(float));
    }
    rope_forward(x, table, T, T, 2, D, 2 * D, NULL);
    for (int distance = 0; distance < T; distance += 7) {
        double first = 0;
        for (int t = distance; t < T; t++) {
            double score = 0;
            for (int d = 0; d < D; d++) { score += (double)x[t * 2 * D + d] * x[(t - distance) * 2 * D + D + d]; }
            if (t == distance) { first = score; }
            CHECK_NEAR(score, first, 1e-5);                              // 4 fp32 roundings (2 turns, 2 tables) of |q||k|, about 16
        }
    }
    free(table); free(q); free(k);
}

TEST(matmul_rope_is_the_product_and_the_turn) {
    enum { N = 6, T = 3, C = 16, D = 16, HEADS = 2, OC = 48 };
    float *table = rope_table(T, D, 1), *inp = test_normals(N * C, 1, 1), *weight = test_normals(OC * C, 2, 1), out[N * OC], expected[N * OC];
    matmul_rope_forward(out, inp, weight, table, N, T, HEADS, D, C, OC, NULL, NULL);
    matmul_forward(expected, inp, weight, N, C, OC, NULL, NULL);
    rope_forward(expected, table, N, T, HEADS, D, OC, NULL);
    CHECK(memcmp(out, expected, sizeof out) == 0, "differs");
    free(table); free(inp); free(weight);
}
#endif

#ifndef LLMC_CPU
typedef struct { int N, T, heads, D, ld; } RopeShape;

static void rope_check_shape(RopeShape s) {
    size_t size = (size_t)s.N * s.ld;
    float *table = rope_table(s.T, s.D, 1), *x = test_normals(size, 7, 1);
    floatX* device_x = device_from_floats(x, size);                      // rounds x
    float* device_table = (float*)device_from(table, (size_t)s.T * s.D * sizeof(float));
    float *exact = (float*)malloc(size * sizeof(float)), *rounded = (float*)malloc(size * sizeof(float));
    memcpy(exact, x, size * sizeof(float));
    memcpy(rounded, x, size * sizeof(float));
    rope_forward(device_x, device_table, s.N, s.T, s.heads, s.D, s.ld, NULL);
    ref_rope_forward(exact, table, s.N, s.T, s.heads, s.D, s.ld, NULL);
    rnd_rope_forward(rounded, table, s.N, s.T, s.heads, s.D, s.ld, NULL);
    float* kernel = floats_from(device_x, size);
    check_budget("x", kernel, exact, rounded, size, 2);
    for (int row = 0; row < s.N; row++) {
        size_t rest = (size_t)row * s.ld + s.heads * s.D;
        CHECK(memcmp(kernel + rest, x + rest, (s.ld - s.heads * s.D) * sizeof(float)) == 0, "row %d changed beyond its %d heads", row, s.heads);
    }
    free(table); free(x); free(exact); free(rounded); free(kernel);
    device_free(device_x); device_free(device_table);
}

GPU_TEST(rope_kernel_within_budget) {
    RopeShape shapes[] = {{1, 1, 1, 16, 16}, {7, 7, 3, 64, 200}, {3 * 33, 33, 5, 128, 640}, {2 * 65, 65, 32, 64, 3072}, {40, 8, 6, 32, 288}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) { rope_check_shape(shapes[i]); }
}

GPU_TEST(rope_kernel_repeats_to_the_bit) {
    enum { N = 300, T = 150, HEADS = 8, D = 64, LD = 3 * 256 };
    size_t size = (size_t)N * LD;
    float *table = rope_table(T, D, 1), *x = test_normals(size, 3, 1), *first = NULL;
    float* device_table = (float*)device_from(table, (size_t)T * D * sizeof(float));
    for (int repeat = 0; repeat < 10; repeat++) {
        floatX* device_x = device_from_floats(x, size);
        rope_forward(device_x, device_table, N, T, HEADS, D, LD, NULL);
        float* kernel = floats_from(device_x, size);
        if (repeat == 0) { first = kernel; }
        else { CHECK(memcmp(kernel, first, size * sizeof(float)) == 0, "repeat %d differs", repeat); free(kernel); }
        device_free(device_x);
    }
    free(first); free(table); free(x); device_free(device_table);
}

// ---- behind a product -------------------------------------------------------------------------------------------------
// qkv of `sequences` sequences of T tokens, of which q and k turn. joined: one kernel does both, and the library's products are not asked.
static void product_check(int sequences, int T, int heads, int D, int C, bool joined) {
    int N = sequences * T, OC = 3 * heads * D;
    size_t inps = (size_t)N * C, weights = (size_t)OC * C, outs = (size_t)N * OC;
    float *table = rope_table(T, D, 1), *inp = test_normals(inps, 1, 1), *weight = test_normals(weights, 2, 1.0f / sqrtf((float)C));
    float* device_table = (float*)device_from(table, (size_t)T * D * sizeof(float));
    floatX *device_inp = device_from_floats(inp, inps), *device_weight = device_from_floats(weight, weights), *device_out = (floatX*)device_poisoned(outs * 2);
    floatX* device_second = (floatX*)device_poisoned(outs * 2);
    float *exact = (float*)malloc(outs * sizeof(float)), *rounded = (float*)malloc(outs * sizeof(float));
    void* workspace = device_malloc(matmul_workspace());
    struct MatmulPlans* plans = matmul_open(workspace, matmul_workspace());
    matmul_rope_forward(device_out, device_inp, device_weight, device_table, N, T, 2 * heads, D, C, OC, plans, NULL);
    matmul_rope_forward(device_second, device_inp, device_weight, device_table, N, T, 2 * heads, D, C, OC, plans, NULL);
    CHECK((matmul_plans_count(plans) == 0) == joined, "N=%d D=%d C=%d: %zu of the library's plans", N, D, C, matmul_plans_count(plans));
    ref_matmul_rope_forward(exact, inp, weight, table, N, T, 2 * heads, D, C, OC, NULL, NULL);
    rnd_matmul_rope_forward(rounded, inp, weight, table, N, T, 2 * heads, D, C, OC, NULL, NULL);
    float *kernel = floats_from(device_out, outs), *second = floats_from(device_second, outs);
    check_budget("qkv", kernel, exact, rounded, outs, 1);
    CHECK(memcmp(kernel, second, outs * sizeof(float)) == 0, "N=%d D=%d C=%d: a second time other bits", N, D, C);
    matmul_close(plans);
    free(second);
    device_free(workspace); device_free(device_second);
    free(table); free(inp); free(weight); free(exact); free(rounded); free(kernel);
    device_free(device_table); device_free(device_inp); device_free(device_weight); device_free(device_out);
}

// sequences of T tokens that give each pair of multiprocessors a tile of 256 x 256
static int sequences_for(int T, int columns) { return ceil_div(rows_for(1, columns, 256, 0), T); }

GPU_TEST(matmul_rope_of_few_rows) { product_check(2, 9, 2, 64, 40, false); }

// On Hopper one kernel: sequences that end inside a tile, and a tile whose columns turn in part
GPU_TEST(matmul_rope_within_budget_D64) {
    product_check(sequences_for(100, 3 * 320), 100, 5, 64, 72, on_hopper());
    product_check(sequences_for(45, 3 * 320), 45, 5, 64, 128, on_hopper());
}
GPU_TEST(matmul_rope_within_budget_D128) {
    product_check(sequences_for(100, 3 * 256), 100, 2, 128, 72, on_hopper());
    product_check(sequences_for(1031, 3 * 384), 1031, 3, 128, 64, on_hopper());
}
#endif

TEST_MAIN()

#include "test.h"

#ifdef LLMC_CPU
#include "ops.h"

TEST(rmsnorm_of_ones_is_the_weight) {
    float inp[16], out[16], rstd[2], weight[8];
    for (int i = 0; i < 16; i++) { inp[i] = 1; }
    for (int c = 0; c < 8; c++) { weight[c] = (float)(c - 3); }
    rmsnorm_forward(out, rstd, inp, weight, 2, 8, 0, NULL);
    for (int i = 0; i < 16; i++) { CHECK_NEAR(out[i], weight[i % 8], 0); }
    CHECK_NEAR(rstd[1], 1, 0);
}

TEST(rmsnorm_by_hand) {
    float inp[8] = {4, -4, 0, 0, 0, 0, 0, 0}, weight[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[8], rstd;
    rmsnorm_forward(out, &rstd, inp, weight, 1, 8, 0.0f, NULL);          // mean of squares 4
    CHECK_NEAR(rstd, 0.5, 0);
    CHECK_NEAR(out[0], 2, 0);
    CHECK_NEAR(out[1], -4, 0);
    rmsnorm_forward(out, &rstd, inp, weight, 1, 8, 12.0f, NULL);         // eps counts: 1 / sqrt(16)
    CHECK_NEAR(rstd, 0.25, 0);
    for (int c = 2; c < 8; c++) { CHECK_NEAR(out[c], 0, 0); }
}

TEST(rmsnorm_in_place_is_out_of_place) {
    enum { N = 5, C = 24 };
    float *inp = test_normals(N * C, 1, 1), *weight = test_normals(C, 3, 1), out[N * C], rstd[N], rstd2[N];
    rmsnorm_forward(out, rstd, inp, weight, N, C, 1e-6f, NULL);
    rmsnorm_forward(inp, rstd2, inp, weight, N, C, 1e-6f, NULL);
    CHECK(memcmp(inp, out, sizeof out) == 0 && memcmp(rstd, rstd2, sizeof rstd) == 0, "in place differs");
    free(inp); free(weight);
}

TEST(rmsnorm_backward_by_hand) {
    // x = (4, -4, 0...), w = 1, rstd 1/2; dout = e0: mean(g x) = 4/8; dx = rstd (e0 - x rstd^2 / 2) = 1/2 (e0 - x/8)
    float inp[8] = {4, -4}, weight[8] = {1, 1, 1, 1, 1, 1, 1, 1}, dout[8] = {1}, rstd[1] = {0.5f}, dinp[8], dweight[8];
    for (int c = 0; c < 8; c++) { dinp[c] = 10; dweight[c] = -10; }
    void* scratch = malloc(rmsnorm_backward_scratch(1, 8) + 1);
    rmsnorm_backward(dinp, dweight, dout, inp, weight, rstd, 1, 8, scratch, NULL);
    const float expected[3] = {10.25f, 10.25f, 10};
    for (int c = 0; c < 8; c++) { CHECK_NEAR(dinp[c], expected[c < 2 ? c : 2], 0); }
    CHECK_NEAR(dweight[0], -10 + 2, 0);
    CHECK_NEAR(dweight[1], -10, 0);
    free(scratch);
}

TEST(matmul_rmsnorm_backward_is_the_product_and_the_pass) {
    enum { N = 5, C = 16, OC = 24 };
    float *inp = test_normals(N * C, 1, 1), *weight = test_normals(C, 2, 1), *product = test_normals(OC * C, 3, 1), *dout = test_normals(N * OC, 4, 1);
    float out[N * C], rstd[N], dinp[N * C] = {0}, expected[N * C] = {0}, dweight[C] = {0}, expected_weight[C] = {0}, dnorm[N * C], also[N * C];
    rmsnorm_forward(out, rstd, inp, weight, N, C, 1e-6f, NULL);
    matmul_rmsnorm_backward(dinp, dweight, dnorm, dout, product, inp, weight, rstd, NULL, 0, N, C, OC, NULL, NULL, NULL);
    matmul_backward_input(also, dout, product, N, C, OC, NULL, NULL);
    rmsnorm_backward(expected, expected_weight, also, inp, weight, rstd, N, C, NULL, NULL);
    CHECK(memcmp(dinp, expected, sizeof dinp) == 0 && memcmp(dweight, expected_weight, sizeof dweight) == 0, "differs");
    free(inp); free(weight); free(product); free(dout);
}

// what joins the norm's backward to its product: the sum of dnorm * norm of a row is that of dout * out
TEST(rmsnorm_row_sums_are_those_of_the_product) {
    enum { N = 4, C = 32, OC = 40 };
    float *norm = test_normals(N * C, 1, 1), *product = test_normals(OC * C, 3, 1), *dout = test_normals(N * OC, 4, 1), out[N * OC], dnorm[N * C];
    matmul_forward(out, norm, product, N, C, OC, NULL, NULL);
    matmul_backward_input(dnorm, dout, product, N, C, OC, NULL, NULL);
    for (int i = 0; i < N; i++) {
        double here = 0, there = 0, size = 0;
        for (int c = 0; c < C; c++)  { here += (double)dnorm[i * C + c] * norm[i * C + c]; size += fabs(dnorm[i * C + c] * norm[i * C + c]); }
        for (int j = 0; j < OC; j++) { there += (double)dout[i * OC + j] * out[i * OC + j]; }
        CHECK_NEAR(here, there, 1e-6 * size);
    }
    free(norm); free(product); free(dout);
}
#else
#include "cuda_common.cuh"
#include "product_rows.h"
#include "ref.h"

typedef struct { int N, C; } RmsnormShape;
static const RmsnormShape rmsnorm_shapes[] = {{1, 8}, {3, 264}, {17, 512}, {9, 520}, {1030, 128}, {7000, 64}, {1500, 1024}, {5, 2816}, {3, 8192}};
enum { RMSNORM_SHAPES = sizeof rmsnorm_shapes / sizeof rmsnorm_shapes[0] };

static void rmsnorm_forward_check(int N, int C) {
    size_t n = (size_t)N * C;
    float *inp = test_normals(n, 1, 2), *weight = test_normals(C, 2, 1);
    floatX *d_inp = device_from_floats(inp, n), *d_out = (floatX*)device_poisoned(n * 2);
    float *d_weight = (float*)device_from(weight, C * sizeof(float)), *d_rstd = (float*)device_poisoned(N * sizeof(float));
    rmsnorm_forward(d_out, d_rstd, d_inp, d_weight, N, C, 1e-6f, NULL);
    float *out = floats_from(d_out, n), *rstd = (float*)host_from(d_rstd, N * sizeof(float));
    float *exact = (float*)malloc(n * 4), *rounded = (float*)malloc(n * 4), *exact_rstd = (float*)malloc(N * 4), *rounded_rstd = (float*)malloc(N * 4);
    ref_rmsnorm_forward(exact, exact_rstd, inp, weight, N, C, 1e-6f, NULL);
    rnd_rmsnorm_forward(rounded, rounded_rstd, inp, weight, N, C, 1e-6f, NULL);
    check_budget("out", out, exact, rounded, n, 1);
    check_budget("rstd", rstd, exact_rstd, rounded_rstd, N, C);
    rmsnorm_forward(d_inp, d_rstd, d_inp, d_weight, N, C, 1e-6f, NULL);
    float* in_place = floats_from(d_inp, n);
    CHECK(memcmp(in_place, out, n * 4) == 0, "N=%d C=%d: in place differs", N, C);
    free(in_place);
    free(inp); free(weight); free(out); free(rstd); free(exact); free(rounded); free(exact_rstd); free(rounded_rstd);
    device_free(d_inp); device_free(d_out); device_free(d_weight); device_free(d_rstd);
}
GPU_TEST(rmsnorm_forward_within_budget) {
    for (int i = 0; i < RMSNORM_SHAPES; i++) { rmsnorm_forward_check(rmsnorm_shapes[i].N, rmsnorm_shapes[i].C); }
}

typedef struct { float *dinp, *dweight; } RmsnormGradients;

static RmsnormGradients rmsnorm_gradients(float* start, const float* start_weight, const floatX* dout, const floatX* inp, const float* weight,
                                          const float* rstd, int N, int C) {
    size_t n = (size_t)N * C;
    floatX* d_dinp = device_from_floats(start, n);
    float* d_dweight = (float*)device_from(start_weight, C * 4);
    void* d_scratch = device_poisoned(rmsnorm_backward_scratch(N, C));
    rmsnorm_backward(d_dinp, d_dweight, dout, inp, weight, rstd, N, C, d_scratch, NULL);
    RmsnormGradients g = {floats_from(d_dinp, n), (float*)host_from(d_dweight, C * 4)};
    device_free(d_dinp); device_free(d_dweight); device_free(d_scratch);
    return g;
}

static void rmsnorm_backward_check(int N, int C, int repeats) {
    size_t n = (size_t)N * C;
    float *inp = test_normals(n, 1, 2), *dout = test_normals(n, 2, 1), *weight = test_normals(C, 3, 1), *start = test_normals(n, 4, 1);
    float *start_weight = test_normals(C, 5, 1), *rstd = (float*)malloc(N * 4), *out = (float*)malloc(n * 4);
    floatX *d_inp = device_from_floats(inp, n), *d_dout = device_from_floats(dout, n);
    ref_rmsnorm_forward(out, rstd, inp, weight, N, C, 1e-6f, NULL);
    float *d_weight = (float*)device_from(weight, C * 4), *d_rstd = (float*)device_from(rstd, N * 4);
    RmsnormGradients found = rmsnorm_gradients(start, start_weight, d_dout, d_inp, d_weight, d_rstd, N, C), again;
    float *exact = (float*)malloc(n * 4), *rounded = (float*)malloc(n * 4), *exact_weight = (float*)malloc(C * 4), *rounded_weight = (float*)malloc(C * 4);
    memcpy(exact, start, n * 4); memcpy(rounded, start, n * 4);
    memcpy(exact_weight, start_weight, C * 4); memcpy(rounded_weight, start_weight, C * 4);
    ref_rmsnorm_backward(exact, exact_weight, dout, inp, weight, rstd, N, C, NULL, NULL);
    rnd_rmsnorm_backward(rounded, rounded_weight, dout, inp, weight, rstd, N, C, NULL, NULL);
    check_budget("dinp", found.dinp, exact, rounded, n, 1);
    check_budget("dweight", found.dweight, exact_weight, rounded_weight, C, N);
    for (int r = 1; r < repeats; r++) {
        again = rmsnorm_gradients(start, start_weight, d_dout, d_inp, d_weight, d_rstd, N, C);
        CHECK(memcmp(found.dinp, again.dinp, n * 4) == 0 && memcmp(found.dweight, again.dweight, C * 4) == 0, "repeat %d differs", r);
        free(again.dinp); free(again.dweight);
    }
    free(inp); free(dout); free(weight); free(start); free(start_weight); free(rstd); free(out); free(found.dinp); free(found.dweight);
    free(exact); free(rounded); free(exact_weight); free(rounded_weight);
    device_free(d_inp); device_free(d_dout); device_free(d_weight); device_free(d_rstd);
}
GPU_TEST(rmsnorm_backward_within_budget) {
    for (int i = 0; i < RMSNORM_SHAPES; i++) { rmsnorm_backward_check(rmsnorm_shapes[i].N, rmsnorm_shapes[i].C, 1); }
}
GPU_TEST(rmsnorm_backward_repeats_to_the_bit) { rmsnorm_backward_check(2100, 384, 12); }

// ---- behind a product -------------------------------------------------------------------------------------------------
// The problem of a norm, the product after it, and that product's gradient; sums as matmul_swiglu_backward leaves them, in two parts.
typedef struct { float *inp, *weight, *rstd, *product_weight, *dout, *sums, *start, *start_weight; int N, C, OC; } NormProduct;

static NormProduct norm_product(int N, int C, int OC) {
    NormProduct p = {test_normals((size_t)N * C, 1, 2), test_normals(C, 3, 1), (float*)malloc(N * 4), test_normals((size_t)OC * C, 4, 1 / sqrtf((float)OC)),
                     test_normals((size_t)N * OC, 2, 1), (float*)calloc(2 * N, 4), test_normals((size_t)N * C, 5, 1), test_normals(C, 6, 1), N, C, OC};
    float *norm = (float*)malloc((size_t)N * C * 4), *out = (float*)malloc((size_t)N * OC * 4);
    for (size_t i = 0; i < (size_t)N * OC; i++) { p.dout[i] = bf16_to_float(float_to_bf16(p.dout[i])); }
    rnd_rmsnorm_forward(norm, p.rstd, p.inp, p.weight, N, C, 1e-6f, NULL);
    rnd_matmul_forward(out, norm, p.product_weight, N, C, OC, NULL, NULL);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < OC; j++) { p.sums[2 * i + (j >= OC / 2)] += p.dout[(size_t)i * OC + j] * out[(size_t)i * OC + j]; }
    }
    free(norm); free(out);
    return p;
}

// parts 2: with the sums, 0: without
static void norm_product_check(int N, int C, int OC, int parts, bool joined) {
    NormProduct p = norm_product(N, C, OC);
    size_t n = (size_t)N * C;
    floatX *d_inp = device_from_floats(p.inp, n), *d_dout = device_from_floats(p.dout, (size_t)N * OC), *d_product = device_from_floats(p.product_weight, (size_t)OC * C);
    floatX *d_dinp = device_from_floats(p.start, n), *d_dnorm = (floatX*)device_poisoned(n * 2);
    float *d_weight = (float*)device_from(p.weight, C * 4), *d_rstd = (float*)device_from(p.rstd, N * 4), *d_sums = (float*)device_from(p.sums, 2 * N * 4);
    float *d_dweight = (float*)device_from(p.start_weight, C * 4), *exact = (float*)malloc(n * 4), *rounded = (float*)malloc(n * 4), *scratch = (float*)malloc(n * 4);
    float *exact_weight = (float*)malloc(C * 4), *rounded_weight = (float*)malloc(C * 4);
    void* d_scratch = device_poisoned(matmul_rmsnorm_backward_scratch(N, C));
    void* workspace = device_malloc(matmul_workspace());
    struct MatmulPlans* plans = matmul_open(workspace, matmul_workspace());
    floatX* d_second = device_from_floats(p.start, n);
    float* d_second_weight = (float*)device_from(p.start_weight, C * 4);
    matmul_rmsnorm_backward(d_second, d_second_weight, d_dnorm, d_dout, d_product, d_inp, d_weight, d_rstd, d_sums, parts, N, C, OC, d_scratch, plans, NULL);
    matmul_rmsnorm_backward(d_dinp, d_dweight, d_dnorm, d_dout, d_product, d_inp, d_weight, d_rstd, d_sums, parts, N, C, OC, d_scratch, plans, NULL);
    float *second = floats_from(d_second, n), *second_weight = (float*)host_from(d_second_weight, C * 4);
    float *dinp = floats_from(d_dinp, n), *dweight = (float*)host_from(d_dweight, C * 4), *dnorm = floats_from(d_dnorm, n);
    memcpy(exact, p.start, n * 4); memcpy(rounded, p.start, n * 4);
    memcpy(exact_weight, p.start_weight, C * 4); memcpy(rounded_weight, p.start_weight, C * 4);
    ref_matmul_rmsnorm_backward(exact, exact_weight, scratch, p.dout, p.product_weight, p.inp, p.weight, p.rstd, NULL, 0, N, C, OC, NULL, NULL, NULL);
    rnd_matmul_rmsnorm_backward(rounded, rounded_weight, scratch, p.dout, p.product_weight, p.inp, p.weight, p.rstd, NULL, 0, N, C, OC, NULL, NULL, NULL);
    check_budget("dinp", dinp, exact, rounded, n, 1);
    check_budget("dweight", dweight, exact_weight, rounded_weight, C, N);
    CHECK(isnan(dnorm[n - 1]) == joined, "N=%d C=%d OC=%d: dnorm was %swritten", N, C, OC, joined ? "" : "not ");
    CHECK(memcmp(dinp, second, n * 4) == 0 && memcmp(dweight, second_weight, C * 4) == 0, "N=%d C=%d OC=%d: a second time other bits", N, C, OC);
    matmul_close(plans);
    free(second); free(second_weight);
    device_free(workspace); device_free(d_second); device_free(d_second_weight);
    free(p.inp); free(p.weight); free(p.rstd); free(p.product_weight); free(p.dout); free(p.sums); free(p.start); free(p.start_weight);
    free(exact); free(rounded); free(scratch); free(exact_weight); free(rounded_weight); free(dinp); free(dweight); free(dnorm);
    device_free(d_inp); device_free(d_dout); device_free(d_product); device_free(d_dinp); device_free(d_dnorm); device_free(d_weight); device_free(d_rstd);
    device_free(d_sums); device_free(d_dweight); device_free(d_scratch);
}

GPU_TEST(matmul_rmsnorm_backward_apart) {
    norm_product_check(5, 72, 40, 2, false);                             // few rows
    norm_product_check(rows_for(1, 256, 256, 0), 256, 64, 0, false);          // sums not known
    norm_product_check(rows_for(2, 384, 256, 0), 384, 64, 2, false);          // every second tile half empty
}

// one kernel on Hopper, with rows, columns and inner dimensions that end inside a tile
GPU_TEST(matmul_rmsnorm_backward_within_budget) {
    norm_product_check(rows_for(1, 256, 256, 0), 256, 128, 2, on_hopper());
    norm_product_check(rows_for(1, 232, 256, 37), 232, 144, 2, on_hopper());
    norm_product_check(rows_for(2, 456, 256, 140), 456, 400, 2, on_hopper());
}
#endif

TEST_MAIN()

#include "test.h"

#ifdef LLMC_CPU
#include "ops.h"

TEST(swiglu_by_hand) {
    float gate_up[16] = {0, 1, -1, 100, -100, 2, 0, 0,   3, 2, 4, 5, 5, -1, 1, 1}, out[8];
    swiglu_forward(out, gate_up, 1, 8, NULL);
    CHECK_NEAR(out[0], 0, 0);
    CHECK_NEAR(out[1], 2 * 0.7310585786, 1e-6);                          // sigmoid(1) = 0.7310585786
    CHECK_NEAR(out[2], -4 * 0.2689414214, 1e-6);
    CHECK_NEAR(out[3], 500, 0);                                          // silu(x) = x far to the right, 0 far to the left
    CHECK_NEAR(out[4], 0, 1e-30);
    CHECK_NEAR(out[5], -2 * 0.8807970780, 1e-6);
}

TEST(swiglu_backward_by_hand_and_in_place) {
    float gate_up[16] = {0, 1, 0, 1000, -1000, 0, 0, 0,   3, 2, 0, 5, 5, 0, 0, 0}, dout[8] = {2, 1, 1, 1, 1, 1, 1, 1}, dgate_up[16];
    swiglu_backward(dgate_up, dout, gate_up, 1, 8, NULL);
    CHECK_NEAR(dgate_up[0], 2 * 3 * 0.5, 0);                             // silu'(0) = 1/2
    CHECK_NEAR(dgate_up[8], 0, 0);
    CHECK_NEAR(dgate_up[1], 2 * 0.9276705119, 1e-6);                     // silu'(1) = s (1 + 1 - s)
    CHECK_NEAR(dgate_up[9], 0.7310585786, 1e-6);
    CHECK_NEAR(dgate_up[3], 5, 0);
    CHECK_NEAR(dgate_up[4], 0, 0);
    CHECK_NEAR(dgate_up[12], 0, 0);
    swiglu_backward(gate_up, dout, gate_up, 1, 8, NULL);
    CHECK(memcmp(gate_up, dgate_up, sizeof dgate_up) == 0, "in place differs");
}

TEST(matmul_swiglu_is_the_product_and_the_pass) {
    enum { N = 5, C = 16, F = 24 };
    float *inp = test_normals(N * C, 1, 1), *weight = test_normals(2 * F * C, 2, 1), *dout = test_normals(N * C, 3, 1), *back = test_normals(C * F, 4, 1);
    float gate_up[N * 2 * F], out[N * F], also[N * F], dproduct[N * F], dgate_up[N * 2 * F], expected[N * 2 * F];
    matmul_swiglu_forward(out, gate_up, inp, weight, N, C, F, NULL, NULL);
    matmul_forward(expected, inp, weight, N, C, 2 * F, NULL, NULL);
    swiglu_forward(also, expected, N, F, NULL);
    CHECK(memcmp(gate_up, expected, sizeof gate_up) == 0 && memcmp(out, also, sizeof out) == 0, "forward differs");
    matmul_backward_input(also, dout, back, N, F, C, NULL, NULL);
    swiglu_backward(expected, also, gate_up, N, F, NULL);
    CHECK(matmul_swiglu_backward(dgate_up, NULL, dproduct, dout, back, gate_up, N, F, C, NULL, NULL) == 0, "sums on the CPU");
    CHECK(memcmp(dgate_up, expected, sizeof dgate_up) == 0, "backward differs");
    free(inp); free(weight); free(dout); free(back);
}
#else
#include "cuda_common.cuh"
#include "product_rows.h"
#include "ref.h"

static void swiglu_check(int N, int F) {
    size_t outs = (size_t)N * F, inps = 2 * outs;
    float *gate_up = test_normals(inps, 1, 3), *dout = test_normals(outs, 2, 1);
    gate_up[0] = -200; gate_up[1] = 200;                                 // exp over- and underflows
    floatX *d_gate_up = device_from_floats(gate_up, inps), *d_dout = device_from_floats(dout, outs);
    floatX *d_out = (floatX*)device_poisoned(outs * 2), *d_dgate_up = (floatX*)device_poisoned(inps * 2);
    float *exact = (float*)malloc(inps * 4), *rounded = (float*)malloc(inps * 4);
    swiglu_forward(d_out, d_gate_up, N, F, NULL);
    float* out = floats_from(d_out, outs);
    ref_swiglu_forward(exact, gate_up, N, F, NULL);
    rnd_swiglu_forward(rounded, gate_up, N, F, NULL);
    check_budget("out", out, exact, rounded, outs, 1);
    swiglu_backward(d_dgate_up, d_dout, d_gate_up, N, F, NULL);
    float* dgate_up = floats_from(d_dgate_up, inps);
    ref_swiglu_backward(exact, dout, gate_up, N, F, NULL);
    rnd_swiglu_backward(rounded, dout, gate_up, N, F, NULL);
    check_budget("dgate_up", dgate_up, exact, rounded, inps, 1);
    swiglu_backward(d_gate_up, d_dout, d_gate_up, N, F, NULL);
    float* in_place = floats_from(d_gate_up, inps);
    CHECK(memcmp(in_place, dgate_up, inps * 4) == 0, "N=%d F=%d: in place differs", N, F);
    free(gate_up); free(dout); free(exact); free(rounded); free(out); free(dgate_up); free(in_place);
    device_free(d_gate_up); device_free(d_dout); device_free(d_out); device_free(d_dgate_up);
}

GPU_TEST(swiglu_within_budget_and_in_place) {
    swiglu_check(1, 8);
    swiglu_check(33, 264);
    swiglu_check(70, 384);
    swiglu_check(5, 2816);
    swiglu_check(3, 8192);
}

// ---- behind a product -------------------------------------------------------------------------------------------------
// joined: one kernel does both, and the library's products are not asked
static void forward_check(int N, int C, int F, bool joined) {
    size_t inps = (size_t)N * C, weights = (size_t)2 * F * C, outs = (size_t)N * F;
    float *inp = test_normals(inps, 1, 1), *weight = test_normals(weights, 2, 1.5f / sqrtf((float)C));
    floatX *d_inp = device_from_floats(inp, inps), *d_weight = device_from_floats(weight, weights);
    floatX *d_gate_up = (floatX*)device_poisoned(outs * 4), *d_out = (floatX*)device_poisoned(outs * 2), *d_again = (floatX*)device_poisoned(outs * 2);
    floatX *d_second_gate_up = (floatX*)device_poisoned(outs * 4), *d_second = (floatX*)device_poisoned(outs * 2);
    void* workspace = device_malloc(matmul_workspace());
    struct MatmulPlans* plans = matmul_open(workspace, matmul_workspace());
    matmul_swiglu_forward(d_out, d_gate_up, d_inp, d_weight, N, C, F, plans, NULL);
    matmul_swiglu_forward(d_second, d_second_gate_up, d_inp, d_weight, N, C, F, plans, NULL);
    CHECK((matmul_plans_count(plans) == 0) == joined, "N=%d C=%d F=%d: %zu of the library's plans", N, C, F, matmul_plans_count(plans));
    float *second = floats_from(d_second, outs), *second_gate_up = floats_from(d_second_gate_up, 2 * outs);
    swiglu_forward(d_again, d_gate_up, N, F, NULL);
    float *gate_up = floats_from(d_gate_up, 2 * outs), *out = floats_from(d_out, outs), *again = floats_from(d_again, outs);
    float *exact = (float*)malloc(outs * 8), *rounded = (float*)malloc(outs * 8), *exact_out = (float*)malloc(outs * 4), *rounded_out = (float*)malloc(outs * 4);
    ref_matmul_swiglu_forward(exact_out, exact, inp, weight, N, C, F, NULL, NULL);
    rnd_matmul_swiglu_forward(rounded_out, rounded, inp, weight, N, C, F, NULL, NULL);
    check_budget("gate_up", gate_up, exact, rounded, 2 * outs, 1);
    check_budget("out", out, exact_out, rounded_out, outs, 1);
    CHECK(memcmp(out, again, outs * 4) == 0, "N=%d C=%d F=%d: swiglu_forward of gate_up has other bits", N, C, F);
    CHECK(memcmp(out, second, outs * 4) == 0 && memcmp(gate_up, second_gate_up, outs * 8) == 0, "N=%d C=%d F=%d: a second time other bits", N, C, F);
    matmul_close(plans);
    free(second); free(second_gate_up);
    device_free(workspace); device_free(d_second); device_free(d_second_gate_up);
    free(inp); free(weight); free(gate_up); free(out); free(again); free(exact); free(rounded); free(exact_out); free(rounded_out);
    device_free(d_inp); device_free(d_weight); device_free(d_gate_up); device_free(d_out); device_free(d_again);
}

static void backward_check(int N, int F, int OC, bool joined) {
    size_t douts = (size_t)N * OC, weights = (size_t)OC * F, outs = (size_t)N * F;
    float *dout = test_normals(douts, 1, 1), *weight = test_normals(weights, 2, 1.0f / sqrtf((float)OC)), *gate_up = test_normals(2 * outs, 3, 3);
    floatX *d_dout = device_from_floats(dout, douts), *d_weight = device_from_floats(weight, weights), *d_gate_up = device_from_floats(gate_up, 2 * outs);
    floatX *d_dproduct = (floatX*)device_poisoned(outs * 2), *d_dgate_up = (floatX*)device_poisoned(outs * 4);
    void* workspace = device_malloc(matmul_workspace());
    struct MatmulPlans* plans = matmul_open(workspace, matmul_workspace());
    float* d_sums = (float*)device_poisoned((size_t)N * matmul_swiglu_sums(F) * 4);
    int parts = matmul_swiglu_backward(d_dgate_up, d_sums, d_dproduct, d_dout, d_weight, d_gate_up, N, F, OC, plans, NULL);
    matmul_swiglu_backward(d_gate_up, d_sums, d_dproduct, d_dout, d_weight, d_gate_up, N, F, OC, plans, NULL);
    float* sums = (float*)host_from(d_sums, (size_t)N * matmul_swiglu_sums(F) * 4);
    float *dgate_up = floats_from(d_dgate_up, 2 * outs), *in_place = floats_from(d_gate_up, 2 * outs), *dproduct = floats_from(d_dproduct, outs);
    float *exact = (float*)malloc(outs * 8), *rounded = (float*)malloc(outs * 8), *scratch = (float*)malloc(outs * 4);
    ref_matmul_swiglu_backward(exact, NULL, scratch, dout, weight, gate_up, N, F, OC, NULL, NULL);
    rnd_matmul_swiglu_backward(rounded, NULL, scratch, dout, weight, gate_up, N, F, OC, NULL, NULL);
    check_budget("dgate_up", dgate_up, exact, rounded, 2 * outs, 1);
    CHECK(memcmp(in_place, dgate_up, outs * 8) == 0, "N=%d F=%d OC=%d: in place differs", N, F, OC);
    CHECK((parts > 0) == joined, "N=%d F=%d OC=%d: %d sums a row", N, F, OC, parts);
    for (int i = 0; i < N && parts > 0; i++) {
        double found = 0, expected = 0, size = 0;
        for (int j = 0; j < parts; j++) { found += sums[(size_t)i * parts + j]; }
        for (size_t j = 0; j < 2 * (size_t)F; j++) {
            double product = (double)dgate_up[2 * F * (size_t)i + j] * gate_up[2 * F * (size_t)i + j];
            expected += product;
            size += fabs(product);
        }
        CHECK_NEAR(found, expected, 2e-6 * size);                        // fp32 sums: 64 products a lane and tile, then 8 lanes
    }
    CHECK(isnan(dproduct[outs - 1]) == joined, "N=%d F=%d OC=%d: dproduct was %swritten", N, F, OC, joined ? "" : "not ");
    matmul_close(plans);
    free(dout); free(weight); free(gate_up); free(dgate_up); free(in_place); free(dproduct); free(exact); free(rounded); free(scratch); free(sums);
    device_free(workspace); device_free(d_sums); device_free(d_dout); device_free(d_weight); device_free(d_gate_up); device_free(d_dproduct); device_free(d_dgate_up);
}

// few rows: the product and the pass one after the other
GPU_TEST(matmul_swiglu_of_few_rows) {
    forward_check(5, 64, 72, false);
    backward_check(5, 72, 64, false);
}

// enough for all multiprocessors: one kernel on Hopper, with rows, columns and inner dimensions that end inside a tile
GPU_TEST(matmul_swiglu_forward_within_budget) {
    bool hopper = on_hopper();
    forward_check(rows_for(1, 128, 128, 0), 64, 128, hopper);
    forward_check(rows_for(1, 232, 128, 37), 72, 232, hopper);
    forward_check(rows_for(5, 128, 128, 0), 8, 128, hopper);             // many tiles of one short step
    forward_check(rows_for(2, 456, 128, 140), 328, 456, hopper);         // the last pair's second half has no row
}

GPU_TEST(matmul_swiglu_backward_within_budget_and_in_place) {
    bool hopper = on_hopper();
    backward_check(rows_for(1, 256, 256, 0), 256, 64, hopper);
    backward_check(rows_for(1, 232, 256, 37), 232, 72, hopper);
    backward_check(rows_for(2, 456, 256, 140), 456, 328, hopper);
    for (int steps = 1; steps <= 4; steps++) { backward_check(rows_for(4, 256, 256, 0), 256, 64 * steps, hopper); }      // around the steps that shared memory holds
}
#endif

TEST_MAIN()

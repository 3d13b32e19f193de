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
#else
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
#endif

TEST_MAIN()

#include "test.h"

#ifdef LLMC_CPU
#include "ops.h"

// b1 = 0.9, b2 = 0.95, lr = 0.1, decay = 0.5, eps = 0, gradients 1, -2, 3 from weight 1, worked out by hand
TEST(adamw_three_steps_by_hand) {
    float master = 1, m = 0, v = 0, copy = 0, copy_f = 0;
    const float grads[3] = {1, -2, 3};
    const double c1[3] = {0.1, 0.19, 0.271}, c2[3] = {0.05, 0.0975, 0.142625};
    const double expected[3] = {0.85, 0.8438373950, 0.7678047980}, expected_m[3] = {0.1, -0.11, 0.201}, expected_v[3] = {0.05, 0.2475, 0.685125};
    for (int t = 0; t < 3; t++) {
        adamw_update(&master, &m, &v, &copy, &copy_f, &grads[t], 1, 0.1f, 0.9f, 0.95f, 0, 0.5f, (float)c1[t], (float)c2[t], 1, NULL);
        CHECK_NEAR(master, expected[t], 1e-6);
        CHECK_NEAR(m, expected_m[t], 1e-6);
        CHECK_NEAR(v, expected_v[t], 1e-6);
        CHECK(copy == master && copy_f == master, "copies %g and %g of %g", copy, copy_f, master);
    }
}

TEST(adamw_scales_the_gradient_and_keeps_decay_apart) {
    float master[2] = {2, 2}, m[2] = {0}, v[2] = {0};
    const float grad[2] = {10, 0};
    adamw_update(master, m, v, NULL, NULL, grad, 2, 0.1f, 0.9f, 0.75f, 1, 0.25f, 0.1f, 0.25f, 0.1f, NULL);
    CHECK_NEAR(m[0], 0.1, 1e-7);                                         // g = 10 * 0.1
    CHECK_NEAR(v[0], 0.25, 0);
    CHECK_NEAR(master[0], 2 - 0.1 * (1.0 / (1 + 1) + 0.25 * 2), 1e-6);   // eps = 1 stands outside the root
    CHECK_NEAR(master[1], 2 - 0.1 * 0.25 * 2, 1e-7);                     // no gradient: decay alone
}

TEST(adamw_copy_fills_either_output) {
    const float master[3] = {1, -2, 3.00001f};
    float x[3] = {0}, f[3] = {0};
    adamw_copy(x, NULL, master, 3, NULL);
    CHECK(memcmp(x, master, sizeof x) == 0, "copy_x");
    adamw_copy(NULL, f, master, 3, NULL);
    CHECK(memcmp(f, master, sizeof f) == 0, "copy_f");
    adamw_copy(NULL, NULL, master, 3, NULL);
}
#else
#include "ref.h"

// every copied weight is the master's, to the bit
static void check_copies(const float* master, floatX* d_copy_x, float* d_copy_f, size_t n) {
    uint16_t* x = (uint16_t*)host_from(d_copy_x, n * 2);
    float* f = (float*)host_from(d_copy_f, n * 4);
    for (size_t i = 0; i < n; i++) {
        CHECK(x[i] == float_to_bf16(master[i]), "copy_x[%zu] is %04x, expected %04x (master %.9g)", i, x[i], float_to_bf16(master[i]), master[i]);
    }
    CHECK(memcmp(f, master, n * 4) == 0, "copy_f is not the master weight");
    free(x); free(f);
}

static void adamw_check(size_t n) {
    float *master = test_normals(n, 1, 0.02), *m = (float*)calloc(n, 4), *v = (float*)calloc(n, 4);
    float *d_master = (float*)device_from(master, n * 4), *d_m = (float*)device_from(m, n * 4), *d_v = (float*)device_from(v, n * 4);
    floatX* d_copy_x = (floatX*)device_poisoned(n * 2);
    float* d_copy_f = (float*)device_poisoned(n * 4);
    for (int t = 1; t <= 3; t++) {
        float* grad = test_normals(n, 1 + t, 0.1);
        float* d_grad = (float*)device_from(grad, n * 4);
        float c1 = (float)(1 - pow(0.9, t)), c2 = (float)(1 - pow(0.95, t));
        adamw_update(d_master, d_m, d_v, d_copy_x, d_copy_f, d_grad, n, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, c1, c2, 0.7f, NULL);
        ref_adamw_update(master, m, v, NULL, NULL, grad, n, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, c1, c2, 0.7f, NULL);
        free(grad);
        device_free(d_grad);
    }
    float *found = (float*)host_from(d_master, n * 4), *found_m = (float*)host_from(d_m, n * 4), *found_v = (float*)host_from(d_v, n * 4);
    check_budget("master", found, master, master, n, 3);
    check_budget("m", found_m, m, m, n, 3);
    check_budget("v", found_v, v, v, n, 3);
    check_copies(found, d_copy_x, d_copy_f, n);
    free(master); free(m); free(v); free(found); free(found_m); free(found_v);
    device_free(d_master); device_free(d_m); device_free(d_v); device_free(d_copy_x); device_free(d_copy_f);
}

GPU_TEST(adamw_within_budget_whatever_n) {
    for (size_t n = 1; n <= 9; n++) { adamw_check(n); }
    adamw_check(1023);
    adamw_check(300002);
}

GPU_TEST(adamw_copy_rounds_to_nearest_even) {
    enum { N = 1003 };
    float* master = test_normals(N, 1, 1);
    const uint32_t halfway[4] = {0x3f808000u, 0x3f818000u, 0x3f808001u, 0xbf818000u};    // ties go to the even neighbour
    memcpy(master, halfway, sizeof halfway);
    float *d_master = (float*)device_from(master, N * 4), *d_copy_f = (float*)device_poisoned(N * 4);
    floatX* d_copy_x = (floatX*)device_poisoned(N * 2);
    adamw_copy(d_copy_x, NULL, d_master, N, NULL);
    adamw_copy(NULL, d_copy_f, d_master, N, NULL);
    check_copies(master, d_copy_x, d_copy_f, N);
    free(master);
    device_free(d_master); device_free(d_copy_x); device_free(d_copy_f);
}
#endif

TEST_MAIN()

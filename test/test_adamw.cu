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
        UpdateDecision d = {.updates = t + 1, .grad_scale = 1, .c1 = (float)c1[t], .c2 = (float)c2[t], .apply = 1};
        adamw_update(&master, &m, &v, &copy, &copy_f, &grads[t], 1, 0.1f, 0.9f, 0.95f, 0, 0.5f, &d, NULL);
        CHECK_NEAR(master, expected[t], 1e-6);
        CHECK_NEAR(m, expected_m[t], 1e-6);
        CHECK_NEAR(v, expected_v[t], 1e-6);
        CHECK(copy == master && copy_f == master, "copies %g and %g of %g", copy, copy_f, master);
    }
}

TEST(adamw_scales_the_gradient_and_keeps_decay_apart) {
    float master[2] = {2, 2}, m[2] = {0}, v[2] = {0};
    const float grad[2] = {10, 0};
    const UpdateDecision d = {.updates = 1, .grad_scale = 0.1f, .c1 = 0.1f, .c2 = 0.25f, .apply = 1};
    adamw_update(master, m, v, NULL, NULL, grad, 2, 0.1f, 0.9f, 0.75f, 1, 0.25f, &d, NULL);
    CHECK_NEAR(m[0], 0.1, 1e-7);                                         // g = 10 * 0.1
    CHECK_NEAR(v[0], 0.25, 0);
    CHECK_NEAR(master[0], 2 - 0.1 * (1.0 / (1 + 1) + 0.25 * 2), 1e-6);   // eps = 1 stands outside the root
    CHECK_NEAR(master[1], 2 - 0.1 * 0.25 * 2, 1e-7);                     // no gradient: decay alone
}

TEST(adamw_skipped_update_changes_nothing) {
    float master[2] = {2, -3}, m[2] = {0.5f, 0.25f}, v[2] = {1, 4}, copy[2] = {7, 8};
    const float grad[2] = {10, NAN};
    const UpdateDecision d = {.updates = 1, .grad_scale = 1, .c1 = 0.1f, .c2 = 0.25f, .apply = 0};
    adamw_update(master, m, v, copy, NULL, grad, 2, 0.1f, 0.9f, 0.75f, 1, 0.25f, &d, NULL);
    CHECK(master[0] == 2 && master[1] == -3 && m[0] == 0.5f && m[1] == 0.25f && v[0] == 1 && v[1] == 4 && copy[0] == 7 && copy[1] == 8,
          "a skipped update changed something");
}

TEST(adamw_decides_by_hand) {
    UpdateDecision d = {.updates = 4};
    double sumsq = 25, total = 100;
    adamw_decide(&d, &sumsq, &total, 0.5, 0.75, 2, 0, 0, NULL);
    CHECK(d.apply == 1 && d.updates == 5 && d.norm == 5 && d.total == 100, "apply %d, updates %d, norm %g, total %g", d.apply, (int)d.updates, d.norm, d.total);
    CHECK_NEAR(d.c1, 1 - 1.0 / 32, 1e-7);
    CHECK_NEAR(d.c2, 1 - 0.2373046875, 1e-7);
    CHECK_NEAR(d.grad_scale, 2 / 5.000001, 1e-7);
    adamw_decide(&d, &sumsq, &total, 0.5, 0.75, 0, 5, 100, NULL);        // no clip; a limit itself is still good
    CHECK(d.apply == 1 && d.updates == 6 && d.grad_scale == 1, "apply %d, updates %d, scale %g", d.apply, (int)d.updates, (double)d.grad_scale);
    adamw_decide(&d, &sumsq, &total, 0.5, 0.75, 10, 0, 0, NULL);
    CHECK(d.grad_scale == 1, "a norm below the clip is scaled by %g", (double)d.grad_scale);
}

TEST(adamw_decides_to_skip) {
    const double bad[][4] = {{NAN, 1, 0, 0}, {INFINITY, 1, 0, 0}, {1, NAN, 0, 0}, {1, INFINITY, 0, 0}, {25, 1, 4.99, 0}, {25, 1, 0, 0.99}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        UpdateDecision d = {.updates = 4};
        adamw_decide(&d, &bad[i][0], &bad[i][1], 0.9, 0.95, 1, bad[i][2], bad[i][3], NULL);
        CHECK(d.apply == 0 && d.updates == 4, "case %zu: apply %d, updates %d", i, d.apply, (int)d.updates);
    }
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
        UpdateDecision d = {t, 1, 0, 0.7f, (float)(1 - pow(0.9, t)), (float)(1 - pow(0.95, t)), t != 2};      // the second is skipped
        UpdateDecision* d_d = (UpdateDecision*)device_from(&d, sizeof d);
        adamw_update(d_master, d_m, d_v, d_copy_x, d_copy_f, d_grad, n, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, d_d, NULL);
        ref_adamw_update(master, m, v, NULL, NULL, grad, n, 1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, &d, NULL);
        free(grad);
        device_free(d_grad); device_free(d_d);
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

// the same decision as the reference's, from the same count, over clipping, limits and what is not finite
GPU_TEST(adamw_decides_as_the_reference) {
    const double cases[][5] = {{25, 100, 2, 0, 0}, {25, 100, 0, 5, 100}, {0.01, 3, 1, 0, 0}, {NAN, 1, 1, 0, 0}, {INFINITY, 1, 1, 0, 0},
                               {1, NAN, 1, 0, 0}, {25, 1, 1, 4.99, 0}, {25, 1, 1, 0, 0.99}, {4, 7, 1, 0, 0}};
    UpdateDecision d;
    memset(&d, 0, sizeof d);
    d.updates = 998;
    UpdateDecision* d_d = (UpdateDecision*)device_from(&d, sizeof d);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const double* c = cases[i];
        double* d_sums = (double*)device_from(c, 2 * sizeof(double));
        adamw_decide(d_d, d_sums, d_sums + 1, 0.9, 0.95, c[2], c[3], c[4], NULL);
        ref_adamw_decide(&d, &c[0], &c[1], 0.9, 0.95, c[2], c[3], c[4], NULL);
        UpdateDecision* found = (UpdateDecision*)host_from(d_d, sizeof d);
        CHECK(found->apply == d.apply && found->updates == d.updates, "case %zu: apply %d, updates %d; the reference %d, %d", i, found->apply,
              (int)found->updates, d.apply, (int)d.updates);
        if (d.apply) {
            CHECK_NEAR(found->norm, d.norm, 0);
            CHECK_NEAR(found->grad_scale, d.grad_scale, 1e-7);
            CHECK_NEAR(found->c1, d.c1, 1e-7);
            CHECK_NEAR(found->c2, d.c2, 1e-7);
        }
        free(found);
        device_free(d_sums);
    }
    device_free(d_d);
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

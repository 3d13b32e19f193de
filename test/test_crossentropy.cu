#include "test.h"

#ifdef LLMC_CPU
#include "ops.h"

TEST(crossentropy_of_equal_logits_is_log_V) {
    enum { N = 2, V = 13, Vp = 16 };
    float logits[N * Vp], losses[N];
    const int targets[N] = {0, V - 1};
    for (int i = 0; i < N * Vp; i++) { logits[i] = i % Vp < V ? -7.5f : 1e30f; }         // padding must not count
    crossentropy_forward(losses, logits, targets, N, V, Vp, NULL);
    CHECK_NEAR(losses[0], log(13.0), 1e-6);
    CHECK_NEAR(losses[1], log(13.0), 1e-6);
    crossentropy_forward_backward(losses, logits, targets, 0.5f, N, V, Vp, NULL);
    CHECK_NEAR(losses[1], log(13.0), 1e-6);
    CHECK_NEAR(logits[0], 0.5 * (1 / 13.0 - 1), 1e-7);
    CHECK_NEAR(logits[1], 0.5 / 13.0, 1e-7);
    for (int v = V; v < Vp; v++) { CHECK_NEAR(logits[v], 0, 0); }
}

TEST(crossentropy_of_huge_logits) {
    enum { N = 2, V = 8, Vp = 8 };
    float logits[N * Vp] = {1e8f, -1e8f, 0, 0, 0, 0, 0, 0,   -3e38f, -3e38f, -1, -2, 0, 0, 0, 0}, losses[N];
    const int targets[N] = {0, 3};
    crossentropy_forward_backward(losses, logits, targets, 1, N, V, Vp, NULL);
    CHECK_NEAR(losses[0], 0, 0);
    CHECK_NEAR(losses[1], 2 + log(4 + exp(-1.0) + exp(-2.0)), 1e-6);
    CHECK_NEAR(logits[0], 0, 0);
    CHECK_NEAR(logits[Vp + 0], 0, 0);
    CHECK_NEAR(logits[Vp + 4], 1 / (4 + exp(-1.0) + exp(-2.0)), 1e-6);
}

TEST(crossentropy_skips_target_minus_one) {
    enum { N = 3, V = 8, Vp = 16 };
    float* logits = test_normals(N * Vp, 1, 1);
    float losses[N] = {9, 9, 9};
    const int targets[N] = {2, -1, 7};
    crossentropy_forward(losses, logits, targets, N, V, Vp, NULL);
    CHECK_NEAR(losses[1], 0, 0);
    CHECK(losses[0] > 0 && losses[2] > 0, "losses %g and %g", losses[0], losses[2]);
    float both[N];
    crossentropy_forward_backward(both, logits, targets, 1, N, V, Vp, NULL);
    CHECK(memcmp(both, losses, sizeof both) == 0, "crossentropy_forward gives other losses");
    for (int v = 0; v < Vp; v++) { CHECK_NEAR(logits[Vp + v], 0, 0); }
    double sum = 0;
    for (int v = 0; v < V; v++) { sum += logits[v]; }
    CHECK_NEAR(sum, 0, 1e-6);
    free(logits);
}

TEST(crossentropy_total_is_added) {
    float losses[5] = {1, 2, 3, 4, 0.5f};
    double total = 100;
    crossentropy_total(&total, losses, 5, NULL);
    CHECK_NEAR(total, 110.5, 0);
}
#else
#include "cuda_common.cuh"
#include "ref.h"

// logits of a row: normals, or with `spread` normals times 30; every ninth target is -1; the padding is NaN
static void crossentropy_check(int N, int V, int Vp, double spread, int repeats) {
    size_t n = (size_t)N * Vp;
    float *logits = test_normals(n, 1, spread), scale = 1.0f / N;
    int* targets = (int*)malloc(N * sizeof(int));
    for (int i = 0; i < N; i++) { targets[i] = i % 9 == 4 ? -1 : (int)(((size_t)i * 7919 + V - 1) % V); }
    for (size_t i = 0; i < n; i++) { if ((int)(i % Vp) >= V) { logits[i] = NAN; } }
    int* d_targets = (int*)device_from(targets, N * sizeof(int));
    floatX* d_logits = device_from_floats(logits, n);
    float* d_losses = (float*)device_poisoned(N * 4);
    crossentropy_forward(d_losses, d_logits, d_targets, N, V, Vp, NULL);
    float *forward = (float*)host_from(d_losses, N * 4), *losses = NULL, *dlogits = NULL;
    for (int r = 0; r < repeats; r++) {
        device_free(d_logits); device_free(d_losses);
        d_logits = device_from_floats(logits, n);
        d_losses = (float*)device_poisoned(N * 4);
        crossentropy_forward_backward(d_losses, d_logits, d_targets, scale, N, V, Vp, NULL);
        float *again = floats_from(d_logits, n), *again_losses = (float*)host_from(d_losses, N * 4);
        if (r == 0) { dlogits = again; losses = again_losses; continue; }
        CHECK(memcmp(again, dlogits, n * 4) == 0 && memcmp(again_losses, losses, N * 4) == 0, "repeat %d differs", r);
        free(again); free(again_losses);
    }
    CHECK(memcmp(forward, losses, N * 4) == 0, "crossentropy_forward gives other losses");
    float *exact = (float*)malloc(n * 4), *rounded = (float*)malloc(n * 4), *exact_losses = (float*)malloc(N * 4);
    memcpy(exact, logits, n * 4); memcpy(rounded, logits, n * 4);
    ref_crossentropy_forward_backward(exact_losses, exact, targets, scale, N, V, Vp, NULL);
    rnd_crossentropy_forward_backward(exact_losses, rounded, targets, scale, N, V, Vp, NULL);
    check_budget("losses", losses, exact_losses, exact_losses, N, V);
    check_budget("dlogits", dlogits, exact, rounded, n, 1);
    free(logits); free(targets); free(forward); free(losses); free(dlogits); free(exact); free(rounded); free(exact_losses);
    device_free(d_targets); device_free(d_logits); device_free(d_losses);
}

GPU_TEST(crossentropy_within_budget) {
    crossentropy_check(1, 5, 8, 1, 1);
    crossentropy_check(40, 257, 384, 1, 1);
    crossentropy_check(11, 8190, 8192, 5, 1);
    crossentropy_check(20, 50257, 50304, 2, 1);
}
GPU_TEST(crossentropy_within_budget_on_peaked_logits) { crossentropy_check(30, 1001, 1024, 30, 1); }

// several rows a multiprocessor: on Hopper one block walks them, the next on its way
GPU_TEST(crossentropy_of_many_rows) {
    int count;
    CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
    crossentropy_check(3 * count + count / 2, 8190, 8192, 1, 3);
    crossentropy_check(2 * count - 1, 300, 304, 1, 2);                   // few columns: a block a row
}
GPU_TEST(crossentropy_repeats_to_the_bit)             { crossentropy_check(9, 50257, 50304, 1, 12); }

GPU_TEST(crossentropy_of_equal_and_huge_logits) {
    enum { N = 3, V = 1000, Vp = 1024 };
    float* logits = (float*)malloc(N * Vp * 4);
    for (int i = 0; i < N * Vp; i++) { logits[i] = i < Vp ? -7.5f : -3e38f; }            // row 0: all equal; 1 and 2: one logit above a sea of -3e38
    logits[Vp + 3] = 3e38f;
    logits[2 * Vp + 3] = 1;
    const int targets[N] = {V - 1, 3, 3};
    floatX* d_logits = device_from_floats(logits, N * Vp);
    int* d_targets = (int*)device_from(targets, sizeof targets);
    float* d_losses = (float*)device_poisoned(N * 4);
    crossentropy_forward_backward(d_losses, d_logits, d_targets, 1, N, V, Vp, NULL);
    float *losses = (float*)host_from(d_losses, N * 4), *dlogits = floats_from(d_logits, N * Vp);
    CHECK_NEAR(losses[0], log(1000.0), 1e-5);
    CHECK_NEAR(losses[1], 0, 0);
    CHECK_NEAR(losses[2], 0, 0);
    CHECK_NEAR(dlogits[0], 0.001, 0.001 / 256);
    CHECK_NEAR(dlogits[Vp + 3], 0, 0);
    CHECK_NEAR(dlogits[2 * Vp + 4], 0, 0);
    free(logits); free(losses); free(dlogits);
    device_free(d_logits); device_free(d_targets); device_free(d_losses);
}

GPU_TEST(crossentropy_total_on_device) {
    const int sizes[] = {1, 31, 1024, 1025, 40000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        float* losses = test_normals(sizes[s], 1, 10);
        double start = 100, expected = start;
        ref_crossentropy_total(&expected, losses, sizes[s], NULL);
        float* d_losses = (float*)device_from(losses, sizes[s] * sizeof(float));
        double* d_total = (double*)device_from(&start, sizeof start);
        crossentropy_total(d_total, d_losses, sizes[s], NULL);
        double* total = (double*)host_from(d_total, sizeof(double));
        CHECK_NEAR(*total, expected, 1e-9 * sizes[s]);
        free(losses); free(total);
        device_free(d_losses); device_free(d_total);
    }
}
#endif

TEST_MAIN()

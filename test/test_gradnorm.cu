#include "test.h"

#ifdef LLMC_CPU
#include <omp.h>

#include "ops.h"

// it is added to what is there
static double sumsq_of(const float* grad, size_t n) {
    double sumsq = 0;
    void* scratch = malloc(gradnorm_scratch(n) + 1);
    gradnorm_sumsq(&sumsq, grad, n, scratch, NULL);
    free(scratch);
    return sumsq;
}

TEST(gradnorm_by_hand) {
    const float grad[5] = {3, -4, 0, 12, 0.5f};
    CHECK_NEAR(sumsq_of(grad, 2), 25, 0);
    CHECK_NEAR(sumsq_of(grad, 5), 169.25, 0);
    CHECK_NEAR(sumsq_of(grad, 0), 0, 0);
    double sumsq = 1000;
    void* scratch = malloc(gradnorm_scratch(5) + 1);
    gradnorm_sumsq(&sumsq, grad, 5, scratch, NULL);
    CHECK_NEAR(sumsq, 1169.25, 0);
    free(scratch);
}

TEST(gradnorm_does_not_depend_on_the_number_of_threads) {
    enum { N = 300001 };
    float* grad = test_normals(N, 1, 1);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    double one = sumsq_of(grad, N);
    omp_set_num_threads(3);
    double more = sumsq_of(grad, N);
    omp_set_num_threads(threads);
    CHECK(one == more, "%.17g with 1 thread, %.17g with 3", one, more);
    CHECK_NEAR(one, N, 5 * sqrt(2.0 * N));                               // chi-squared with N degrees of freedom
    free(grad);
}

TEST(gradnorm_shows_what_is_not_finite) {
    float* grad = test_normals(70000, 1, 1);
    grad[69999] = INFINITY;
    CHECK(!isfinite(sumsq_of(grad, 70000)), "an infinite gradient is lost");
    grad[69999] = NAN;
    CHECK(!isfinite(sumsq_of(grad, 70000)), "a NaN is lost");
    grad[69999] = 1e30f;
    CHECK(isfinite(sumsq_of(grad, 70000)), "1e30 is finite");
    free(grad);
}
#else
#include "ref.h"

static double sumsq_of(const float* grad, size_t n) {
    float* d_grad = (float*)device_from(grad, n * 4);
    double zero = 0, *d_sumsq = (double*)device_from(&zero, sizeof zero);
    void* d_scratch = device_poisoned(gradnorm_scratch(n));
    gradnorm_sumsq(d_sumsq, d_grad, n, d_scratch, NULL);
    double *host = (double*)host_from(d_sumsq, sizeof(double)), sumsq = *host;
    free(host);
    device_free(d_grad); device_free(d_sumsq); device_free(d_scratch);
    return sumsq;
}

GPU_TEST(gradnorm_equals_the_reference) {
    const size_t sizes[] = {1, 2, 3, 4, 5, 1023, 1048577, 3000002};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s];
        float* grad = test_normals(n, n, 1);
        void* scratch = malloc(ref_gradnorm_scratch(n));
        double expected = 0;
        ref_gradnorm_sumsq(&expected, grad, n, scratch, NULL);
        CHECK_NEAR(sumsq_of(grad, n), expected, 1e-12 * expected);       // fp64 on both sides, in another order
        free(grad); free(scratch);
    }
}

GPU_TEST(gradnorm_is_added_to_what_is_there) {
    const float grad[5] = {3, -4, 0, 12, 0.5f};
    double start = 1000, *d_sumsq = (double*)device_from(&start, sizeof start);
    float* d_grad = (float*)device_from(grad, sizeof grad);
    void* d_scratch = device_poisoned(gradnorm_scratch(5));
    gradnorm_sumsq(d_sumsq, d_grad, 5, d_scratch, NULL);
    double* host = (double*)host_from(d_sumsq, sizeof(double));
    CHECK_NEAR(*host, 1169.25, 0);
    free(host);
    device_free(d_grad); device_free(d_sumsq); device_free(d_scratch);
}

GPU_TEST(gradnorm_repeats_to_the_bit) {
    enum { N = 1000003 };
    float* grad = test_normals(N, 1, 1);
    double first = sumsq_of(grad, N);
    for (int r = 1; r < 12; r++) { CHECK(sumsq_of(grad, N) == first, "repeat %d differs", r); }
    free(grad);
}

GPU_TEST(gradnorm_on_device_shows_what_is_not_finite) {
    enum { N = 70003 };
    float* grad = test_normals(N, 1, 1);
    const int places[3] = {0, 35000, N - 1};
    for (int p = 0; p < 3; p++) {
        float kept = grad[places[p]];
        grad[places[p]] = INFINITY;
        CHECK(!isfinite(sumsq_of(grad, N)), "an infinite gradient at %d is lost", places[p]);
        grad[places[p]] = NAN;
        CHECK(!isfinite(sumsq_of(grad, N)), "a NaN at %d is lost", places[p]);
        grad[places[p]] = 1e30f;
        CHECK(isfinite(sumsq_of(grad, N)), "1e30 at %d is finite", places[p]);
        grad[places[p]] = kept;
    }
    free(grad);
}
#endif

TEST_MAIN()

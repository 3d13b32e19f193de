// Finite differences in double: what every test/gradcheck/<op>.h uses. Loss functions evaluate the op's forward and take
// the dot product with a random `dout`, whose gradient the op's backward is handed.
#ifndef GRADCHECK_H
#define GRADCHECK_H

#include "test.h"

// Moves one element of `param` at a time and compares central differences of loss(context) with analytic[i], at all n elements or at
// `samples` pseudo-random ones. The step's own error is about 1e-10 (h^2) + 1e-11 (rounding of the loss / h), far below the tolerance.
static void gradcheck(const char* what, double* param, const double* analytic, size_t n, int samples,
                      double (*loss)(void* context), void* context) {
    double largest = 1;
    for (size_t i = 0; i < n; i++) { largest = fmax(largest, fabs(analytic[i])); }
    size_t count = n < (size_t)samples ? n : (size_t)samples;
    uint64_t random = 1;
    for (size_t s = 0; s < count; s++) {
        size_t i = n <= (size_t)samples ? s : test_bits(&random) % n;
        double kept = param[i], h = 1e-5 * fmax(1, fabs(kept));
        param[i] = kept + h;
        double above = loss(context);
        param[i] = kept - h;
        double below = loss(context);
        param[i] = kept;
        double numeric = (above - below) / (2 * h);
        CHECK(fabs(numeric - analytic[i]) <= 1e-6 * largest, "%s[%zu]: finite difference %.10g, backward %.10g", what, i, numeric, analytic[i]);
    }
}

static inline double* gradcheck_normals(size_t n, uint64_t seed) {
    double* x = (double*)malloc(n * sizeof(double));
    for (size_t i = 0; i < n; i++) { x[i] = test_normal(&seed); }
    return x;
}

static inline double gradcheck_dot(const double* a, const double* b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += a[i] * b[i]; }
    return sum;
}

// For gradients that are added: begin with a buffer of `value` everywhere, take it away after backward.
static inline double* gradcheck_filled(size_t n, double value) {
    double* x = (double*)malloc(n * sizeof(double));
    for (size_t i = 0; i < n; i++) { x[i] = value; }
    return x;
}

static inline void gradcheck_take_away(double* x, size_t n, double value) {
    for (size_t i = 0; i < n; i++) { x[i] -= value; }
}

#endif

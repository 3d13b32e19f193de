#include "ops.h"

// partial sums over pieces of fixed size, so that the result does not depend on the number of threads
enum { PIECE = 1 << 16 };

size_t gradnorm_scratch(size_t n) { return (n + PIECE - 1) / PIECE * sizeof(double); }

void gradnorm_sumsq(double* sumsq, const float* grad, size_t n, void* scratch, stream_t stream) {
    (void)stream;
    double* partial = (double*)scratch;
    size_t pieces = (n + PIECE - 1) / PIECE;
    #pragma omp parallel for
    for (size_t p = 0; p < pieces; p++) {
        size_t end = (p + 1) * PIECE < n ? (p + 1) * PIECE : n;
        double sum = 0;
        #pragma omp simd reduction(+:sum)
        for (size_t i = p * PIECE; i < end; i++) { sum += (double)grad[i] * grad[i]; }
        partial[p] = sum;
    }
    double sum = 0;
    for (size_t p = 0; p < pieces; p++) { sum += partial[p]; }
    *sumsq += sum;
}

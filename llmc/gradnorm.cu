#include "cuda_common.cuh"
#include "ops.h"

enum { BLOCKS = 1024, THREADS = 256 };                 // fixed: the order of the sum must not depend on the device

// A thread adds the squares of float4 number i, i + all threads, ...; the last n % 4 elements go to the first threads.
// In fp64 from the start: an fp32 square overflows at 1.8e19, long before the gradient does.
__global__ void gradnorm_partial_kernel(double* partial, const float* grad, size_t n) {
    size_t first = (size_t)blockIdx.x * THREADS + threadIdx.x, fours = n / 4;
    double sum = 0;
    for (size_t i = first; i < fours; i += (size_t)BLOCKS * THREADS) {
        float4 g = reinterpret_cast<const float4*>(grad)[i];
        sum += (double)g.x * g.x + (double)g.y * g.y + (double)g.z * g.z + (double)g.w * g.w;
    }
    if (first < n % 4) { sum += (double)grad[fours * 4 + first] * grad[fours * 4 + first]; }
    sum = block_sum(sum);
    if (threadIdx.x == 0) { partial[blockIdx.x] = sum; }
}

// one block of BLOCKS threads, a partial sum each
__global__ void gradnorm_final_kernel(double* sumsq, const double* partial) {
    double sum = block_sum(partial[threadIdx.x]);
    if (threadIdx.x == 0) { *sumsq += sum; }
}

extern "C" size_t gradnorm_scratch(size_t n) {
    (void)n;
    return BLOCKS * sizeof(double);
}

extern "C" void gradnorm_sumsq(double* sumsq, const float* grad, size_t n, void* scratch, stream_t stream) {
    gradnorm_partial_kernel<<<BLOCKS, THREADS, 0, stream>>>((double*)scratch, grad, n);
    LAUNCH_CHECK();
    gradnorm_final_kernel<<<1, BLOCKS, 0, stream>>>(sumsq, (const double*)scratch);
    LAUNCH_CHECK();
}

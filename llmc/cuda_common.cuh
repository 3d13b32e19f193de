// What every kernel file shares: error checks, 16-byte packs of bf16, warp and block reductions in fixed order.
#ifndef CUDA_COMMON_CUH
#define CUDA_COMMON_CUH

#include <cuda_runtime.h>

#include "common.h"
#include "dtype.h"

#define WARP 32

#define CUDA_CHECK(call) do { cudaError_t status_ = (call); \
    if (status_ != cudaSuccess) { FAIL(EXIT_INTERNAL, "CUDA: %s: %s", #call, cudaGetErrorString(status_)); } } while (0)
#define LAUNCH_CHECK() CUDA_CHECK(cudaGetLastError())   // after every <<< >>>

// eight bf16 in one 16-byte access
struct alignas(16) Pack8 { floatX x[8]; };

__device__ inline Pack8 load8(const floatX* from)           { return *reinterpret_cast<const Pack8*>(from); }
__device__ inline void  store8(floatX* to, const Pack8& p)  { *reinterpret_cast<Pack8*>(to) = p; }

// every lane gets the sum / the maximum; the butterfly's order is the same each time
template <typename T> __device__ inline T warp_sum(T x) {
    for (int step = WARP / 2; step > 0; step /= 2) { x += __shfl_xor_sync(0xffffffffu, x, step); }
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) { x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step)); }
    return x;
}

// Every thread gets the sum. blockDim.x is a multiple of WARP, at most 1024; call it from all threads.
template <typename T> __device__ inline T block_sum(T x) {
    __shared__ T partial[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    __syncthreads();                                     // an earlier call may still read `partial`
    if (lane == 0) { partial[warp] = x; }
    __syncthreads();
    return warp_sum(lane < warps ? partial[lane] : T(0));
}

#endif

// Block means of the keys: what a query is compared with to choose its blocks. Lu et al. 2025 (MoBA).
#include "key_mean.cuh"
#include "ops.h"

// one thread block per (sequence b, key block j, 256 channels): a warp per run of the block's keys, lane i owns 8 of the channels
__global__ void centroid_kernel(float* centroid, const floatX* k, AttnShape shape, int block, int n) {
    int j = blockIdx.x, b = blockIdx.z, first = blockIdx.y * WARP * 8, channel = first + threadIdx.x * 8, C = shape.H * shape.D;
    KeyRun run = key_run(j, block, shape.T);
    float sum[8] = {0};
    if (channel < C) {
        #pragma unroll 8
        for (int t = run.from; t < run.end; t++) {
            Pack8 key = load8(k + ((size_t)b * shape.T + t) * shape.ldk + channel);
            for (int i = 0; i < 8; i++) { sum[i] += __bfloat162float(key.x[i]); }
        }
    }
    store_key_mean<8>(centroid + ((size_t)b * shape.H * n + j) * shape.D, sum, first, C, shape.D, (size_t)n * shape.D, min(block, shape.T - j * block));
}

extern "C" void moba_centroid(float* centroid, const floatX* k, AttnShape shape, int block, stream_t stream) {
    int C = shape.H * shape.D, n = ceil_div(shape.T, block);
    REQUIRE(shape.D % 8 == 0 && shape.ldk % 8 == 0 && shape.ldk >= C,
            "moba_centroid: D=%d and the row stride %d must be multiples of 8, the stride at least H*D=%d", shape.D, shape.ldk, C);
    REQUIRE(shape.B <= 65535, "moba_centroid: %d sequences exceed the grid's 65535", shape.B);
    dim3 grid(n, ceil_div(C, WARP * 8), shape.B), threads(WARP, KEY_RUNS);
    centroid_kernel<<<grid, threads, 0, stream>>>(centroid, k, shape, block, n);
    LAUNCH_CHECK();
}

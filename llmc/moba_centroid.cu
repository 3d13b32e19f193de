// Block means of the keys: what a query is compared with to choose its blocks. Lu et al. 2025 (MoBA).
#include "cuda_common.cuh"
#include "ops.h"

enum { CENTROID_ROWS = 8 };   // warps of a thread block: warp w adds keys w, w+8, w+16, ... of the key block

// one thread block per (sequence b, key block j, 256 channels): lane i of each warp owns 8 of the channels;
// the warps' sums meet in shared memory and are added in ascending order
__global__ void centroid_kernel(float* centroid, const floatX* k, AttnShape shape, int block, int n) {
    __shared__ float partial[CENTROID_ROWS][8][WARP];
    int lane = threadIdx.x, warp = threadIdx.y;
    int j = blockIdx.x, b = blockIdx.z, channel = (blockIdx.y * WARP + lane) * 8;
    int from = j * block, to = min(from + block, shape.T);
    bool mine = channel < shape.H * shape.D;

    float sum[8] = {0};
    if (mine) {
        #pragma unroll 8
        for (int t = from + warp; t < to; t += CENTROID_ROWS) {
            Pack8 key = load8(k + ((size_t)b * shape.T + t) * shape.ldk + channel);
            for (int i = 0; i < 8; i++) { sum[i] += __bfloat162float(key.x[i]); }
        }
    }
    for (int i = 0; i < 8; i++) { partial[warp][i][lane] = sum[i]; }
    __syncthreads();
    if (warp != 0 || !mine) { return; }

    float mean[8];
    for (int i = 0; i < 8; i++) {
        float total = 0.0f;
        for (int w = 0; w < CENTROID_ROWS; w++) { total += partial[w][i][lane]; }
        mean[i] = total / (to - from);
    }
    int h = channel / shape.D, d = channel % shape.D;       // D % 8 == 0: eight channels share a head
    float4* at = reinterpret_cast<float4*>(centroid + (((size_t)b * shape.H + h) * n + j) * shape.D + d);
    at[0] = make_float4(mean[0], mean[1], mean[2], mean[3]);
    at[1] = make_float4(mean[4], mean[5], mean[6], mean[7]);
}

extern "C" void moba_centroid(float* centroid, const floatX* k, AttnShape shape, int block, stream_t stream) {
    int C = shape.H * shape.D, n = ceil_div(shape.T, block);
    REQUIRE(shape.D % 8 == 0 && shape.ldk % 8 == 0 && shape.ldk >= C,
            "moba_centroid: D=%d and the row stride %d must be multiples of 8, the stride at least H*D=%d", shape.D, shape.ldk, C);
    REQUIRE(shape.B <= 65535, "moba_centroid: %d sequences exceed the grid's 65535", shape.B);
    dim3 grid(n, ceil_div(C, WARP * 8), shape.B), threads(WARP, CENTROID_ROWS);
    centroid_kernel<<<grid, threads, 0, stream>>>(centroid, k, shape, block, n);
    LAUNCH_CHECK();
}

#include "cuda_common.cuh"
#include "ops.h"

// A row belongs to one block at a time, which walks rows b, b + gridDim.x, ... with its weights in registers and the next row on its way.
// A thread keeps up to PACKS packs of 8 columns: pack p of thread t is at column (p * threads + t) * 8.
enum { PACKS = 2, MAX_THREADS = 512, COLUMNS = 32, LINES = 32,
       FORWARD_THREADS = 132 * 1024, BACKWARD_THREADS = 132 * 512 };     // in flight; constants, so that sums do not depend on the device

static int threads_for(int C) {
    REQUIRE(C % 8 == 0 && C <= 8 * PACKS * MAX_THREADS, "rmsnorm: C=%d is not a multiple of 8 up to %d (16-byte loads, a row in registers)",
            C, 8 * PACKS * MAX_THREADS);
    return (int)round_up(ceil_div(C / 8, PACKS), WARP);
}

struct RowPacks { Pack8 pack[PACKS]; };

// zeros beyond the row and beyond the last row
__device__ inline RowPacks load_packs(const floatX* x, int i, int N, int C) {
    RowPacks r = {};
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = (p * blockDim.x + threadIdx.x) * 8;
        if (i < N && c < C) { r.pack[p] = load8(x + (size_t)i * C + c); }
    }
    return r;
}

__device__ inline void load_weights(float w[PACKS][8], const float* weight, int C) {
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = (p * blockDim.x + threadIdx.x) * 8;
        for (int j = 0; j < 8; j++) { w[p][j] = c < C ? weight[c + j] : 0.0f; }
    }
}

__device__ inline void store_packs(floatX* x, const RowPacks& r, int i, int C) {
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = (p * blockDim.x + threadIdx.x) * 8;
        if (c < C) { store8(x + (size_t)i * C + c, r.pack[p]); }
    }
}

__global__ void __launch_bounds__(MAX_THREADS) rmsnorm_forward_kernel(floatX* out, float* rstd, const floatX* inp, const float* weight, int N, int C,
                                                                      float eps) {
    float w[PACKS][8];
    load_weights(w, weight, C);
    RowPacks next = load_packs(inp, blockIdx.x, N, C);
    for (int i = blockIdx.x; i < N; i += gridDim.x) {
        RowPacks x = next;
        next = load_packs(inp, i + gridDim.x, N, C);
        float sumsq = 0;
        for (int p = 0; p < PACKS; p++) {
            for (int j = 0; j < 8; j++) { sumsq += __bfloat162float(x.pack[p].x[j]) * __bfloat162float(x.pack[p].x[j]); }
        }
        float r = 1.0f / sqrtf(block_sum(sumsq) / C + eps);
        if (threadIdx.x == 0) { rstd[i] = r; }
        for (int p = 0; p < PACKS; p++) {
            for (int j = 0; j < 8; j++) { x.pack[p].x[j] = __float2bfloat16(__bfloat162float(x.pack[p].x[j]) * r * w[p][j]); }
        }
        store_packs(out, x, i, C);
    }
}

extern "C" void rmsnorm_forward(floatX* out, float* rstd, const floatX* inp, const float* weight, int N, int C, float eps, stream_t stream) {
    int threads = threads_for(C);
    rmsnorm_forward_kernel<<<min_int(N, FORWARD_THREADS / threads), threads, 0, stream>>>(out, rstd, inp, weight, N, C, eps);
    LAUNCH_CHECK();
}

// Beside dinp a block leaves its own sum of dweight in partial[b].
__global__ void __launch_bounds__(MAX_THREADS) rmsnorm_backward_kernel(floatX* dinp, float* partial, const floatX* dout, const floatX* inp,
                                                                       const float* weight, const float* rstd, int N, int C) {
    float w[PACKS][8], dw[PACKS][8] = {};
    load_weights(w, weight, C);
    RowPacks next_d = load_packs(dout, blockIdx.x, N, C), next_x = load_packs(inp, blockIdx.x, N, C), next_total = load_packs(dinp, blockIdx.x, N, C);
    for (int i = blockIdx.x; i < N; i += gridDim.x) {
        RowPacks d = next_d, x = next_x, total = next_total;             // total: dinp so far
        float r = rstd[i], mean = 0;                                     // mean of g * inp, g = dout * weight
        next_d     = load_packs(dout, i + gridDim.x, N, C);
        next_x     = load_packs(inp, i + gridDim.x, N, C);
        next_total = load_packs(dinp, i + gridDim.x, N, C);
        #pragma unroll
        for (int p = 0; p < PACKS; p++) {
            for (int j = 0; j < 8; j++) {
                float product = __bfloat162float(d.pack[p].x[j]) * __bfloat162float(x.pack[p].x[j]);
                mean += product * w[p][j];
                dw[p][j] += product * r;
            }
        }
        mean = block_sum(mean) / C;
        #pragma unroll
        for (int p = 0; p < PACKS; p++) {
            for (int j = 0; j < 8; j++) {
                float g = __bfloat162float(d.pack[p].x[j]) * w[p][j], normal = __bfloat162float(x.pack[p].x[j]) * r;
                total.pack[p].x[j] = __float2bfloat16(__bfloat162float(total.pack[p].x[j]) + r * (g - normal * r * mean));
            }
        }
        store_packs(dinp, total, i, C);
    }
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = (p * blockDim.x + threadIdx.x) * 8;
        for (int j = 0; j < 8 && c < C; j++) { partial[(size_t)blockIdx.x * C + c + j] = dw[p][j]; }
    }
}

// one block of COLUMNS x LINES threads per COLUMNS columns: line l adds partial rows l, l + LINES, ..., then the lines are added in order
__global__ void rmsnorm_dweight_kernel(float* dweight, const float* partial, int rows, int C) {
    __shared__ float lines[LINES][COLUMNS];
    int c = blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0;
    for (int i = threadIdx.y; i < rows && c < C; i += LINES) { sum += partial[(size_t)i * C + c]; }
    lines[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) { return; }
    for (int line = 1; line < LINES; line++) { sum += lines[line][threadIdx.x]; }
    dweight[c] += sum;
}

static int backward_blocks(int N, int C) { return min_int(N, BACKWARD_THREADS / threads_for(C)); }

// scratch: one row of partial sums of dweight per block
extern "C" size_t rmsnorm_backward_scratch(int N, int C) { return (size_t)backward_blocks(N, C) * C * sizeof(float); }

extern "C" void rmsnorm_backward(floatX* dinp, float* dweight, const floatX* dout, const floatX* inp, const float* weight, const float* rstd,
                                 int N, int C, void* scratch, stream_t stream) {
    float* partial = (float*)scratch;
    int rows = backward_blocks(N, C);
    rmsnorm_backward_kernel<<<rows, threads_for(C), 0, stream>>>(dinp, partial, dout, inp, weight, rstd, N, C);
    LAUNCH_CHECK();
    rmsnorm_dweight_kernel<<<ceil_div(C, COLUMNS), dim3(COLUMNS, LINES), 0, stream>>>(dweight, partial, rows, C);
    LAUNCH_CHECK();
}

#include "cuda_common.cuh"
#include "ops.h"

// A row belongs to one block; a thread keeps up to PACKS packs of 8 columns in registers from the first pass to the second:
// pack p of thread t is at column (p * threads + t) * 8.
enum { PACKS = 2, MAX_THREADS = 512, PARTIAL_ROWS = 1024, COLUMNS = 32, LINES = 32 };

static int threads_for(int C) {
    REQUIRE(C % 8 == 0 && C <= 8 * PACKS * MAX_THREADS, "rmsnorm: C=%d is not a multiple of 8 up to %d (16-byte loads, a row in registers)",
            C, 8 * PACKS * MAX_THREADS);
    return (int)round_up(ceil_div(C / 8, PACKS), WARP);
}

// One block per row. With `add` the row is first inp + add, rounded and kept in `sum`; without, it is inp: one code path,
// so both forms agree to the bit.
__global__ void __launch_bounds__(MAX_THREADS) rmsnorm_forward_kernel(floatX* sum, floatX* out, float* rstd, const floatX* inp, const floatX* add,
                                                                      const float* weight, int C, float eps) {
    size_t row = (size_t)blockIdx.x * C;
    Pack8 kept[PACKS];
    float sumsq = 0;
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = (p * blockDim.x + threadIdx.x) * 8;
        if (c >= C) { break; }
        kept[p] = load8(inp + row + c);
        if (add) {
            Pack8 a = load8(add + row + c);
            for (int j = 0; j < 8; j++) { kept[p].x[j] = __float2bfloat16(__bfloat162float(kept[p].x[j]) + __bfloat162float(a.x[j])); }
            store8(sum + row + c, kept[p]);
        }
        for (int j = 0; j < 8; j++) { sumsq += __bfloat162float(kept[p].x[j]) * __bfloat162float(kept[p].x[j]); }
    }
    float r = 1.0f / sqrtf(block_sum(sumsq) / C + eps);
    if (threadIdx.x == 0) { rstd[blockIdx.x] = r; }
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = (p * blockDim.x + threadIdx.x) * 8;
        if (c >= C) { break; }
        Pack8 o;
        for (int j = 0; j < 8; j++) { o.x[j] = __float2bfloat16(__bfloat162float(kept[p].x[j]) * r * weight[c + j]); }
        store8(out + row + c, o);
    }
}

extern "C" void rmsnorm_forward(floatX* out, float* rstd, const floatX* inp, const float* weight, int N, int C, float eps, stream_t stream) {
    rmsnorm_forward_kernel<<<N, threads_for(C), 0, stream>>>(NULL, out, rstd, inp, NULL, weight, C, eps);
    LAUNCH_CHECK();
}

extern "C" void rmsnorm_residual_forward(floatX* sum, floatX* out, float* rstd, const floatX* inp, const floatX* add, const float* weight,
                                         int N, int C, float eps, stream_t stream) {
    rmsnorm_forward_kernel<<<N, threads_for(C), 0, stream>>>(sum, out, rstd, inp, add, weight, C, eps);
    LAUNCH_CHECK();
}

// Block b owns rows b, b + gridDim.x, ...: it writes their dinp and its own sum of dweight to partial[b].
__global__ void __launch_bounds__(MAX_THREADS) rmsnorm_backward_kernel(floatX* dinp, float* partial, const floatX* dout, const floatX* inp,
                                                                       const float* weight, const float* rstd, int N, int C) {
    float w[PACKS][8], dw[PACKS][8] = {};
    #pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int c = (p * blockDim.x + threadIdx.x) * 8;
        for (int j = 0; j < 8; j++) { w[p][j] = c < C ? weight[c + j] : 0.0f; }
    }
    for (int i = blockIdx.x; i < N; i += gridDim.x) {
        size_t row = (size_t)i * C;
        float r = rstd[i], mean = 0;                                     // mean of g * inp, g = dout * weight
        Pack8 d[PACKS], x[PACKS], total[PACKS];                          // total: dinp so far
        #pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int c = (p * blockDim.x + threadIdx.x) * 8;
            if (c >= C) { break; }
            d[p] = load8(dout + row + c);
            x[p] = load8(inp + row + c);
            total[p] = load8(dinp + row + c);
            for (int j = 0; j < 8; j++) {
                float product = __bfloat162float(d[p].x[j]) * __bfloat162float(x[p].x[j]);
                mean += product * w[p][j];
                dw[p][j] += product * r;
            }
        }
        mean = block_sum(mean) / C;
        #pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int c = (p * blockDim.x + threadIdx.x) * 8;
            if (c >= C) { break; }
            for (int j = 0; j < 8; j++) {
                float g = __bfloat162float(d[p].x[j]) * w[p][j], normal = __bfloat162float(x[p].x[j]) * r;
                total[p].x[j] = __float2bfloat16(__bfloat162float(total[p].x[j]) + r * (g - normal * r * mean));
            }
            store8(dinp + row + c, total[p]);
        }
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

// scratch: one row of partial sums of dweight per block; their number depends on N alone
extern "C" size_t rmsnorm_backward_scratch(int N, int C) { return (size_t)min_int(N, PARTIAL_ROWS) * C * sizeof(float); }

extern "C" void rmsnorm_backward(floatX* dinp, float* dweight, const floatX* dout, const floatX* inp, const float* weight, const float* rstd,
                                 int N, int C, void* scratch, stream_t stream) {
    float* partial = (float*)scratch;
    int rows = min_int(N, PARTIAL_ROWS);
    rmsnorm_backward_kernel<<<rows, threads_for(C), 0, stream>>>(dinp, partial, dout, inp, weight, rstd, N, C);
    LAUNCH_CHECK();
    rmsnorm_dweight_kernel<<<ceil_div(C, COLUMNS), dim3(COLUMNS, LINES), 0, stream>>>(dweight, partial, rows, C);
    LAUNCH_CHECK();
}

#include <float.h>

#include "hopper_tile.cuh"
#include "ops.h"

enum { MAX_THREADS = 1024 };

__device__ inline float block_max(float x) {
    __shared__ float partial[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) { partial[warp] = x; }
    __syncthreads();
    return warp_max(lane < warps ? partial[lane] : -FLT_MAX);
}

typedef struct { float max, sum; } Softmax;            // of a row: max of x, and sum of exp(x - max)

// eight more columns: the sum follows the running maximum
__device__ inline void take_eight(Softmax* s, Pack8 p) {
    float x[8], before = s->max;
    for (int j = 0; j < 8; j++) {
        x[j] = __bfloat162float(p.x[j]);
        s->max = fmaxf(s->max, x[j]);
    }
    s->sum *= __expf(before - s->max);
    for (int j = 0; j < 8; j++) { s->sum += __expf(x[j] - s->max); }
}

// Every thread gets both. One pass over the row, a thread owns 8 columns at a time; what stands beyond V in the pack that V cuts
// counts as -infinity.
__device__ inline Softmax softmax_of_row(const floatX* row, int V) {
    Softmax mine = {-FLT_MAX, 0};                      // finite, so that max - max is 0
    int whole = V / 8 * 8;
    for (int v = threadIdx.x * 8; v < whole; v += blockDim.x * 8) { take_eight(&mine, load8(row + v)); }
    if (whole < V && threadIdx.x == 0) {
        Pack8 p = load8(row + whole);
        for (int j = 0; j < 8; j++) { p.x[j] = whole + j < V ? p.x[j] : __float2bfloat16(-INFINITY); }
        take_eight(&mine, p);
    }
    Softmax all = {block_max(mine.max), 0};
    all.sum = block_sum(mine.sum * __expf(mine.max - all.max));
    return all;
}

// one block per row
__global__ void crossentropy_forward_kernel(float* losses, const floatX* logits, const int* targets, int V, int Vp) {
    const floatX* row = logits + (size_t)blockIdx.x * Vp;
    int target = targets[blockIdx.x];
    if (target < 0) {
        if (threadIdx.x == 0) { losses[blockIdx.x] = 0; }
        return;
    }
    Softmax s = softmax_of_row(row, V);
    if (threadIdx.x == 0) { losses[blockIdx.x] = logf(s.sum) + (s.max - __bfloat162float(row[target])); }
}

// A row's loss and gradient; `from`, the logits, is the row in memory or a copy of it.
__device__ inline void loss_and_gradient(float* loss, floatX* row, const floatX* from, int target, float scale, int V, int Vp) {
    if (target < 0) {
        Pack8 zeros = {};
        for (int v = threadIdx.x * 8; v < Vp; v += blockDim.x * 8) { store8(row + v, zeros); }
        if (threadIdx.x == 0) { *loss = 0; }
        return;
    }
    float target_logit = __bfloat162float(from[target]);                 // read before the barriers in softmax_of_row, written after
    Softmax s = softmax_of_row(from, V);
    if (threadIdx.x == 0) { *loss = logf(s.sum) + (s.max - target_logit); }
    float inverse = 1.0f / s.sum;
    for (int v = threadIdx.x * 8; v < Vp; v += blockDim.x * 8) {
        Pack8 p = load8(from + v);
        float d[8];
        for (int j = 0; j < 8; j++) { d[j] = __expf(__bfloat162float(p.x[j]) - s.max) * inverse; }
        if (target >= v && target < v + 8) {
            for (int j = 0; j < 8; j++) { d[j] -= v + j == target ? 1.0f : 0.0f; }
        }
        for (int j = 0; j < 8; j++) { p.x[j] = __float2bfloat16(scale * d[j]); }
        if (v + 8 > V) {
            for (int j = 0; j < 8; j++) { p.x[j] = v + j < V ? p.x[j] : __float2bfloat16(0.0f); }
        }
        store8(row + v, p);
    }
}

// One block per row, two passes: the second finds the row in L2 and overwrites it with its gradient.
__global__ void crossentropy_forward_backward_kernel(float* losses, floatX* logits, const int* targets, float scale, int V, int Vp) {
    int i = blockIdx.x;
    floatX* row = logits + (size_t)i * Vp;
    loss_and_gradient(losses + i, row, row, targets[i], scale, V, Vp);
}

// The same on Hopper with a block a multiprocessor: rows come to shared memory by bulk copy, the next one while this one is worked on, so that
// memory need not wait for the barriers of a row.
__global__ __launch_bounds__(MAX_THREADS, 1)
void crossentropy_hopper_kernel(float* losses, floatX* logits, const int* targets, float scale, int N, int V, int Vp) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(128) floatX rows[];                      // (2, Vp)
    __shared__ uint64_t full[2];
    int bytes = Vp * (int)sizeof(floatX), blocks = gridDim.x;
    if (threadIdx.x == 0) {
        mbarrier_init(&full[0], 1);
        mbarrier_init(&full[1], 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(&full[0], bytes);
        bulk_load(rows, logits + (size_t)blockIdx.x * Vp, bytes, &full[0]);
    }
    __syncthreads();
    for (int i = blockIdx.x, n = 0; i < N; i += blocks, n++) {
        int mine = n % 2, other = mine ^ 1;
        if (threadIdx.x == 0 && i + blocks < N) {
            mbarrier_arrive_expect(&full[other], bytes);
            bulk_load(rows + other * Vp, logits + (size_t)(i + blocks) * Vp, bytes, &full[other]);
        }
        mbarrier_wait(&full[mine], n / 2 % 2);
        loss_and_gradient(losses + i, logits + (size_t)i * Vp, rows + mine * Vp, targets[i], scale, V, Vp);
        __syncthreads();                                                 // the copy may be overwritten
    }
#endif
}

static int threads_for(int V, int Vp) {
    REQUIRE(Vp % 8 == 0 && V <= Vp, "crossentropy: V=%d, Vp=%d: Vp must be a multiple of 8 (16-byte loads) and at least V", V, Vp);
    return min_int(MAX_THREADS, (int)round_up(Vp / 8, WARP));
}

extern "C" void crossentropy_forward(float* losses, const floatX* logits, const int* targets, int N, int V, int Vp, stream_t stream) {
    crossentropy_forward_kernel<<<N, threads_for(V, Vp), 0, stream>>>(losses, logits, targets, V, Vp);
    LAUNCH_CHECK();
}

extern "C" void crossentropy_forward_backward(float* losses, floatX* logits, const int* targets, float scale, int N, int V, int Vp,
                                              stream_t stream) {
    const size_t ROOM = 226 << 10;                                       // of a multiprocessor's shared memory, beside the reductions'
    size_t rows = 2 * (size_t)Vp * sizeof(floatX);
    int threads = threads_for(V, Vp);
    if (threads == MAX_THREADS && rows <= ROOM && device_attribute(cudaDevAttrComputeCapabilityMajor) == 9) {
        int blocks = min_int(N, device_attribute(cudaDevAttrMultiProcessorCount));
        allow_shared(crossentropy_hopper_kernel, rows);
        crossentropy_hopper_kernel<<<blocks, threads, rows, stream>>>(losses, logits, targets, scale, N, V, Vp);
    } else {
        crossentropy_forward_backward_kernel<<<N, threads, 0, stream>>>(losses, logits, targets, scale, V, Vp);
    }
    LAUNCH_CHECK();
}

// one block: thread t adds losses t, t + MAX_THREADS, ...
__global__ void crossentropy_total_kernel(double* total, const float* losses, int N) {
    double sum = 0;
    for (int i = threadIdx.x; i < N; i += MAX_THREADS) { sum += losses[i]; }
    sum = block_sum(sum);
    if (threadIdx.x == 0) { *total += sum; }
}

extern "C" void crossentropy_total(double* total, const float* losses, int N, stream_t stream) {
    crossentropy_total_kernel<<<1, MAX_THREADS, 0, stream>>>(total, losses, N);
    LAUNCH_CHECK();
}

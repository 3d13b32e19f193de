// Key convolution: k' = k + silu(z), z a depthwise causal convolution of k over time (the hybrid MoBA models' short convolution).
#include "cuda_common.cuh"
#include "ops.h"

// Lengths of time a thread walks. Constants, so that sums do not depend on the device.
enum { KCONV_STEPS  = 16,                        // forward: W-1 rows are read twice per 16
       KCONV_CHUNK  = 32,                        // backward, a warp's run
       KCONV_WARPS  = 4,                         // backward: warps of a thread block, which share one partial sum of dw
       KCONV_SPAN   = KCONV_CHUNK * KCONV_WARPS,
       KCONV_BLOCK  = 128,
       FORWARD_CHANNELS = 8, BACKWARD_CHANNELS = 4 };      // of a thread; backward holds W rows of k, dk and taps, and 8 would leave 3 warps a scheduler

template<int E> struct alignas(2 * E) Channels { floatX x[E]; };

// row t of the sequence, zero outside [0, T)
template<int E>
__device__ inline Channels<E> load_row(const floatX* sequence, int t, int T, int ld) {
    if (t < 0 || t >= T) { return {}; }
    return *reinterpret_cast<const Channels<E>*>(sequence + (size_t)t * ld);
}

template<int E>
__device__ inline void store_row(floatX* sequence, int t, int ld, Channels<E> row) { *reinterpret_cast<Channels<E>*>(sequence + (size_t)t * ld) = row; }

__device__ inline float sigmoid(float z) { return __fdividef(1.0f, 1.0f + __expf(-z)); }

// z at element e from the last W rows, newest first
template<int W, int E>
__device__ inline float conv(const Channels<E> rows[W], const float tap[W][E], int e) {
    float z = 0.0f;
    for (int i = 0; i < W; i++) { z += tap[i][e] * __bfloat162float(rows[i].x[e]); }
    return z;
}

// one thread per (sequence, run of KCONV_STEPS times, 8 channels): walks forward in time, the last W rows of k in registers
template<int W>
__global__ void kconv_forward_kernel(floatX* out, const floatX* k, const float* w, size_t threads, int T, int C, int runs, int ldk) {
    size_t index = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= threads) { return; }
    const int E = FORWARD_CHANNELS;
    int packs = C / E, channel = (int)(index % packs) * E, run = (int)(index / packs % runs);
    size_t b = index / packs / runs;
    const floatX* sequence = k + b * T * ldk + channel;
    floatX* to = out + b * T * C + channel;
    int from = run * KCONV_STEPS, end = min(from + KCONV_STEPS, T);

    float tap[W][E];
    Channels<E> rows[W];                                    // rows[i] is k[t-i]
    for (int i = 0; i < W * E; i++) { tap[i / E][i % E] = w[i / E * C + channel + i % E]; }
    for (int i = 1; i < W; i++) { rows[i - 1] = load_row<E>(sequence, from - i, T, ldk); }
    #pragma unroll 4
    for (int t = from; t < end; t++) {
        for (int i = W - 1; i > 0; i--) { rows[i] = rows[i - 1]; }
        rows[0] = load_row<E>(sequence, t, T, ldk);
        Channels<E> result;
        for (int e = 0; e < E; e++) {
            float z = conv<W, E>(rows, tap, e);
            result.x[e] = __float2bfloat16(__bfloat162float(rows[0].x[e]) + z * sigmoid(z));
        }
        store_row<E>(to, t, C, result);
    }
}

// The walk of one thread of the backward over times [from, end), and over W-1 more whose dz reach back into it.
// Row t - (W-1) of dk is complete once dz[t] is known: pending[i] collects dk[t-i].
template<int W, int E>
__device__ inline void backward_walk(floatX* dk, float dtap[W][E], const floatX* dout, const floatX* k, const float tap[W][E],
                                     int from, int end, int T, int C, int ldk) {
    Channels<E> rows[W];
    float pending[W][E] = {};
    for (int i = 1; i < W; i++) { rows[i - 1] = load_row<E>(k, from - i, T, ldk); }
    Channels<E> next_row = load_row<E>(k, from, T, ldk), next_dout = load_row<E>(dout, from, T, C);
    for (int t = from; t < end + W - 1; t++) {
        for (int i = W - 1; i > 0; i--) {
            rows[i] = rows[i - 1];
            for (int e = 0; e < E; e++) { pending[i][e] = pending[i - 1][e]; }
        }
        Channels<E> gradient = next_dout;                         // beyond T it is 0, hence dz and all it adds
        rows[0] = next_row;
        next_row  = load_row<E>(k, t + 1, T, ldk);
        next_dout = load_row<E>(dout, t + 1, T, C);
        bool inside = t < end;                              // else a later run counts this time's dtap
        for (int e = 0; e < E; e++) {
            float z = conv<W, E>(rows, tap, e), s = sigmoid(z), g = __bfloat162float(gradient.x[e]);
            float dz = g * s * (1.0f + z * (1.0f - s));
            pending[0][e] = g;
            for (int i = 0; i < W; i++) {
                pending[i][e] += tap[i][e] * dz;
                if (inside) { dtap[i][e] += dz * __bfloat162float(rows[i].x[e]); }
            }
        }
        int done = t - (W - 1);
        if (done >= from) {
            Channels<E> result;
            for (int e = 0; e < E; e++) { result.x[e] = __float2bfloat16(pending[W - 1][e]); }
            store_row<E>(dk, done, ldk, result);
        }
    }
}

// one warp per (sequence, run of KCONV_CHUNK times, 128 channels), 4 channels a lane; the four runs of a thread block follow each
// other in time and their tap gradients are added in that order into one row of partial: (B * spans, W, C)
template<int W>
__global__ void kconv_backward_kernel(floatX* dk, float* partial, const floatX* dout, const floatX* k, const float* w,
                                      int T, int C, int spans, int ldk) {
    const int E = BACKWARD_CHANNELS;
    __shared__ float sums[KCONV_WARPS][E][WARP];
    int lane = threadIdx.x, warp = threadIdx.y, channel = (blockIdx.y * WARP + lane) * E;
    size_t b = blockIdx.x / spans;
    int from = (int)(blockIdx.x % spans) * KCONV_SPAN + warp * KCONV_CHUNK, end = min(from + KCONV_CHUNK, T);
    bool mine = channel < C;

    float dtap[W][E] = {};
    if (mine && from < end) {
        float tap[W][E];
        for (int i = 0; i < W * E; i++) { tap[i / E][i % E] = w[i / E * C + channel + i % E]; }
        backward_walk<W, E>(dk + b * T * ldk + channel, dtap, dout + b * T * C + channel, k + b * T * ldk + channel, tap, from, end, T, C, ldk);
    }
    for (int i = 0; i < W; i++) {
        __syncthreads();
        for (int e = 0; e < E; e++) { sums[warp][e][lane] = dtap[i][e]; }
        __syncthreads();
        for (int e = warp; e < E; e += KCONV_WARPS) {
            float total = 0.0f;
            for (int r = 0; r < KCONV_WARPS; r++) { total += sums[r][e][lane]; }
            if (mine) { partial[((size_t)blockIdx.x * W + i) * C + channel + e] = total; }
        }
    }
}

// one thread block per 32 taps: warp w adds rows w, w+8, ... of partial, then the first adds the eight sums in order
__global__ void kconv_taps_kernel(float* dw, const float* partial, int rows, int taps) {
    __shared__ float sums[8][WARP];
    int lane = threadIdx.x, warp = threadIdx.y, column = blockIdx.x * WARP + lane;
    float total = 0.0f;
    if (column < taps) {
        #pragma unroll 8
        for (int r = warp; r < rows; r += 8) { total += partial[(size_t)r * taps + column]; }
    }
    sums[warp][lane] = total;
    __syncthreads();
    if (warp == 0 && column < taps) {
        total = 0.0f;
        for (int r = 0; r < 8; r++) { total += sums[r][lane]; }
        dw[column] += total;
    }
}

static void check(int B, int T, int C, int W, int ldk) {
    REQUIRE(W == 3 || W == 5, "kconv: width %d has no kernel (3 and 5 do)", W);
    REQUIRE(C % 8 == 0 && ldk % 8 == 0 && ldk >= C,
            "kconv: C=%d and the row stride %d must be multiples of 8 (16-byte loads), the stride at least C", C, ldk);
    REQUIRE(B > 0 && T > 0, "kconv: B=%d, T=%d must be positive", B, T);
}

extern "C" void kconv_forward(floatX* out, const floatX* k, const float* w, int B, int T, int C, int W, int ldk, stream_t stream) {
    check(B, T, C, W, ldk);
    int runs = ceil_div(T, KCONV_STEPS);
    size_t threads = (size_t)B * runs * (C / FORWARD_CHANNELS);
    unsigned blocks = (unsigned)((threads + KCONV_BLOCK - 1) / KCONV_BLOCK);
    if (W == 3) { kconv_forward_kernel<3><<<blocks, KCONV_BLOCK, 0, stream>>>(out, k, w, threads, T, C, runs, ldk); }
    else        { kconv_forward_kernel<5><<<blocks, KCONV_BLOCK, 0, stream>>>(out, k, w, threads, T, C, runs, ldk); }
    LAUNCH_CHECK();
}

extern "C" void kconv_backward(floatX* dk, float* dw, const floatX* dout, const floatX* k, const float* w, int B, int T, int C, int W, int ldk,
                               void* scratch, stream_t stream) {
    check(B, T, C, W, ldk);
    int spans = ceil_div(T, KCONV_SPAN);
    float* partial = (float*)scratch;
    dim3 grid(B * spans, ceil_div(C, WARP * BACKWARD_CHANNELS)), threads(WARP, KCONV_WARPS);
    if (W == 3) { kconv_backward_kernel<3><<<grid, threads, 0, stream>>>(dk, partial, dout, k, w, T, C, spans, ldk); }
    else        { kconv_backward_kernel<5><<<grid, threads, 0, stream>>>(dk, partial, dout, k, w, T, C, spans, ldk); }
    LAUNCH_CHECK();
    kconv_taps_kernel<<<ceil_div(W * C, WARP), dim3(WARP, 8), 0, stream>>>(dw, partial, B * spans, W * C);
    LAUNCH_CHECK();
}

extern "C" size_t kconv_backward_scratch(int B, int T, int C, int W) {
    return (size_t)B * ceil_div(T, KCONV_SPAN) * W * C * sizeof(float);
}

// Key convolution: k' = k + silu(z), z a depthwise causal convolution of k over time (the hybrid MoBA models' short convolution).
#include "key_mean.cuh"
#include "ops.h"
#include "swiglu_math.cuh"

// Constants, so that sums do not depend on the device.
enum { KCONV_CHANNELS = 4,                       // of a thread: 8 bytes of a row, 16 of the taps
       KCONV_AHEAD  = 4,                         // forward: rows that a thread loads before it uses the first (one by one: 68 % of copy speed)
       KCONV_BLOCK  = 128,                       // forward without means: times of a thread block, 16 a warp, before which W-1 are read again
       KCONV_CHUNK  = 32,                        // backward: times of a warp's run
       KCONV_WARPS  = 4,                         // backward: warps of a thread block, which share one partial sum of dw
       KCONV_SPAN   = KCONV_CHUNK * KCONV_WARPS };

typedef struct { float x[KCONV_CHANNELS]; } Channels;
struct alignas(2 * KCONV_CHANNELS) Bits { uint32_t pair[KCONV_CHANNELS / 2]; };      // the same as bf16, two in a register

__device__ inline Channels unpack(Bits bits) {
    Channels row;
    for (int i = 0; i < KCONV_CHANNELS; i += 2) {
        row.x[i]     = __uint_as_float(bits.pair[i / 2] << 16);
        row.x[i + 1] = __uint_as_float(bits.pair[i / 2] & 0xffff0000u);
    }
    return row;
}

__device__ inline Bits pack(Channels row) {
    Bits bits;
    for (int i = 0; i < KCONV_CHANNELS; i += 2) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(row.x[i], row.x[i + 1]);
        bits.pair[i / 2] = *reinterpret_cast<uint32_t*>(&pair);
    }
    return bits;
}

// row t of the sequence, zero outside [0, T)
__device__ inline Bits load_row(const floatX* sequence, int t, int T, int ld) {
    if (t < 0 || t >= T) { return {}; }
    return *reinterpret_cast<const Bits*>(sequence + (size_t)t * ld);
}

__device__ inline void store_row(floatX* sequence, int t, int ld, Bits row) { *reinterpret_cast<Bits*>(sequence + (size_t)t * ld) = row; }

template<int W>
__device__ inline void load_taps(float tap[W][KCONV_CHANNELS], const float* w, int channel, int C) {
    for (int i = 0; i < W; i++) {
        float4 four = *reinterpret_cast<const float4*>(w + (size_t)i * C + channel);
        tap[i][0] = four.x; tap[i][1] = four.y; tap[i][2] = four.z; tap[i][3] = four.w;
    }
}

// z at element e from the last W rows, newest first
template<int W>
__device__ inline float conv(const Channels rows[W], const float tap[W][KCONV_CHANNELS], int e) {
    float z = 0.0f;
    for (int i = 0; i < W; i++) { z += tap[i][e] * rows[i].x[e]; }
    return z;
}

// The walk of one thread of the forward over times [from, end): out, and the sum of what it rounded and wrote there
template<int W>
__device__ inline void forward_walk(floatX* out, float sum[KCONV_CHANNELS], const floatX* k, const float tap[W][KCONV_CHANNELS],
                                    int from, int end, int T, int C, int ldk) {
    Channels rows[W];                                       // rows[i] is k[t-i]
    for (int i = 1; i < W; i++) { rows[i - 1] = unpack(load_row(k, from - i, T, ldk)); }
    k   += (size_t)from * ldk;
    out += (size_t)from * C;
    #pragma unroll 1                                        // KCONV_AHEAD times are unrolled already
    for (int left = end - from; left > 0; left -= KCONV_AHEAD) {
        Bits ahead[KCONV_AHEAD] = {};
        for (int i = 0; i < KCONV_AHEAD; i++, k += ldk) {
            if (i < left) { ahead[i] = *reinterpret_cast<const Bits*>(k); }
        }
        for (int i = 0; i < KCONV_AHEAD; i++, out += C) {
            for (int lag = W - 1; lag > 0; lag--) { rows[lag] = rows[lag - 1]; }
            rows[0] = unpack(ahead[i]);
            Channels result;
            for (int e = 0; e < KCONV_CHANNELS; e++) {
                float z = conv<W>(rows, tap, e);
                result.x[e] = rows[0].x[e] + z * sigmoid(z);
            }
            Bits rounded = pack(result);
            result = unpack(rounded);
            if (i < left) {
                *reinterpret_cast<Bits*>(out) = rounded;
                for (int e = 0; e < KCONV_CHANNELS; e++) { sum[e] += result.x[e]; }
            }
        }
    }
}

// one thread block per (sequence b, block j of times, 128 channels), neighbours in channels first: a warp per run of the block's times,
// lane i owns 4 of the channels. centroid: NULL, or the block's mean goes there.
template<int W>
__global__ void kconv_forward_kernel(floatX* out, float* centroid, const floatX* k, const float* w, int T, int C, int D, int ldk,
                                     int block, int n, int groups) {
    int first = blockIdx.x % groups * WARP * KCONV_CHANNELS, j = blockIdx.x / groups % n, channel = first + threadIdx.x * KCONV_CHANNELS;
    size_t b = blockIdx.x / groups / n;
    KeyRun run = key_run(j, block, T);
    float sum[KCONV_CHANNELS] = {};
    if (channel < C && run.from < run.end) {
        float tap[W][KCONV_CHANNELS];
        load_taps<W>(tap, w, channel, C);
        forward_walk<W>(out + b * T * C + channel, sum, k + b * T * ldk + channel, tap, run.from, run.end, T, C, ldk);
    }
    if (centroid) {
        store_key_mean<KCONV_CHANNELS>(centroid + (b * n * C / D + j) * D, sum, first, C, D, (size_t)n * D, min(block, T - j * block));
    }
}

// The walk of one thread of the backward over times [from, end), and over W-1 more whose dz reach back into it.
// Row t - (W-1) of dk is complete once dz[t] is known: pending[i] collects dk[t-i].
template<int W>
__device__ inline void backward_walk(floatX* dk, float dtap[W][KCONV_CHANNELS], const floatX* dout, const floatX* k, const float tap[W][KCONV_CHANNELS],
                                     int from, int end, int T, int C, int ldk) {
    const int E = KCONV_CHANNELS;
    Channels rows[W];
    float pending[W][E] = {};
    for (int i = 1; i < W; i++) { rows[i - 1] = unpack(load_row(k, from - i, T, ldk)); }
    Bits next_row = load_row(k, from, T, ldk), next_dout = load_row(dout, from, T, C);
    for (int t = from; t < end + W - 1; t++) {
        for (int i = W - 1; i > 0; i--) {
            rows[i] = rows[i - 1];
            for (int e = 0; e < E; e++) { pending[i][e] = pending[i - 1][e]; }
        }
        Channels gradient = unpack(next_dout);                         // beyond T it is 0, hence dz and all it adds
        rows[0] = unpack(next_row);
        next_row  = load_row(k, t + 1, T, ldk);
        next_dout = load_row(dout, t + 1, T, C);
        bool inside = t < end;                              // else a later run counts this time's dtap
        for (int e = 0; e < E; e++) {
            float z = conv<W>(rows, tap, e), s = sigmoid(z), g = gradient.x[e];
            float dz = g * s * (1.0f + z * (1.0f - s));
            pending[0][e] = g;
            for (int i = 0; i < W; i++) {
                pending[i][e] += tap[i][e] * dz;
                if (inside) { dtap[i][e] += dz * rows[i].x[e]; }
            }
        }
        int done = t - (W - 1);
        if (done >= from) {
            Channels result;
            for (int e = 0; e < E; e++) { result.x[e] = pending[W - 1][e]; }
            store_row(dk, done, ldk, pack(result));
        }
    }
}

// one warp per (sequence, run of KCONV_CHUNK times, 128 channels), 4 channels a lane; the four runs of a thread block follow each
// other in time and their tap gradients are added in that order into one row of partial: (B * spans, W, C)
template<int W>
__global__ void kconv_backward_kernel(floatX* dk, float* partial, const floatX* dout, const floatX* k, const float* w,
                                      int T, int C, int spans, int ldk) {
    const int E = KCONV_CHANNELS;
    __shared__ float sums[KCONV_WARPS][E][WARP];
    int lane = threadIdx.x, warp = threadIdx.y, channel = (blockIdx.y * WARP + lane) * E;
    size_t b = blockIdx.x / spans;
    int from = (int)(blockIdx.x % spans) * KCONV_SPAN + warp * KCONV_CHUNK, end = min(from + KCONV_CHUNK, T);
    bool mine = channel < C;

    float dtap[W][E] = {};
    if (mine && from < end) {
        float tap[W][E];
        load_taps<W>(tap, w, channel, C);
        backward_walk<W>(dk + b * T * ldk + channel, dtap, dout + b * T * C + channel, k + b * T * ldk + channel, tap, from, end, T, C, ldk);
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

static void launch_forward(floatX* out, float* centroid, const floatX* k, const float* w, int B, int T, int C, int D, int W, int ldk, int block,
                           stream_t stream) {
    check(B, T, C, W, ldk);
    int n = ceil_div(T, block), groups = ceil_div(C, WARP * KCONV_CHANNELS);
    size_t blocks = (size_t)B * n * groups;
    REQUIRE(blocks <= INT32_MAX, "kconv: %d sequences of %d times, %d channels, need %zu thread blocks, more than a grid has", B, T, C, blocks);
    dim3 threads(WARP, KEY_RUNS);
    unsigned grid = (unsigned)blocks;
    if (W == 3) { kconv_forward_kernel<3><<<grid, threads, 0, stream>>>(out, centroid, k, w, T, C, D, ldk, block, n, groups); }
    else        { kconv_forward_kernel<5><<<grid, threads, 0, stream>>>(out, centroid, k, w, T, C, D, ldk, block, n, groups); }
    LAUNCH_CHECK();
}

extern "C" void kconv_forward(floatX* out, const floatX* k, const float* w, int B, int T, int C, int W, int ldk, stream_t stream) {
    launch_forward(out, NULL, k, w, B, T, C, C, W, ldk, KCONV_BLOCK, stream);
}

extern "C" void kconv_centroid_forward(floatX* out, float* centroid, const floatX* k, const float* w, int B, int T, int H, int D, int W, int ldk,
                                       int block, stream_t stream) {
    REQUIRE(H > 0 && D > 0 && D % 8 == 0 && block > 0, "kconv: H=%d, D=%d and block=%d must be positive, D a multiple of 8", H, D, block);
    launch_forward(out, centroid, k, w, B, T, H * D, D, W, ldk, block, stream);
}

extern "C" void kconv_backward(floatX* dk, float* dw, const floatX* dout, const floatX* k, const float* w, int B, int T, int C, int W, int ldk,
                               void* scratch, stream_t stream) {
    check(B, T, C, W, ldk);
    int spans = ceil_div(T, KCONV_SPAN);
    float* partial = (float*)scratch;
    dim3 grid(B * spans, ceil_div(C, WARP * KCONV_CHANNELS)), threads(WARP, KCONV_WARPS);
    if (W == 3) { kconv_backward_kernel<3><<<grid, threads, 0, stream>>>(dk, partial, dout, k, w, T, C, spans, ldk); }
    else        { kconv_backward_kernel<5><<<grid, threads, 0, stream>>>(dk, partial, dout, k, w, T, C, spans, ldk); }
    LAUNCH_CHECK();
    kconv_taps_kernel<<<ceil_div(W * C, WARP), dim3(WARP, 8), 0, stream>>>(dw, partial, B * spans, W * C);
    LAUNCH_CHECK();
}

extern "C" size_t kconv_backward_scratch(int B, int T, int C, int W) {
    return (size_t)B * ceil_div(T, KCONV_SPAN) * W * C * sizeof(float);
}

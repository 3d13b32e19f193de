// Times an op the way its claims are made: cold L2, median of many, beside what the device could do.
// A row:  {"op":"rmsnorm_forward","N":32768,"C":1024,"ms":0.0712,"spread":0.011,"gb_s":2380,"tflops":0,"roof":0.71}
//   ms      median of 20 runs after 3 warm-ups, L2 overwritten before each
//   spread  half the distance between the 10th and 90th percentile, over the median
//   roof    the time that the bytes or the flops need at the device's peak, whichever is longer, over the median
#ifndef BENCH_H
#define BENCH_H

#include "cuda_common.cuh"
#include "device.h"
#include "ops.h"

typedef void (*BenchFn)(void* context);

enum { BENCH_RUNS = 20, BENCH_WARM_UPS = 3, BENCH_FLUSH_BYTES = 256 << 20 };

// ---- inputs: pseudo-random, made on the device --------------------------------------------------------------------------
__device__ inline uint32_t bench_hash(uint64_t x) {                      // splitmix64's finish
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((x ^ (x >> 31)) >> 32);
}

__device__ inline float bench_normal(uint64_t i, int seed) {
    uint64_t at = (i * 2 + 1) * 0x9e3779b97f4a7c15ull + (uint64_t)seed * 0xd1342543de82ef95ull;
    float u = (bench_hash(at) + 0.5f) * 2.3283064e-10f, v = bench_hash(at + 0x9e3779b97f4a7c15ull) * 2.3283064e-10f;
    return sqrtf(-2 * logf(fminf(u, 0.9999999f))) * cospif(2 * v);
}

__global__ static void bench_fill_kernel(floatX* x, float* f, int* whole, size_t n, int seed, float scale, int below) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) { return; }
    if (x) { x[i] = __float2bfloat16(scale * bench_normal(i, seed)); }
    if (f) { f[i] = scale * bench_normal(i, seed); }
    if (whole) { whole[i] = (int)(bench_hash((i + 1) * 0x9e3779b97f4a7c15ull + (uint64_t)seed) % (uint32_t)below); }
}

static inline unsigned bench_blocks(size_t n) { return (unsigned)((n + 255) / 256); }

static inline floatX* bench_bf16(size_t n, int seed, float scale) {
    floatX* x = (floatX*)device_malloc(n * sizeof(floatX));
    bench_fill_kernel<<<bench_blocks(n), 256, 0, 0>>>(x, NULL, NULL, n, seed, scale, 1);
    LAUNCH_CHECK();
    return x;
}

static inline float* bench_f32(size_t n, int seed, float scale) {
    float* x = (float*)device_malloc(n * sizeof(float));
    bench_fill_kernel<<<bench_blocks(n), 256, 0, 0>>>(NULL, x, NULL, n, seed, scale, 1);
    LAUNCH_CHECK();
    return x;
}

// whole numbers in [0, below)
static inline int* bench_ints(size_t n, int seed, int below) {
    int* x = (int*)device_malloc(n * sizeof(int));
    bench_fill_kernel<<<bench_blocks(n), 256, 0, 0>>>(NULL, NULL, x, n, seed, 1, below);
    LAUNCH_CHECK();
    return x;
}

// rope's table: unit turns, so that repeats in place neither grow nor shrink what they turn
static inline float* bench_angles(int T, int D) {
    size_t pairs = (size_t)T * D / 2;
    float* table = (float*)xmalloc(pairs * 2 * sizeof(float));
    for (size_t i = 0; i < pairs; i++) {
        double angle = (i / (D / 2)) * pow(10000.0, -2.0 * (i % (D / 2)) / D);
        table[2 * i]     = (float)cos(angle);
        table[2 * i + 1] = (float)sin(angle);
    }
    float* device = (float*)device_malloc(pairs * 2 * sizeof(float));
    device_upload(device, table, pairs * 2 * sizeof(float), NULL);
    stream_sync(NULL);
    free(table);
    return device;
}

// ---- timing -------------------------------------------------------------------------------------------------------------
// matmul's plans, measured as the trainer measures them; the caller closes them
static inline struct MatmulPlans* bench_plans(void) {
    struct MatmulPlans* plans = matmul_open(device_malloc(matmul_workspace()), matmul_workspace());
    matmul_measure(plans, 1);
    return plans;
}

static inline double bench_bandwidth(int device) {                       // bytes/s of the memory's clock and bus, two transfers a clock
    int khz = 0, bits = 0;
    CUDA_CHECK(cudaDeviceGetAttribute(&khz, cudaDevAttrMemoryClockRate, device));
    CUDA_CHECK(cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device));
    return 2.0 * khz * 1e3 * bits / 8;
}

static inline int bench_ascending(const void* a, const void* b) {
    float x = *(const float*)a, y = *(const float*)b;
    return (x > y) - (x < y);
}

// L2 holds nothing of the runs before: lines that a kernel asked it to keep become ordinary ones, and all are overwritten
static inline void bench_flush_l2(void* flush) {                         // flush: BENCH_FLUSH_BYTES
    CUDA_CHECK(cudaCtxResetPersistingL2Cache());
    device_zero(flush, BENCH_FLUSH_BYTES, NULL);
}

// ascending times of BENCH_RUNS runs, in milliseconds
static inline void bench_times(float* ms, BenchFn fn, void* context) {
    void* flush = device_malloc(BENCH_FLUSH_BYTES);
    DeviceEvent *begin = event_open(), *end = event_open();
    for (int run = -BENCH_WARM_UPS; run < BENCH_RUNS; run++) {
        bench_flush_l2(flush);
        event_record(begin, NULL);
        fn(context);
        event_record(end, NULL);
        event_wait(end);
        if (run >= 0) { ms[run] = event_ms(begin, end); }
    }
    event_close(begin);
    event_close(end);
    device_free(flush);
    qsort(ms, BENCH_RUNS, sizeof(float), bench_ascending);
}

typedef struct { double bytes_s, flops_s; } BenchPeaks;                  // flops_s 0: not known of this device

// What the device could do; said once.
static inline BenchPeaks bench_peaks(void) {
    static BenchPeaks peaks;
    if (peaks.bytes_s == 0) {
        Device device = device_open(0);
        peaks.bytes_s = bench_bandwidth(device.index);
        peaks.flops_s = device.peak_flops;
        fprintf(stderr, "%s: %.0f GB/s, %.0f dense bf16 TFLOP/s at peak\n", device.name, peaks.bytes_s / 1e9, peaks.flops_s / 1e12);
    }
    return peaks;
}

// shape_json: the row's own fields, "\"N\":32768,\"C\":1024". bytes and flops: what the op cannot do without; 0 if it is not the limit.
// Returns the median.
static inline double bench_row(const char* op, const char* shape_json, BenchFn fn, void* context, double bytes, double flops) {
    BenchPeaks peak = bench_peaks();
    float ms[BENCH_RUNS];
    bench_times(ms, fn, context);
    double median = 0.5 * (ms[BENCH_RUNS / 2 - 1] + ms[BENCH_RUNS / 2]), seconds = median / 1e3;
    double spread = 0.5 * (ms[BENCH_RUNS * 9 / 10] - ms[BENCH_RUNS / 10]) / median;
    double floor = fmax(bytes / peak.bytes_s, peak.flops_s > 0 ? flops / peak.flops_s : 0);
    printf("{\"op\":\"%s\",%s,\"ms\":%.4f,\"spread\":%.3f,\"gb_s\":%.0f,\"tflops\":%.1f,\"roof\":%.2f}\n", op, shape_json, median, spread,
           bytes / seconds / 1e9, flops / seconds / 1e12, floor / seconds);
    fflush(stdout);
    return median;
}

// ---- two ways to the same numbers -----------------------------------------------------------------------------------------
// squares[2i] and [2i+1]: block i's sums of (a - b)^2 and of b^2
__global__ static void bench_difference_kernel(double* squares, const floatX* a, const floatX* b, size_t n) {
    double apart = 0, size = 0;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        float x = __bfloat162float(a[i]), y = __bfloat162float(b[i]);
        apart += (double)(x - y) * (x - y);
        size += (double)y * y;
    }
    apart = block_sum(apart);
    size = block_sum(size);
    if (threadIdx.x == 0) { squares[2 * blockIdx.x] = apart; squares[2 * blockIdx.x + 1] = size; }
}

// Ends the program unless a and b, n numbers that are to be the same but for their rounding, differ by less than 1 % in the mean.
static inline void bench_same(const char* what, const floatX* a, const floatX* b, size_t n) {
    enum { BLOCKS = 1024 };
    double host[2 * BLOCKS], apart = 0, size = 0, *squares = (double*)device_malloc(sizeof host);
    bench_difference_kernel<<<BLOCKS, 256>>>(squares, a, b, n);
    LAUNCH_CHECK();
    device_download(host, squares, sizeof host, NULL);
    stream_sync(NULL);
    device_free(squares);
    for (int i = 0; i < BLOCKS; i++) { apart += host[2 * i]; size += host[2 * i + 1]; }
    double difference = sqrt(apart / size);
    REQUIRE(difference < 0.01, "%s: as one op and apart differ by %.3g of their size", what, difference);       // NaN is not less
    fprintf(stderr, "%s: as one op and apart differ by %.2g of their size\n", what, difference);
}

#endif

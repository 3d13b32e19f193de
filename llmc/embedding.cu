// Embedding. The gradient gathers rows by token: a stable radix sort of (token, row), then sums over runs of equal tokens.
// Runs are cut at fixed places and their parts added in order, so a token that fills half the batch is still summed in parallel,
// and nothing depends on timing.
#include "cuda_common.cuh"
#include "ops.h"

// ---- forward ----------------------------------------------------------------------------------------------------------
// one block per row, a thread copies 8 columns at a time
__global__ void embedding_forward_kernel(floatX* out, const floatX* wte, const int* tokens, int C) {
    const floatX* from = wte + (size_t)tokens[blockIdx.x] * C;
    floatX* to = out + (size_t)blockIdx.x * C;
    for (int c = threadIdx.x * 8; c < C; c += blockDim.x * 8) { store8(to + c, load8(from + c)); }
}

extern "C" void embedding_forward(floatX* out, const floatX* wte, const int* tokens, int N, int C, stream_t stream) {
    REQUIRE(C % 8 == 0, "embedding: C=%d is not a multiple of 8 (16-byte loads)", C);
    int threads = min_int(256, (int)round_up(C / 8, WARP));
    embedding_forward_kernel<<<N, threads, 0, stream>>>(out, wte, tokens, C);
    LAUNCH_CHECK();
}

// ---- stable radix sort, 8 bits a pass ---------------------------------------------------------------------------------
enum { DIGITS = 256, CHUNK = 512, SCAN_THREADS = 1024 };   // a warp sorts CHUNK consecutive keys

__device__ inline int digit_of(int key, int shift) { return (key >> shift) & (DIGITS - 1); }

// one warp per chunk: counts[digit][chunk] = how many of its keys have the digit
__global__ void sort_count_kernel(int* counts, const int* keys, int N, int shift) {
    __shared__ int count[DIGITS];
    for (int d = threadIdx.x; d < DIGITS; d += WARP) { count[d] = 0; }
    __syncwarp();
    int begin = blockIdx.x * CHUNK, end = min(begin + CHUNK, N);
    for (int i = begin + threadIdx.x; i < end; i += WARP) { atomicAdd(&count[digit_of(keys[i], shift)], 1); }
    __syncwarp();
    for (int d = threadIdx.x; d < DIGITS; d += WARP) { counts[(size_t)d * gridDim.x + blockIdx.x] = count[d]; }
}

// one block: counts become their exclusive running sum; a thread owns `each` consecutive entries
__global__ void sort_scan_kernel(int* counts, int n) {
    __shared__ int total[SCAN_THREADS];
    int each = (n + SCAN_THREADS - 1) / SCAN_THREADS;
    int begin = min((int)threadIdx.x * each, n), end = min(begin + each, n);
    int sum = 0;
    for (int i = begin; i < end; i++) { sum += counts[i]; }
    total[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 1; step < SCAN_THREADS; step *= 2) {
        int before = (int)threadIdx.x >= step ? total[threadIdx.x - step] : 0;
        __syncthreads();
        total[threadIdx.x] += before;
        __syncthreads();
    }
    int running = total[threadIdx.x] - sum;
    for (int i = begin; i < end; i++) {
        int count = counts[i];
        counts[i] = running;
        running += count;
    }
}

// lanes whose digit equals mine, among the lanes of `active`
__device__ inline unsigned lanes_with(int digit, unsigned active) {
    unsigned same = active;
    for (int bit = 1; bit < DIGITS; bit *= 2) {
        unsigned set = __ballot_sync(0xffffffffu, digit & bit);
        same &= (digit & bit) ? set : ~set;
    }
    return same;
}

// one warp per chunk, 32 keys at a time in order: equal digits keep the order of their rows. rows == NULL: row i is i.
__global__ void sort_scatter_kernel(int* keys_out, int* rows_out, const int* keys, const int* rows, const int* offsets, int N, int shift) {
    __shared__ int next[DIGITS];
    for (int d = threadIdx.x; d < DIGITS; d += WARP) { next[d] = offsets[(size_t)d * gridDim.x + blockIdx.x]; }
    __syncwarp();
    int begin = blockIdx.x * CHUNK, end = min(begin + CHUNK, N);
    for (int base = begin; base < end; base += WARP) {
        int i = base + threadIdx.x;
        bool here = i < end;
        int key = here ? keys[i] : 0, digit = digit_of(key, shift);
        unsigned same = lanes_with(digit, __ballot_sync(0xffffffffu, here));
        int rank = __popc(same & ((1u << threadIdx.x) - 1));
        int to = next[digit] + rank;
        __syncwarp();
        if (here && rank == 0) { next[digit] = to + __popc(same); }
        __syncwarp();
        if (here) {
            keys_out[to] = key;
            rows_out[to] = rows ? rows[i] : i;
        }
    }
}

// ---- sums over runs of equal tokens -----------------------------------------------------------------------------------
enum { PIECE = 64, COLUMN_THREADS = 64, COMBINE_THREADS = 128 };   // sorted rows are walked in pieces of PIECE

// One block per piece and 8 * COLUMN_THREADS columns: a thread owns 8 columns and walks the piece's rows in order.
// A run inside the piece goes to dwte; the part of one that reaches beyond goes to partial[piece][0] if it began in an earlier piece,
// else to partial[piece][1].
__global__ void embedding_pieces_kernel(float* __restrict__ dwte, float* __restrict__ partial, const floatX* __restrict__ dout,
                                        const int* __restrict__ keys, const int* __restrict__ rows, int N, int C) {
    int c = (blockIdx.y * COLUMN_THREADS + threadIdx.x) * 8;
    if (c >= C) { return; }
    int begin = blockIdx.x * PIECE, end = min(begin + PIECE, N);
    float sum[8] = {0};
    Pack8 next = load8(dout + (size_t)rows[begin] * C + c);
    for (int i = begin; i < end; i++) {
        Pack8 d = next;
        if (i + 1 < end) { next = load8(dout + (size_t)rows[i + 1] * C + c); }          // in flight while this one is added
        for (int j = 0; j < 8; j++) { sum[j] += __bfloat162float(d.x[j]); }
        int key = keys[i];
        if (i + 1 < end && keys[i + 1] == key) { continue; }
        bool from_before = begin > 0 && keys[begin - 1] == key, goes_on = i + 1 == end && end < N && keys[end] == key;
        if (from_before || goes_on) {
            float* to = partial + ((size_t)blockIdx.x * 2 + !from_before) * C + c;
            for (int j = 0; j < 8; j++) { to[j] = sum[j]; }
        } else {
            float* to = dwte + (size_t)key * C + c;
            for (int j = 0; j < 8; j++) { to[j] += sum[j]; }
        }
        for (int j = 0; j < 8; j++) { sum[j] = 0; }
    }
}

// first position after `from` whose key is larger than `key`
__device__ inline int run_end(const int* keys, int key, int from, int N) {
    int low = from, high = N;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (keys[middle] == key) { low = middle + 1; } else { high = middle; }
    }
    return low;
}

// one block per piece in which a run begins that goes on, and COMBINE_THREADS columns: adds the run's parts in order
__global__ void embedding_combine_kernel(float* dwte, const float* partial, const int* keys, int N, int C) {
    int c = blockIdx.y * COMBINE_THREADS + threadIdx.x, begin = blockIdx.x * PIECE, end = begin + PIECE;
    if (c >= C || end >= N) { return; }
    int key = keys[end];
    if (keys[end - 1] != key || (begin > 0 && keys[begin - 1] == key)) { return; }
    int last = (run_end(keys, key, end, N) - 1) / PIECE;
    float sum = partial[((size_t)blockIdx.x * 2 + 1) * C + c];
    #pragma unroll 8
    for (int piece = blockIdx.x + 1; piece <= last; piece++) { sum += partial[(size_t)piece * 2 * C + c]; }
    dwte[(size_t)key * C + c] += sum;
}

// ---- backward ---------------------------------------------------------------------------------------------------------
// scratch: partial (pieces, 2, C) fp32, counts (DIGITS, chunks), and two buffers each of keys (N) and rows (N)
static size_t partial_bytes(int N, int C) { return round_up((size_t)ceil_div(N, PIECE) * 2 * C * sizeof(float), 256); }
static size_t count_entries(int N) { return (size_t)DIGITS * ceil_div(N, CHUNK); }

extern "C" size_t embedding_backward_scratch(int N, int C, int V) {
    (void)V;
    return partial_bytes(N, C) + (count_entries(N) + 4 * (size_t)N) * sizeof(int);
}

extern "C" void embedding_backward(float* dwte, const floatX* dout, const int* tokens, int N, int C, int V, void* scratch, stream_t stream) {
    REQUIRE(C % 8 == 0, "embedding: C=%d is not a multiple of 8 (16-byte loads)", C);
    float* partial = (float*)scratch;
    int* counts = (int*)((char*)scratch + partial_bytes(N, C));
    int* buffer[2] = {counts + count_entries(N), counts + count_entries(N) + 2 * (size_t)N};      // each keys (N), then rows (N)
    int chunks = ceil_div(N, CHUNK), pieces = ceil_div(N, PIECE), pass = 0;
    const int *keys = tokens, *rows = NULL;
    for (int shift = 0; shift == 0 || (V - 1) >> shift; shift += 8, pass++) {
        int* to = buffer[pass % 2];
        sort_count_kernel<<<chunks, WARP, 0, stream>>>(counts, keys, N, shift);
        LAUNCH_CHECK();
        sort_scan_kernel<<<1, SCAN_THREADS, 0, stream>>>(counts, (int)count_entries(N));
        LAUNCH_CHECK();
        sort_scatter_kernel<<<chunks, WARP, 0, stream>>>(to, to + N, keys, rows, counts, N, shift);
        LAUNCH_CHECK();
        keys = to, rows = to + N;
    }
    embedding_pieces_kernel<<<dim3(pieces, ceil_div(C / 8, COLUMN_THREADS)), COLUMN_THREADS, 0, stream>>>(dwte, partial, dout, keys, rows, N, C);
    LAUNCH_CHECK();
    embedding_combine_kernel<<<dim3(pieces, ceil_div(C, COMBINE_THREADS)), COMBINE_THREADS, 0, stream>>>(dwte, partial, keys, N, C);
    LAUNCH_CHECK();
}

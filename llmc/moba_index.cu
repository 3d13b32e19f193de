// From "which blocks does a query read" to "which queries read a block": count, scan, stable scatter. Integers only.
//
// The queries of a head are cut into chunks, one thread block each. Pass one counts a chunk's picks per block; a scan over the chunks and over
// the blocks turns the counts (in scratch) into the place where the chunk's first entry of each block goes; pass two sorts the chunk by block
// in shared memory and copies the runs out, so that neighbours in a list are written together (single entries would each touch a sector
// of memory). Every step keeps the order of the queries: lists ascend.
#include "cuda_common.cuh"
#include "ops.h"

enum { INDEX_WARPS   = 8,
       INDEX_THREADS = INDEX_WARPS * WARP,
       INDEX_WINDOW  = 2048,    // blocks sorted at a time; with more blocks a chunk is read again for each window
       INDEX_ENTRIES = 28672,   // of a chunk at most: its places fit in 16 bits, its sorted entries in the 99 KB of an L40 or 4090
       INDEX_QUERIES = 512,     // of a chunk at least
       INDEX_RUN     = 16,      // entries of a chunk per block that are worth a longer chunk
       INDEX_AHEAD   = 8,       // picks a lane loads before it looks at the first
       COUNT_WINDOW  = 8192,    // blocks counted at a time
       SCAN_THREADS  = 1024,
       SCAN_AHEAD    = 16 };

// queries a chunk; a function of the shape alone
static int chunk_length(int T, int n, int slots) {
    int length = INDEX_QUERIES;
    while (length < T && (size_t)length * slots < (size_t)INDEX_RUN * n && 2 * length * slots <= INDEX_ENTRIES) { length *= 2; }
    return length;
}

// entries of a chunk: picks (query, slot) in order
__device__ inline int chunk_entries(int T, int chunk, int length, int slots) { return min(length, T - chunk * length) * slots; }

// one thread block per (head, chunk); counts: (heads, chunks, n)
__global__ void __launch_bounds__(INDEX_THREADS) count_kernel(int* counts, const uint16_t* sel, int T, int n, int slots, int length) {
    __shared__ int counter[COUNT_WINDOW];
    int chunk = blockIdx.x, chunks = gridDim.x, head = blockIdx.y, entries = chunk_entries(T, chunk, length, slots);
    sel += ((size_t)head * T + (size_t)chunk * length) * slots;
    counts += ((size_t)head * chunks + chunk) * n;
    for (int window = 0; window < n; window += COUNT_WINDOW) {
        int width = min((int)COUNT_WINDOW, n - window);
        for (int j = threadIdx.x; j < width; j += INDEX_THREADS) { counter[j] = 0; }
        __syncthreads();
        #pragma unroll 4
        for (int entry = threadIdx.x; entry < entries; entry += INDEX_THREADS) {
            unsigned at = sel[entry] - window;                           // MOBA_NONE lies behind every window
            if (at < (unsigned)width) { atomicAdd(&counter[at], 1); }
        }
        __syncthreads();
        for (int j = threadIdx.x; j < width; j += INDEX_THREADS) { counts[window + j] = counter[j]; }
        __syncthreads();
    }
}

// Exclusive sum of x over the thread block's WARPS warps, and the sum of all in *total. `sums` holds one number a warp.
template<int WARPS>
__device__ inline int block_exclusive(int x, int* sums, int* total) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, sum = x;
    for (int step = 1; step < WARP; step *= 2) {
        int left = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) { sum += left; }
    }
    if (lane == WARP - 1) { sums[warp] = sum; }
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < WARPS; w++) {
        if (w < warp) { before += sums[w]; }
        all += sums[w];
    }
    __syncthreads();                                         // sums is free again
    *total = all;
    return before + sum - x;
}

// one thread block per head, one thread per block: its counts become exclusive sums over the chunks, many loads in flight; the totals'
// exclusive sums are the list starts
__global__ void __launch_bounds__(SCAN_THREADS) scan_kernel(int* offset, int* counts, int n, int chunks) {
    __shared__ int sums[SCAN_THREADS / WARP];
    int before = 0;
    counts += (size_t)blockIdx.x * chunks * n;
    offset += (size_t)blockIdx.x * (n + 1);
    for (int first = 0; first < n; first += SCAN_THREADS) {
        int j = first + threadIdx.x, length = 0, total;
        for (int chunk = 0; j < n && chunk < chunks; chunk += SCAN_AHEAD) {
            int count[SCAN_AHEAD];
            #pragma unroll
            for (int i = 0; i < SCAN_AHEAD; i++) { count[i] = chunk + i < chunks ? counts[(size_t)(chunk + i) * n + j] : 0; }
            #pragma unroll
            for (int i = 0; i < SCAN_AHEAD; i++) {
                if (chunk + i < chunks) { counts[(size_t)(chunk + i) * n + j] = length; }
                length += count[i];
            }
        }
        int start = before + block_exclusive<SCAN_THREADS / WARP>(length, sums, &total);
        if (j < n) { offset[j] = start; }
        before += total;
    }
    if (threadIdx.x == 0) { offset[n] = before; }
}

// ---- sorting a chunk --------------------------------------------------------------------------------------------------------------
// Shared memory of place_kernel: per warp a 16-bit counter for each block of the window, shift[] (below), the sorted entries.
static size_t place_shared_bytes(int n, int length, int slots) {
    size_t stride = round_up(min_int(n, INDEX_WINDOW), 2);
    return stride * (INDEX_WARPS * sizeof(uint16_t) + sizeof(int)) + (size_t)length * slots * sizeof(uint16_t);
}

// The warp's share of the chunk, in order; the blocks of entries first + lane, + 32, ... as places in the window, -1 for those outside.
__device__ inline void load_picks(int (&at)[INDEX_AHEAD], const uint16_t* sel, int first, int end, int window, int width) {
    #pragma unroll
    for (int i = 0; i < INDEX_AHEAD; i++) {
        int entry = first + i * WARP + threadIdx.x % WARP;
        at[i] = entry < end ? sel[entry] - window : -1;
    }
    #pragma unroll
    for (int i = 0; i < INDEX_AHEAD; i++) { at[i] = (unsigned)at[i] < (unsigned)width ? at[i] : -1; }
}

__device__ inline void count_share(uint16_t* counter, const uint16_t* sel, int from, int end, int window, int width) {
    int* pair = reinterpret_cast<int*>(counter);                         // atomics have no 16 bits: two counters a word, which never carry
    for (int first = from; first < end; first += INDEX_AHEAD * WARP) {
        int at[INDEX_AHEAD];
        load_picks(at, sel, first, end, window, width);
        #pragma unroll
        for (int i = 0; i < INDEX_AHEAD; i++) {
            if (at[i] >= 0) { atomicAdd(&pair[at[i] / 2], at[i] % 2 ? 65536 : 1); }
        }
    }
}

// counter: where the warp's next entry of a block goes. Of lanes that name the same block, the lowest moves it on for all.
__device__ inline void sort_share(uint16_t* sorted, uint16_t* counter, const uint16_t* sel, int from, int end, int window, int width) {
    int lane = threadIdx.x % WARP;
    for (int first = from; first < end; first += INDEX_AHEAD * WARP) {
        int at[INDEX_AHEAD];
        load_picks(at, sel, first, end, window, width);
        #pragma unroll
        for (int i = 0; i < INDEX_AHEAD; i++) {
            unsigned same = __match_any_sync(0xffffffffu, at[i]), before = same & ((1u << lane) - 1);
            int place = at[i] >= 0 ? counter[at[i]] : 0;
            __syncwarp();
            if (at[i] >= 0) {
                if (before == 0) { counter[at[i]] = (uint16_t)(place + __popc(same)); }
                sorted[place + __popc(before)] = (uint16_t)(first + i * WARP + lane);
            }
            __syncwarp();
        }
    }
}

// Counts become places in the sorted chunk: blocks ascend, and within a block the warps. Sets shift[block] = place in the head's list minus
// place in the sorted chunk; returns the number of entries. One thread per run of blocks.
__device__ inline int scan_counters(int* shift, uint16_t* counter, int stride, const int* starts, const int* offset, int width) {
    __shared__ int sums[INDEX_WARPS];
    int run = (width + INDEX_THREADS - 1) / INDEX_THREADS, from = min(width, (int)threadIdx.x * run), to = min(width, from + run);
    int length = 0, total;
    for (int j = from; j < to; j++) {
        for (int w = 0; w < INDEX_WARPS; w++) { length += counter[w * stride + j]; }
    }
    int place = block_exclusive<INDEX_WARPS>(length, sums, &total);
    for (int j = from; j < to; j++) {
        shift[j] = offset[j] + starts[j] - place;
        for (int w = 0; w < INDEX_WARPS; w++) {
            int count = counter[w * stride + j];
            counter[w * stride + j] = (uint16_t)place;
            place += count;
        }
    }
    return total;
}

// one thread block per (head, chunk), a warp per eighth of its entries; starts: what scan_kernel made of the counts
__global__ void __launch_bounds__(INDEX_THREADS) place_kernel(int* list, const int* offset, const int* starts, const uint16_t* sel,
                                                              int T, int n, int slots, int length) {
    extern __shared__ __align__(16) unsigned char place_shared[];
    int warp = threadIdx.x / WARP, chunk = blockIdx.x, chunks = gridDim.x, head = blockIdx.y;
    int entries = chunk_entries(T, chunk, length, slots), share = (entries + INDEX_WARPS - 1) / INDEX_WARPS;
    int from = min(entries, warp * share), end = min(entries, from + share), stride = (min(n, (int)INDEX_WINDOW) + 1) / 2 * 2;
    int*      shift   = reinterpret_cast<int*>(place_shared);
    uint16_t* counter = reinterpret_cast<uint16_t*>(shift + stride);
    uint16_t* sorted  = counter + INDEX_WARPS * stride;
    sel    += ((size_t)head * T + (size_t)chunk * length) * slots;
    list   += (size_t)head * T * slots;
    starts += ((size_t)head * chunks + chunk) * n;
    offset += (size_t)head * (n + 1);
    for (int window = 0; window < n; window += INDEX_WINDOW) {
        int width = min((int)INDEX_WINDOW, n - window);
        for (int j = threadIdx.x; j < INDEX_WARPS * stride; j += INDEX_THREADS) { counter[j] = 0; }
        __syncthreads();
        count_share(counter + warp * stride, sel, from, end, window, width);
        __syncthreads();
        int sum = scan_counters(shift, counter, stride, starts + window, offset + window, width);
        __syncthreads();
        sort_share(sorted, counter + warp * stride, sel, from, end, window, width);
        __syncthreads();
        for (int i = threadIdx.x; i < sum; i += INDEX_THREADS) {
            int entry = sorted[i];
            list[i + shift[sel[entry] - window]] = (chunk * length + entry / slots) * MOBA_MAX_TOPK + entry % slots;
        }
        __syncthreads();                                                 // shared memory is free again
    }
}

extern "C" void moba_index(int* offset, int* list, const uint16_t* sel, int B, int H, int T, int block, int topk, void* scratch,
                           stream_t stream) {
    REQUIRE(topk >= 1 && topk <= MOBA_MAX_TOPK, "moba_index: topk=%d is outside [1, %d]", topk, MOBA_MAX_TOPK);
    REQUIRE(T > 0 && block > 0, "moba_index: T=%d and block=%d must be positive", T, block);
    int heads = B * H, n = ceil_div(T, block), slots = topk - 1;
    REQUIRE(n <= MOBA_NONE, "moba_index: %d blocks do not fit in 16 bits; use longer blocks", n);
    REQUIRE((size_t)T * MOBA_MAX_TOPK < ((size_t)1 << 31), "moba_index: T=%d overflows the lists' 32-bit entries", T);
    REQUIRE(heads <= 65535, "moba_index: %d heads in the batch exceed the grid's 65535", heads);
    if (slots == 0) {
        CUDA_CHECK(cudaMemsetAsync(offset, 0, (size_t)heads * (n + 1) * sizeof(int), stream));
        return;
    }
    int length = chunk_length(T, n, slots), *counts = (int*)scratch;
    size_t bytes = place_shared_bytes(n, length, slots);
    dim3 grid(ceil_div(T, length), heads);
    count_kernel<<<grid, INDEX_THREADS, 0, stream>>>(counts, sel, T, n, slots, length);
    LAUNCH_CHECK();
    scan_kernel<<<heads, SCAN_THREADS, 0, stream>>>(offset, counts, n, (int)grid.x);
    LAUNCH_CHECK();
    CUDA_CHECK(cudaFuncSetAttribute(place_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    place_kernel<<<grid, INDEX_THREADS, bytes, stream>>>(list, offset, counts, sel, T, n, slots, length);
    LAUNCH_CHECK();
}

extern "C" size_t moba_index_scratch(int B, int H, int T, int block, int topk) {
    int n = ceil_div(T, block), slots = topk - 1;
    if (slots == 0) { return 0; }
    return (size_t)B * H * ceil_div(T, chunk_length(T, n, slots)) * n * sizeof(int);
}

// From "which blocks does a query read" to "which queries read a block": count, scan, stable scatter. Integers only.
//
// The queries of a head are cut into chunks, one warp each, with a counter a block in shared memory. Pass one counts; a scan over the chunks
// and over the blocks turns the counts (in scratch) into the place where the chunk's first entry of each block goes; pass two places its
// entries in order. So lists ascend, whatever the order of the warps.
#include "cuda_common.cuh"
#include "ops.h"

enum { INDEX_WARPS  = 4,       // chunks a thread block
       INDEX_MIN    = 128,     // queries a chunk, at least
       INDEX_WINDOW = 4096,    // blocks that have counters at a time; with more blocks a chunk is read again for each window
       INDEX_AHEAD  = 8,       // picks a lane loads before it looks at the first
       SCAN_THREADS = 1024,
       SCAN_AHEAD   = 16 };

// What a chunk is: queries from .. end-1 of one head, as entries (query, slot) in order, and its row of counters.
typedef struct {
    const uint16_t* sel;       // of the head
    int from, end, slots;      // entries
} Chunk;

// Long enough that the counters take at most half the room of the lists; a function of the shape alone.
static int chunk_length(int T, int n, int slots) {
    int length = INDEX_MIN;
    while ((size_t)length * slots < 2 * (size_t)n && length < T) { length *= 2; }
    return length;
}

// The blocks of entries first + lane, + 32, ... as places in the window; -1 where the entry is another window's, or none.
__device__ inline void load_picks(int (&at)[INDEX_AHEAD], const Chunk& chunk, int first, int window, int width) {
    #pragma unroll
    for (int i = 0; i < INDEX_AHEAD; i++) {
        int entry = first + i * WARP + threadIdx.x % WARP;
        at[i] = entry < chunk.end ? chunk.sel[entry] - window : -1;      // MOBA_NONE lies behind every window
    }
    #pragma unroll
    for (int i = 0; i < INDEX_AHEAD; i++) { at[i] = at[i] < width ? max(at[i], -1) : -1; }
}

__device__ inline void count_chunk(int* counter, const Chunk& chunk, int window, int width) {
    for (int first = chunk.from; first < chunk.end; first += INDEX_AHEAD * WARP) {
        int at[INDEX_AHEAD];
        load_picks(at, chunk, first, window, width);
        #pragma unroll
        for (int i = 0; i < INDEX_AHEAD; i++) {
            if (at[i] >= 0) { atomicAdd(&counter[at[i]], 1); }
        }
    }
}

// counter: where the chunk's next entry of a block goes. Of lanes that name the same block, the lowest moves it on for all.
__device__ inline void place_chunk(int* list, int* counter, const Chunk& chunk, int window, int width) {
    int lane = threadIdx.x % WARP, slots = chunk.slots;
    int t = (chunk.from + lane) / slots, slot = (chunk.from + lane) % slots, step = WARP / slots, rest = WARP % slots;
    for (int first = chunk.from; first < chunk.end; first += INDEX_AHEAD * WARP) {
        int at[INDEX_AHEAD];
        load_picks(at, chunk, first, window, width);
        #pragma unroll
        for (int i = 0; i < INDEX_AHEAD; i++) {
            unsigned same = __match_any_sync(0xffffffffu, at[i]), before = same & ((1u << lane) - 1);
            int place = at[i] >= 0 ? counter[at[i]] : 0;
            __syncwarp();
            if (at[i] >= 0) {
                if (before == 0) { counter[at[i]] = place + __popc(same); }
                list[place + __popc(before)] = t * MOBA_MAX_TOPK + slot;
            }
            __syncwarp();
            t += step;
            slot += rest;
            if (slot >= slots) { slot -= slots; t++; }
        }
    }
}

// one warp per (head, chunk of queries); counts: (heads, chunks, n). Counts them, or places what the scan has prepared.
template<bool PLACE>
__global__ void __launch_bounds__(INDEX_WARPS * WARP) index_kernel(int* list, const int* offset, int* counts, const uint16_t* sel,
                                                                   int T, int n, int slots, int length, int chunks) {
    extern __shared__ __align__(16) unsigned char index_shared[];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = blockIdx.y, index = blockIdx.x * INDEX_WARPS + warp;
    if (index >= chunks) { return; }
    size_t base = (size_t)head * T * slots;
    Chunk chunk = {sel + base, index * length * slots, min(T, (index + 1) * length) * slots, slots};
    int* counter = reinterpret_cast<int*>(index_shared) + warp * min(n, INDEX_WINDOW);
    counts += ((size_t)head * chunks + index) * n;
    offset += (size_t)head * (n + 1);
    for (int window = 0; window < n; window += INDEX_WINDOW) {
        int width = min(INDEX_WINDOW, n - window);
        for (int j = lane; j < width; j += WARP) { counter[j] = PLACE ? offset[window + j] + counts[window + j] : 0; }
        __syncwarp();
        if (PLACE) {
            place_chunk(list + base, counter, chunk, window, width);
        } else {
            count_chunk(counter, chunk, window, width);
            __syncwarp();
            for (int j = lane; j < width; j += WARP) { counts[window + j] = counter[j]; }
        }
        __syncwarp();
    }
}

// Exclusive sum of x over the thread block, and the sum of all in *total. `sums` holds one number a warp.
__device__ inline int block_exclusive(int x, int* sums, int* total) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, sum = x;
    for (int step = 1; step < WARP; step *= 2) {
        int left = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) { sum += left; }
    }
    if (lane == WARP - 1) { sums[warp] = sum; }
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < SCAN_THREADS / WARP; w++) {
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
        int start = before + block_exclusive(length, sums, &total);
        if (j < n) { offset[j] = start; }
        before += total;
    }
    if (threadIdx.x == 0) { offset[n] = before; }
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
    int length = chunk_length(T, n, slots), chunks = ceil_div(T, length), *counts = (int*)scratch;
    int bytes = INDEX_WARPS * min_int(n, INDEX_WINDOW) * (int)sizeof(int);
    dim3 grid(ceil_div(chunks, INDEX_WARPS), heads);
    CUDA_CHECK(cudaFuncSetAttribute(index_kernel<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    CUDA_CHECK(cudaFuncSetAttribute(index_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    index_kernel<false><<<grid, INDEX_WARPS * WARP, bytes, stream>>>(NULL, offset, counts, sel, T, n, slots, length, chunks);
    LAUNCH_CHECK();
    scan_kernel<<<heads, SCAN_THREADS, 0, stream>>>(offset, counts, n, chunks);
    LAUNCH_CHECK();
    index_kernel<true><<<grid, INDEX_WARPS * WARP, bytes, stream>>>(list, offset, counts, sel, T, n, slots, length, chunks);
    LAUNCH_CHECK();
}

extern "C" size_t moba_index_scratch(int B, int H, int T, int block, int topk) {
    int n = ceil_div(T, block), slots = topk - 1;
    if (slots == 0) { return 0; }
    return (size_t)B * H * ceil_div(T, chunk_length(T, n, slots)) * n * sizeof(int);
}

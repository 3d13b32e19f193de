// From "which blocks does a query read" to "which queries read a block": count, scan, stable scatter. Integers only, no atomics.
//
// The queries of a head are cut into chunks, one warp each. Every chunk has a counter per block in scratch, which first counts,
// then (scanned over the chunks) says where in the block's list the chunk writes next: lists ascend, whatever the order of the warps.
#include "cuda_common.cuh"
#include "ops.h"

enum { INDEX_BLOCK = 256,      // threads
       INDEX_MIN   = 128 };    // queries a chunk, at least

// Long enough that the counters take at most half the room of the lists; a function of the shape alone.
static int chunk_length(int T, int n, int slots) {
    int length = INDEX_MIN;
    while ((size_t)length * slots < 2 * (size_t)n && length < T) { length *= 2; }
    return length;
}

// Walks the chunk's entries in order of (query, slot), 32 at a time. Lanes that name the same block are served by the lowest of
// them, which moves the block's counter on by their number. With PLACE each then writes its entry, in lane order.
template<bool PLACE>
__device__ inline void walk_chunk(int* list, const int* offset, int* counter, const uint16_t* sel, int from, int end, int slots) {
    int lane = threadIdx.x % WARP;
    for (int first = from; first < end; first += WARP) {
        int entry = first + lane;
        int block = entry < end ? sel[entry] : MOBA_NONE;
        unsigned same = __match_any_sync(0xffffffffu, block);
        int leader = __ffs(same) - 1, at = 0;
        if (lane == leader && block != MOBA_NONE) {
            at = counter[block];
            counter[block] = at + __popc(same);
            if (PLACE) { at += offset[block]; }
        }
        if (PLACE) {
            at = __shfl_sync(0xffffffffu, at, leader) + __popc(same & ((1u << lane) - 1));
            if (block != MOBA_NONE) { list[at] = entry / slots * MOBA_MAX_TOPK + entry % slots; }
        }
        __syncwarp();                                        // another lane may lead this block next time: it sees the counter
    }
}

// one warp per (head, chunk of queries)
template<bool PLACE>
__global__ void index_kernel(int* list, const int* offset, int* counters, const uint16_t* sel, int T, int n, int slots, int length, int chunks,
                             int heads) {
    int lane = threadIdx.x % WARP, warp = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (warp >= heads * chunks) { return; }
    int head = warp / chunks, chunk = warp % chunks;
    int* counter = counters + (size_t)warp * n;
    if (!PLACE) {
        for (int j = lane; j < n; j += WARP) { counter[j] = 0; }
        __syncwarp();
    }
    size_t base = (size_t)head * T * slots;
    int from = chunk * length * slots, end = min(T, (chunk + 1) * length) * slots;
    walk_chunk<PLACE>(list + base, offset + (size_t)head * (n + 1), counter, sel + base, from, end, slots);
}

// one thread per (head, block): its counts become exclusive sums over the chunks, eight loads in flight; the total goes to offset[block]
__global__ void chunk_scan_kernel(int* offset, int* counters, int n, int chunks, int heads) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= heads * n) { return; }
    int head = index / n, j = index % n, total = 0;
    int* counter = counters + (size_t)head * chunks * n + j;
    for (int chunk = 0; chunk < chunks; chunk += 8) {
        int count[8];
        for (int i = 0; i < 8; i++) { count[i] = chunk + i < chunks ? counter[(size_t)(chunk + i) * n] : 0; }
        for (int i = 0; i < 8; i++) {
            if (chunk + i < chunks) { counter[(size_t)(chunk + i) * n] = total; }
            total += count[i];
        }
    }
    offset[(size_t)head * (n + 1) + j] = total;
}

// one thread block per head: offset[0..n-1] hold list lengths and become list starts, offset[n] the end of the last
__global__ void __launch_bounds__(INDEX_BLOCK) offset_scan_kernel(int* offset, int n) {
    __shared__ int sums[INDEX_BLOCK / WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, before = 0;
    offset += (size_t)blockIdx.x * (n + 1);
    for (int first = 0; first < n; first += INDEX_BLOCK) {
        int j = first + threadIdx.x, count = j < n ? offset[j] : 0, sum = count;
        for (int step = 1; step < WARP; step *= 2) {
            int left = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) { sum += left; }
        }
        if (lane == WARP - 1) { sums[warp] = sum; }
        __syncthreads();
        int start = before + sum - count;
        for (int w = 0; w < INDEX_BLOCK / WARP; w++) {
            if (w < warp) { start += sums[w]; }
            before += sums[w];
        }
        if (j < n) { offset[j] = start; }
        __syncthreads();                                     // sums is free again
    }
    if (threadIdx.x == 0) { offset[n] = before; }
}

extern "C" void moba_index(int* offset, int* list, const uint16_t* sel, int B, int H, int T, int block, int topk, void* scratch, stream_t stream) {
    REQUIRE(topk >= 1 && topk <= MOBA_MAX_TOPK, "moba_index: topk=%d is outside [1, %d]", topk, MOBA_MAX_TOPK);
    REQUIRE(T > 0 && block > 0, "moba_index: T=%d and block=%d must be positive", T, block);
    int heads = B * H, n = ceil_div(T, block), slots = topk - 1;
    REQUIRE(n <= MOBA_NONE, "moba_index: %d blocks do not fit in 16 bits; use longer blocks", n);
    REQUIRE((size_t)T * MOBA_MAX_TOPK < ((size_t)1 << 31), "moba_index: T=%d overflows the lists' 32-bit entries", T);
    if (slots == 0) {
        CUDA_CHECK(cudaMemsetAsync(offset, 0, (size_t)heads * (n + 1) * sizeof(int), stream));
        return;
    }
    int length = chunk_length(T, n, slots), chunks = ceil_div(T, length), *counters = (int*)scratch;
    REQUIRE((size_t)heads * max_int(chunks, n) < ((size_t)1 << 26), "moba_index: %d heads of %d tokens are too many for one launch", heads, T);
    int walkers = ceil_div(heads * chunks, INDEX_BLOCK / WARP);
    index_kernel<false><<<walkers, INDEX_BLOCK, 0, stream>>>(NULL, offset, counters, sel, T, n, slots, length, chunks, heads);
    LAUNCH_CHECK();
    chunk_scan_kernel<<<ceil_div(heads * n, INDEX_BLOCK), INDEX_BLOCK, 0, stream>>>(offset, counters, n, chunks, heads);
    LAUNCH_CHECK();
    offset_scan_kernel<<<heads, INDEX_BLOCK, 0, stream>>>(offset, n);
    LAUNCH_CHECK();
    index_kernel<true><<<walkers, INDEX_BLOCK, 0, stream>>>(list, offset, counters, sel, T, n, slots, length, chunks, heads);
    LAUNCH_CHECK();
}

extern "C" size_t moba_index_scratch(int B, int H, int T, int block, int topk) {
    int n = ceil_div(T, block), slots = topk - 1;
    if (slots == 0) { return 0; }
    return (size_t)B * H * ceil_div(T, chunk_length(T, n, slots)) * n * sizeof(int);
}

// From "which blocks does a query read" to "which queries read a block": count, scan, stable scatter. Integers only.
//
// The queries of a head are cut into chunks, one thread block each. Pass one counts a chunk's picks per block; the sums over the chunks before
// and the blocks before are the place where the chunk's first entry of each block goes; pass two sorts the chunk by block in shared memory and
// copies the runs out, so that neighbours in a list are written together (single entries would each touch a sector of memory).
// Every step keeps the order of the queries: lists ascend.
#include "cuda_common.cuh"
#include "ops.h"

enum { INDEX_WARPS   = 8,
       INDEX_THREADS = INDEX_WARPS * WARP,
       INDEX_WINDOW  = 1024,    // blocks sorted at a time; with more blocks a chunk is read again for each window,
       MANY_WARPS    = 16,      // and where shared memory allows it, twice the warps sort twice the blocks at a time
       INDEX_ENTRIES = 28672,   // of a chunk at most: its places fit in 16 bits, its sorted entries in the 99 KB of an L40 or 4090
       INDEX_QUERIES = 512,     // of a chunk at least
       INDEX_RUN     = 16,      // entries of a chunk per block that are worth a longer chunk
       INDEX_BATCH   = 16,      // queries whose picks a warp sorts at a time: half a word of bits
       COUNT_WINDOW  = 8192,    // blocks counted at a time
       SCAN_THREADS  = 1024,
       SCAN_AHEAD    = 16,
       SUM_CHUNKS    = 64 };    // up to so many chunks of up to INDEX_THREADS blocks, every thread block of pass two sums the counts itself

// queries a chunk; a function of the shape alone
static int chunk_length(int T, int n, int slots) {
    int length = INDEX_QUERIES;
    while (length < T && (size_t)length * slots < (size_t)INDEX_RUN * n && 2 * length * slots <= INDEX_ENTRIES) { length *= 2; }
    return length;
}

// ---- counting -----------------------------------------------------------------------------------------------------------------------
// Adds `one` to counter[block - window] for the picks sel[from .. to-1] of blocks in the window, eight picks a load. `threads` threads share the
// work, this one is number `thread`.
__device__ inline void count_picks(unsigned* counter, unsigned one, const uint16_t* sel, int from, int to, int window, int width,
                                   int thread, int threads) {
    int skip = (int)((uintptr_t)sel / sizeof(uint16_t) % 8);             // sel - skip begins a 16-byte word
    #pragma unroll 2
    for (int at = (from + skip) / 8 * 8 - skip + 8 * thread; at < to; at += 8 * threads) {
        uint32_t pair[4];
        if (at >= from && at + 8 <= to) {
            uint4 eight = *reinterpret_cast<const uint4*>(sel + at);
            pair[0] = eight.x; pair[1] = eight.y; pair[2] = eight.z; pair[3] = eight.w;
        } else {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t low  = at + 2 * i >= from && at + 2 * i < to ? sel[at + 2 * i] : MOBA_NONE;
                uint32_t high = at + 2 * i + 1 >= from && at + 2 * i + 1 < to ? sel[at + 2 * i + 1] : MOBA_NONE;
                pair[i] = low | high << 16;
            }
        }
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            unsigned place = (pair[i / 2] >> (i % 2 * 16) & 0xffff) - window;     // MOBA_NONE lies behind every window
            if (place < (unsigned)width) { atomicAdd(&counter[place], one); }
        }
    }
}

// entries of a chunk: picks (query, slot) in order
__device__ inline int chunk_entries(int T, int chunk, int length, int slots) { return min(length, T - chunk * length) * slots; }

// one thread block per (head, chunk); counts: (heads, chunks, n)
__global__ void __launch_bounds__(INDEX_THREADS) count_kernel(int* counts, const uint16_t* sel, int T, int n, int slots, int length) {
    __shared__ unsigned counter[COUNT_WINDOW];
    int chunk = blockIdx.x, chunks = gridDim.x, head = blockIdx.y, entries = chunk_entries(T, chunk, length, slots);
    sel += ((size_t)head * T + (size_t)chunk * length) * slots;
    counts += ((size_t)head * chunks + chunk) * n;
    for (int window = 0; window < n; window += COUNT_WINDOW) {
        int width = min((int)COUNT_WINDOW, n - window);
        for (int j = threadIdx.x; j < width; j += INDEX_THREADS) { counter[j] = 0; }
        __syncthreads();
        count_picks(counter, 1, sel, 0, entries, window, width, threadIdx.x, INDEX_THREADS);
        __syncthreads();
        for (int j = threadIdx.x; j < width; j += INDEX_THREADS) { counts[window + j] = (int)counter[j]; }
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

// The same of few chunks and blocks, by each thread block for itself; shift[j] = where its chunk's first entry of block j goes.
__device__ inline void sum_counts(int* shift, int* offset, const int* counts, int n, int chunk, int chunks) {
    __shared__ int sums[INDEX_WARPS];
    int j = threadIdx.x, before = 0, length = 0, total;
    if (j < n) {
        #pragma unroll 16
        for (int i = 0; i < chunks; i++) {
            int count = counts[(size_t)i * n + j];
            before += i < chunk ? count : 0;
            length += count;
        }
    }
    int start = block_exclusive<INDEX_WARPS>(length, sums, &total);
    if (j < n) {
        shift[j] = start + before;
        if (chunk == 0) { offset[j] = start; }
    }
    if (chunk == 0 && j == 0) { offset[n] = total; }
}

// ---- sorting a chunk --------------------------------------------------------------------------------------------------------------
// Shared memory of place_kernel: per warp a word for each block of the window, shift[] (below), the sorted entries. The high half of a word is
// the place of the warp's next entry of the block, in its low half the queries of a batch that pick the block leave their bits.
static size_t place_shared_bytes(int window, int warps, int length, int slots) {
    return (size_t)window * (warps + 1) * sizeof(int) + (size_t)length * slots * sizeof(uint16_t);
}

// The picks of queries from .. to-1 to their places in the sorted chunk. A query picks a block once, so an entry's place in its batch is the
// number of lower bits. Lane = query of the batch and parity of the slots.
__device__ inline void sort_share(uint16_t* sorted, unsigned* word, const uint16_t* sel, int from, int to, int slots, int window, int width) {
    const int PICKS = MOBA_MAX_TOPK / 2;
    int lane = threadIdx.x % WARP, bit = lane % INDEX_BATCH, odd = lane / INDEX_BATCH;
    unsigned lower = (1u << bit) - 1;
    for (int query = from + bit; query - bit < to; query += INDEX_BATCH) {
        unsigned at[PICKS], seen[PICKS];
        #pragma unroll
        for (int i = 0; i < PICKS; i++) {
            if (2 * i >= slots) { break; }
            int slot = 2 * i + odd;
            at[i] = query < to && slot < slots ? sel[query * slots + slot] - window : 0xffffffffu;
        }
        #pragma unroll
        for (int i = 0; i < PICKS; i++) {
            if (2 * i >= slots) { break; }
            if (at[i] < (unsigned)width) { atomicOr(&word[at[i]], 1u << bit); }
        }
        __syncwarp();
        #pragma unroll
        for (int i = 0; i < PICKS; i++) {
            if (2 * i >= slots) { break; }
            if (at[i] < (unsigned)width) {
                seen[i] = word[at[i]];
                sorted[(seen[i] >> 16) + __popc(seen[i] & lower)] = (uint16_t)(query * slots + 2 * i + odd);
            }
        }
        __syncwarp();
        #pragma unroll
        for (int i = 0; i < PICKS; i++) {                                // the lowest query moves the place on for all
            if (2 * i >= slots) { break; }
            if (at[i] < (unsigned)width && (seen[i] & lower) == 0) { word[at[i]] = (seen[i] >> 16) + __popc(seen[i] & 0xffff) << 16; }
        }
        __syncwarp();
    }
}

// Counts become places in the sorted chunk: blocks ascend, and within a block the warps. shift[block] becomes place in the head's list minus
// place in the sorted chunk. One thread per run of blocks.
template<int WARPS>
__device__ inline void scan_words(int* shift, unsigned* word, int stride, int width) {
    __shared__ int sums[WARPS];
    int run = (width + WARPS * WARP - 1) / (WARPS * WARP), from = min(width, (int)threadIdx.x * run), to = min(width, from + run);
    int length = 0, total;
    for (int j = from; j < to; j++) {
        for (int w = 0; w < WARPS; w++) { length += (int)(word[w * stride + j] >> 16); }
    }
    int place = block_exclusive<WARPS>(length, sums, &total);
    for (int j = from; j < to; j++) {
        shift[j] -= place;
        for (int w = 0; w < WARPS; w++) {
            int count = (int)(word[w * stride + j] >> 16);
            word[w * stride + j] = (unsigned)place << 16;
            place += count;
        }
    }
}

// The runs of the sorted chunk to the lists, LANES lanes a block. end: the last warp's words, which have moved on to the blocks' ends.
template<int WARPS, int LANES>
__device__ inline void copy_runs(int* list, const uint16_t* sorted, const int* shift, const unsigned* end, int width, int first_query, int slots) {
    unsigned reciprocal = (1u << 31) / (unsigned)slots + 1;              // of entries below 2^16: entry / slots is the product's high word
    for (int j = threadIdx.x / LANES; j < width; j += WARPS * WARP / LANES) {
        int to = (int)(end[j] >> 16), move = shift[j];
        for (int i = (j > 0 ? (int)(end[j - 1] >> 16) : 0) + threadIdx.x % LANES; i < to; i += LANES) {
            int entry = sorted[i], query = (int)__umulhi(2u * (unsigned)entry, reciprocal);
            list[i + move] = (first_query + query) * MOBA_MAX_TOPK + entry - query * slots;
        }
    }
}

// one thread block per (head, chunk), its queries shared out among the warps; counts: what scan_kernel made of them, or, if `sums`, as they were
template<int WARPS, int LANES>
__global__ void __launch_bounds__(WARPS * WARP, WARPS == INDEX_WARPS ? 4 : 1) place_kernel(int* list, int* offset, const int* counts, const uint16_t* sel,
                                                                        int T, int n, int slots, int length, int stride, bool sums) {
    extern __shared__ __align__(16) unsigned char place_shared[];
    int warp = threadIdx.x / WARP, chunk = blockIdx.x, chunks = gridDim.x, head = blockIdx.y;
    int queries = min(length, T - chunk * length), share = length / WARPS;
    int from = min(queries, warp * share), to = min(queries, from + share);
    int*      shift  = reinterpret_cast<int*>(place_shared);
    unsigned* words  = reinterpret_cast<unsigned*>(shift + stride);
    unsigned* word   = words + warp * stride;
    uint16_t* sorted = reinterpret_cast<uint16_t*>(words + WARPS * stride);
    sel    += ((size_t)head * T + (size_t)chunk * length) * slots;
    list   += (size_t)head * T * slots;
    counts += (size_t)head * chunks * n;
    offset += (size_t)head * (n + 1);
    if (sums) { sum_counts(shift, offset, counts, n, chunk, chunks); }
    for (int window = 0; window < n; window += stride) {
        int width = min(stride, n - window);
        for (int j = threadIdx.x; j < WARPS * stride; j += WARPS * WARP) { words[j] = 0; }
        for (int j = threadIdx.x; j < width && !sums; j += WARPS * WARP) { shift[j] = offset[window + j] + counts[(size_t)chunk * n + window + j]; }
        __syncthreads();
        count_picks(word, 1u << 16, sel, from * slots, to * slots, window, width, threadIdx.x % WARP, WARP);
        __syncthreads();
        scan_words<WARPS>(shift, words, stride, width);
        __syncthreads();
        sort_share(sorted, word, sel, from, to, slots, window, width);
        __syncthreads();
        copy_runs<WARPS, LANES>(list, sorted, shift, words + (WARPS - 1) * stride, width, chunk * length, slots);
        __syncthreads();                                                 // shared memory is free again
    }
}

// bytes of shared memory that a thread block may have
static size_t shared_at_most(void) {
    int device, bytes;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return (size_t)bytes;
}

template<int WARPS, int LANES>
static void place(int* list, int* offset, const int* counts, const uint16_t* sel, int T, int n, int slots, int length, bool sums, dim3 grid,
                  stream_t stream) {
    int window = min_int(n, INDEX_WINDOW * WARPS / INDEX_WARPS);
    size_t bytes = place_shared_bytes(window, WARPS, length, slots);
    CUDA_CHECK(cudaFuncSetAttribute(place_kernel<WARPS, LANES>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    place_kernel<WARPS, LANES><<<grid, WARPS * WARP, bytes, stream>>>(list, offset, counts, sel, T, n, slots, length, window, sums);
    LAUNCH_CHECK();
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
    dim3 grid(ceil_div(T, length), heads);
    bool sums = (int)grid.x <= SUM_CHUNKS && n <= INDEX_THREADS;
    count_kernel<<<grid, INDEX_THREADS, 0, stream>>>(counts, sel, T, n, slots, length);
    LAUNCH_CHECK();
    if (!sums) {
        scan_kernel<<<heads, SCAN_THREADS, 0, stream>>>(offset, counts, n, (int)grid.x);
        LAUNCH_CHECK();
    }
    bool long_runs = (size_t)length * slots >= (size_t)INDEX_RUN * n;
    bool many = n > INDEX_WINDOW && place_shared_bytes(2 * INDEX_WINDOW, MANY_WARPS, length, slots) <= shared_at_most();
    (many ? place<MANY_WARPS, 8> : long_runs ? place<INDEX_WARPS, WARP> : place<INDEX_WARPS, 8>)
        (list, offset, counts, sel, T, n, slots, length, sums, grid, stream);
}

extern "C" size_t moba_index_scratch(int B, int H, int T, int block, int topk) {
    int n = ceil_div(T, block), slots = topk - 1;
    if (slots == 0) { return 0; }
    return (size_t)B * H * ceil_div(T, chunk_length(T, n, slots)) * n * sizeof(int);
}

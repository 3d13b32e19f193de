// Routing: which past blocks a query reads. Scores on tensor cores, a sorted list a query in registers, never T x n scores in memory.
//
// Precision: q is bf16 already; a centroid c is split in-kernel into bf16 high = c rounded and low = (c - high) rounded, which leaves
// at most 2^-18 |c| out. Both products accumulate in fp32. An infinite q may score NaN (inf * high + inf * low) where fp32 gives inf.
#include "cuda_common.cuh"
#include "mma_sync.cuh"
#include "ops.h"

enum { TOPK_WARPS   = 8,
       TOPK_QUERIES = TOPK_WARPS * WARP,   // of one thread block, 32 consecutive ones a warp
       TOPK_TILE    = 64,                  // centroids in shared memory at a time
       TOPK_PANEL   = 32,                  // columns of scores a warp computes before it looks at them
       PANEL_STRIDE = WARP + 4 };          // panel[column][query]: with 4 more, neither the tensor cores' layout nor ours has bank conflicts

// The K best blocks of one query so far, best first; -inf and MOBA_NONE where there are fewer.
// Every index is a compile-time constant after unrolling, which keeps the lists in registers.
template<int K>
struct Best {
    float score[K];
    int   block[K];
};

template<int K>
__device__ inline void best_clear(Best<K>& best) {
    for (int i = 0; i < K; i++) {
        best.score[i] = -INFINITY;
        best.block[i] = MOBA_NONE;
    }
}

// Insert behind all that are at least as good: blocks come in ascending order, so the lower index wins a tie.
template<int K>
__device__ inline void best_insert(Best<K>& best, float score, int block) {
    #pragma unroll
    for (int i = K - 1; i >= 0; i--) {
        bool above = i > 0 && score > best.score[i > 0 ? i - 1 : 0], here = score > best.score[i];
        if (above) {
            best.score[i] = best.score[i - 1];
            best.block[i] = best.block[i - 1];
        } else if (here) {
            best.score[i] = score;
            best.block[i] = block;
        }
    }
}

// Keep `want` blocks. Only scores above -inf entered the list; what is missing are the lowest blocks not in it (-inf and NaN tie).
template<int K>
__device__ inline void best_complete(Best<K>& best, int slots, int want) {
    int found = 0;
    #pragma unroll
    for (int i = 0; i < K; i++) {
        if (i >= slots) { best.block[i] = MOBA_NONE; }
        found += best.block[i] != MOBA_NONE;
    }
    for (int j = 0; found < want; j++) {
        bool taken = false;
        #pragma unroll
        for (int i = 0; i < K; i++) { taken = taken || best.block[i] == j; }
        if (taken) { continue; }
        #pragma unroll
        for (int i = 0; i < K; i++) {
            if (i == found) { best.block[i] = j; }
        }
        found++;
    }
}

// Odd-even transposition: K rounds sort K blocks, MOBA_NONE ends last.
template<int K>
__device__ inline void best_sort_by_block(Best<K>& best) {
    #pragma unroll
    for (int round = 0; round < K; round++) {
        #pragma unroll
        for (int i = round % 2; i + 1 < K; i += 2) {
            int low = min(best.block[i], best.block[i + 1]), high = max(best.block[i], best.block[i + 1]);
            best.block[i]     = low;
            best.block[i + 1] = high;
        }
    }
}

// Where 16-byte chunk `chunk` of a tile's row lies. Odd rows swap their 64-byte halves: two rows read at the same chunks then
// come from different banks.
template<int D>
__device__ inline int chunk_at(int row, int chunk) { return row * D + (chunk ^ (row % 2 * 4)) * 8; }

// centroids first .. first+63 (clamped to n-1) as high and low halves
template<int D>
__device__ inline void load_tile(floatX* high, floatX* low, const float* centroid, int first, int n) {
    for (int i = threadIdx.x; i < TOPK_TILE * (D / 8); i += TOPK_QUERIES) {
        int row = i / (D / 8), chunk = i % (D / 8);
        const float4* from = reinterpret_cast<const float4*>(centroid + (size_t)min(first + row, n - 1) * D + chunk * 8);
        float4 a = from[0], b = from[1];
        float value[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        Pack8 h, l;
        for (int e = 0; e < 8; e++) {
            h.x[e] = __float2bfloat16(value[e]);
            float rounded = __bfloat162float(h.x[e]);
            l.x[e] = __float2bfloat16(fabsf(rounded) < INFINITY ? value[e] - rounded : 0.0f);     // inf - inf would make the score NaN
        }
        store8(high + chunk_at<D>(row, chunk), h);
        store8(low + chunk_at<D>(row, chunk), l);
    }
}

// Scores of the warp's 32 queries against 32 centroids from row `first` of the tile -> panel[column][query].
// A dot product does not mind the order of its terms: lane 4g + i reads eight consecutive elements of q and c in one 16-byte load
// and calls them k = 2i, 2i+1, 2i+8, 2i+9 of two successive instructions.
template<int D>
__device__ inline void score_panel(float* panel, const uint4 query[4][D / 32], const floatX* high, const floatX* low, int first) {
    int lane = threadIdx.x % WARP, g = lane / 4, i = lane % 4;
    #pragma unroll 2
    for (int column = 0; column < TOPK_PANEL; column += 8) {
        float d[2][4] = {};
        #pragma unroll
        for (int p = 0; p < D / 32; p++) {
            int at = chunk_at<D>(first + column + g, 4 * p + i);
            uint4 h = *reinterpret_cast<const uint4*>(high + at), l = *reinterpret_cast<const uint4*>(low + at);
            #pragma unroll
            for (int m = 0; m < 2; m++) {
                uint4 a = query[2 * m][p], b = query[2 * m + 1][p];
                mma_16x8x16(d[m], a.x, b.x, a.y, b.y, h.x, h.y);
                mma_16x8x16(d[m], a.z, b.z, a.w, b.w, h.z, h.w);
                mma_16x8x16(d[m], a.x, b.x, a.y, b.y, l.x, l.y);
                mma_16x8x16(d[m], a.z, b.z, a.w, b.w, l.z, l.w);
            }
        }
        float* to = panel + (column + 2 * i) * PANEL_STRIDE + g;
        #pragma unroll
        for (int m = 0; m < 2; m++) {
            to[16 * m]                    = d[m][0];
            to[16 * m + PANEL_STRIDE]     = d[m][1];
            to[16 * m + 8]                = d[m][2];
            to[16 * m + 8 + PANEL_STRIDE] = d[m][3];
        }
    }
}

// One lane a query. First mark the columns above the list's threshold, then insert the marked ones: a warp takes as many
// rounds as its busiest lane has marks, and once lists are full marks are rare.
template<int K>
__device__ inline void scan_panel(Best<K>& best, const float* panel, int first_block, int columns) {
    const float* score = panel + threadIdx.x % WARP;
    float worst = best.score[K - 1];
    unsigned marks = 0;
    #pragma unroll
    for (int c = 0; c < TOPK_PANEL; c++) { marks |= (unsigned)(score[c * PANEL_STRIDE] > worst) << c; }
    if (columns < TOPK_PANEL) { marks &= (1u << columns) - 1; }
    while (marks != 0) {
        int c = __ffs(marks) - 1;
        marks &= marks - 1;
        float s = score[c * PANEL_STRIDE];
        if (s > best.score[K - 1]) { best_insert(best, s, first_block + c); }
    }
}

template<int D>
__host__ __device__ constexpr size_t topk_shared_bytes() {
    return 2 * TOPK_TILE * D * sizeof(floatX) + TOPK_WARPS * TOPK_PANEL * PANEL_STRIDE * sizeof(float);
}

// one thread block per (b, h, 256 queries), 32 of them a warp, one a lane; K >= slots is the capacity of a query's list
template<int D, int K>
__global__ void __launch_bounds__(TOPK_QUERIES) topk_kernel(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape,
                                                            int block, int n, int slots) {
    extern __shared__ __align__(16) unsigned char topk_shared[];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, bh = blockIdx.y, T = shape.T;
    floatX* high  = reinterpret_cast<floatX*>(topk_shared);
    floatX* low   = high + TOPK_TILE * D;
    float*  panel = reinterpret_cast<float*>(low + TOPK_TILE * D) + warp * TOPK_PANEL * PANEL_STRIDE;

    int first = (gridDim.x - 1 - blockIdx.x) * TOPK_QUERIES;             // late queries have the most past: start them first
    int last = min(first + TOPK_QUERIES, T) - 1, row = first + warp * WARP;
    int past = row < T ? row / block : 0;                                // block % 32 == 0: the same for the warp's 32 queries
    int scored = past > slots ? past : 0, scored_by_all = last / block > slots ? last / block : 0;   // few enough: all are taken unseen

    uint4 query[4][D / 32];                                              // rows g, g+8, g+16, g+24 of the warp's 32
    for (int r = 0; r < 4; r++) {
        size_t t = (size_t)(bh / shape.H) * T + min(row + lane / 4 + 8 * r, T - 1);
        const uint4* from = reinterpret_cast<const uint4*>(q + t * shape.ldq + (size_t)(bh % shape.H) * D);
        for (int p = 0; p < D / 32; p++) { query[r][p] = from[4 * p + lane % 4]; }
    }
    Best<K> best;
    best_clear(best);
    for (int j = 0; j < scored_by_all; j += TOPK_TILE) {
        __syncthreads();                                                 // the tile before this one is read
        load_tile<D>(high, low, centroid + (size_t)bh * n * D, j, n);
        __syncthreads();
        for (int c = 0; c < TOPK_TILE && j + c < scored; c += TOPK_PANEL) {
            score_panel<D>(panel, query, high, low, c);
            __syncwarp();
            scan_panel(best, panel, j + c, scored - (j + c));
            __syncwarp();
        }
    }
    best_complete(best, slots, min(slots, past));
    best_sort_by_block(best);

    uint16_t* staged = reinterpret_cast<uint16_t*>(panel);               // (32, slots), so that the warp writes whole lines
    #pragma unroll
    for (int i = 0; i < K; i++) {
        if (i < slots) { staged[lane * slots + i] = (uint16_t)best.block[i]; }
    }
    __syncwarp();
    uint16_t* to = sel + ((size_t)bh * T + row) * slots;
    for (int i = lane; i < min(WARP, T - row) * slots; i += WARP) { to[i] = staged[i]; }
}

template<int D, int K>
static void launch(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int slots, stream_t stream) {
    size_t bytes = topk_shared_bytes<D>();
    CUDA_CHECK(cudaFuncSetAttribute(topk_kernel<D, K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    dim3 grid(ceil_div(shape.T, TOPK_QUERIES), shape.B * shape.H);
    topk_kernel<D, K><<<grid, TOPK_QUERIES, bytes, stream>>>(sel, q, centroid, shape, block, ceil_div(shape.T, block), slots);
    LAUNCH_CHECK();
}

// the complete list of compiled capacities: top-k 2, 4, 8, 16, 32 fill theirs, others share the next larger
template<int D>
static void launch_for(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int slots, stream_t stream) {
    if      (slots <= 1)  { launch<D,  1>(sel, q, centroid, shape, block, slots, stream); }
    else if (slots <= 3)  { launch<D,  3>(sel, q, centroid, shape, block, slots, stream); }
    else if (slots <= 7)  { launch<D,  7>(sel, q, centroid, shape, block, slots, stream); }
    else if (slots <= 15) { launch<D, 15>(sel, q, centroid, shape, block, slots, stream); }
    else                  { launch<D, 31>(sel, q, centroid, shape, block, slots, stream); }
}

extern "C" void moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, stream_t stream) {
    REQUIRE(topk >= 1 && topk <= MOBA_MAX_TOPK, "moba_topk: topk=%d is outside [1, %d]", topk, MOBA_MAX_TOPK);
    REQUIRE(block >= 64 && block <= 1024 && (block & (block - 1)) == 0, "moba_topk: block=%d has no kernel (64, 128, 256, 512, 1024 do)", block);
    REQUIRE(ceil_div(shape.T, block) <= MOBA_NONE, "moba_topk: %d blocks do not fit in 16 bits; use longer blocks", ceil_div(shape.T, block));
    REQUIRE(shape.ldq % 8 == 0 && shape.ldq >= shape.H * shape.D, "moba_topk: q's row stride %d must be a multiple of 8 and hold %d elements",
            shape.ldq, shape.H * shape.D);
    REQUIRE(shape.B * shape.H <= 65535, "moba_topk: %d heads in the batch exceed the grid's 65535", shape.B * shape.H);
    if (topk == 1) { return; }
    switch (shape.D) {   // the complete list of compiled head dims
        case  64: launch_for< 64>(sel, q, centroid, shape, block, topk - 1, stream); break;
        case 128: launch_for<128>(sel, q, centroid, shape, block, topk - 1, stream); break;
        default:  REQUIRE(0, "moba_topk: head_dim=%d has no kernel (64 and 128 do)", shape.D);
    }
}

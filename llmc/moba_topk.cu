// Routing: which past blocks a query reads. Scores on tensor cores, a sorted list a query in registers, never T x n scores in memory.
//
// Precision: q is bf16 already; a centroid c is split in-kernel into bf16 high = c rounded and low = (c - high) rounded, which leaves
// at most 2^-18 |c| out. Both products accumulate in fp32. An infinite q may score NaN (inf * high + inf * low) where fp32 gives inf.
// The list compares scores to 18 bits after the leading one (17 above 15 slots): what is closer counts as a tie, and -FLT_MAX as -inf.
//
// Blocks are visited from the newest to the oldest: where scores rise towards the present, as they do in trained models, the first ones
// fill the lists and the rest stay out; the other way round every block would enter every list.
#include <float.h>

#include "attn_ptx.cuh"
#include "cuda_common.cuh"
#include "ops.h"

enum { TOPK_WARPS   = 8,
       TOPK_QUERIES = TOPK_WARPS * WARP,   // of one thread block, 32 consecutive ones a warp
       TOPK_PANEL   = 32,                  // columns of scores a warp computes before it inserts any
       PANEL_STRIDE = WARP + 1 };          // panel[column][query]: with 1 more, columns 8 apart lie 8 banks apart

// ---- one query's list -----------------------------------------------------------------------------------------------------------
// A key is a score as an integer of the same order, its lowest bits replaced by a tag. Tags are given in rising order, so that of equal
// scores the one inserted last, the lower block, is the larger key; tag -> block is a column of a small table in shared memory.
// One integer an entry is what makes insertion cheap: two instructions each.
template<int K> __host__ __device__ constexpr int tag_mask() { return K < 16 ? 31 : 63; }
// 56 of the 64: so the tables leave the kernel within the 99 KB of shared memory that an L40 or 4090 gives
template<int K> __host__ __device__ constexpr int tag_lowest() { return K < 16 ? 0 : 8; }
template<int K> __host__ __device__ constexpr int tag_count() { return tag_mask<K>() + 1 - tag_lowest<K>(); }

// Signed integers in the order of the floats. No score is -0: sums of products start at +0.
__device__ inline int ordered(float score) {
    int bits = __float_as_int(score);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

// The K best keys of one query so far, best first. Every index is a compile-time constant after unrolling, which keeps them in registers.
template<int K>
struct Best {
    int key[K];
    int tag;          // the next insertion's
};

// Below every score that enters: -FLT_MAX, the lowest float whose predecessor is -inf.
template<int K>
__device__ inline int empty_key() { return ordered(-FLT_MAX) & ~tag_mask<K>(); }

template<int K>
__device__ inline void best_clear(Best<K>& best) {
    #pragma unroll
    for (int i = 0; i < K; i++) { best.key[i] = empty_key<K>() | tag_lowest<K>(); }
    best.tag = tag_lowest<K>();
}

// Scores above this may enter: the float before those whose keys tie with the last entry.
template<int K>
__device__ inline float best_threshold(const Best<K>& best) {
    int below = (best.key[K - 1] & ~tag_mask<K>()) - 1;
    return __int_as_float(below ^ ((below >> 31) & 0x7fffffff));
}

// `table` is this lane's column, row 0 its lowest tag's. Blocks come in descending order. A score that does not enter, as -inf, changes nothing.
template<int K>
__device__ inline void best_insert(Best<K>& best, uint16_t* table, float score, int block) {
    int key = (ordered(score) & ~tag_mask<K>()) | best.tag;
    table[(best.tag - tag_lowest<K>()) * WARP] = (uint16_t)block;
    best.tag += key > best.key[K - 1];
    #pragma unroll
    for (int i = K - 1; i > 0; i--) { best.key[i] = max(best.key[i], min(best.key[i - 1], key)); }
    best.key[0] = max(best.key[0], key);
}

// Tags are used up: the entries take the lowest ones, in the order of the list.
template<int K>
__device__ inline void best_renumber(Best<K>& best, uint16_t* table) {
    const int mask = tag_mask<K>(), lowest = tag_lowest<K>();
    uint16_t block[K];
    #pragma unroll
    for (int i = 0; i < K; i++) { block[i] = table[((best.key[i] & mask) - lowest) * WARP]; }
    #pragma unroll
    for (int i = 0; i < K; i++) {
        table[(K - 1 - i) * WARP] = block[i];
        best.key[i] = (best.key[i] & ~mask) | (lowest + K - 1 - i);
    }
    best.tag = lowest + K;
}

// The `want` picks into block[], MOBA_NONE behind them. Only scores above -inf are in the list; what is missing are the lowest blocks
// not in it (-inf and NaN tie).
template<int K>
__device__ inline void best_blocks(int (&block)[K], const Best<K>& best, const uint16_t* table, int slots, int want) {
    int found = 0;
    #pragma unroll
    for (int i = 0; i < K; i++) {
        bool used = i < slots && (best.key[i] & ~tag_mask<K>()) != empty_key<K>();
        block[i] = used ? table[((best.key[i] & tag_mask<K>()) - tag_lowest<K>()) * WARP] : (int)MOBA_NONE;
        found += used;
    }
    for (int j = 0; found < want; j++) {
        bool taken = false;
        #pragma unroll
        for (int i = 0; i < K; i++) { taken = taken || block[i] == j; }
        if (taken) { continue; }
        #pragma unroll
        for (int i = 0; i < K; i++) {
            if (i == found) { block[i] = j; }
        }
        found++;
    }
}

// Odd-even transposition: K rounds sort K blocks, MOBA_NONE ends last.
template<int K>
__device__ inline void sort_blocks(int (&block)[K]) {
    #pragma unroll
    for (int round = 0; round < K; round++) {
        #pragma unroll
        for (int i = round % 2; i + 1 < K; i += 2) {
            int low = min(block[i], block[i + 1]), high = max(block[i], block[i + 1]);
            block[i]     = low;
            block[i + 1] = high;
        }
    }
}

// ---- scores -----------------------------------------------------------------------------------------------------------------------
// Shared memory: the next tile of centroids as it comes (fp32), this tile's high and low halves, then per warp a panel and a tag table.
template<int D> __host__ __device__ constexpr int tile_rows() { return 4096 / D; }

template<int D, int K>
__host__ __device__ constexpr size_t topk_shared_bytes() {
    return tile_rows<D>() * D * (sizeof(float) + 2 * sizeof(floatX)) +
           TOPK_WARPS * (TOPK_PANEL * PANEL_STRIDE * sizeof(float) + tag_count<K>() * WARP * sizeof(uint16_t));
}

// Where 16-byte chunk `chunk` of a tile's row lies. Odd rows swap their 64-byte halves: two rows read at the same chunks then
// come from different banks.
template<int D>
__device__ inline int chunk_at(int row, int chunk) { return row * D + (chunk ^ (row % 2 * 4)) * 8; }

// Begins to copy centroids first .. first + tile_rows-1 (clamped to n-1). A thread copies the eights of numbers that it will split.
template<int D>
__device__ inline void fetch_tile(float* raw, const float* centroid, int first, int n) {
    for (int i = threadIdx.x; i < tile_rows<D>() * D / 8; i += TOPK_QUERIES) {
        const float* from = centroid + (size_t)min(first + i / (D / 8), n - 1) * D + i % (D / 8) * 8;
        cp_async_16(raw + i * 8, from, true);
        cp_async_16(raw + i * 8 + 4, from + 4, true);
    }
    cp_async_commit();
}

template<int D>
__device__ inline void split_tile(floatX* high, floatX* low, const float* raw) {
    for (int i = threadIdx.x; i < tile_rows<D>() * D / 8; i += TOPK_QUERIES) {
        const float4* from = reinterpret_cast<const float4*>(raw + i * 8);
        float4 a = from[0], b = from[1];
        float value[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        uint32_t h[4], l[4];
        #pragma unroll
        for (int e = 0; e < 4; e++) {
            float x = value[2 * e], y = value[2 * e + 1];
            h[e] = pack_bf16(x, y);
            float x_left = x - __uint_as_float(h[e] << 16), y_left = y - __uint_as_float(h[e] & 0xffff0000u);
            l[e] = pack_bf16(fabsf(x) < INFINITY ? x_left : 0.0f, fabsf(y) < INFINITY ? y_left : 0.0f);   // inf - inf would score NaN
        }
        int at = chunk_at<D>(i / (D / 8), i % (D / 8));
        *reinterpret_cast<uint4*>(high + at) = make_uint4(h[0], h[1], h[2], h[3]);
        *reinterpret_cast<uint4*>(low + at)  = make_uint4(l[0], l[1], l[2], l[3]);
    }
}

// d[column / 8][m] += the warp's queries 16m .. 16m+15 times 8*EIGHTS centroids, over 32 consecutive elements of the head.
// A dot product does not mind the order of its terms: lane 4g + i reads eight consecutive elements of q and c in one 16-byte load
// and calls them k = 2i, 2i+1, 2i+8, 2i+9 of two successive instructions.
template<int EIGHTS>
__device__ inline void score_step(float (&d)[EIGHTS][2][4], const uint4 (&q)[4], const uint4 (&c)[EIGHTS]) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        #pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
            #pragma unroll
            for (int m = 0; m < 2; m++) {
                uint4 x = q[2 * m], y = q[2 * m + 1];
                uint32_t a[4] = {half ? x.z : x.x, half ? y.z : y.x, half ? x.w : x.y, half ? y.w : y.y};
                mma_16816(d[e][m], a, half ? c[e].z : c[e].x, half ? c[e].w : c[e].y);
            }
        }
    }
}

// Scores of the warp's 32 queries against 8*EIGHTS of a panel's 32 centroids, which begin at row `first` of the tile. Column 2i + b of the
// instructions' eight number e is centroid 8i + 2e + b, so that lane 4g + i finds eight neighbours in its registers.
// A score above its query's threshold goes to panel[centroid][query], and its bit into the result: byte r for query g + 8r, bit 2e + b.
template<int D, int EIGHTS>
__device__ inline unsigned score_columns(float* panel, const float (&threshold)[4], const uint4 (&query)[D / 32][4], const floatX* high,
                                         const floatX* low, int first, int eight) {
    int lane = threadIdx.x % WARP, g = lane / 4, i = lane % 4;
    float d[EIGHTS][2][4] = {};
    #pragma unroll
    for (int p = 0; p < D / 32; p++) {
        #pragma unroll
        for (int part = 0; part < 2; part++) {
            uint4 c[EIGHTS];
            #pragma unroll
            for (int e = 0; e < EIGHTS; e++) {
                int row = first + g / 2 * 8 + 2 * (eight + e) + g % 2;
                c[e] = *reinterpret_cast<const uint4*>((part ? low : high) + chunk_at<D>(row, 4 * p + i));
            }
            score_step(d, query[p], c);
        }
    }
    unsigned found = 0;
    panel += (8 * i + 2 * eight) * PANEL_STRIDE + g;
    #pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        #pragma unroll
        for (int at = 0; at < 8; at++) {
            int r = at / 2, b = at % 2;
            float score = d[e][r / 2][r % 2 * 2 + b];
            if (score > threshold[r]) {
                panel[(2 * e + b) * PANEL_STRIDE + 8 * r] = score;
                found |= 1u << (8 * r + 2 * e + b);
            }
        }
    }
    return found << (2 * eight);
}

// A whole panel; at D = 128 the query takes twice the registers, so the columns come in two halves.
// `threshold` is that of this lane's query; so is the result: bit c is set if centroid first + c scores higher.
template<int D>
__device__ inline unsigned score_panel(float* panel, float threshold, const uint4 (&query)[D / 32][4], const floatX* high, const floatX* low,
                                       int first) {
    const int eights = 256 / D;
    int lane = threadIdx.x % WARP, g = lane / 4;
    float thresholds[4];
    #pragma unroll
    for (int r = 0; r < 4; r++) { thresholds[r] = __shfl_sync(0xffffffffu, threshold, g + 8 * r); }
    unsigned found = 0;
    #pragma unroll 1
    for (int eight = 0; eight < 4; eight += eights) { found |= score_columns<D, eights>(panel, thresholds, query, high, low, first, eight); }
    if (!__any_sync(0xffffffffu, found != 0)) { return 0; }

    unsigned marks = 0;                                                  // query g + 8r is lane 8r + g's: its bytes lie in lanes 4g .. 4g + 3
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned bytes = __shfl_sync(0xffffffffu, found, lane % 8 * 4 + i);
        marks |= (bytes >> (lane / 8 * 8) & 0xff) << (8 * i);
    }
    __syncwarp();                                                        // the scores are in the panel
    return marks;
}

// Takes the highest column out of the marks; its score, or -inf if there is none.
__device__ inline float take_mark(unsigned& marks, int& column, const float* score) {
    column = WARP - 1 - __clz((int)marks);
    float taken = marks != 0 ? score[column * PANEL_STRIDE] : -INFINITY;
    marks &= ~(1u << (column & (WARP - 1)));
    return taken;
}

// One lane a query: insert the marked columns, the highest first. A warp takes as many rounds as its busiest lane has pairs of marks, and
// once lists are full marks are rare.
template<int K>
__device__ inline void insert_marked(Best<K>& best, uint16_t* table, const float* panel, unsigned marks, int first_block) {
    const float* score = panel + threadIdx.x % WARP;
    while (__any_sync(0xffffffffu, marks != 0)) {
        int a, b;
        float score_a = take_mark(marks, a, score), score_b = take_mark(marks, b, score);     // both loads under way before an insertion
        best_insert(best, table, score_a, first_block + a);
        best_insert(best, table, score_b, first_block + b);
        if (__any_sync(0xffffffffu, best.tag >= tag_mask<K>())) { best_renumber(best, table); }    // a round takes two
    }
}

// ---- the kernel -------------------------------------------------------------------------------------------------------------------
// one thread block per (b, h, 256 queries), 32 of them a warp, one a lane; K >= slots is the capacity of a query's list
template<int D, int K>
__global__ void __launch_bounds__(TOPK_QUERIES, K < 16 ? 2 : 1)
topk_kernel(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int n, int slots) {
    extern __shared__ __align__(16) unsigned char topk_shared[];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, bh = blockIdx.y, T = shape.T;
    float*    raw   = reinterpret_cast<float*>(topk_shared);
    floatX*   high  = reinterpret_cast<floatX*>(raw + tile_rows<D>() * D);
    floatX*   low   = high + tile_rows<D>() * D;
    float*    panel = reinterpret_cast<float*>(low + tile_rows<D>() * D) + warp * TOPK_PANEL * PANEL_STRIDE;
    uint16_t* table = reinterpret_cast<uint16_t*>(reinterpret_cast<float*>(low + tile_rows<D>() * D) + TOPK_WARPS * TOPK_PANEL * PANEL_STRIDE) +
                      warp * tag_count<K>() * WARP + lane;

    int first = (gridDim.x - 1 - blockIdx.x) * TOPK_QUERIES;             // late queries have the most past: start them first
    int last = min(first + TOPK_QUERIES, T) - 1, row = first + warp * WARP;
    int past = row < T ? row / block : 0;                                // block % 32 == 0: the same for the warp's 32 queries
    int scored = past > slots ? past : 0, scored_by_all = last / block > slots ? last / block : 0;   // few enough: all are taken unseen
    centroid += (size_t)bh * n * D;
    int newest = scored_by_all > 0 ? (scored_by_all - 1) / tile_rows<D>() * tile_rows<D>() : -1;       // tile
    if (newest >= 0) { fetch_tile<D>(raw, centroid, newest, n); }

    uint4 query[D / 32][4];                                              // rows g, g+8, g+16, g+24 of the warp's 32
    #pragma unroll
    for (int r = 0; r < 4; r++) {
        size_t t = (size_t)(bh / shape.H) * T + min(row + lane / 4 + 8 * r, T - 1);
        const uint4* from = reinterpret_cast<const uint4*>(q + t * shape.ldq + (size_t)(bh % shape.H) * D);
        #pragma unroll
        for (int p = 0; p < D / 32; p++) { query[p][r] = from[4 * p + lane % 4]; }
    }
    Best<K> best;
    best_clear(best);
    for (int j = newest; j >= 0; j -= tile_rows<D>()) {
        cp_async_wait<0>();
        __syncthreads();                                                 // the tile before this one is read
        split_tile<D>(high, low, raw);
        __syncthreads();
        if (j > 0) { fetch_tile<D>(raw, centroid, j - tile_rows<D>(), n); }
        for (int c = tile_rows<D>() - TOPK_PANEL; c >= 0; c -= TOPK_PANEL) {
            if (j + c >= scored) { continue; }
            unsigned marks = score_panel<D>(panel, best_threshold(best), query, high, low, c);
            int columns = scored - (j + c);
            if (columns < TOPK_PANEL) { marks &= (1u << columns) - 1; }
            insert_marked(best, table, panel, marks, j + c);
            __syncwarp();                                                // the panel is read
        }
    }
    int picked[K];
    best_blocks(picked, best, table, slots, min(slots, past));
    sort_blocks(picked);

    uint16_t* staged = reinterpret_cast<uint16_t*>(panel);               // (32, slots), so that the warp writes whole lines
    #pragma unroll
    for (int i = 0; i < K; i++) {
        if (i < slots) { staged[lane * slots + i] = (uint16_t)picked[i]; }
    }
    __syncwarp();
    uint16_t* to = sel + ((size_t)bh * T + row) * slots;
    for (int i = lane; i < min(WARP, T - row) * slots; i += WARP) { to[i] = staged[i]; }
}

template<int D, int K>
static void launch(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int slots, stream_t stream) {
    size_t bytes = topk_shared_bytes<D, K>();
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

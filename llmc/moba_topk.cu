// Routing: which past blocks a query reads. Scores on tensor cores, a sorted list a query in registers, never T x n scores in memory.
//
// Precision: q is bf16 already; a centroid c is split into bf16 high = c rounded and low = (c - high) rounded, which leaves
// at most 2^-18 |c| out. Both products accumulate in fp32. An infinite q may score NaN (inf * high + inf * low) where fp32 gives inf.
// The list compares scores to 18 bits after the leading one (17 above 15 slots): what is closer counts as a tie, and -FLT_MAX as -inf.
//
// Blocks are visited from the newest to the oldest: where scores rise towards the present, as they do in trained models, the first ones
// fill the lists and the rest stay out; the other way round every block would enter every list.
#include "moba_topk_hopper.cuh"
#include "ops.h"

// ---- scores -----------------------------------------------------------------------------------------------------------------------
// Shared memory: the next tile of centroids as it comes (fp32), this tile's high and low halves, then per warp a panel and a tag table.
template<int D, int K>
__host__ __device__ constexpr size_t topk_shared_bytes() {
    return tile_rows<D>() * D * (sizeof(float) + 2 * sizeof(floatX)) +
           TOPK_WARPS * room_floats<K>(TOPK_PANEL) * sizeof(float);
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
        uint32_t h[4], l[4];
        split_eight(h, l, reinterpret_cast<const float4*>(raw + i * 8));
        int at = chunk_at<D>(i / (D / 8), i % (D / 8));
        *reinterpret_cast<uint4*>(high + at) = make_uint4(h[0], h[1], h[2], h[3]);
        *reinterpret_cast<uint4*>(low + at)  = make_uint4(l[0], l[1], l[2], l[3]);
    }
}

// d[m] += the warp's queries 16m .. 16m+15 times 8*EIGHTS centroids, over 32 consecutive elements of the head.
// Lane 4g + i reads eight consecutive elements of c as load_queries does of q.
template<int EIGHTS>
__device__ inline void score_step(float (&d)[2][4 * EIGHTS], const uint4 (&q)[4], const uint4 (&c)[EIGHTS]) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        #pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
            #pragma unroll
            for (int m = 0; m < 2; m++) {
                uint32_t a[4];
                left_operand(a, q, m, half);
                mma_16816(*reinterpret_cast<float (*)[4]>(&d[m][4 * e]), a, half ? c[e].z : c[e].x, half ? c[e].w : c[e].y);
            }
        }
    }
}

// Scores of the warp's 32 queries against 8*EIGHTS of a panel's 32 centroids, from eight `eight` on; the panel begins at row `first` of the tile.
template<int D, int EIGHTS>
__device__ inline void score_columns(float (&d)[2][4 * EIGHTS], const uint4 (&query)[D / 32][4], const floatX* high, const floatX* low,
                                     int first, int eight) {
    int lane = threadIdx.x % WARP, g = lane / 4, i = lane % 4;
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
            score_step<EIGHTS>(d, query[p], c);
        }
    }
}

// A panel of the tile, block `first_block` its first; at D = 128 the query takes twice the registers, so the columns come in two halves.
template<int D, int K>
__device__ inline void visit_panel(Best<K>& best, uint16_t* table, float* panel, const uint4 (&query)[D / 32][4], const floatX* high,
                                   const floatX* low, int first, int first_block, int columns) {
    const int EIGHTS = 256 / D;
    float d[2][16];
    #pragma unroll
    for (int eight = 0; eight < 4; eight += EIGHTS) {
        float part[2][4 * EIGHTS] = {};
        score_columns<D, EIGHTS>(part, query, high, low, first, eight);
        #pragma unroll
        for (int i = 0; i < 4 * EIGHTS; i++) { d[0][4 * eight + i] = part[0][i]; d[1][4 * eight + i] = part[1][i]; }
    }
    visit_scores(best, table, panel, d, first_block, columns);
}

// ---- the kernel -------------------------------------------------------------------------------------------------------------------
// one thread block per (b, h, 256 queries), 32 of them a warp, one a lane; K >= slots is the capacity of a query's list
template<int D, int K>
__global__ void __launch_bounds__(TOPK_QUERIES, K < 16 ? 2 : 1)
topk_kernel(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int n, int slots) {
    extern __shared__ __align__(16) unsigned char topk_shared[];
    int warp = threadIdx.x / WARP, bh = blockIdx.y, T = shape.T;
    float*    raw   = reinterpret_cast<float*>(topk_shared);
    floatX*   high  = reinterpret_cast<floatX*>(raw + tile_rows<D>() * D);
    floatX*   low   = high + tile_rows<D>() * D;
    float*    panel = reinterpret_cast<float*>(low + tile_rows<D>() * D) + warp * room_floats<K>(TOPK_PANEL);
    uint16_t* table = table_of(panel, TOPK_PANEL);

    int first = (gridDim.x - 1 - blockIdx.x) * TOPK_QUERIES;             // late queries have the most past: start them first
    int last = min(first + TOPK_QUERIES, T) - 1, row = first + warp * WARP;
    int past = row < T ? row / block : 0;                                // block % 32 == 0: the same for the warp's 32 queries
    int scored = past > slots ? past : 0, scored_by_all = last / block > slots ? last / block : 0;   // few enough: all are taken unseen
    centroid += (size_t)bh * n * D;
    int newest = scored_by_all > 0 ? (scored_by_all - 1) / tile_rows<D>() * tile_rows<D>() : -1;       // tile
    if (newest >= 0) { fetch_tile<D>(raw, centroid, newest, n); }

    uint4 query[D / 32][4];
    load_queries<D>(query, q, shape, bh, row);
    Best<K> best;
    best_clear(best);
    for (int j = newest; j >= 0; j -= tile_rows<D>()) {
        cp_async_wait<0>();
        __syncthreads();                                                 // the tile before this one is read
        split_tile<D>(high, low, raw);
        __syncthreads();
        if (j > 0) { fetch_tile<D>(raw, centroid, j - tile_rows<D>(), n); }
        for (int c = tile_rows<D>() - TOPK_PANEL; c >= 0; c -= TOPK_PANEL) {
            if (j + c < scored) { visit_panel<D>(best, table, panel, query, high, low, c, j + c, scored - (j + c)); }
        }
    }
    store_picks(sel + ((size_t)bh * T + row) * slots, reinterpret_cast<uint16_t*>(panel), best, table, slots, past, T - row);
}

// ---- launches ---------------------------------------------------------------------------------------------------------------------
// One call. tiles: scratch for the centroids as the Hopper kernel reads them, NULL for the portable kernel.
typedef struct {
    uint16_t* sel;
    const floatX* q;
    const float* centroid;
    floatX* tiles;
    AttnShape shape;
    int block, n, slots;
    stream_t stream;
} TopkCall;

template<int D, int K>
static void launch(const TopkCall& c) {
    dim3 grid(ceil_div(c.shape.T, TOPK_QUERIES), c.shape.B * c.shape.H);
    if (c.tiles) {
        int tiles = topk_tiles(c.n, D);
        size_t bytes = sizeof(TopkShared<D, K>);
        topk_split_kernel<D><<<dim3(tiles, grid.y), TILE_ELEMENTS / 8, 0, c.stream>>>(c.tiles, c.centroid, c.n);
        LAUNCH_CHECK();
        CUDA_CHECK(cudaFuncSetAttribute(topk_hopper_kernel<D, K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
        topk_hopper_kernel<D, K><<<grid, TOPK_QUERIES, bytes, c.stream>>>(c.sel, c.q, c.tiles, c.shape, c.block, tiles, c.slots);
    } else {
        size_t bytes = topk_shared_bytes<D, K>();
        CUDA_CHECK(cudaFuncSetAttribute(topk_kernel<D, K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
        topk_kernel<D, K><<<grid, TOPK_QUERIES, bytes, c.stream>>>(c.sel, c.q, c.centroid, c.shape, c.block, c.n, c.slots);
    }
    LAUNCH_CHECK();
}

// the complete list of compiled capacities: top-k 2, 4, 8, 16, 32 fill theirs, others share the next larger
template<int D>
static void launch_for(const TopkCall& c) {
    if      (c.slots <= 1)  { launch<D,  1>(c); }
    else if (c.slots <= 3)  { launch<D,  3>(c); }
    else if (c.slots <= 7)  { launch<D,  7>(c); }
    else if (c.slots <= 15) { launch<D, 15>(c); }
    else                    { launch<D, 31>(c); }
}

// With few blocks most of the time goes into reading q and filling lists, and a kernel that splits the centroids first only costs a launch.
enum { HOPPER_BLOCKS = 128 };

static bool on_hopper(const AttnShape& s, int n) {
    return hopper_chosen(s.path, "moba_topk") && (n > HOPPER_BLOCKS || s.path == ATTN_HOPPER);
}

extern "C" size_t moba_topk_scratch(AttnShape shape, int block, int topk) {
    return topk > 1 ? topk_split_bytes(shape.B * shape.H, ceil_div(shape.T, block), shape.D) : 0;       // whatever device it will be
}

extern "C" void moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch,
                          stream_t stream) {
    REQUIRE(topk >= 1 && topk <= MOBA_MAX_TOPK, "moba_topk: topk=%d is outside [1, %d]", topk, MOBA_MAX_TOPK);
    REQUIRE(block >= 64 && block <= 1024 && (block & (block - 1)) == 0, "moba_topk: block=%d has no kernel (64, 128, 256, 512, 1024 do)", block);
    REQUIRE(ceil_div(shape.T, block) <= MOBA_NONE, "moba_topk: %d blocks do not fit in 16 bits; use longer blocks", ceil_div(shape.T, block));
    REQUIRE(shape.ldq % 8 == 0 && shape.ldq >= shape.H * shape.D, "moba_topk: q's row stride %d must be a multiple of 8 and hold %d elements",
            shape.ldq, shape.H * shape.D);
    REQUIRE(shape.B * shape.H <= 65535, "moba_topk: %d heads in the batch exceed the grid's 65535", shape.B * shape.H);
    if (topk == 1) { return; }
    int n = ceil_div(shape.T, block);
    TopkCall call = {sel, q, centroid, on_hopper(shape, n) ? (floatX*)scratch : NULL, shape, block, n, topk - 1, stream};
    switch (shape.D) {   // the complete list of compiled head dims
        case  64: launch_for< 64>(call); break;
        case 128: launch_for<128>(call); break;
        default:  REQUIRE(0, "moba_topk: head_dim=%d has no kernel (64 and 128 do)", shape.D);
    }
}

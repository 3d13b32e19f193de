// Top-k on Hopper: scores by wgmma, from centroids that are split once and brought by the copy engine.
//
// A warpgroup's 128 queries stay in registers as left operands. Tiles of split centroids come by in a ring of stages that the thread block's
// two warpgroups share, each at its own pace: while one compares and inserts, the tensor cores work for another.
#ifndef MOBA_TOPK_HOPPER_CUH
#define MOBA_TOPK_HOPPER_CUH

#include "hopper_tile.cuh"
#include "moba_topk_common.cuh"

enum { TOPK_STAGES = 2, TOPK_TILE_BYTES = 2 * TILE_ELEMENTS * (int)sizeof(floatX) };

template<int D, int K>
struct TopkShared {
    floatX   tile[TOPK_STAGES][2 * TILE_ELEMENTS];                       // high, low
    float    room[TOPK_WARPS][room_floats<K>(tile_rows<D>())];
    uint64_t full[TOPK_STAGES], empty[TOPK_STAGES];
};

// ---- splitting ----------------------------------------------------------------------------------------------------------------------
static inline int topk_tiles(int n, int D) { return ceil_div(n, TILE_ELEMENTS / D); }
static inline size_t topk_split_bytes(int heads, int n, int D) { return (size_t)heads * topk_tiles(n, D) * TOPK_TILE_BYTES; }

// Where pair `pair` of a centroid's chunk lies in the operand, so that columns and k are those of the accumulators (mark_scores) and of
// load_queries: chunk 4p + i's pair e is k = 2i and the next of chunk 4p + e; centroid 8i + 2e + b of a panel is row 8e + 2i + b.
template<int D>
__device__ inline int operand_at(int row, int chunk, int pair) {
    int c = row % TOPK_PANEL;
    return panel_at<tile_rows<D>()>(row - c + c % 8 / 2 * 8 + c / 8 * 2 + c % 2, chunk / 4 * 4 + pair) + chunk % 4 * 2;
}

// one thread block per (tile, head), a thread per eight elements; tiles: per head and tile high, then low, as shared memory will hold them
template<int D>
__global__ void __launch_bounds__(TILE_ELEMENTS / 8) topk_split_kernel(floatX* tiles, const float* centroid, int n) {
    int row = threadIdx.x / (D / 8), chunk = threadIdx.x % (D / 8), j = blockIdx.x * tile_rows<D>() + row;
    floatX* high = tiles + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * (2 * TILE_ELEMENTS);
    uint32_t h[4] = {}, l[4] = {};
    if (j < n) { split_eight(h, l, reinterpret_cast<const float4*>(centroid + ((size_t)blockIdx.y * n + j) * D + chunk * 8)); }
    #pragma unroll
    for (int e = 0; e < 4; e++) {
        int at = operand_at<D>(row, chunk, e);
        *reinterpret_cast<uint32_t*>(high + at)                 = h[e];
        *reinterpret_cast<uint32_t*>(high + TILE_ELEMENTS + at) = l[e];
    }
}

// ---- scores -------------------------------------------------------------------------------------------------------------------------
// One thread: begins to copy a tile to its stage.
template<int D, int K>
__device__ inline void fetch_stage(TopkShared<D, K>& shared, const floatX* tile, int stage) {
    mbarrier_arrive_expect(&shared.full[stage], TOPK_TILE_BYTES);
    bulk_load(shared.tile[stage], tile, TOPK_TILE_BYTES, &shared.full[stage]);
}

// d = the warpgroup's queries times the tile's centroids, high and low halves
template<int D>
__device__ inline void score_tile(float (&d)[2][tile_rows<D>() / 2], const uint32_t (&query)[2][D / 16][4], const floatX* tile) {
    wgmma_fence();
    #pragma unroll
    for (int part = 0; part < 2; part++) {
        #pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint64_t centroids = rows_operand<tile_rows<D>()>(tile + part * TILE_ELEMENTS, 0, k);
            #pragma unroll
            for (int m = 0; m < 2; m++) { wgmma<0>(d[m], query[m][k], centroids, part + k > 0); }
        }
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_ready(d[0]);
    wgmma_ready(d[1]);
}

// ---- the kernel ---------------------------------------------------------------------------------------------------------------------
// one thread block per (b, h, 256 queries), 32 of them a warp, one a lane; K >= slots is the capacity of a query's list
template<int D, int K>
__global__ void __launch_bounds__(TOPK_QUERIES, K < 16 ? 2 : 1)
topk_hopper_kernel(uint16_t* sel, const floatX* q, const floatX* tiles, AttnShape shape, int block, int tiles_a_head, int slots) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char topk_hopper_shared[];
    TopkShared<D, K>& shared = *reinterpret_cast<TopkShared<D, K>*>(topk_hopper_shared);
    const int ROWS = tile_rows<D>();
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, bh = blockIdx.y, T = shape.T;
    int first = (gridDim.x - 1 - blockIdx.x) * TOPK_QUERIES, row = first + warp * WARP;      // late queries have the most past: start them first
    int past = row < T ? row / block : 0;                                // block % 32 == 0: the same for the warp's 32 queries
    int scored = past > slots ? past : 0;                                // few enough: all are taken unseen
    int group_past = (min(first + (warp / 4 + 1) * WARPGROUP, T) - 1) / block, group_scored = group_past > slots ? group_past : 0;
    int all_past = (min(first + TOPK_QUERIES, T) - 1) / block, count = all_past > slots ? (all_past + ROWS - 1) / ROWS : 0;
    tiles += (size_t)bh * tiles_a_head * (2 * TILE_ELEMENTS);
    if (threadIdx.x == 0) {
        for (int i = 0; i < TOPK_STAGES; i++) {
            mbarrier_init(&shared.full[i], 1);
            mbarrier_init(&shared.empty[i], TOPK_WARPS);
        }
        mbarrier_init_fence();
        for (int i = 0; i < min(TOPK_STAGES - 1, count); i++) { fetch_stage(shared, tiles + (size_t)(count - 1 - i) * (2 * TILE_ELEMENTS), i); }
    }
    uint32_t query[2][D / 16][4];
    {
        uint4 rows[D / 32][4];
        load_queries<D>(rows, q, shape, bh, row);
        #pragma unroll
        for (int k = 0; k < D / 16; k++) {
            left_operand(query[0][k], rows[k / 2], 0, k % 2);
            left_operand(query[1][k], rows[k / 2], 1, k % 2);
        }
    }
    __syncthreads();
    float*    panel = shared.room[warp];
    uint16_t* table = table_of(panel, ROWS);
    Best<K> best;
    best_clear(best);
    int stage = 0, parity = 0;
    #pragma unroll 1
    for (int tile = count - 1; tile >= 0; tile--) {                      // from the newest
        float d[2][ROWS / 2];
        int j = tile * ROWS, ahead = tile - (TOPK_STAGES - 1), before = stage == 0 ? TOPK_STAGES - 1 : stage - 1;
        mbarrier_wait(&shared.full[stage], parity);
        if (j < group_scored) { score_tile<D>(d, query, shared.tile[stage]); }
        if (lane == 0) { mbarrier_arrive(&shared.empty[stage]); }
        if (threadIdx.x == 0 && ahead >= 0) {                            // to the stage of the tile before this one
            if (tile < count - 1) { mbarrier_wait(&shared.empty[before], stage == 0 ? parity ^ 1 : parity); }
            fetch_stage(shared, tiles + (size_t)ahead * (2 * TILE_ELEMENTS), before);
        }
        __syncwarp();
        if (j < scored) { visit_scores(best, table, panel, d, j, scored - j); }
        stage++;
        if (stage == TOPK_STAGES) { stage = 0; parity ^= 1; }
    }
    store_picks(sel + ((size_t)bh * T + row) * slots, reinterpret_cast<uint16_t*>(panel), best, table, slots, past, T - row);
#endif
}

#endif

// Top-k on Hopper: scores by wgmma, from centroids that are split once and brought by the copy engine.
//
// A warpgroup's 128 queries stay in registers as left operands. Tiles of split centroids come by in a ring of stages that the thread block's
// two warpgroups share, each at its own pace: while one compares and inserts, the tensor cores work for another.
//
// Before that the newest tiles are looked at with their high halves alone, and each query's best of 16 groups of centroids are noted: the
// eighth of them keeps most scores out of a list that would only push them out again. It may be too high, by what the low halves would have
// added. Then less than a list's length of scores reach it, which shows, and the thread block scans again without it.
#ifndef MOBA_TOPK_HOPPER_CUH
#define MOBA_TOPK_HOPPER_CUH

#include "hopper_tile.cuh"
#include "moba_topk_common.cuh"

enum { TOPK_STAGES = 2, TOPK_HALVES = 2 * TOPK_STAGES,                    // half a stage holds a tile's high half
       TOPK_TILE_BYTES = 2 * TILE_ELEMENTS * (int)sizeof(floatX) };

template<int D, int K>
struct TopkShared {
    floatX   tile[TOPK_STAGES][2 * TILE_ELEMENTS];                       // high, low
    float    room[TOPK_WARPS][room_floats<K>(tile_rows<D>())];
    uint64_t full[TOPK_STAGES], empty[TOPK_STAGES], half_full[TOPK_HALVES];
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

// The same of a tile's high half to half a stage.
template<int D, int K>
__device__ inline void fetch_half(TopkShared<D, K>& shared, const floatX* tile, int slot) {
    mbarrier_arrive_expect(&shared.half_full[slot], TOPK_TILE_BYTES / 2);
    bulk_load(shared.tile[0] + slot * TILE_ELEMENTS, tile, TOPK_TILE_BYTES / 2, &shared.half_full[slot]);
}

// d = the warpgroup's queries times the tile's centroids: of their high halves, or (PARTS 2) of high and low. Issued; then waited for.
template<int D, int PARTS>
__device__ inline void issue_scores(float (&d)[2][tile_rows<D>() / 2], const uint32_t (&query)[2][D / 16][4], const floatX* tile) {
    wgmma_fence();
    #pragma unroll
    for (int m = 0; m < 2; m++) {
        #pragma unroll
        for (int i = 0; i < PARTS * D / 16; i++) {
            int part = i / (D / 16), k = i % (D / 16);
            wgmma<0>(d[m], query[m][k], rows_operand<tile_rows<D>()>(tile + part * TILE_ELEMENTS, 0, k), i > 0);
        }
    }
    wgmma_commit();
}

template<int COUNT>
__device__ inline void wait_for_scores(float (&d)[2][COUNT]) {
    wgmma_wait<0>();
    wgmma_ready(d[0]);
    wgmma_ready(d[1]);
}

// ---- a bound ------------------------------------------------------------------------------------------------------------------------
// The highest of groups of centroids, a lane's four groups of its queries g + 8r: in raw bits, an instruction for two scores. Negative floats
// have the wrong order and are below all others: they are of no use.
template<int COUNT>
__device__ inline void raise_tops(int (&top)[4][4], float (&d)[2][COUNT]) {
    #pragma unroll
    for (int r = 0; r < 4; r++) {
        #pragma unroll
        for (int c = 0; c < COUNT / 2; c += 2) {
            int& group = top[r][c / (COUNT / 8)];
            group = __vimax3_s32(group, __float_as_int(score_of(d, r, c)), __float_as_int(score_of(d, r, c + 1)));
        }
    }
}

// A key that, most likely, K scores of the lane's query reach: by the high halves of the newest tiles, which have been fetched, less what the low
// ones usually add. An empty one if that is not positive.
template<int D, int K>
__device__ inline int find_bound(TopkShared<D, K>& shared, float* panel, const uint32_t (&query)[2][D / 16][4], int ahead, int count, int scored) {
    const int ROWS = tile_rows<D>();
    float d[2][ROWS / 2];
    int top[4][4] = {};
    #pragma unroll 1
    for (int i = 0; i < ahead; i++) {
        int columns = scored - (count - 1 - i) * ROWS;
        mbarrier_wait(&shared.half_full[i], 0);
        issue_scores<D, 1>(d, query, shared.tile[0] + i * TILE_ELEMENTS);
        wait_for_scores(d);
        if (columns < ROWS) { mask_scores(d, columns); }
        raise_tops(top, d);
    }
    float tops[4][4];
    #pragma unroll
    for (int i = 0; i < 16; i++) { tops[i / 4][i % 4] = __int_as_float(max(top[i / 4][i % 4], 0)); }
    float reached = reached_by<K>(panel, tops);
    return reached > 0 ? ordered(reached * (1 - 0x1p-7f)) & ~tag_mask<K>() : empty_key<K>();
}

// ---- the scan -----------------------------------------------------------------------------------------------------------------------
// All tiles, from the newest; what is below the bound stays out. Bit i of phase: of stage i.
template<int D, int K>
__device__ inline void scan_tiles(Best<K>& best, uint16_t* table, TopkShared<D, K>& shared, unsigned& phase, float* panel,
                                  const uint32_t (&query)[2][D / 16][4], const floatX* tiles, int count, int scored, int bound) {
    const int ROWS = tile_rows<D>();
    best_clear(best);
    if (threadIdx.x == 0) {
        for (int i = 0; i < min((int)TOPK_STAGES, count); i++) { fetch_stage(shared, tiles + (size_t)(count - 1 - i) * (2 * TILE_ELEMENTS), i); }
    }
    #pragma unroll 1
    for (int turn = 0; turn < count; turn++) {
        float d[2][ROWS / 2], threshold[4];
        unsigned found[ROWS / TOPK_PANEL];
        int stage = turn % TOPK_STAGES, before = (turn + TOPK_STAGES - 1) % TOPK_STAGES, j = (count - 1 - turn) * ROWS;
        mbarrier_wait(&shared.full[stage], phase >> stage & 1);
        issue_scores<D, 2>(d, query, shared.tile[stage]);
        if (threadIdx.x == 0 && turn > 0 && turn + TOPK_STAGES - 1 < count) {          // to the stage of the tile before this one
            mbarrier_wait(&shared.empty[before], phase >> before & 1 ^ 1);
            fetch_stage(shared, tiles + (size_t)(count - turn - TOPK_STAGES) * (2 * TILE_ELEMENTS), before);
        }
        __syncwarp();
        wait_for_scores(d);
        if (threadIdx.x % WARP == 0) { mbarrier_arrive(&shared.empty[stage]); }
        phase ^= 1u << stage;
        if (scored - j < ROWS) { mask_scores(d, scored - j); }
        share_thresholds(threshold, key_below<K>(max(best.key[K - 1], bound)));
        mark_scores(found, panel, threshold, d);
        insert_marked(best, table, panel, found, j);
    }
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
    int warp = threadIdx.x / WARP, bh = blockIdx.y, T = shape.T;
    int first = (gridDim.x - 1 - blockIdx.x) * TOPK_QUERIES, row = first + warp * WARP;      // late queries have the most past: start them first
    int past = row < T ? row / block : 0;                                // block % 32 == 0: the same for the warp's 32 queries
    int scored = past > slots ? past : 0;                                // few enough: all are taken unseen
    int all_past = (min(first + TOPK_QUERIES, T) - 1) / block, count = all_past > slots ? (all_past + ROWS - 1) / ROWS : 0;
    int ahead = K <= 16 ? min((int)TOPK_HALVES, count) : 0;               // tiles whose high halves give a bound
    tiles += (size_t)bh * tiles_a_head * (2 * TILE_ELEMENTS);
    if (threadIdx.x == 0) {
        for (int i = 0; i < TOPK_STAGES; i++) {
            mbarrier_init(&shared.full[i], 1);
            mbarrier_init(&shared.empty[i], TOPK_WARPS);
        }
        for (int i = 0; i < TOPK_HALVES; i++) { mbarrier_init(&shared.half_full[i], 1); }
        mbarrier_init_fence();
        for (int i = 0; i < ahead; i++) { fetch_half(shared, tiles + (size_t)(count - 1 - i) * (2 * TILE_ELEMENTS), i); }
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
    int bound = ahead > 0 ? find_bound(shared, panel, query, ahead, count, scored) : empty_key<K>();
    unsigned phase = 0;
    bool missing;
    do {
        __syncthreads();                                                 // the stages are free
        scan_tiles(best, table, shared, phase, panel, query, tiles, count, scored, bound);
        missing = bound != empty_key<K>() && (best.key[K - 1] & ~tag_mask<K>()) == empty_key<K>();       // the bound was too high: without it
        bound = missing ? empty_key<K>() : bound;
    } while (__syncthreads_or(missing));
    store_picks(sel + ((size_t)bh * T + row) * slots, reinterpret_cast<uint16_t*>(panel), best, table, slots, past, T - row);
#endif
}

#endif

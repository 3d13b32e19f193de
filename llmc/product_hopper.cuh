// Products on Hopper that end in something of their own (an epilogue): what a product has in registers need not be read again from memory
// only to pass through it. out (N x columns) = a (N x inner) b, with `a` rows and `b` rows or columns of the inner dimension.
//
// A CTA makes tiles of 128 rows and 256 columns of accumulators. Two warpgroups of 64 rows each multiply; a warp of a third fetches their
// operands with TMA, steps of 64 of the inner dimension, some steps ahead. CTAs come in pairs that make tiles below each other and share b:
// each fetches half of it for both, without which the way from L2 were too narrow (48 KB a step and CTA instead of 32). Tiles are taken in turn.
//
// An epilogue is a warp's own affair: its 16 rows go by panels of 64 columns through its corner of shared memory, TMA on the other side.
//
// A kind of product is a struct:
//   STEPS, WIDTH, TRANS_B     steps in shared memory; columns of the result that a tile makes; 0: b's rows are columns of the result, 1: inner ones
//   Corner, Arguments         what a warp has of shared memory; tensor maps a, b and whatever else
//   fetch_half                one thread: this CTA's half of a step of b, to both CTAs
//   prologue, epilogue        of a warp's 16 rows from `row` on, while the tile's products run, and after
#ifndef PRODUCT_HOPPER_CUH
#define PRODUCT_HOPPER_CUH

#include "hopper_tile.cuh"
#include "ops.h"

enum { PAIR = 2, BOTH = 3, PRODUCT_ROWS = 128, PRODUCT_COLUMNS = 256, PRODUCT_WARPS = 8, PRODUCT_THREADS = 3 * WARPGROUP,
       CORNER_ROWS = 16, CORNER = CORNER_ROWS * PANEL };                         // BOTH: the CTAs of a pair, as bits

typedef struct { floatX a[PRODUCT_ROWS * PANEL], b[PRODUCT_COLUMNS * PANEL]; } ProductStep;

template <class Kind> struct ProductShared {
    ProductStep step[Kind::STEPS];
    typename Kind::Corner corner[PRODUCT_WARPS];
    uint64_t full[Kind::STEPS], empty[Kind::STEPS];
    uint64_t loaded[PRODUCT_WARPS][2];                                          // for prologues: something has come to a corner
};

// ---- the walk over tiles and steps ------------------------------------------------------------------------------------------
typedef struct { int columns, inner, across, down; } ProductShape;             // of the result; tiles beside, and pairs of them below each other

__host__ __device__ inline int product_tiles(const ProductShape& s) { return s.across * s.down; }

typedef struct { int row, column; } ProductTile;

// The CTA's half of its pair's tile `tile`. TALL pairs below each other are made before the next columns: what they read at a time fits L2.
template <class Kind> __device__ inline ProductTile product_tile(const ProductShape& s, int tile, int rank) {
    const int TALL = 8;
    int first = tile / (TALL * s.across) * TALL, tall = min(TALL, s.down - first), within = tile - first * s.across;
    ProductTile at = {((first + within % tall) * PAIR + rank) * PRODUCT_ROWS, within / tall * Kind::WIDTH};
    return at;
}

typedef struct { int step, parity; } ProductRing;

template <class Kind> __device__ inline void product_next(ProductRing& ring) {
    ring.step++;
    if (ring.step == Kind::STEPS) { ring.step = 0; ring.parity ^= 1; }
}

// the warp that fetches; one thread
template <class Kind>
__device__ inline void product_fetch(ProductShared<Kind>& shared, const typename Kind::Arguments& x, const ProductShape& s, int rank) {
    ProductRing ring = {0, 0};
    for (int tile = blockIdx.x / PAIR; tile < product_tiles(s); tile += gridDim.x / PAIR) {
        ProductTile at = product_tile<Kind>(s, tile, rank);
        for (int k = 0; k < s.inner; k += PANEL) {
            ProductStep& step = shared.step[ring.step];
            uint64_t* full = &shared.full[ring.step];
            mbarrier_wait(&shared.empty[ring.step], ring.parity ^ 1);
            mbarrier_arrive_expect(full, (int)sizeof(ProductStep));
            tma_load(step.a, &x.a, k, at.row, 0, full);
            Kind::fetch_half(step.b, x, at.column, k, rank, full);
            product_next<Kind>(ring);
        }
    }
}

// ---- the warps that multiply ------------------------------------------------------------------------------------------------
// A step is done. Its operands may be overwritten, in both CTAs: half of them came from the other.
__device__ inline void product_release(uint64_t* empty) {
    if (threadIdx.x % WARP < PAIR) { mbarrier_arrive_at(empty, threadIdx.x % WARP); }
}

template <class Kind>
__device__ inline void product_multiply(float (&d)[128], const ProductStep& step, int group, bool add) {
    wgmma_fence();
    #pragma unroll
    for (int i = 0; i < PANEL / 16; i++) {
        uint64_t a = rows_operand<PRODUCT_ROWS>(step.a, group * 64, i);
        uint64_t b = Kind::TRANS_B ? columns_operand<PANEL>(step.b, 16 * i) : rows_operand<PRODUCT_COLUMNS>(step.b, 0, i);
        wgmma<0, Kind::TRANS_B>(d, a, b, add || i > 0);
    }
    wgmma_commit();
}

template <class Kind>
__device__ inline void product_work(ProductShared<Kind>& shared, const typename Kind::Arguments& x, const ProductShape& s, int rank) {
    int warp = threadIdx.x / WARP, group = threadIdx.x / WARPGROUP;
    ProductRing ring = {0, 0};
    for (int tile = blockIdx.x / PAIR; tile < product_tiles(s); tile += gridDim.x / PAIR) {
        ProductTile at = product_tile<Kind>(s, tile, rank);
        int row = at.row + warp * CORNER_ROWS, before = 0;
        float d[128];
        for (int k = 0; k < s.inner; k += PANEL) {
            mbarrier_wait(&shared.full[ring.step], ring.parity);
            product_multiply<Kind>(d, shared.step[ring.step], group, k > 0);
            if (k > 0) {
                wgmma_wait<1>();
                product_release(&shared.empty[before]);
            } else {
                Kind::prologue(shared.corner[warp], shared.loaded[warp], x, row, at.column);
            }
            before = ring.step;
            product_next<Kind>(ring);
        }
        wgmma_wait<0>();
        product_release(&shared.empty[before]);
        wgmma_ready(d);
        Kind::epilogue(shared.corner[warp], shared.loaded[warp], d, x, row, at.column);
    }
    if (threadIdx.x % WARP == 0) { tma_store_wait_read<0>(); }
    __syncwarp();
}

// ---- what kinds share ----------------------------------------------------------------------------------------------------------
// half of a step of a b whose rows are inner ones: two panels of 64 x 64
__device__ inline void fetch_half_rows(floatX* b, const CUtensorMap* map, int column, int k, int rank, uint64_t* full) {
    for (int panel = 2 * rank; panel < 2 * rank + 2; panel++) { tma_load_to(BOTH, b + panel * PANEL * PANEL, map, column + panel * PANEL, k, 0, full); }
}

// panels of two tensors on their way into a slot whose last store was read; one lane
__device__ inline void ask_for_panels(floatX (&slot)[2][CORNER], uint64_t* loaded, const CUtensorMap* first, const CUtensorMap* second, int row, int column) {
    mbarrier_arrive_expect(loaded, (int)sizeof slot);
    tma_load(slot[0], first, column, row, 0, loaded);
    tma_load(slot[1], second, column, row, 0, loaded);
}

__device__ inline float low_half(uint32_t word)  { return __uint_as_float(word << 16); }
__device__ inline float high_half(uint32_t word) { return __uint_as_float(word & 0xffff0000); }

// ---- a warp's corner ----------------------------------------------------------------------------------------------------------
// Words of a lane: word 2n is columns 8n + 2c and the next of row g, word 2n + 1 the same of row g + 8: accumulators 4n, 4n + 1 and 4n + 2, 4n + 3.
__device__ inline floatX* corner_chunks(floatX* panel, int n) {                 // where this lane's address for chunks n and n + 1 points
    int lane = threadIdx.x % WARP;
    return panel + panel_at<CORNER_ROWS>(lane % CORNER_ROWS, n + lane / CORNER_ROWS);
}

__device__ inline void write_corner(floatX* panel, const uint32_t (&words)[16]) {
    #pragma unroll
    for (int n = 0; n < 8; n += 2) {
        const uint32_t four[4] = {words[2 * n], words[2 * n + 1], words[2 * n + 2], words[2 * n + 3]};
        stmatrix_x4(corner_chunks(panel, n), four);
    }
}

__device__ inline void read_corner(uint32_t (&words)[16], floatX* panel) {
    #pragma unroll
    for (int n = 0; n < 8; n += 2) {
        uint32_t four[4];
        ldmatrix_x4(four, corner_chunks(panel, n));
        #pragma unroll
        for (int i = 0; i < 4; i++) { words[2 * n + i] = four[i]; }
    }
}

// a panel of 16 x 64 to memory, through one of a corner's two slots; they are taken in turn
__device__ inline void put_panel(floatX* slot, const uint32_t (&words)[16], const CUtensorMap* map, int row, int column) {
    if (threadIdx.x % WARP == 0) { tma_store_wait_read<1>(); }
    __syncwarp();
    write_corner(slot, words);
    fence_proxy_async();
    __syncwarp();
    if (threadIdx.x % WARP == 0) {
        tma_store(map, column, row, 0, slot);
        tma_store_commit();
    }
}

// ---- the kernel -----------------------------------------------------------------------------------------------------------------
#ifdef HOPPER_CODE
#define IN_PAIRS __cluster_dims__(PAIR, 1, 1)
#else
#define IN_PAIRS
#endif

template <class Kind>
__global__ IN_PAIRS __launch_bounds__(PRODUCT_THREADS, 1) void product_kernel(const __grid_constant__ typename Kind::Arguments x, ProductShape s) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char product_shared[];
    ProductShared<Kind>& shared = *reinterpret_cast<ProductShared<Kind>*>(product_shared);
    int rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int i = 0; i < Kind::STEPS; i++) {
            mbarrier_init(&shared.full[i], 1);
            mbarrier_init(&shared.empty[i], PAIR * PRODUCT_WARPS);
        }
        for (int i = 0; i < 2 * PRODUCT_WARPS; i++) { mbarrier_init(&shared.loaded[i / 2][i % 2], 1); }
        mbarrier_init_fence();
    }
    cluster_barrier();
    if (threadIdx.x < PRODUCT_WARPS * WARP) {
        registers_raise<240>();
        product_work<Kind>(shared, x, s, rank);
    } else {
        registers_lower<24>();
        if (threadIdx.x == PRODUCT_WARPS * WARP) { product_fetch<Kind>(shared, x, s, rank); }
        __syncwarp();
    }
    cluster_barrier();                                                          // until here the other CTA may reach into this one
#endif
}

static int product_pairs() { return device_attribute(cudaDevAttrMultiProcessorCount) / PAIR; }

template <class Kind> static ProductShape product_shape(int N, int columns, int inner) {
    ProductShape s = {columns, inner, ceil_div(columns, Kind::WIDTH), ceil_div(N, PAIR * PRODUCT_ROWS)};
    return s;
}

// Does a product of this kind serve? On Hopper, where every pair of multiprocessors gets a tile.
template <class Kind> static bool product_serves(int N, int columns) {
    return device_attribute(cudaDevAttrComputeCapabilityMajor) == 9 && product_tiles(product_shape<Kind>(N, columns, 0)) >= product_pairs();
}

template <class Kind>
static void product_launch(const typename Kind::Arguments& x, int N, int columns, int inner, stream_t stream) {
    ProductShape s = product_shape<Kind>(N, columns, inner);
    size_t shared = sizeof(ProductShared<Kind>);
    allow_shared(product_kernel<Kind>, shared);
    product_kernel<Kind><<<min_int(product_pairs(), product_tiles(s)) * PAIR, PRODUCT_THREADS, shared, stream>>>(x, s);
    LAUNCH_CHECK();
}

#endif

// Products on Hopper that end in something of their own: what a product has made need not be read again from memory only to pass through it.
// out (N x columns) = a b: a is (N, inner); b is (columns, inner) where TRANS_B is 0, (inner, columns) where it is 1; all row-major.
//
// A CTA makes tiles of 128 rows and 256 columns in three warpgroups. Two multiply, 64 rows each; their first thread fetches the operands with TMA,
// steps of 64 of the inner dimension, some steps ahead. CTAs come in pairs that make tiles below each other and share b: each fetches half of it for
// both, without which the way from L2 would be too narrow (48 KB a step and CTA instead of 32). Tiles are taken in turn.
//
// A warp that multiplies leaves its 16 rows in a corner of shared memory, rounded, and goes on with the next tile. The third warpgroup finishes
// them meanwhile, each warp the 32 rows of two corners: whatever a kind of product does to its results, as a pass of its own would, with rows of
// 16-byte chunks that lie side by side in memory. An epilogue in the warps that multiply costs its whole length instead (dev/LOG.md).
//
// A kind of product is a struct:
//   WIDTH, TRANS_B      columns of the result that a tile makes; 0: b's rows are columns of the result, 1: inner ones
//   Arguments           tensor maps a, b and whatever else
//   fetch_half          one thread: this CTA's half of a step of b, to both CTAs
//   Ahead, look_ahead   what a lane that finishes has on its way when a tile begins, whose row is the first of the warp's 32
//   finish              of a warp's 32 rows; looks ahead to the next tile's
#ifndef PRODUCT_HOPPER_CUH
#define PRODUCT_HOPPER_CUH

#include "hopper_tile.cuh"
#include "ops.h"

enum { PAIR = 2, BOTH = 3 };                                                   // CTAs; both of a pair, as bits
enum { PRODUCT_ROWS = 128, PRODUCT_COLUMNS = 256, PRODUCT_PANELS = PRODUCT_COLUMNS / PANEL, PRODUCT_STEPS = 3 };      // of a tile; in shared memory
enum { MULTIPLYING = 8, PRODUCT_THREADS = 3 * WARPGROUP };                      // warps; threads of a CTA
enum { CORNER_ROWS = 16, CORNER_PANEL = CORNER_ROWS * PANEL, CORNER = PRODUCT_PANELS * CORNER_PANEL };
enum { FINISH_ROWS = 2 * CORNER_ROWS, ROW_CHUNKS = PANEL / 8, ROWS_AT_ONCE = WARP / ROW_CHUNKS, FINISH_ROUNDS = FINISH_ROWS / ROWS_AT_ONCE };

typedef struct { floatX a[PRODUCT_ROWS * PANEL], b[PRODUCT_COLUMNS * PANEL]; } ProductStep;

typedef struct {
    ProductStep step[PRODUCT_STEPS];
    floatX corner[MULTIPLYING][CORNER];                                         // four panels of 16 rows
    // full: a step's bytes are here; empty: both CTAs have multiplied with it; made: a warp's corner is written; taken: it has been read
    uint64_t full[PRODUCT_STEPS], empty[PRODUCT_STEPS], made[MULTIPLYING], taken[MULTIPLYING];
} ProductShared;

// ---- the walk over tiles and steps ------------------------------------------------------------------------------------------
typedef struct { int inner, across, down; } ProductShape;                      // inner dimension; tiles beside, and pairs of them below, each other

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

__device__ inline void product_next(ProductRing& ring) {
    ring.step++;
    if (ring.step == PRODUCT_STEPS) { ring.step = 0; ring.parity ^= 1; }
}

// ---- fetching; one thread ------------------------------------------------------------------------------------------------------
typedef struct { int tile, k; ProductTile at; ProductRing ring; } ProductFetch;             // the step to be fetched next

// Waits until the step's place is free in both CTAs: so neither's copies can come a phase too early. The other's half may come before this CTA
// says how many bytes it expects; the barrier's phase ends with both.
template <class Kind>
__device__ inline void product_fetch(ProductFetch& next, ProductShared& shared, const typename Kind::Arguments& x, const ProductShape& s, int rank) {
    if (next.tile >= product_tiles(s)) { return; }
    if (next.k == 0) { next.at = product_tile<Kind>(s, next.tile, rank); }
    ProductStep& step = shared.step[next.ring.step];
    uint64_t* full = &shared.full[next.ring.step];
    mbarrier_wait(&shared.empty[next.ring.step], next.ring.parity ^ 1);
    mbarrier_arrive_expect(full, (int)sizeof(ProductStep));
    tma_load(step.a, &x.a, next.k, next.at.row, 0, full);
    Kind::fetch_half(step.b, x, next.at.column, next.k, rank, full);
    product_next(next.ring);
    next.k += PANEL;
    if (next.k >= s.inner) {
        next.k = 0;
        next.tile += gridDim.x / PAIR;
    }
}

// half of a step of a b whose rows are inner ones: two panels of 64 x 64
__device__ inline void fetch_half_rows(floatX* b, const CUtensorMap* map, int column, int k, int rank, uint64_t* full) {
    for (int panel = 2 * rank; panel < 2 * rank + 2; panel++) { tma_load_to(BOTH, b + panel * PANEL * PANEL, map, column + panel * PANEL, k, 0, full); }
}

// ---- the warps that multiply ------------------------------------------------------------------------------------------------
// A step is done. Its operands may be overwritten, in both CTAs: half of them came from the other.
__device__ inline void product_release(uint64_t* empty) {
    if (threadIdx.x % WARP < PAIR) { mbarrier_arrive_at(empty, threadIdx.x % WARP); }
}

template <class Kind>
__device__ inline void product_step(float (&d)[128], const ProductStep& step, int group, bool add) {
    wgmma_fence();
    #pragma unroll
    for (int i = 0; i < PANEL / 16; i++) {
        uint64_t a = rows_operand<PRODUCT_ROWS>(step.a, group * 64, i);
        uint64_t b = Kind::TRANS_B ? columns_operand<PANEL>(step.b, 16 * i) : rows_operand<PRODUCT_COLUMNS>(step.b, 0, i);
        wgmma<0, Kind::TRANS_B>(d, a, b, add || i > 0);
    }
    wgmma_commit();
}

// A warp's accumulators, rounded, to its corner. Of lane 4g + c, d[4n], d[4n + 1] are columns 8n + 2c and the next of row g, d[4n + 2], d[4n + 3] of row g + 8.
__device__ inline void write_corner(floatX* corner, const float (&d)[128]) {
    int lane = threadIdx.x % WARP;
    #pragma unroll
    for (int n = 0; n < PRODUCT_COLUMNS / 8; n += 2) {
        const uint32_t four[4] = {pack_bf16(d[4 * n], d[4 * n + 1]), pack_bf16(d[4 * n + 2], d[4 * n + 3]),
                                  pack_bf16(d[4 * n + 4], d[4 * n + 5]), pack_bf16(d[4 * n + 6], d[4 * n + 7])};
        stmatrix_x4(corner + panel_at<CORNER_ROWS>(lane % CORNER_ROWS, n + lane / CORNER_ROWS), four);
    }
}

// The first thread also fetches. It cannot wait forever: a step's place is freed by warps that need nothing but steps fetched before it, and at a
// tile's end they free the last step before they wait for their corner.
template <class Kind>
__device__ inline void product_multiply(ProductShared& shared, const typename Kind::Arguments& x, const ProductShape& s, int rank) {
    int warp = threadIdx.x / WARP, group = threadIdx.x / WARPGROUP, parity = 0;
    ProductRing ring = {0, 0};
    ProductFetch next = {(int)blockIdx.x / PAIR, 0, {0, 0}, {0, 0}};
    if (threadIdx.x == 0) {
        for (int i = 0; i < PRODUCT_STEPS - 1; i++) { product_fetch<Kind>(next, shared, x, s, rank); }
    }
    __syncwarp();
    for (int tile = blockIdx.x / PAIR; tile < product_tiles(s); tile += gridDim.x / PAIR) {
        int before = 0;
        float d[128];
        for (int k = 0; k < s.inner; k += PANEL) {
            mbarrier_wait(&shared.full[ring.step], ring.parity);
            product_step<Kind>(d, shared.step[ring.step], group, k > 0);
            if (k > 0) {
                wgmma_wait<1>();
                product_release(&shared.empty[before]);
            }
            if (threadIdx.x == 0) { product_fetch<Kind>(next, shared, x, s, rank); }       // to where the step before this one was
            __syncwarp();
            before = ring.step;
            product_next(ring);
        }
        wgmma_wait<0>();
        product_release(&shared.empty[before]);
        wgmma_ready(d);
        mbarrier_wait(&shared.taken[warp], parity ^ 1);
        write_corner(shared.corner[warp], d);
        __syncwarp();
        if (threadIdx.x % WARP == 0) { mbarrier_arrive(&shared.made[warp]); }
        parity ^= 1;
    }
}

// ---- the warps that finish ----------------------------------------------------------------------------------------------------
template <class Kind>
__device__ inline void product_finish(ProductShared& shared, const typename Kind::Arguments& x, const ProductShape& s, int rank) {
    int warp = threadIdx.x / WARP - MULTIPLYING, tiles = product_tiles(s), parity = 0;
    ProductTile at = product_tile<Kind>(s, blockIdx.x / PAIR, rank);
    at.row += warp * FINISH_ROWS;
    typename Kind::Ahead ahead;
    Kind::look_ahead(ahead, x, at);
    for (int tile = blockIdx.x / PAIR; tile < tiles; tile += gridDim.x / PAIR) {
        int later = tile + gridDim.x / PAIR;
        ProductTile next = {s.down * PAIR * PRODUCT_ROWS, 0};                   // behind the last tile: no row is there
        if (later < tiles) { next = product_tile<Kind>(s, later, rank); }
        next.row += warp * FINISH_ROWS;
        for (int i = 0; i < 2; i++) { mbarrier_wait(&shared.made[2 * warp + i], parity); }
        Kind::finish(ahead, shared.corner[2 * warp], x, at, next);
        __syncwarp();
        if (threadIdx.x % WARP < 2) { mbarrier_arrive(&shared.taken[2 * warp + threadIdx.x % WARP]); }
        parity ^= 1;
        at = next;
    }
}

// chunk `chunk` (8 columns) of a panel of two corners' 32 rows
__device__ inline uint4 corner_chunk(const floatX* corners, int panel, int row, int chunk) {
    const floatX* at = corners + row / CORNER_ROWS * CORNER + panel * CORNER_PANEL + panel_at<CORNER_ROWS>(row % CORNER_ROWS, chunk);
    return *reinterpret_cast<const uint4*>(at);
}

// A panel's rows in turn: a warp has 4 at once, 8 lanes a row.
__device__ inline int lane_row()   { return threadIdx.x % WARP / ROW_CHUNKS; }
__device__ inline int lane_chunk() { return threadIdx.x % WARP % ROW_CHUNKS; }

__device__ inline uint4 load_16(const floatX* from, bool live) { return live ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0); }

// eight columns, as words of two and as floats
__device__ inline void floats8(float (&x)[8], uint4 p) {
    const uint32_t words[4] = {p.x, p.y, p.z, p.w};
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(words[i] << 16);
        x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000);
    }
}

__device__ inline uint4 round8(const float (&x)[8]) {
    return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
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
    ProductShared& shared = *reinterpret_cast<ProductShared*>(product_shared);
    int rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int i = 0; i < PRODUCT_STEPS; i++) {
            mbarrier_init(&shared.full[i], 1);
            mbarrier_init(&shared.empty[i], PAIR * MULTIPLYING);
        }
        for (int i = 0; i < MULTIPLYING; i++) {
            mbarrier_init(&shared.made[i], 1);
            mbarrier_init(&shared.taken[i], 1);
        }
        mbarrier_init_fence();
    }
    cluster_barrier();
    if (threadIdx.x < MULTIPLYING * WARP) {
        product_multiply<Kind>(shared, x, s, rank);
    } else {
        product_finish<Kind>(shared, x, s, rank);
    }
    cluster_barrier();                                                          // until here the other CTA may reach into this one
#endif
}

static int product_pairs() { return device_attribute(cudaDevAttrMultiProcessorCount) / PAIR; }

template <class Kind> static ProductShape product_shape(int N, int columns, int inner) {
    ProductShape s = {inner, ceil_div(columns, Kind::WIDTH), ceil_div(N, PAIR * PRODUCT_ROWS)};
    return s;
}

// Does a product of this kind serve? On Hopper, where every pair of multiprocessors gets a tile, and tiles are full but for an eighth of their columns.
template <class Kind> static bool product_serves(int N, int columns) {
    ProductShape s = product_shape<Kind>(N, columns, 0);
    return device_attribute(cudaDevAttrComputeCapabilityMajor) == 9 && product_tiles(s) >= product_pairs() && 8 * columns >= 7 * s.across * Kind::WIDTH;
}

template <class Kind>
static void product_launch(const typename Kind::Arguments& x, int N, int columns, int inner, stream_t stream) {
    ProductShape s = product_shape<Kind>(N, columns, inner);
    size_t shared = sizeof(ProductShared);
    allow_shared(product_kernel<Kind>, shared);
    product_kernel<Kind><<<min_int(product_pairs(), product_tiles(s)) * PAIR, PRODUCT_THREADS, shared, stream>>>(x, s);
    LAUNCH_CHECK();
}

#endif

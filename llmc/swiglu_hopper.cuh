// The two products of the MLP beside SwiGLU, on Hopper, with SwiGLU as their epilogue: what a product has in registers is never read again
// from memory only to pass through it.
//
//   forward    gate, up = inp w13^T   (two columns of F from one row of inp)     -> gate_up and out = silu(gate) * up
//   backward   dproduct = dout w2     (stays in registers, fp32)                 -> dgate_up, from gate_up, which may be the same memory
//
// A CTA makes tiles of 128 rows and 256 accumulator columns: forward 128 of gate beside the same 128 of up, backward 256 of dproduct. Two
// warpgroups of 64 rows each multiply; a warp of a third fetches their operands with TMA, steps of 64 of the inner dimension, some steps
// ahead. The CTAs come in pairs that make tiles below each other and share the weights: each fetches half of them for both, without which the
// way from L2 were too narrow (48 KB a step and CTA). Tiles are taken in turn, so that one warpgroup's epilogue lies beside the other's products.
//
// An epilogue is a warp's own affair: its 16 rows go by panels of 64 columns through its corner of shared memory, TMA on the other side.
#ifndef SWIGLU_HOPPER_CUH
#define SWIGLU_HOPPER_CUH

#include "hopper_tile.cuh"
#include "ops.h"
#include "swiglu_math.cuh"

#ifndef GATED_LEAD
#define GATED_LEAD 2
#endif
enum { LEAD = GATED_LEAD, PAIR = 2, GATED_ROWS = 128, GATED_COLUMNS = 256, CORNER_ROWS = 16, CORNER = CORNER_ROWS * PANEL, GATED_WARPS = 8, GATED_THREADS = 3 * WARPGROUP };

typedef struct { floatX a[GATED_ROWS * PANEL], b[GATED_COLUMNS * PANEL]; } GatedStep;

template <bool BACKWARD> struct GatedShared {
    static const int STEPS = BACKWARD ? 3 : 4, PANELS = BACKWARD ? 2 : 1;       // of a corner's slot: gate and up, or any one
    GatedStep step[STEPS];
    floatX corner[GATED_WARPS][2][PANELS][CORNER];
    uint64_t full[STEPS], empty[STEPS];
    uint64_t loaded[GATED_WARPS][2];                                            // backward: a slot's gate and up have come
    uint64_t ahead;                                                             // the first warpgroup is LEAD steps ahead
};

typedef struct { CUtensorMap a, b, gate, up, dgate, dup, out; } GatedMaps;      // of backward all but out, of forward all but dgate and dup

typedef struct { int columns, inner, across, down; } GatedShape;               // F; C or OC; tiles beside and, of pairs, below each other

// ---- the walk over tiles and steps ------------------------------------------------------------------------------------------
template <bool BACKWARD> __host__ __device__ inline int gated_width() { return BACKWARD ? GATED_COLUMNS : GATED_COLUMNS / 2; }     // of F

__host__ __device__ inline int gated_tiles(const GatedShape& s) { return s.across * s.down; }

typedef struct { int row, column; } GatedTile;

// The CTA's half of its pair's tile `tile`. TALL pairs below each other are made before the next columns: what they read at a time fits L2.
template <bool BACKWARD> __device__ inline GatedTile gated_tile(const GatedShape& s, int tile, int rank) {
    const int TALL = 8;
    int first = tile / (TALL * s.across) * TALL, tall = min(TALL, s.down - first), within = tile - first * s.across;
    GatedTile at = {((first + within % tall) * PAIR + rank) * GATED_ROWS, within / tall * gated_width<BACKWARD>()};
    return at;
}

typedef struct { int step, parity; } GatedRing;

template <int STEPS> __device__ inline void gated_next(GatedRing& ring) {
    ring.step++;
    if (ring.step == STEPS) { ring.step = 0; ring.parity ^= 1; }
}

// ---- the warp that fetches; one thread ----------------------------------------------------------------------------------------
template <bool BACKWARD>
__device__ inline void gated_fetch(GatedShared<BACKWARD>& shared, const GatedMaps& maps, const GatedShape& s, int rank) {
    const int BOTH = 3, HALF = GATED_COLUMNS / 2;
    GatedRing ring = {0, 0};
    for (int tile = blockIdx.x / PAIR; tile < gated_tiles(s); tile += gridDim.x / PAIR) {
        GatedTile at = gated_tile<BACKWARD>(s, tile, rank);
        for (int k = 0; k < s.inner; k += PANEL) {
            GatedStep& step = shared.step[ring.step];
            uint64_t* full = &shared.full[ring.step];
            mbarrier_wait(&shared.empty[ring.step], ring.parity ^ 1);
            mbarrier_arrive_expect(full, (int)sizeof(GatedStep));
            tma_load(step.a, &maps.a, k, at.row, 0, full);
            if (BACKWARD) {                                                     // two panels of 64 x 64 of w2's rows
                for (int panel = 2 * rank; panel < 2 * rank + 2; panel++) {
                    tma_load_to(BOTH, step.b + panel * PANEL * PANEL, &maps.b, at.column + panel * PANEL, k, 0, full);
                }
            } else {                                                            // rows of w1 (gate) or of w3 (up)
                tma_load_to(BOTH, step.b + rank * HALF * PANEL, &maps.b, k, at.column, rank, full);
            }
            gated_next<GatedShared<BACKWARD>::STEPS>(ring);
        }
    }
}

// ---- a warp's corner ------------------------------------------------------------------------------------------------------------
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

__device__ inline float low_half(uint32_t word)  { return __uint_as_float(word << 16); }
__device__ inline float high_half(uint32_t word) { return __uint_as_float(word & 0xffff0000); }

// ---- epilogues: row, column are the warp's first -----------------------------------------------------------------------------------
// a panel of 16 x 64 to memory once the slot's panel before was read
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

__device__ inline void gated_prologue(GatedShared<false>&, const GatedMaps&, int, int) { }

__device__ inline void gated_epilogue(GatedShared<false>& shared, const float (&d)[128], const GatedMaps& maps, int row, int column) {
    floatX (&corner)[2][1][CORNER] = shared.corner[threadIdx.x / WARP];
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t gate[16], up[16], out[16];
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            gate[i] = pack_bf16(d[32 * half + 2 * i], d[32 * half + 2 * i + 1]);
            up[i] = pack_bf16(d[64 + 32 * half + 2 * i], d[64 + 32 * half + 2 * i + 1]);
            out[i] = pack_bf16(swiglu(low_half(gate[i]), low_half(up[i])), swiglu(high_half(gate[i]), high_half(up[i])));
        }
        put_panel(corner[half][0], gate, &maps.gate, row, column + half * PANEL);           // slots 0 1 0, 1 0 1
        put_panel(corner[half ^ 1][0], up, &maps.up, row, column + half * PANEL);
        put_panel(corner[half][0], out, &maps.out, row, column + half * PANEL);
    }
}

// gate and up of a panel on their way into a slot that was read
__device__ inline void ask_for_panel(floatX (&slot)[2][CORNER], uint64_t* loaded, const GatedMaps& maps, int row, int column) {
    mbarrier_arrive_expect(loaded, (int)sizeof slot);
    tma_load(slot[0], &maps.gate, column, row, 0, loaded);
    tma_load(slot[1], &maps.up, column, row, 0, loaded);
}

// the first two panels, while the tile's products run
__device__ inline void gated_prologue(GatedShared<true>& shared, const GatedMaps& maps, int row, int column) {
    int warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP > 0) { return; }
    tma_store_wait_read<0>();
    for (int i = 0; i < 2; i++) { ask_for_panel(shared.corner[warp][i], &shared.loaded[warp][i], maps, row, column + i * PANEL); }
}

__device__ inline void gated_epilogue(GatedShared<true>& shared, const float (&d)[128], const GatedMaps& maps, int row, int column) {
    uint64_t (&loaded)[2] = shared.loaded[threadIdx.x / WARP];
    #pragma unroll
    for (int panel = 0; panel < 4; panel++) {
        floatX (&slot)[2][CORNER] = shared.corner[threadIdx.x / WARP][panel % 2];
        uint32_t gate[16], up[16];
        mbarrier_wait(&loaded[panel % 2], panel / 2);                           // a slot is filled twice a tile
        read_corner(gate, slot[0]);
        read_corner(up, slot[1]);
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            SwigluGradient low = swiglu_gradient(d[32 * panel + 2 * i], low_half(gate[i]), low_half(up[i]));
            SwigluGradient high = swiglu_gradient(d[32 * panel + 2 * i + 1], high_half(gate[i]), high_half(up[i]));
            gate[i] = pack_bf16(low.gate, high.gate);
            up[i] = pack_bf16(low.up, high.up);
        }
        write_corner(slot[0], gate);
        write_corner(slot[1], up);
        fence_proxy_async();
        __syncwarp();
        if (threadIdx.x % WARP == 0) {
            tma_store(&maps.dgate, column + panel * PANEL, row, 0, slot[0]);
            tma_store(&maps.dup, column + panel * PANEL, row, 0, slot[1]);
            tma_store_commit();
            if (panel < 2) {
                tma_store_wait_read<0>();
                ask_for_panel(slot, &loaded[panel], maps, row, column + (panel + 2) * PANEL);
            }
        }
        __syncwarp();
    }
}

// ---- the warps that multiply ------------------------------------------------------------------------------------------------------
// a step's operands may be overwritten, in both CTAs: half of them came from the other
__device__ inline void gated_release(uint64_t* empty) {
    if (threadIdx.x % WARP < PAIR) { mbarrier_arrive_at(empty, threadIdx.x % WARP); }
}

template <bool BACKWARD>
__device__ inline void gated_multiply(float (&d)[128], const GatedStep& step, int group, bool add) {
    wgmma_fence();
    #pragma unroll
    for (int i = 0; i < PANEL / 16; i++) {
        uint64_t a = rows_operand<GATED_ROWS>(step.a, group * 64, i);
        if (BACKWARD) { wgmma<0, 1>(d, a, columns_operand<PANEL>(step.b, 16 * i), add || i > 0); }
        else          { wgmma<0, 0>(d, a, rows_operand<GATED_COLUMNS>(step.b, 0, i), add || i > 0); }
    }
    wgmma_commit();
}

template <bool BACKWARD>
__device__ inline void gated_work(GatedShared<BACKWARD>& shared, const GatedMaps& maps, const GatedShape& s, int rank) {
    int warp = threadIdx.x / WARP, group = threadIdx.x / WARPGROUP;
    int lead = min(LEAD, (s.inner + PANEL - 1) / PANEL);
    GatedRing ring = {0, 0};
    if (LEAD > 0 && group == 1) { mbarrier_wait(&shared.ahead, 0); }
    for (int tile = blockIdx.x / PAIR; tile < gated_tiles(s); tile += gridDim.x / PAIR) {
        GatedTile at = gated_tile<BACKWARD>(s, tile, rank);
        int row = at.row + warp * CORNER_ROWS, before = 0;
        float d[128];
        for (int k = 0; k < s.inner; k += PANEL) {
            mbarrier_wait(&shared.full[ring.step], ring.parity);
            gated_multiply<BACKWARD>(d, shared.step[ring.step], group, k > 0);
            if (threadIdx.x == 0 && --lead == 0) { mbarrier_arrive(&shared.ahead); }
            if (k > 0) {
                wgmma_wait<1>();
                gated_release(&shared.empty[before]);
            } else {
                gated_prologue(shared, maps, row, at.column);
            }
            before = ring.step;
            gated_next<GatedShared<BACKWARD>::STEPS>(ring);
        }
        wgmma_wait<0>();
        gated_release(&shared.empty[before]);
        wgmma_ready(d);
        gated_epilogue(shared, d, maps, row, at.column);
    }
    if (threadIdx.x % WARP == 0) { tma_store_wait_read<0>(); }
    __syncwarp();
}

// ---- the kernels ------------------------------------------------------------------------------------------------------------------
#ifdef HOPPER_CODE
#define IN_PAIRS __cluster_dims__(PAIR, 1, 1)
#else
#define IN_PAIRS
#endif

template <bool BACKWARD>
__global__ IN_PAIRS __launch_bounds__(GATED_THREADS, 1) void gated_kernel(const __grid_constant__ GatedMaps maps, GatedShape s) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char gated_shared[];
    GatedShared<BACKWARD>& shared = *reinterpret_cast<GatedShared<BACKWARD>*>(gated_shared);
    int rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int i = 0; i < GatedShared<BACKWARD>::STEPS; i++) {
            mbarrier_init(&shared.full[i], 1);
            mbarrier_init(&shared.empty[i], PAIR * GATED_WARPS);
        }
        for (int i = 0; i < 2 * GATED_WARPS; i++) { mbarrier_init(&shared.loaded[i / 2][i % 2], 1); }
        mbarrier_init(&shared.ahead, 1);
        mbarrier_init_fence();
    }
    cluster_barrier();
    if (threadIdx.x < GATED_WARPS * WARP) {
        registers_raise<232>();
        gated_work<BACKWARD>(shared, maps, s, rank);
    } else {
        registers_lower<40>();
        if (threadIdx.x == GATED_WARPS * WARP) { gated_fetch<BACKWARD>(shared, maps, s, rank); }
        __syncwarp();
    }
    cluster_barrier();                                                          // until here the other CTA may reach into this one
#endif
}

template <bool BACKWARD> static GatedShape gated_shape(int N, int inner, int F) {
    GatedShape s = {F, inner, ceil_div(F, gated_width<BACKWARD>()), ceil_div(N, PAIR * GATED_ROWS)};
    return s;
}

static int gated_pairs() { return device_attribute(cudaDevAttrMultiProcessorCount) / PAIR; }

template <bool BACKWARD>
static void gated_launch(const GatedMaps& maps, GatedShape s, stream_t stream) {
    size_t shared = sizeof(GatedShared<BACKWARD>);
    allow_shared(gated_kernel<BACKWARD>, shared);
    gated_kernel<BACKWARD><<<min_int(gated_pairs(), gated_tiles(s)) * PAIR, GATED_THREADS, shared, stream>>>(maps, s);
    LAUNCH_CHECK();
}

// Does a product with this epilogue serve? On Hopper, where every pair of multiprocessors gets a tile.
template <bool BACKWARD> static bool gated_serves(int N, int F) {
    return device_attribute(cudaDevAttrComputeCapabilityMajor) == 9 && gated_tiles(gated_shape<BACKWARD>(N, 0, F)) >= gated_pairs();
}

static void gated_forward(floatX* out, floatX* gate_up, const floatX* inp, const floatX* weight, int N, int C, int F, stream_t stream) {
    GatedMaps maps = {rows_map(inp, 1, N, C, C, GATED_ROWS), rows_map(weight, 2, F, C, C, GATED_COLUMNS / 2),
                      rows_map(gate_up, 1, N, F, 2 * F, CORNER_ROWS), rows_map(gate_up + F, 1, N, F, 2 * F, CORNER_ROWS), {}, {},
                      rows_map(out, 1, N, F, F, CORNER_ROWS)};
    gated_launch<false>(maps, gated_shape<false>(N, C, F), stream);
}

static void gated_backward(floatX* dgate_up, const floatX* dout, const floatX* weight, const floatX* gate_up, int N, int F, int OC, stream_t stream) {
    GatedMaps maps = {rows_map(dout, 1, N, OC, OC, GATED_ROWS), rows_map(weight, 1, OC, F, F, PANEL),
                      rows_map(gate_up, 1, N, F, 2 * F, CORNER_ROWS), rows_map(gate_up + F, 1, N, F, 2 * F, CORNER_ROWS),
                      rows_map(dgate_up, 1, N, F, 2 * F, CORNER_ROWS), rows_map(dgate_up + F, 1, N, F, 2 * F, CORNER_ROWS), {}};
    gated_launch<true>(maps, gated_shape<true>(N, OC, F), stream);
}

#endif

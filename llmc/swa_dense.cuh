// Backward of dense attention on Hopper, D = 128, in five products a pair of tiles: P and dS once, by keys, dQ summed in device memory.
//
// A CTA takes 128 keys and goes over the tiles of 64 queries that see them: two warpgroups have 64 keys and the accumulators of their dK and
// dV each; dS^T goes through shared memory, and each makes half of the columns of the tile's dQ over all 128 keys. A third warpgroup has
// given its registers to them: one of its threads loads, two add dQ to the sums of the tile. 32 KB go to the L2 cache beside 10.5 MFLOP.
//
// To a tile the blocks of keys add from the last one that it sees down to the first, so that the sum is the same every time. CTAs take a
// head's blocks in that order too, whoever is free the next: a CTA only ever waits for blocks that were taken before its own, and of blocks
// taken at the same time each one is at a tile two tiles' time after the one above it, when that has added.
// Shared memory: K, V 64 KB, two stages each of q and dout (64 KB), dS (32 KB) and dQ (64 KB), 225 of 227 KB.
#ifndef SWA_DENSE_CUH
#define SWA_DENSE_CUH

#include "swa_hopper.cuh"

// Below DENSE_FROM tokens swa_hopper.cuh's kernels, which want less scratch, are as fast.
enum { DENSE_D = 128, DENSE_FROM = 1024, TILES_OF_BLOCK = 2, DENSE_KEYS = TILES_OF_BLOCK * ROWS, DENSE_STAGES = 2 };
enum { DENSE_WORKERS = 2 * WARPGROUP, DENSE_THREADS = DENSE_WORKERS + WARPGROUP };       // warps 8, 9, 10 of the third: loads, additions
enum { WIDE = 1 << 30 };                                                                // a window that hides nothing
enum { WORKER_REGISTERS = 240, HELPER_REGISTERS = 24 };
static_assert(TILES_OF_BLOCK == 2, "two warpgroups, each 64 keys and half of dQ's columns");
static_assert(DENSE_STAGES == 2, "the other stage is stage ^ 1, and two helpers add");

// Does this backward serve such a call, on a device that can?
static bool dense_chosen(AttnShape s, int window) {
    return s.D == DENSE_D && window >= s.T && (s.T >= DENSE_FROM || s.path == ATTN_HOPPER);
}

// ---- scratch --------------------------------------------------------------------------------------------------------
// A tile's sum of dQ as the workers' accumulators have it: float4 n of a worker is d[4n .. 4n+3] of its half of the columns.
enum { DQ_CHUNKS = DENSE_D / 16, DQ_BYTES = DQ_CHUNKS * DENSE_WORKERS * (int)sizeof(float4) };
typedef float4 QuerySum[DQ_CHUNKS][DENSE_WORKERS];

struct DenseScratch {
    QuerySum* sums;         // (heads, tiles)
    float2* scalars;        // (heads, tiles, 64) of a query: log2-sum-exp, delta
    int* added;             // (heads, tiles): how many blocks have added to the sum
    int* tickets;           // one: how many have been asked for
};

static inline __host__ __device__ int dense_tiles(const AttnShape& s) { return (s.T + ROWS - 1) / ROWS; }

static DenseScratch dense_scratch(void* scratch, AttnShape s) {
    size_t tiles = (size_t)s.B * s.H * dense_tiles(s);
    DenseScratch x;
    x.sums = (QuerySum*)scratch;
    x.scalars = (float2*)(x.sums + tiles);
    x.added = (int*)(x.scalars + tiles * ROWS);
    x.tickets = x.added + tiles;
    return x;
}

static size_t dense_scratch_bytes(AttnShape s) {
    return (size_t)s.B * s.H * dense_tiles(s) * (sizeof(QuerySum) + ROWS * sizeof(float2) + sizeof(int)) + sizeof(int);
}

// Sets the scalars (behind T lse2 is infinite: P = 0) and the counters, of each launch anew. D/8 threads a query, grid (queries, heads)
__global__ __launch_bounds__(THREADS)
void swa_dense_begin_kernel(DenseScratch scratch, const floatX* dout, const floatX* out, const float* lse, AttnShape shape) {
    int t = (blockIdx.x * THREADS + threadIdx.x) / (DENSE_D / 8), chunk = threadIdx.x % (DENSE_D / 8), head = blockIdx.y;
    size_t at = (size_t)min(t, shape.T - 1) * shape.ldo + 8 * chunk, tiles = dense_tiles(shape);
    float delta = row_dot<DENSE_D>(head_rows(dout, shape.ldo, shape, head) + at, head_rows(out, shape.ldo, shape, head) + at);
    if (chunk > 0 || t >= (int)tiles * ROWS) { return; }
    bool live = t < shape.T;
    scratch.scalars[head * tiles * ROWS + t] = live ? make_float2(lse[(size_t)head * shape.T + t] * LOG2E, delta) : make_float2(INFINITY, 0);
    if (t % ROWS == 0) { scratch.added[head * tiles + t / ROWS] = 0; }
    if (t == 0 && head == 0) { *scratch.tickets = 0; }
}

// ---- the kernel -----------------------------------------------------------------------------------------------------
struct DenseMaps { CUtensorMap q, k, v, dout; };       // boxes of 64 rows of q and dout, 128 of k and v

// A block of keys of a head; head is -1 after the last
struct DenseItem { int head, block; };

struct DenseShared {
    floatX k[DENSE_KEYS * DENSE_D], v[DENSE_KEYS * DENSE_D];
    floatX ds[DENSE_STAGES][DENSE_KEYS * ROWS];         // [key][query]
    QuerySum dq[DENSE_STAGES];
    Ring<DENSE_D, ROWS, DENSE_STAGES> ring;             // q and dout
    __align__(16) float2 scalars[DENSE_STAGES][ROWS];
    DenseItem item;
    uint64_t item_full, item_empty, dq_full[DENSE_STAGES], dq_empty[DENSE_STAGES];
};
static_assert(sizeof(DenseShared) <= 227 * 1024, "an H100's CTA has 227 KB");

// n counts a CTA's tiles over all its items: the stage of tile n, and the parity of the phase in which its barriers are.
__device__ inline int stage_of(int n)  { return n % DENSE_STAGES; }
__device__ inline int parity_of(int n) { return n / DENSE_STAGES % 2; }

__device__ inline int first_tile(const DenseItem& item) { return item.block * TILES_OF_BLOCK; }

__device__ inline void warp_arrives(uint64_t* barrier) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) { mbarrier_arrive(barrier); }
}

// One thread: takes items until there are none, loads their keys and the tiles that see them.
__device__ inline void dense_load(DenseShared& shared, const DenseScratch& scratch, const DenseMaps& maps, const AttnShape& s) {
    int tiles = dense_tiles(s), blocks = (s.T + DENSE_KEYS - 1) / DENSE_KEYS, heads = s.B * s.H, n = 0;
    for (int items = 0; ; items++) {
        int ticket = atomicAdd(scratch.tickets, 1), head = ticket / blocks;
        DenseItem item = {head < heads ? head : -1, blocks - 1 - ticket % blocks};
        if (items > 0) { mbarrier_wait(&shared.item_empty, (items - 1) % 2); }
        shared.item = item;
        if (item.head < 0) { mbarrier_arrive(&shared.item_full); return; }
        mbarrier_arrive_expect(&shared.item_full, (int)(sizeof(shared.k) + sizeof(shared.v)));
        tma_load_rows<DENSE_D, DENSE_KEYS>(shared.k, &maps.k, s, head, item.block * DENSE_KEYS, &shared.item_full);
        tma_load_rows<DENSE_D, DENSE_KEYS>(shared.v, &maps.v, s, head, item.block * DENSE_KEYS, &shared.item_full);
        Walk walk = {head, 0, tiles, 0, 0, 0};
        for (int tile = first_tile(item); tile < tiles; tile++, n++) {
            int stage = stage_of(n);
            mbarrier_wait(&shared.ring.empty[stage], parity_of(n) ^ 1);
            ring_load(shared.ring, walk, &maps.q, &maps.dout, s, tile, stage, SCALARS_BYTES);
            bulk_load(shared.scalars[stage], scratch.scalars + ((size_t)head * tiles + tile) * ROWS, SCALARS_BYTES, &shared.ring.full[stage]);
        }
    }
}

// One thread for each stage: adds the tiles' dQ that are left there. The first to add to a tile stores.
__device__ inline void dense_add(DenseShared& shared, const DenseScratch& scratch, int tiles, int stage) {
    int n = 0;
    for (int items = 0; ; items++) {
        mbarrier_wait(&shared.item_full, items % 2);
        DenseItem item = shared.item;
        mbarrier_arrive(&shared.item_empty);
        if (item.head < 0) { return; }
        for (int tile = first_tile(item); tile < tiles; tile++, n++) {
            if (stage_of(n) != stage) { continue; }
            size_t at = (size_t)item.head * tiles + tile;
            int before = tile / TILES_OF_BLOCK - item.block;                    // blocks between: those that add first
            mbarrier_wait(&shared.dq_full[stage], parity_of(n));
            while (load_acquire(scratch.added + at) != before) { }
            fence_proxy_async_global();
            if (before == 0) { bulk_store(scratch.sums + at, shared.dq[stage], DQ_BYTES); }
            else             { bulk_add((float*)(scratch.sums + at), (const float*)shared.dq[stage], DQ_BYTES); }
            bulk_commit();
            bulk_wait_read();
            mbarrier_arrive(&shared.dq_empty[stage]);
            bulk_wait();
            store_release(scratch.added + at, before + 1);
        }
    }
}

// a worker's accumulators
struct DenseSums { float dk[DENSE_D / 2], dv[DENSE_D / 2]; };

// A tile. dK's product, of `ds` and the stage's q, is still in flight afterwards; so may be that of the tile before when this begins.
// group: 0 or 1. key: of this thread's row g
__device__ inline void dense_tile(DenseSums& sums, uint32_t (&ds)[ROWS / 16][4], DenseShared& shared, int n, bool first, bool masked, int group,
                                  int query, int key, float scale2) {
    int stage = stage_of(n), parity = parity_of(n), thread = thread_here();
    float s[ROWS / 2], dp[ROWS / 2], dq[ROWS / 2];
    uint32_t p[ROWS / 16][4];
    mbarrier_wait(&shared.ring.full[stage], parity);
    product_abt<DENSE_D, DENSE_KEYS, ROWS>(s, shared.k, ROWS * group, shared.ring.a[stage], 0);
    product_abt<DENSE_D, DENSE_KEYS, ROWS>(dp, shared.v, ROWS * group, shared.ring.b[stage], 0);
    wgmma_wait<2>();
    operand_ready(ds);
    if (!first) { warp_arrives(&shared.ring.empty[stage ^ 1]); }
    wgmma_wait<1>();
    wgmma_ready(s);
    if (masked) { mask_by_key(s, query, WIDE, key); }
    probabilities_by_key(s, shared.scalars[stage], scale2);
    round_operand(p, s);
    product_ab<ROWS>(sums.dv, p, shared.ring.b[stage], 0, true);
    wgmma_wait<1>();
    wgmma_ready(dp);
    gradients_by_key(dp, s, shared.scalars[stage]);
    round_operand(ds, dp);
    store_operand<DENSE_KEYS>(shared.ds[stage], ROWS * group, ds);
    fence_proxy_async();
    named_barrier(1, DENSE_WORKERS);                                // dS is whole, and nobody reads that of the tile before
    product_atb<DENSE_KEYS>(dq, shared.ds[stage], shared.k + group * DENSE_KEYS * PANEL);
    product_ab<ROWS>(sums.dk, ds, shared.ring.a[stage], 0, true);
    mbarrier_wait(&shared.dq_empty[stage], parity ^ 1);
    wgmma_wait<1>();
    operand_ready(p);
    wgmma_ready(dq);
    #pragma unroll
    for (int i = 0; i < DQ_CHUNKS; i++) { shared.dq[stage][i][thread] = make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]); }
    fence_proxy_async();
    warp_arrives(&shared.dq_full[stage]);
}

// A warpgroup of 64 keys: all items' tiles, then their rows of dK and dV.
__device__ inline void dense_work(DenseShared& shared, floatX* dk, floatX* dv, const float* rope, const AttnShape& s, float scale) {
    int tiles = dense_tiles(s), group = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0), n = 0;
    for (int items = 0; ; items++) {
        mbarrier_wait(&shared.item_full, items % 2);
        DenseItem item = shared.item;
        if (item.head < 0) { return; }
        int first = first_tile(item), key = item.block * DENSE_KEYS + thread_row();
        DenseSums sums = {};
        uint32_t ds[ROWS / 16][4] = {};
        for (int tile = first; tile < tiles; tile++, n++) {
            dense_tile(sums, ds, shared, n, tile == first, tile < first + TILES_OF_BLOCK, group, tile * ROWS, key, scale * LOG2E);
        }
        wgmma_wait<0>();
        wgmma_ready(sums.dk);
        wgmma_ready(sums.dv);
        warp_arrives(&shared.ring.empty[stage_of(n - 1)]);
        mbarrier_arrive(&shared.item_empty);
        const float one[2] = {1, 1}, scales[2] = {scale, scale};
        store_rows<DENSE_D>(head_rows(dv, s.ldv, s, item.head) + (size_t)key * s.ldv, s.ldv, sums.dv, one, s.T - key);
        if (rope != NULL) { turn_rows_back<DENSE_D>(sums.dk, rope, key, s.T); }
        store_rows<DENSE_D>(head_rows(dk, s.ldk, s, item.head) + (size_t)key * s.ldk, s.ldk, sums.dk, scales, s.T - key);
    }
}

// dK, dV and the sums of dQ, by any number of CTAs: one that has to wait for another waits for one that runs.
__global__ __launch_bounds__(DENSE_THREADS, 1)
void swa_dense_kernel(floatX* dk, floatX* dv, DenseScratch scratch, const float* rope, const __grid_constant__ DenseMaps maps, AttnShape shape,
                      float scale) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char swa_dense_shared[];
    DenseShared& shared = *reinterpret_cast<DenseShared*>(swa_dense_shared);
    if (threadIdx.x == 0) {
        ring_open(shared.ring, DENSE_WORKERS / WARP);
        mbarrier_init(&shared.item_full, 1);
        mbarrier_init(&shared.item_empty, DENSE_WORKERS + DENSE_STAGES);            // each thread: racecheck does not see a warp's lanes through one
        for (int i = 0; i < DENSE_STAGES; i++) {
            mbarrier_init(&shared.dq_full[i], DENSE_WORKERS / WARP);
            mbarrier_init(&shared.dq_empty[i], 1);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < DENSE_WORKERS) {
        take_registers<WORKER_REGISTERS>();
        dense_work(shared, dk, dv, rope, shape, scale);
        return;
    }
    give_registers<HELPER_REGISTERS>();
    int helper = (threadIdx.x - DENSE_WORKERS) / WARP;
    if (threadIdx.x % WARP != 0 || helper > DENSE_STAGES) { return; }
    if (helper == 0) { dense_load(shared, scratch, maps, shape); }
    else             { dense_add(shared, scratch, dense_tiles(shape), helper - 1); }
#endif
}

// the sums of a tile of queries to dq. grid (tiles, heads)
__global__ __launch_bounds__(WARPGROUP)
void swa_dense_queries_kernel(floatX* dq, DenseScratch scratch, const float* rope, AttnShape shape, float scale) {
    int tile = blockIdx.x, head = blockIdx.y, t = tile * ROWS + thread_row();
    const QuerySum& sum = scratch.sums[(size_t)head * dense_tiles(shape) + tile];
    float acc[DENSE_D / 2];
    #pragma unroll
    for (int i = 0; i < 2 * DQ_CHUNKS; i++) {
        float4 x = sum[i % DQ_CHUNKS][i / DQ_CHUNKS * WARPGROUP + threadIdx.x];
        acc[4 * i] = x.x; acc[4 * i + 1] = x.y; acc[4 * i + 2] = x.z; acc[4 * i + 3] = x.w;
    }
    if (rope != NULL) { turn_rows_back<DENSE_D>(acc, rope, t, shape.T); }
    const float scales[2] = {scale, scale};
    store_rows<DENSE_D>(head_rows(dq, shape.ldq, shape, head) + (size_t)t * shape.ldq, shape.ldq, acc, scales, shape.T - t);
}

static void dense_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, const floatX* q,
                           const floatX* k, const floatX* v, const float* rope, AttnShape s, void* scratch, stream_t stream) {
    int columns = s.H * s.D, heads = s.B * s.H, tiles = dense_tiles(s), items = ceil_div(s.T, DENSE_KEYS) * heads;
    float scale = 1 / sqrtf((float)s.D);
    DenseScratch x = dense_scratch(scratch, s);
    DenseMaps maps = {rows_map(q, s.B, s.T, columns, s.ldq, ROWS), rows_map(k, s.B, s.T, columns, s.ldk, DENSE_KEYS),
                      rows_map(v, s.B, s.T, columns, s.ldv, DENSE_KEYS), rows_map(dout, s.B, s.T, columns, s.ldo, ROWS)};
    swa_dense_begin_kernel<<<dim3(ceil_div(tiles * ROWS, THREADS / (DENSE_D / 8)), heads), THREADS, 0, stream>>>(x, dout, out, lse, s);
    LAUNCH_CHECK();
    int grid = min_int(items, device_attribute(cudaDevAttrMultiProcessorCount));
    allow_shared(swa_dense_kernel, sizeof(DenseShared));
    swa_dense_kernel<<<grid, DENSE_THREADS, sizeof(DenseShared), stream>>>(dk, dv, x, rope, maps, s, scale);
    LAUNCH_CHECK();
    swa_dense_queries_kernel<<<dim3(tiles, heads), WARPGROUP, 0, stream>>>(dq, x, rope, s, scale);
    LAUNCH_CHECK();
}

#endif

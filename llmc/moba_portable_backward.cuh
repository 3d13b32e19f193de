// The walk of MoBA's backward (moba_backward.cuh) on mma.sync, for sm_80 and up, with tiles of 32 queries. Included by moba_attn.cu.
//
// A warp owns 16 or 32 keys as rows, so that P^T and dS^T come out as left operands in its registers, and dK, dV stay there:
//   S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q     K from shared memory; V too at D 64, at D 128 its fragments in registers
//   dQ = dS K     dS^T through shared memory as [key][query]; a warp computes 16 queries and some of the columns
// dQ lags a tile behind, so that one barrier a tile will do. At D 64 a warp reads 72 matrices of 16 x 16 for 160 products of 16 x 8 x 16: on
// an H100 288 cycles of shared memory for 245 of products. At D 128, with 16 keys a warp, it is 96: there shared memory is the limit.
// Shared memory: 74 KB at D 64, so that two CTAs fit on an A100; 98 KB at D 128, where 99 are all that some devices have.
#ifndef MOBA_PORTABLE_BACKWARD_CUH
#define MOBA_PORTABLE_BACKWARD_CUH

#include "moba_backward.cuh"

enum { PART = 32, PART_STAGES = 3 };                                   // queries of a tile

template <int D, int KEYS> struct KeyRows {
    static const int CTA = D == 128 && KEYS == 128 ? 256 : 128, MT = KEYS / 16 / (CTA / WARP);
    static const int RESIDENT = CTA == 128 ? 2 : 1;
    static const int COLUMNS = 2 * D / (CTA / WARP);                   // of dQ, a warp: two warps share them, 16 queries each
    static const int COUNT = MT * D / 2;                               // floats of dK, and of dV, a thread
    static const bool V_SHARED = D == 64;                              // or in registers
};

template <int D, int KEYS> struct PortableShared {
    floatX k[KEYS * D], v[KeyRows<D, KEYS>::V_SHARED ? KEYS * D : 8];
    floatX queries[PART_STAGES][2][PART * D];                          // q, dout; at D 128 first V, until its fragments are in registers
    floatX ds[2][KEYS * PART];
    float2 stats[PART_STAGES][PART];                                   // of a query: log2-sum-exp, delta
    int entries[ENTRY_STAGES][PART];
    KeyWalk walk;
};

// element index of eight queries of a key in a dS tile; two rows fill the banks, eight rows of a chunk meet them all
__device__ inline int ds_at(int key, int chunk) { return key * PART + ((chunk ^ (key / 2 & 3)) << 3); }

// Queries that do not exist become zeros: then P = 1 meets dout = 0 and dS = 1 * (0 - 0).
template <int D, int KEYS>
__device__ inline void gather_part(PortableShared<D, KEYS>& shared, uint32_t ldq, uint32_t ldo, int tile) {
    typedef Copy<D, KeyRows<D, KEYS>::CTA> Copy;
    const KeyWalk& w = shared.walk;
    if (tile >= w.tiles) { return; }
    const int* entries = shared.entries[tile % ENTRY_STAGES];
    int live = live_rows<PART>(w, tile), stage = (uint32_t)tile % PART_STAGES;
    const floatX *q = w.q + 8 * Copy::chunk(), *dout = w.dout + 8 * Copy::chunk();
    #pragma unroll
    for (int i = 0; i < PART / Copy::STEP; i++) {
        int row = Copy::first() + i * Copy::STEP, at = tile_at<D>(row, Copy::chunk());
        bool is_live = row < live;
        uint32_t t = is_live ? (uint32_t)entries[row] / MOBA_MAX_TOPK : 0;
        cp_async_16(shared.queries[stage][0] + at, q + (size_t)t * ldq, is_live);
        cp_async_16(shared.queries[stage][1] + at, dout + (size_t)t * ldo, is_live);
    }
    if (threadIdx.x < PART) {
        bool is_live = (int)threadIdx.x < live;
        uint32_t t = is_live ? (uint32_t)entries[threadIdx.x] / MOBA_MAX_TOPK : 0;
        cp_async_8(&shared.stats[stage][threadIdx.x], w.stats + t, is_live);
    }
}

// s, dp: S^T and dP^T, become P^T and dS^T
template <int MT>
__device__ inline void probabilities(float (&s)[MT][PART / 8][4], float (&dp)[MT][PART / 8][4], const float2* stats, float scale2) {
    const float4* pairs = reinterpret_cast<const float4*>(stats) + threadIdx.x % 4;
    #pragma unroll
    for (int n = 0; n < PART / 8; n++) {
        float4 two = pairs[4 * n];                         // lse2, delta of column 8n + 2c, and of the next
        #pragma unroll
        for (int m = 0; m < MT; m++) {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale2, -(i % 2 ? two.z : two.x)));
                dp[m][n][i] = s[m][n][i] * (dp[m][n][i] - (i % 2 ? two.w : two.y));
            }
        }
    }
}

// dS^T of the warp's keys, from `key` on
template <int MT>
__device__ inline void store_ds(floatX* tile, int key, const float (&ds)[MT][PART / 8][4]) {
    int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int n = 0; n < PART / 8; n++) {
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t* to = reinterpret_cast<uint32_t*>(tile + ds_at(key + 16 * m + 8 * half + g, n)) + c;
                *to = pack_bf16(ds[m][n][2 * half], ds[m][n][2 * half + 1]);
            }
        }
    }
}

// 16 queries of a tile from `query` on, and COUNT columns, to where their dQ goes: slots, or dq itself for queries whose own part of
// their block this is
template <int D, int KEYS, int COUNT>
__device__ inline void store_dq(const PortableShared<D, KEYS>& shared, const Moba& m, const Backward& b, int tile, int query, int column,
                                const float (&dq)[COUNT / 8][4]) {
    const KeyWalk& w = shared.walk;
    bool own = tile < w.own_tiles && tile < KEYS / PART;
    floatX* rows = (own ? w.dq : w.slots) + column + 8 * (threadIdx.x % 4);
    uint32_t row_stride = own ? m.shape.ldq : slot_rows(m.slots, b.parts) * D, slot_stride = own ? 0 : b.parts * D;
    int live = live_rows<PART>(w, tile) - query;
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = threadIdx.x % WARP / 4 + 8 * half;
        uint32_t entry = shared.entries[tile % ENTRY_STAGES][query + row], slot = entry % MOBA_MAX_TOPK;
        floatX* to = rows + (size_t)(entry / MOBA_MAX_TOPK) * row_stride + (slot == OWN_SLOT ? m.slots : slot) * slot_stride;
        #pragma unroll
        for (int n = 0; n < COUNT / 8; n += 4) {
            uint4 chunk = row_chunk(dq[n], half, m.scale);
            if (row < live) { store_16(to + 8 * n, chunk); }
        }
    }
}

// dQ of a tile: this warp's 16 queries and COLUMNS columns, to their slots
template <int D, int KEYS>
__device__ inline void add_dq(const PortableShared<D, KEYS>& shared, const Moba& m, const Backward& b, int tile) {
    const int COLUMNS = KeyRows<D, KEYS>::COLUMNS;
    int lane = threadIdx.x % WARP, query = threadIdx.x / WARP % 2 * 16, column = threadIdx.x / WARP / 2 * COLUMNS;
    const floatX* ds = shared.ds[tile % 2];
    float dq[COLUMNS / 8][4] = {};
    #pragma unroll
    for (int key = 0; key < KEYS; key += 16) {
        uint32_t a[4];
        ldmatrix_x4_trans(a, ds + ds_at(key + lane / 16 * 8 + lane % 8, query / 8 + lane / 8 % 2));
        #pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            uint32_t columns[4];
            fragment_b<D>(columns, shared.k, key, column / 16 + n);
            mma_16816(dq[2 * n], a, columns[0], columns[1]);
            mma_16816(dq[2 * n + 1], a, columns[2], columns[3]);
        }
    }
    store_dq<D, KEYS, COLUMNS>(shared, m, b, tile, query, column, dq);
}

// Everything a CTA does with its queries. The gather of tile i begins in round i - 2, when all warps are done with tile i - 3.
template <int D, int KEYS>
__device__ inline void walk_parts(float (&dk)[KeyRows<D, KEYS>::MT][D / 8][4], float (&dv)[KeyRows<D, KEYS>::MT][D / 8][4],
                                  PortableShared<D, KEYS>& shared, const uint32_t (&v)[KeyRows<D, KEYS>::MT][D / 16][4], const Moba& m,
                                  const Backward& b) {
    const int MT = KeyRows<D, KEYS>::MT;
    const KeyWalk& w = shared.walk;
    int key = threadIdx.x / WARP * 16 * MT;                            // the warp's first
    #pragma unroll 1
    for (int tile = 0; tile <= w.tiles; tile++) {
        cp_async_wait<1>();                                            // the tile has landed, and entries of the second after it
        __syncthreads();                                               // dS of the last tile is whole
        gather_part<D, KEYS>(shared, m.shape.ldq, m.shape.ldo, tile + 2);
        fetch_entries<PART>(shared.entries[(tile + 4) % ENTRY_STAGES], w, tile + 4);
        cp_async_commit();
        if (tile < w.tiles) {
            const floatX *q = shared.queries[tile % PART_STAGES][0], *dout = shared.queries[tile % PART_STAGES][1];
            float s[MT][PART / 8][4] = {}, dp[MT][PART / 8][4] = {};
            multiply_tiles_abt<D, MT, PART / 8>(s, shared.k, key, q, 0);
            if (tile < w.own_tiles && tile < KEYS / PART) { mask_keys(s, PART * tile, EVERYTHING, key); }
            if (KeyRows<D, KEYS>::V_SHARED) { multiply_tiles_abt<D, MT, PART / 8>(dp, shared.v, key, dout, 0); }
            else                            { multiply_abt<D, MT, PART / 8>(dp, v, dout, 0); }
            probabilities<MT>(s, dp, shared.stats[tile % PART_STAGES], m.scale * LOG2E);
            store_ds<MT>(shared.ds[tile % 2], key, dp);
            multiply_ab<D, MT, PART / 8>(dv, s, dout, 0);
            multiply_ab<D, MT, PART / 8>(dk, dp, q, 0);
        }
        if (tile > 0) { add_dq<D, KEYS>(shared, m, b, tile - 1); }
    }
}

// sums of the warp's keys, from `key` on, to the rows of dk or dv that exist
template <int D, int MT>
__device__ inline void store_key_rows(floatX* rows, int ld, const float (&sums)[MT][D / 8][4], int key, int end, float factor) {
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int u = key + 16 * m + 8 * half + threadIdx.x % WARP / 4;
            #pragma unroll
            for (int n = 0; n < D / 8; n += 4) {
                uint4 chunk = row_chunk(sums[m][n], half, factor);
                if (u < end) { store_16(rows + (size_t)u * ld + 8 * (n + threadIdx.x % 4), chunk); }
            }
        }
    }
}

// one CTA per item: see find_walk
template <int D, int KEYS>
__global__ __launch_bounds__((KeyRows<D, KEYS>::CTA), (KeyRows<D, KEYS>::RESIDENT))
void moba_portable_backward_kernel(Backward b, Moba m) {
    const int CTA = KeyRows<D, KEYS>::CTA, MT = KeyRows<D, KEYS>::MT, COUNT = KeyRows<D, KEYS>::COUNT;
    extern __shared__ __align__(16) unsigned char moba_shared[];
    PortableShared<D, KEYS>& shared = *reinterpret_cast<PortableShared<D, KEYS>*>(moba_shared);
    const AttnShape& shape = m.shape;
    const KeyWalk& w = shared.walk;
    take_walk<D, KEYS, PART>(&shared.walk, m, b);
    if (w.tiles == 0) { return; }

    int head = m.head0 + w.head, key = threadIdx.x / WARP * 16 * MT;
    uint32_t v[MT][D / 16][4];
    floatX* v_tile = KeyRows<D, KEYS>::V_SHARED ? shared.v : shared.queries[0][0];
    for (int tile = 0; tile < 4; tile++) { fetch_entries<PART>(shared.entries[tile], w, tile); }
    load_tile<D, KEYS, CTA>(v_tile, head_rows(m.v, shape.ldv, shape, head), shape.ldv, w.key, shape.T);
    cp_async_commit();
    load_tile<D, KEYS, CTA>(shared.k, head_rows(m.k, shape.ldk, shape, head), shape.ldk, w.key, shape.T);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    if (!KeyRows<D, KEYS>::V_SHARED) { load_fragments<D, MT>(v, v_tile, key); }
    __syncthreads();
    for (int tile = 0; tile < 2; tile++) {
        gather_part<D, KEYS>(shared, shape.ldq, shape.ldo, tile);
        cp_async_commit();
    }

    float dk[MT][D / 8][4] = {}, dv[MT][D / 8][4] = {};
    walk_parts<D, KEYS>(dk, dv, shared, v, m, b);
    if (w.tail >= 0) {
        leave_sums<COUNT>(dk[0][0], dv[0][0], b, w);
        return;
    }
    add_tails<COUNT>(dk[0][0], dv[0][0], b, w);
    store_key_rows<D, MT>(head_rows(b.dk, shape.ldk, shape, head), shape.ldk, dk, w.key + key, shape.T, m.scale);
    store_key_rows<D, MT>(head_rows(b.dv, shape.ldv, shape, head), shape.ldv, dv, w.key + key, shape.T, 1.0f);
}

template <int D, int KEYS>
static WalkKernel portable_walk() {
    static_assert(sizeof(PortableShared<D, KEYS>) <= 99 * 1024, "what a CTA may have where it may have least (compute capability 8.6, 8.9)");
    return {moba_portable_backward_kernel<D, KEYS>, KeyRows<D, KEYS>::CTA, sizeof(PortableShared<D, KEYS>)};
}

#endif

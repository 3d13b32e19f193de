// Backward of MoBA attention on Hopper (wgmma). Included by moba_attn.cu.
//
// By the plan of moba_backward.cuh, with tiles of 64 queries. Five products a tile, keys as rows, so that P^T and dS^T come out as left
// operands in registers:
//   S^T = K Q^T, dP^T = V dO^T     both operands in shared memory, K-major
//   dV += P^T dO, dK += dS^T Q     left operand in registers, right one row-major as it lies ("transposed": N-major)
//   dQ = dS K                      dS^T through shared memory as [key][query] (left operand M-major), K as it lies (N-major)
// dQ is stored 64 bytes a row at a time. dK, dV stay in registers: 128 floats a thread. So
//   D 64:  one warpgroup has all 128 keys as two M tiles, and two CTAs an SM hide each other's softmax. No other warpgroup to wait for.
//   D 128: two warpgroups, each 64 keys, and half of the columns of dQ.
// At the peak a thread holds dK, dV (128), S and dP of the next M tile (64), and dQ in flight or P and dS (32).
// Shared memory at D 64 (of 113 KB): K, V 32 KB, three stages of Q, dO, (lse, delta) 50 KB, dS 16 KB, entries 1 KB.
#ifndef MOBA_HOPPER_BACKWARD_CUH
#define MOBA_HOPPER_BACKWARD_CUH

#include "moba_backward.cuh"
#include "hopper_tile.cuh"

// ---- shapes -------------------------------------------------------------------------------------------------------------
enum { STAGES = 3 };

template <int D, int KEYS> struct KeyMajor {
    static const int PANELS = D / 64;                                   // a tile is panels of 64 columns
    static const int GROUPS = D == 128 && KEYS == 128 ? 2 : 1;         // warpgroups
    static const int CTA = 128 * GROUPS, RESIDENT = D == 64 ? 2 : 1;
    static const int M_TILES = KEYS / 64 / GROUPS;                     // of 64 keys, a warpgroup
    static const int DQ_PANELS = PANELS / GROUPS;                        // of dQ's columns, a warpgroup
    static const int CHUNKS = D / 8, STEP = CTA / CHUNKS;              // thread -> chunk of 8 columns of rows first, first + STEP, ...
    static_assert(STEP % 8 == 0, "the rows of a thread have one swizzle");
};

template <int D, int KEYS> struct BackwardShared {
    floatX k[KEYS * D], v[KEYS * D];
    floatX q[STAGES][QUERIES * D], dout[STAGES][QUERIES * D];
    floatX ds[KEYS * QUERIES];
    float2 stats[STAGES][QUERIES];                                     // of a query: log2-sum-exp, delta
    int entries[ENTRY_STAGES][QUERIES];
    KeyWalk walk;
};

// ---- tiles --------------------------------------------------------------------------------------------------------------
// Queries that do not exist become zeros: then P = 1 meets dout = 0 and dS = 1 * (0 - 0).
template <int D, int KEYS>
__device__ inline void gather_queries(BackwardShared<D, KEYS>& shared, int ldq, int ldo, int tile, int stage) {
    int thread = thread_here();
    typedef KeyMajor<D, KEYS> Shape;
    const KeyWalk& w = shared.walk;
    if (tile >= w.tiles) { return; }
    const int* entries = shared.entries[tile % ENTRY_STAGES];
    int chunk = thread % Shape::CHUNKS, first_row = thread / Shape::CHUNKS, live = live_rows(w, tile);
    int at = stage * QUERIES * D + panel_at<QUERIES>(first_row, chunk);
    const floatX *q = w.q + 8 * chunk, *dout = w.dout + 8 * chunk;
    #pragma unroll
    for (int i = 0; i < QUERIES / Shape::STEP; i++) {
        int row = first_row + i * Shape::STEP;
        bool is_live = row < live;
        size_t t = is_live ? entries[row] / MOBA_MAX_TOPK : 0;
        cp_async_16(shared.q[0] + at + i * Shape::STEP * 64, q + t * ldq, is_live);
        cp_async_16(shared.dout[0] + at + i * Shape::STEP * 64, dout + t * ldo, is_live);
    }
    if (thread < QUERIES) {
        bool is_live = (int)thread < live;
        cp_async_8(&shared.stats[stage][thread], w.stats + (is_live ? entries[thread] / MOBA_MAX_TOPK : 0), is_live);
    }
}

// ---- products: issued, not waited for -------------------------------------------------------------------------------------
// s = K Q^T of the 64 keys from `key` on; or dp = V dO^T
template <int D, int KEYS>
__device__ inline void issue_scores(float (&s)[32], const floatX* key_tile, int key, const floatX* query_tile) {
    #pragma unroll
    for (int k = 0; k < D / 16; k++) { wgmma<0, 0>(s, rows_operand<KEYS>(key_tile, key, k), rows_operand<QUERIES>(query_tile, 0, k), k > 0); }
}

// sum += P^T dO, or dS^T Q
template <int COUNT>
__device__ inline void issue_key_sums(float (&sum)[COUNT], const uint32_t (&p)[4][4], const floatX* query_tile) {
    #pragma unroll
    for (int k = 0; k < 4; k++) { wgmma<1>(sum, p[k], columns_operand<QUERIES>(query_tile, 16 * k), true); }
}

// ---- between the products -----------------------------------------------------------------------------------------------
// Own block: keys after the query are not seen. key, query: of the first row and column, relative to anything.
__device__ inline void mask_own(float (&s)[32], int key, int query) {
    int thread = thread_here();
    int lane = thread % WARP, u = key + thread / WARP % 4 * 16 + lane / 4, t = query + lane % 4 * 2;
    #pragma unroll
    for (int i = 0; i < 32; i++) {
        if (u + i % 4 / 2 * 8 > t + i / 4 * 8 + i % 2) { s[i] = -INFINITY; }
    }
}

// P^T and dS^T (64 keys x 64 queries) as left operands, from the accumulators of S^T and dP^T
__device__ inline void probabilities(uint32_t (&p)[4][4], uint32_t (&ds)[4][4], const float (&s)[32], const float (&dp)[32],
                                     const float2* stats, float scale2) {
    int thread = thread_here();
    const float4* pairs = reinterpret_cast<const float4*>(stats) + thread % 4;
    #pragma unroll
    for (int n = 0; n < 8; n++) {
        float4 two = pairs[4 * n];                     // lse2, delta of column 8n + 2l, and of the next
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = 4 * n + 2 * half;
            float left = exp2_approx(fmaf(s[i], scale2, -two.x)), right = exp2_approx(fmaf(s[i + 1], scale2, -two.z));
            p[n / 2][n % 2 * 2 + half] = pack_bf16(left, right);
            ds[n / 2][n % 2 * 2 + half] = pack_bf16(left * (dp[i] - two.y), right * (dp[i + 1] - two.w));
        }
    }
}

// ---- rows out -----------------------------------------------------------------------------------------------------------
// The thread's 64 columns from accumulator `first` on, of row g + 8*half, times factor, to `row` (NULL: nowhere). The four lanes of a row
// write 64 bytes at a time.
template <int COUNT>
__device__ inline void store_row(floatX* row, const float (&acc)[COUNT], int first, int half, float factor) {
    #pragma unroll
    for (int group = 0; group < 2; group++) {
        uint4 chunk = row_chunk(acc + first + 16 * group, half, factor);
        if (row != NULL) { *reinterpret_cast<uint4*>(row + 32 * group + 8 * (threadIdx.x % 4)) = chunk; }
    }
}

template <int D, int KEYS>
__device__ inline void store_dq(const Moba& m, const Backward& b, const KeyWalk& w, const int* entries, int live, const float (&dq)[32], int panel) {
    int thread = thread_here();
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = thread / WARP % 4 * 16 + thread % WARP / 4 + 8 * half;
        floatX* to = row < live ? dq_row<D, KEYS>(m, b, w, entries[row]) + PANEL * panel : NULL;
        store_row(to, dq, 0, half, m.scale);
    }
}

// ---- the kernel ---------------------------------------------------------------------------------------------------------
// dK and dV of a whole CTA; a thread's part of them
template <int D, int KEYS> struct KeySumsOf {
    float dk[KeyMajor<D, KEYS>::M_TILES][D / 2], dv[KeyMajor<D, KEYS>::M_TILES][D / 2];
};

// Everything a CTA does with its queries. For tile i the gather begins in round i - 2, when all threads are done with tile i - 3, and the
// scores of the first M tile are issued at the end of round i - 1, before dQ is stored.
template <int D, int KEYS>
__device__ inline void walk_queries(KeySumsOf<D, KEYS>& sums, BackwardShared<D, KEYS>& shared, const Moba& m, const Backward& b) {
    typedef KeyMajor<D, KEYS> Shape;
    const int M_TILES = Shape::M_TILES, DQ_PANELS = Shape::DQ_PANELS;
    const KeyWalk& w = shared.walk;
    int group = Shape::GROUPS == 1 ? 0 : __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), stage = 0;
    float s[32], dp[32], dq[32];
    wgmma_fence();
    issue_scores<D, KEYS>(s, shared.k, 64 * group * M_TILES, shared.q[0]);
    issue_scores<D, KEYS>(dp, shared.v, 64 * group * M_TILES, shared.dout[0]);
    wgmma_commit();
    #pragma unroll 1
    for (int tile = 0; tile < w.tiles; tile++) {
        #pragma unroll
        for (int i = 0; i < M_TILES; i++) {
            int first = 64 * (group * M_TILES + i);           // of the M tile's keys
            uint32_t p[4][4], ds[4][4];
            wgmma_wait<0>();
            wgmma_ready(s);
            wgmma_ready(dp);
            if (tile < w.own_tiles && tile < KEYS / QUERIES) { mask_own(s, first, QUERIES * tile); }
            probabilities(p, ds, s, dp, shared.stats[stage], m.scale * LOG2E);
            wgmma_fence();
            issue_key_sums(sums.dv[i], p, shared.dout[stage]);
            issue_key_sums(sums.dk[i], ds, shared.q[stage]);
            if (i + 1 < M_TILES) {
                issue_scores<D, KEYS>(s, shared.k, first + 64, shared.q[stage]);
                issue_scores<D, KEYS>(dp, shared.v, first + 64, shared.dout[stage]);
            }
            wgmma_commit();
            if (i == 0) {
                __syncthreads();                       // all have dQ of the last tile: its dS, stage and entries are free
                gather_queries<D, KEYS>(shared, m.shape.ldq, m.shape.ldo, tile + 2, stage == 0 ? STAGES - 1 : stage - 1);
                fetch_entries(shared.entries[(tile + 4) % ENTRY_STAGES], w, tile + 4);
                cp_async_commit();
            }
            store_operand<KEYS>(shared.ds, first, ds);   // [key][query]
        }
        cp_async_wait<1>();                            // the next tile has landed, and entries of the one two after it
        fence_proxy_async();
        __syncthreads();                               // dS is whole
        const int* entries = shared.entries[tile % ENTRY_STAGES];
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        #pragma unroll
        for (int i = 0; i < DQ_PANELS; i++) {
            int panel = group * DQ_PANELS + i;
            product_atb<KEYS>(dq, shared.ds, shared.k + panel * KEYS * PANEL);
            if (i + 1 < DQ_PANELS) {
                wgmma_wait<0>();
                wgmma_ready(dq);
                store_dq<D, KEYS>(m, b, w, entries, live_rows(w, tile), dq, panel);
            }
        }
        wgmma_wait<1>();                               // dK, dV are done with p and ds
        wgmma_fence();                                 // after the last tile: scores of anything, for nobody
        issue_scores<D, KEYS>(s, shared.k, 64 * group * M_TILES, shared.q[stage]);
        issue_scores<D, KEYS>(dp, shared.v, 64 * group * M_TILES, shared.dout[stage]);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_ready(dq);
        store_dq<D, KEYS>(m, b, w, entries, live_rows(w, tile), dq, group * DQ_PANELS + DQ_PANELS - 1);
    }
    wgmma_wait<0>();
}

// sums to the rows of dk or dv that exist
template <int D, int KEYS>
__device__ inline void store_key_rows(floatX* rows, int ld, const float (&sums)[KeyMajor<D, KEYS>::M_TILES][D / 2], int key, int end, float factor) {
    int row = (threadIdx.x / 128 * KeyMajor<D, KEYS>::M_TILES) * 64 + threadIdx.x / WARP % 4 * 16 + threadIdx.x % WARP / 4;
    #pragma unroll
    for (int i = 0; i < KeyMajor<D, KEYS>::M_TILES; i++) {
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int u = key + row + 64 * i + 8 * half;
            #pragma unroll
            for (int panel = 0; panel < D / PANEL; panel++) { store_row(u < end ? rows + (size_t)u * ld + PANEL * panel : NULL, sums[i], 32 * panel, half, factor); }
        }
    }
}

// one CTA per item: see find_walk
template <int D, int KEYS>
__global__ __launch_bounds__((KeyMajor<D, KEYS>::CTA), (KeyMajor<D, KEYS>::RESIDENT))
void moba_hopper_backward_kernel(Backward b, Moba m) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char moba_hopper_shared[];
    BackwardShared<D, KEYS>& shared = *reinterpret_cast<BackwardShared<D, KEYS>*>(moba_hopper_shared);
    const AttnShape& shape = m.shape;
    const KeyWalk& w = shared.walk;
    take_walk<D, KEYS>(&shared.walk, m, b);
    if (w.tiles == 0) { return; }

    int head = m.head0 + w.head;
    for (int tile = 0; tile < 4; tile++) { fetch_entries(shared.entries[tile], w, tile); }
    cp_async_commit();
    load_rows<D, KEYS, KeyMajor<D, KEYS>::CTA>(shared.k, head_rows(m.k, shape.ldk, shape, head), shape.ldk, w.key, shape.T);
    load_rows<D, KEYS, KeyMajor<D, KEYS>::CTA>(shared.v, head_rows(m.v, shape.ldv, shape, head), shape.ldv, w.key, shape.T);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (int tile = 0; tile < 2; tile++) {
        gather_queries<D, KEYS>(shared, shape.ldq, shape.ldo, tile, tile);
        cp_async_commit();
    }
    cp_async_wait<1>();
    fence_proxy_async();
    __syncthreads();

    const int COUNT = KeyMajor<D, KEYS>::M_TILES * D / 2;
    KeySumsOf<D, KEYS> sums = {};
    walk_queries<D, KEYS>(sums, shared, m, b);
    if (w.tail >= 0) {
        leave_sums<COUNT>(&sums.dk[0][0], &sums.dv[0][0], b, w);
        return;
    }
    add_tails<COUNT>(&sums.dk[0][0], &sums.dv[0][0], b, w);
    store_key_rows<D, KEYS>(head_rows(b.dk, shape.ldk, shape, head), shape.ldk, sums.dk, w.key, shape.T, m.scale);
    store_key_rows<D, KEYS>(head_rows(b.dv, shape.ldv, shape, head), shape.ldv, sums.dv, w.key, shape.T, 1.0f);
#endif
}

template <int D, int KEYS>
static WalkKernel hopper_walk() { return {moba_hopper_backward_kernel<D, KEYS>, KeyMajor<D, KEYS>::CTA, sizeof(BackwardShared<D, KEYS>)}; }

#endif

// Backward of MoBA attention on Hopper (wgmma). Included by moba_attn.cu.
//
// A CTA owns KEYS keys (128, or a whole block of 64) of one head and walks over the queries that see them, 64 at a time: its own block's
// first, then its block's list. Five products a tile, keys as rows, so that P^T and dS^T come out as left operands in registers:
//   S^T = K Q^T, dP^T = V dO^T     both operands in shared memory, K-major
//   dV += P^T dO, dK += dS^T Q     left operand in registers, right one row-major as it lies ("transposed": N-major)
//   dQ = dS K                      dS^T through shared memory as [key][query] (left operand M-major), K as it lies (N-major)
// dQ goes to bf16 slots, 64 bytes a store and row; a last kernel sums them. dK, dV stay in registers: 128 floats a thread. So
//   D 64:  one warpgroup has all 128 keys as two M tiles, and two CTAs an SM hide each other's softmax. No other warpgroup to wait for.
//   D 128: two warpgroups, each 64 keys, and half of the columns of dQ.
// At the peak a thread holds dK, dV (128), S and dP of the next M tile (64), and dQ in flight or P and dS (32).
// Shared memory at D 64 (of 113 KB): K, V 32 KB, three stages of Q, dO, (lse, delta) 50 KB, dS 16 KB, entries 1 KB.
//
// Long lists are cut into pieces of LIST_PIECE entries. Pieces after the first ("tails") leave fp32 sums in scratch; the first piece waits
// for them and adds them in order. CTAs take items in the order of a ticket, and tails come before the piece that waits for them.
#ifndef MOBA_HOPPER_BACKWARD_CUH
#define MOBA_HOPPER_BACKWARD_CUH

#include "hopper_tile.cuh"

__device__ inline void cp_async_8(void* shared, const void* from, bool live) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" :: "r"(shared_address(shared)), "l"(from), "r"(live ? 8 : 0) : "memory");
}

// ---- shapes -------------------------------------------------------------------------------------------------------------
enum { QUERIES = 64, STAGES = 3, ENTRY_STAGES = 8, OWN_SLOT = MOBA_MAX_TOPK - 1 };   // routed slots are at most MOBA_MAX_TOPK - 2

template <int D, int KEYS> struct KeyMajor {
    static const int PANELS = D / 64;                                   // a tile is panels of 64 columns
    static const int GROUPS = D == 128 && KEYS == 128 ? 2 : 1;         // warpgroups
    static const int CTA = 128 * GROUPS, RESIDENT = D == 64 ? 2 : 1;
    static const int M_TILES = KEYS / 64 / GROUPS;                     // of 64 keys, a warpgroup
    static const int DQ_PANELS = PANELS / GROUPS;                        // of dQ's columns, a warpgroup
    static const int CHUNKS = D / 8, STEP = CTA / CHUNKS;              // thread -> chunk of 8 columns of rows first, first + STEP, ...
    static_assert(STEP % 8 == 0, "the rows of a thread have one swizzle");
};

// a tail's sums: accumulators as the threads hold them
template <int D, int KEYS> struct PieceSums {
    float4 dk[KeyMajor<D, KEYS>::M_TILES * D / 8][KeyMajor<D, KEYS>::CTA], dv[KeyMajor<D, KEYS>::M_TILES * D / 8][KeyMajor<D, KEYS>::CTA];
};

// What the launch has beside m. Arrays of scratch start at head m.head0.
struct Backward {
    floatX *dq, *dk, *dv;
    const floatX* dout;
    floatX* slots;                 // (heads, T, slot_rows, D): routed slot s, part p of its block at s*parts + p; own block's part p behind
    const float2* stats;           // (heads, T)
    void* sums;                    // (heads, tails, parts) PieceSums
    int *ready, *ticket;           // (heads, tails, parts): the sums are there; items taken
    int heads, together;           // of this launch; that are walked together
    int tails, tiles, parts;       // a head: most tails, tiles of KEYS keys; a block: parts of KEYS keys
};

__host__ __device__ inline int slot_rows(int slots, int parts) { return (slots + 1) * parts - 1; }

// An item: the queries that meet its keys are `own_tiles` tiles of consecutive ones from `key` to own_end, then `count` entries of a list.
// It lies in shared memory: registers are short.
struct KeyWalk {
    int head, key, part;           // head within the launch; first key; which part of its block
    int tail, first_tail;          // rooms in sums, of this tail (-1: a first piece) and of the list's first tail
    int own_end, own_tiles, tiles;
    int count, later;              // entries of this piece; pieces that follow a first one
    const int* list;
    const floatX *q, *dout;        // the head's rows
    const float2* stats;
    floatX *dq, *slots;            // slots: this part's of query 0, slot 0
};

template <int D, int KEYS> struct BackwardShared {
    floatX k[KEYS * D], v[KEYS * D];
    floatX q[STAGES][QUERIES * D], dout[STAGES][QUERIES * D];
    floatX ds[KEYS * QUERIES];
    float2 stats[STAGES][QUERIES];                                     // of a query: log2-sum-exp, delta
    int entries[ENTRY_STAGES][QUERIES];
    KeyWalk walk;
};

// ---- items --------------------------------------------------------------------------------------------------------------
// Items go head by head, `together` at a time so that their q and dout stay in L2, and long ones first: tails, then ascending blocks
// (the earlier a block, the more queries can pick it). Without such a tail there are no tiles. The warp calls it.
template <int D, int KEYS>
__device__ inline KeyWalk find_walk(const Moba& m, const Backward& b, int item) {
    KeyWalk w;
    int per_head = b.tails * b.parts + b.tiles, first_head = item / (b.together * per_head) * b.together;
    int now = min(b.together, b.heads - first_head), rest = item - first_head * per_head, unit = rest / now;
    w.head = first_head + rest % now;
    int head = m.head0 + w.head, tail = unit / b.parts;
    const int* offset = head_offset(m, head);
    bool is_tail = tail < b.tails;
    int j = is_tail ? find_block(offset, m.blocks, tail, LIST_PIECE, 0) : (unit - b.tails * b.parts) * KEYS / m.block;
    int length = offset[j + 1] - offset[j], first = is_tail ? (tail - offset[j] / LIST_PIECE + 1) * LIST_PIECE : 0;
    w.part = is_tail ? unit % b.parts : (unit - b.tails * b.parts) % b.parts;
    w.key = j * m.block + w.part * KEYS;
    w.first_tail = (w.head * b.tails + offset[j] / LIST_PIECE) * b.parts + w.part;
    w.tail = is_tail ? (w.head * b.tails + tail) * b.parts + w.part : -1;
    w.own_end = is_tail ? w.key : min(m.shape.T, (j + 1) * m.block);
    w.own_tiles = (w.own_end - w.key + QUERIES - 1) / QUERIES;
    w.list = head_list(m, head) + offset[j] + first;
    w.count = min((int)LIST_PIECE, length - first);
    w.later = is_tail ? 0 : (length - 1) / LIST_PIECE;
    w.tiles = w.own_tiles + max(0, w.count + QUERIES - 1) / QUERIES;
    const AttnShape& s = m.shape;
    w.q = head_rows(m.q, s.ldq, s, head);
    w.dout = head_rows(b.dout, s.ldo, s, head);
    w.dq = head_rows(b.dq, s.ldq, s, head);
    w.stats = b.stats + (size_t)w.head * s.T;
    w.slots = b.slots + ((size_t)w.head * s.T * slot_rows(m.slots, b.parts) + w.part) * D;
    return w;
}

__device__ inline int live_rows(const KeyWalk& w, int tile) {
    return tile < w.own_tiles ? w.own_end - w.key - tile * QUERIES : w.count - (tile - w.own_tiles) * QUERIES;
}

// entry = query * MOBA_MAX_TOPK + slot. Rows that are not live hold anything.
__device__ inline void fetch_entries(int* entries, const KeyWalk& w, int tile) {
    int row = threadIdx.x;
    if (row >= QUERIES || tile >= w.tiles) { return; }
    if (tile < w.own_tiles) {
        entries[row] = (w.key + tile * QUERIES + row) * MOBA_MAX_TOPK + OWN_SLOT;
    } else if (row < live_rows(w, tile)) {
        cp_async_4(entries + row, w.list + (tile - w.own_tiles) * QUERIES + row, true);
    }
}

// The thread's number, hidden from the compiler: what is derived from it is computed where it is used, not kept in registers all along.
__device__ inline int thread_here() {
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));
    return thread;
}

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

// 64 columns of dQ; key_panel = the keys' panel of those columns
template <int KEYS>
__device__ inline void issue_dq(float (&dq)[32], const floatX* ds, const floatX* key_panel) {
    #pragma unroll
    for (int k = 0; k < KEYS / 16; k++) { wgmma<1, 1>(dq, columns_operand<KEYS>(ds, 16 * k), columns_operand<KEYS>(key_panel, 16 * k), k > 0); }
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

// dS^T of the 64 keys from `key` on, to the [key][query] tile
template <int KEYS>
__device__ inline void store_ds(floatX* tile, int key, const uint32_t (&ds)[4][4]) {
    int thread = thread_here();
    int lane = thread % WARP, at = panel_at<KEYS>(key + thread / WARP % 4 * 16 + lane % 16, lane / 16);
    #pragma unroll
    for (int k = 0; k < 4; k++) { stmatrix_x4(tile + (at ^ 16 * k), ds[k]); }          // chunk lane/16 + 2k
}

// ---- rows out -----------------------------------------------------------------------------------------------------------
// The thread's 64 columns from accumulator `first` on, of row g + 8*half, times factor, to `row` (NULL: nowhere). The four lanes of a row
// write 64 bytes at a time.
template <int COUNT>
__device__ inline void store_row(floatX* row, const float (&acc)[COUNT], int first, int half, float factor) {
    #pragma unroll
    for (int group = 0; group < 2; group++) {
        uint32_t u[4];
        #pragma unroll
        for (int n = 0; n < 4; n++) {
            int i = first + 4 * (4 * group + n) + 2 * half;
            u[n] = pack_bf16(acc[i] * factor, acc[i + 1] * factor);
        }
        quad_transpose(u);
        if (row != NULL) { *reinterpret_cast<uint4*>(row + 32 * group + 8 * (threadIdx.x % 4)) = make_uint4(u[0], u[1], u[2], u[3]); }
    }
}

// where dQ of an entry goes: a slot, or dq itself for queries whose own part of their block this is
template <int D, int KEYS>
__device__ inline floatX* dq_row(const Moba& m, const Backward& b, const KeyWalk& w, int entry) {
    int t = entry / MOBA_MAX_TOPK, slot = entry % MOBA_MAX_TOPK;
    if (slot == OWN_SLOT && t < w.key + KEYS) { return w.dq + (size_t)t * m.shape.ldq; }
    int row = (slot == OWN_SLOT ? m.slots : slot) * b.parts;
    return w.slots + ((size_t)t * slot_rows(m.slots, b.parts) + row) * D;
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
            store_ds<KEYS>(shared.ds, first, ds);
        }
        cp_async_wait<1>();                            // the next tile has landed, and entries of the one two after it
        fence_proxy_async();
        __syncthreads();                               // dS is whole
        const int* entries = shared.entries[tile % ENTRY_STAGES];
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        #pragma unroll
        for (int i = 0; i < DQ_PANELS; i++) {
            int panel = group * DQ_PANELS + i;
            wgmma_fence();
            issue_dq<KEYS>(dq, shared.ds, shared.k + panel * KEYS * PANEL);
            wgmma_commit();
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

// A tail leaves its sums and says so; a first piece adds those of its tails, in order, and is done.
template <int D, int KEYS>
__device__ inline void leave_sums(const KeySumsOf<D, KEYS>& sums, const Backward& b, const KeyWalk& w) {
    PieceSums<D, KEYS>& room = reinterpret_cast<PieceSums<D, KEYS>*>(b.sums)[w.tail];
    const float *dk = &sums.dk[0][0], *dv = &sums.dv[0][0];
    #pragma unroll
    for (int i = 0; i < KeyMajor<D, KEYS>::M_TILES * D / 8; i++) {
        room.dk[i][threadIdx.x] = make_float4(dk[4 * i], dk[4 * i + 1], dk[4 * i + 2], dk[4 * i + 3]);
        room.dv[i][threadIdx.x] = make_float4(dv[4 * i], dv[4 * i + 1], dv[4 * i + 2], dv[4 * i + 3]);
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) { atomicExch(b.ready + w.tail, 1); }
}

__device__ inline void add4(float* x, const float4& y) { x[0] += y.x; x[1] += y.y; x[2] += y.z; x[3] += y.w; }

template <int D, int KEYS>
__device__ inline void add_tails(KeySumsOf<D, KEYS>& sums, const Backward& b, const KeyWalk& w) {
    float *dk = &sums.dk[0][0], *dv = &sums.dv[0][0];
    #pragma unroll 1
    for (int piece = 0; piece < w.later; piece++) {
        int tail = w.first_tail + piece * b.parts;
        if (threadIdx.x == 0) {
            while (atomicAdd(b.ready + tail, 0) == 0) { }
            __threadfence();
        }
        __syncthreads();
        const PieceSums<D, KEYS>& room = reinterpret_cast<const PieceSums<D, KEYS>*>(b.sums)[tail];
        #pragma unroll
        for (int i = 0; i < KeyMajor<D, KEYS>::M_TILES * D / 8; i++) {
            add4(dk + 4 * i, room.dk[i][threadIdx.x]);
            add4(dv + 4 * i, room.dv[i][threadIdx.x]);
        }
    }
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
    if (threadIdx.x < WARP) {
        int item = threadIdx.x == 0 ? atomicAdd(b.ticket, 1) : 0;
        KeyWalk mine = find_walk<D, KEYS>(m, b, __shfl_sync(0xffffffffu, item, 0));
        if (threadIdx.x == 0) { shared.walk = mine; }
    }
    __syncthreads();
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

    KeySumsOf<D, KEYS> sums = {};
    walk_queries<D, KEYS>(sums, shared, m, b);
    if (w.tail >= 0) {
        leave_sums<D, KEYS>(sums, b, w);
        return;
    }
    add_tails<D, KEYS>(sums, b, w);
    store_key_rows<D, KEYS>(head_rows(b.dk, shape.ldk, shape, head), shape.ldk, sums.dk, w.key, shape.T, m.scale);
    store_key_rows<D, KEYS>(head_rows(b.dv, shape.ldv, shape, head), shape.ldv, sums.dv, w.key, shape.T, 1.0f);
#endif
}

// ---- before and after it --------------------------------------------------------------------------------------------------
// stats[head][t] = log2-sum-exp, delta = sum over d of dout * out; clears `ready` and the ticket.   D/8 lanes per query, grid (queries, heads)
template <int D>
__global__ __launch_bounds__(THREADS)
void moba_hopper_stats_kernel(float2* stats, int* zeros, int num_zeros, const floatX* dout, const floatX* out, const float* lse,
                              AttnShape shape, int head0) {
    int i = blockIdx.x * THREADS + threadIdx.x, t = i / (D / 8), chunk = threadIdx.x % (D / 8), head = head0 + blockIdx.y;
    size_t at = (size_t)min(t, shape.T - 1) * shape.ldo + 8 * chunk, zero = (size_t)blockIdx.y * gridDim.x * THREADS + i;
    float sum = row_dot<D>(head_rows(dout, shape.ldo, shape, head) + at, head_rows(out, shape.ldo, shape, head) + at);
    if (chunk == 0 && t < shape.T) {
        stats[(size_t)blockIdx.y * shape.T + t] = make_float2(LOG2E * lse[(size_t)head * shape.T + t], sum);
    }
    if (zero < (size_t)num_zeros) { zeros[zero] = 0; }
}

// x += `count` rows of slots, D apart, in order; four loads in flight
template <int D>
__device__ inline void add_rows(float (&x)[8], const floatX* from, int count) {
    for (int first = 0; first < count; first += 4) {
        Pack8 row[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            if (first + i < count) { row[i] = load8(from + (size_t)(first + i) * D); }
        }
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            if (first + i >= count) { break; }
            #pragma unroll
            for (int e = 0; e < 8; e++) { x[e] += __bfloat162float(row[i].x[e]); }
        }
    }
}

// dq += the slots of its query: the own block's other parts, then the routed ones in order.   D/8 lanes per query, grid (queries, heads)
template <int D>
__global__ __launch_bounds__(THREADS)
void moba_hopper_combine_kernel(Backward b, Moba m) {
    int t = (blockIdx.x * THREADS + threadIdx.x) / (D / 8), chunk = threadIdx.x % (D / 8), head = m.head0 + blockIdx.y, used = 0;
    if (t >= m.shape.T) { return; }
    floatX* row = head_rows(b.dq, m.shape.ldq, m.shape, head) + (size_t)t * m.shape.ldq + 8 * chunk;
    const floatX* slots = b.slots + ((size_t)blockIdx.y * m.shape.T + t) * slot_rows(m.slots, b.parts) * D + 8 * chunk;
    const uint16_t* sel = query_sel(m, head, t);
    Pack8 own = load8(row);
    #pragma unroll 8
    for (int s = 0; s < m.slots; s++) { used += sel[s] != MOBA_NONE; }
    float x[8];
    #pragma unroll
    for (int e = 0; e < 8; e++) { x[e] = __bfloat162float(own.x[e]); }
    add_rows<D>(x, slots + (size_t)m.slots * b.parts * D, t % m.block / (m.block / b.parts));
    add_rows<D>(x, slots, used * b.parts);
    store8_rounded(row, x);
}

// ---- launch -----------------------------------------------------------------------------------------------------------------
static int hopper_keys(int block) { return min_int(block, 128); }

static int hopper_tails(AttnShape s, int topk) { return (int)((size_t)s.T * (topk - 1) / LIST_PIECE); }

// bytes of scratch that one head needs
static size_t hopper_backward_head_bytes(AttnShape s, int block, int topk) {
    int parts = block / hopper_keys(block);
    size_t tails = (size_t)hopper_tails(s, topk) * parts, sums = (size_t)2 * hopper_keys(block) * s.D * sizeof(float);
    return (size_t)s.T * slot_rows(topk - 1, parts) * s.D * sizeof(floatX) + tails * (sums + sizeof(int)) + s.T * sizeof(float2) + 16;
}

template <int D, int KEYS>
static void hopper_backward_launch(Backward b, const floatX* out, const float* lse, Moba m, void* scratch, stream_t stream) {
    typedef KeyMajor<D, KEYS> Shape;
    const AttnShape& s = m.shape;
    b.parts = m.block / KEYS;
    b.tiles = ceil_div(s.T, KEYS);
    b.tails = hopper_tails(s, m.slots + 1);
    b.together = (int)min_size(b.heads, max_size(1, ((size_t)16 << 20) / ((size_t)s.T * D * 2 * sizeof(floatX))));
    size_t rows = (size_t)b.heads * s.T, tails = (size_t)b.heads * b.tails * b.parts;
    b.slots = (floatX*)scratch;
    b.sums = b.slots + rows * slot_rows(m.slots, b.parts) * D;
    float2* stats = (float2*)((PieceSums<D, KEYS>*)b.sums + tails);
    b.stats = stats;
    b.ticket = (int*)(stats + rows);
    b.ready = b.ticket + 1;

    dim3 row_grid(ceil_div(s.T, THREADS / (D / 8)), b.heads);
    moba_hopper_stats_kernel<D><<<row_grid, THREADS, 0, stream>>>(stats, b.ticket, (int)tails + 1, b.dout, out, lse, s, m.head0);
    LAUNCH_CHECK();
    int items = b.heads * (b.tails * b.parts + b.tiles);
    allow_shared(moba_hopper_backward_kernel<D, KEYS>, sizeof(BackwardShared<D, KEYS>));
    moba_hopper_backward_kernel<D, KEYS><<<items, Shape::CTA, sizeof(BackwardShared<D, KEYS>), stream>>>(b, m);
    LAUNCH_CHECK();
    if (slot_rows(m.slots, b.parts) > 0) {
        moba_hopper_combine_kernel<D><<<row_grid, THREADS, 0, stream>>>(b, m);
        LAUNCH_CHECK();
    }
}

static void hopper_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, Moba m,
                            void* scratch, int heads, stream_t stream) {
    Backward b = {};
    b.dq = dq; b.dk = dk; b.dv = dv;
    b.dout = dout;
    b.heads = heads;
    bool small = hopper_keys(m.block) == 64;
    if (m.shape.D == 64) {
        if (small) { hopper_backward_launch<64, 64>(b, out, lse, m, scratch, stream); }
        else       { hopper_backward_launch<64, 128>(b, out, lse, m, scratch, stream); }
    } else {
        if (small) { hopper_backward_launch<128, 64>(b, out, lse, m, scratch, stream); }
        else       { hopper_backward_launch<128, 128>(b, out, lse, m, scratch, stream); }
    }
}

#endif

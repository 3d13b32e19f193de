// What the backward kernels of MoBA attention share, on Hopper (moba_hopper_backward.cuh) and elsewhere (moba_portable_backward.cuh): the items
// of work, the slots of dQ, the pieces of long lists, what runs before the walk and after it.
//
// A CTA owns KEYS keys (128, or a whole block of 64) of one head and walks over the queries that see them, a tile at a time: its own block's
// first, then its block's list. dK and dV accumulate; dQ of a query goes to bf16 slots, one for each part of a block that it meets, and a last
// kernel sums them. Every sum has a fixed order.
//
// Long lists are cut into pieces of LIST_PIECE entries, so that a block everybody picks does not hold up the rest. Lists are
// (top-k - 1) * block long on average, 896 at the default shape: those must not be cut. Pieces after the first ("tails") leave fp32 sums in
// scratch; the first piece waits for them and adds them in order. CTAs take items in the order of a ticket, and tails come before the piece
// that waits for them.
#ifndef MOBA_BACKWARD_CUH
#define MOBA_BACKWARD_CUH

#include "moba_common.cuh"

enum { LIST_PIECE = 2048, QUERIES = 64, ENTRY_STAGES = 8, OWN_SLOT = MOBA_MAX_TOPK - 1 };   // routed slots are at most MOBA_MAX_TOPK - 2

// What the launch has beside m. Arrays of scratch start at head m.head0.
struct Backward {
    floatX *dq, *dk, *dv;
    const floatX* dout;
    floatX* slots;                 // (heads, T, slot_rows, D): routed slot s, part p of its block at s*parts + p; own block's part p behind
    const float2* stats;           // (heads, T)
    float4* sums;                  // (heads, tails, parts) rooms of 2 KEYS D floats
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

// ---- items --------------------------------------------------------------------------------------------------------------
// Items go head by head, `together` at a time so that their q and dout stay in L2, and long ones first: tails, then ascending blocks
// (the earlier a block, the more queries can pick it). Without such a tail there are no tiles. The warp calls it. ROWS: queries of a tile.
template <int D, int KEYS, int ROWS = QUERIES>
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
    w.own_tiles = (w.own_end - w.key + ROWS - 1) / ROWS;
    w.list = head_list(m, head) + offset[j] + first;
    w.count = min((int)LIST_PIECE, length - first);
    w.later = is_tail ? 0 : (length - 1) / LIST_PIECE;
    w.tiles = w.own_tiles + max(0, w.count + ROWS - 1) / ROWS;
    const AttnShape& s = m.shape;
    w.q = head_rows(m.q, s.ldq, s, head);
    w.dout = head_rows(b.dout, s.ldo, s, head);
    w.dq = head_rows(b.dq, s.ldq, s, head);
    w.stats = b.stats + (size_t)w.head * s.T;
    w.slots = b.slots + ((size_t)w.head * s.T * slot_rows(m.slots, b.parts) + w.part) * D;
    return w;
}

// the next item, in order of their tickets, to where all threads of the CTA read it
template <int D, int KEYS, int ROWS = QUERIES>
__device__ inline void take_walk(KeyWalk* walk, const Moba& m, const Backward& b) {
    if (threadIdx.x < WARP) {
        int item = threadIdx.x == 0 ? atomicAdd(b.ticket, 1) : 0;
        KeyWalk mine = find_walk<D, KEYS, ROWS>(m, b, __shfl_sync(0xffffffffu, item, 0));
        if (threadIdx.x == 0) { *walk = mine; }
    }
    __syncthreads();
}

template <int ROWS = QUERIES>
__device__ inline int live_rows(const KeyWalk& w, int tile) {
    return tile < w.own_tiles ? w.own_end - w.key - tile * ROWS : w.count - (tile - w.own_tiles) * ROWS;
}

// entry = query * MOBA_MAX_TOPK + slot. Rows that are not live hold anything.
template <int ROWS = QUERIES>
__device__ inline void fetch_entries(int* entries, const KeyWalk& w, int tile) {
    int row = threadIdx.x;
    if (row >= ROWS || tile >= w.tiles) { return; }
    if (tile < w.own_tiles) {
        entries[row] = (w.key + tile * ROWS + row) * MOBA_MAX_TOPK + OWN_SLOT;
    } else if (row < live_rows<ROWS>(w, tile)) {
        cp_async_4(entries + row, w.list + (tile - w.own_tiles) * ROWS + row, true);
    }
}

// ---- rows --------------------------------------------------------------------------------------------------------------
__device__ inline void cp_async_8(void* shared, const void* from, bool live) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" :: "r"(shared_address(shared)), "l"(from), "r"(live ? 8 : 0) : "memory");
}

// where dQ of an entry goes: a slot, or dq itself for queries whose own part of their block this is
template <int D, int KEYS>
__device__ inline floatX* dq_row(const Moba& m, const Backward& b, const KeyWalk& w, int entry) {
    int t = entry / MOBA_MAX_TOPK, slot = entry % MOBA_MAX_TOPK;
    if (slot == OWN_SLOT && t < w.key + KEYS) { return w.dq + (size_t)t * m.shape.ldq; }
    int row = (slot == OWN_SLOT ? m.slots : slot) * b.parts;
    return w.slots + ((size_t)t * slot_rows(m.slots, b.parts) + row) * D;
}

// ---- pieces of lists --------------------------------------------------------------------------------------------------------
// where a thread finds its float4s of a tail's sums, blockDim.x apart: COUNT floats of dK, then as many of dV
template <int COUNT>
__device__ inline float4* tail_sums(const Backward& b, int tail) { return b.sums + (size_t)tail * (COUNT / 2) * blockDim.x + threadIdx.x; }

// A tail leaves its sums, as its threads hold them, and says so; a first piece adds those of its tails, in order, and is done.
template <int COUNT>
__device__ inline void leave_sums(const float* dk, const float* dv, const Backward& b, const KeyWalk& w) {
    float4* room = tail_sums<COUNT>(b, w.tail);
    #pragma unroll
    for (int i = 0; i < COUNT / 4; i++) {
        room[i * blockDim.x] = make_float4(dk[4 * i], dk[4 * i + 1], dk[4 * i + 2], dk[4 * i + 3]);
        room[(COUNT / 4 + i) * blockDim.x] = make_float4(dv[4 * i], dv[4 * i + 1], dv[4 * i + 2], dv[4 * i + 3]);
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) { atomicExch(b.ready + w.tail, 1); }
}

__device__ inline void add4(float* x, const float4& y) { x[0] += y.x; x[1] += y.y; x[2] += y.z; x[3] += y.w; }

template <int COUNT>
__device__ inline void add_tails(float* dk, float* dv, const Backward& b, const KeyWalk& w) {
    #pragma unroll 1
    for (int piece = 0; piece < w.later; piece++) {
        int tail = w.first_tail + piece * b.parts;
        if (threadIdx.x == 0) {
            while (atomicAdd(b.ready + tail, 0) == 0) { }
            __threadfence();
        }
        __syncthreads();
        const float4* room = tail_sums<COUNT>(b, tail);
        #pragma unroll
        for (int i = 0; i < COUNT / 4; i++) {
            add4(dk + 4 * i, room[i * blockDim.x]);
            add4(dv + 4 * i, room[(COUNT / 4 + i) * blockDim.x]);
        }
    }
}

// ---- before and after it --------------------------------------------------------------------------------------------------
// stats[head][t] = log2-sum-exp, delta = sum over d of dout * out; clears `ready` and the ticket.   D/8 lanes per query, grid (queries, heads)
template <int D>
__global__ __launch_bounds__(THREADS)
void moba_backward_stats_kernel(float2* stats, int* zeros, int num_zeros, const floatX* dout, const floatX* out, const float* lse,
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
void moba_backward_combine_kernel(Backward b, Moba m) {
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
static int backward_keys(int block) { return min_int(block, 128); }

static int backward_tails(AttnShape s, int topk) { return (int)((size_t)s.T * (topk - 1) / LIST_PIECE); }

// bytes of scratch that one head needs
static size_t backward_head_bytes(AttnShape s, int block, int topk) {
    int parts = block / backward_keys(block);
    size_t tails = (size_t)backward_tails(s, topk) * parts, sums = (size_t)2 * backward_keys(block) * s.D * sizeof(float);
    return (size_t)s.T * slot_rows(topk - 1, parts) * s.D * sizeof(floatX) + tails * (sums + sizeof(int)) + s.T * sizeof(float2) + 16;
}

// a kernel that walks, one CTA per item
struct WalkKernel {
    void (*kernel)(Backward b, Moba m);
    int threads;
    size_t shared;
};

template <int D, int KEYS>
static void backward_launch(WalkKernel walk, Backward b, const floatX* out, const float* lse, Moba m, void* scratch, stream_t stream) {
    const AttnShape& s = m.shape;
    b.parts = m.block / KEYS;
    b.tiles = ceil_div(s.T, KEYS);
    b.tails = backward_tails(s, m.slots + 1);
    b.together = (int)min_size(b.heads, max_size(1, ((size_t)16 << 20) / ((size_t)s.T * D * 2 * sizeof(floatX))));
    size_t rows = (size_t)b.heads * s.T, tails = (size_t)b.heads * b.tails * b.parts;
    b.slots = (floatX*)scratch;
    b.sums = (float4*)(b.slots + rows * slot_rows(m.slots, b.parts) * D);
    float2* stats = (float2*)(b.sums + tails * KEYS * D / 2);
    b.stats = stats;
    b.ticket = (int*)(stats + rows);
    b.ready = b.ticket + 1;

    dim3 row_grid(ceil_div(s.T, THREADS / (D / 8)), b.heads);
    moba_backward_stats_kernel<D><<<row_grid, THREADS, 0, stream>>>(stats, b.ticket, (int)tails + 1, b.dout, out, lse, s, m.head0);
    LAUNCH_CHECK();
    int items = b.heads * (b.tails * b.parts + b.tiles);
    void (*walk_kernel)(Backward, Moba) = walk.kernel;
    allow_shared(walk_kernel, walk.shared);
    walk_kernel<<<items, walk.threads, walk.shared, stream>>>(b, m);
    LAUNCH_CHECK();
    if (slot_rows(m.slots, b.parts) > 0) {
        moba_backward_combine_kernel<D><<<row_grid, THREADS, 0, stream>>>(b, m);
        LAUNCH_CHECK();
    }
}

#endif

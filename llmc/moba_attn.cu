// Mixture of block attention, key-major: a block's keys stay, and the queries that picked it are gathered from its list.
// Forward: every (block, chunk of its list) writes a normalised partial output and its log-sum-exp to each query's slot; the own-block
// kernel computes the causal part and merges the slots. Backward: dK and dV of 64 keys accumulate over own block and list; dQ goes to slots
// like the forward and is summed by the own-block kernel. Every sum has a fixed order, nothing is atomic.
// The work is linear in T; the slots of as many heads as scratch allows exist at a time.
#include "ops.h"
#include "moba_common.cuh"
#include "moba_hopper_forward.cuh"

// Entries of a list that one CTA takes for dK and dV; what is beyond goes to further CTAs ("tails"), so that a block everybody picks does
// not hold up the rest. Lists are (top-k - 1) * block long on average, 896 at the default shape: those must not be cut.
enum { LIST_PIECE = 2048 };

// queries of a routed forward item: see Queries in swa.cu for the registers
template <int D> struct Chunk { static const int MT = D == 64 ? 2 : 1, ROWS = MT * 16 * WARPS; };

// Work items without a table: block j's chunks are the items from offset[j] / chunk + spread * j on. With spread 1 that is room for
// every chunk of every list (ceil(length / chunk) never exceeds what the floors leave, plus one), with spread 0 for all but the first.
// Returns the last block whose items start at or before `item`; the warp probes 32 places at a time.
__device__ inline int find_block(const int* offset, int blocks, int item, int chunk, int spread) {
    int low = 0, high = blocks, lane = threadIdx.x % WARP;
    while (high - low > 1) {
        int step = (high - low + WARP - 1) / WARP, probe = low + lane * step;
        bool before = probe < high && offset[probe] / chunk + spread * probe <= item;
        low += step * (__popc(__ballot_sync(0xffffffffu, before)) - 1);
        high = min(high, low + step);
    }
    return low;
}

struct Item {
    int block, count;       // count <= 0: nothing to do
    const int* entries;     // query * MOBA_MAX_TOPK + slot
};

// the item of a CTA of the forward and dQ kernels: up to `chunk` entries of one block's list
__device__ inline Item find_item(const Moba& m, int head, int item, int chunk) {
    const int* offset = head_offset(m, head);
    int j = find_block(offset, m.blocks, item, chunk, 1), first = (item - offset[j] / chunk - j) * chunk;
    return {j, min(chunk, offset[j + 1] - offset[j] - first), head_list(m, head) + offset[j] + first};
}

// items that T * slots entries can make
static int item_bound(const Moba& m, int chunk) { return (int)((size_t)m.shape.T * m.slots / chunk) + m.blocks; }

// rows of the entries, for gather_tile
template <int D, int ROWS>
__device__ inline void entry_rows(int (&rows)[ROWS / Copy<D>::STEP], const Item& item) {
    #pragma unroll
    for (int i = 0; i < ROWS / Copy<D>::STEP; i++) {
        int r = Copy<D>::first() + i * Copy<D>::STEP;
        rows[i] = r < item.count ? item.entries[r] / MOBA_MAX_TOPK : -1;
    }
}

// the warp's staged rows, rounded, to the slots of their entries; row = the warp's first
template <int D>
__device__ inline void store_slots(floatX* slots, const Moba& m, const Item& item, int head, const float* stage, int row, int rows) {
    for (int i = threadIdx.x % WARP; i < rows * (D / 8); i += WARP) {
        int r = i / (D / 8), chunk = i % (D / 8);
        if (row + r >= item.count) { continue; }
        int entry = item.entries[row + r];
        float x[8];
        staged8<D>(x, stage, r, chunk);
        store8_rounded(slots + (slot_at(m, head, entry / MOBA_MAX_TOPK) + entry % MOBA_MAX_TOPK) * D + 8 * chunk, x);
    }
}

// the keys of a whole past block, or of the own block up to `end`
__device__ inline Keys block_keys(const Moba& m, int head, int block, int end) {
    const AttnShape& s = m.shape;
    return {head_rows(m.k, s.ldk, s, head), head_rows(m.v, s.ldv, s, head), s.ldk, s.ldv, block * m.block, min(end, (block + 1) * m.block)};
}

// ---- forward ------------------------------------------------------------------------------------------------------------
// one CTA per (item, head)
template <int D>
__global__ __launch_bounds__(THREADS)
void moba_routed_forward_kernel(floatX* partial, float* partial_lse2, Moba m) {
    const int MT = Chunk<D>::MT, ROWS = Chunk<D>::ROWS;
    extern __shared__ __align__(16) unsigned char moba_shared[];
    floatX* q_tile = reinterpret_cast<floatX*>(moba_shared);
    int head = m.head0 + blockIdx.y, rows[ROWS / Copy<D>::STEP];
    Item item = find_item(m, head, blockIdx.x, ROWS);
    if (item.count <= 0) { return; }

    Attended<D, MT> r;
    float lse2[MT][2];
    Keys keys = block_keys(m, head, item.block, m.shape.T);
    entry_rows<D, ROWS>(rows, item);
    load_keys<D>(q_tile + ROWS * D, keys, keys.from);                  // does not wait for the entries, the gather does
    gather_tile<D, ROWS>(q_tile, head_rows(m.q, m.shape.ldq, m.shape, head), m.shape.ldq, rows);
    attend<D, MT>(r, q_tile, q_tile + ROWS * D, keys, AFTER_ALL, EVERYTHING, m.scale * LOG2E);
    attended_close(r, lse2, m.scale * LOG2E);

    int row = threadIdx.x / WARP * 16 * MT, g = threadIdx.x % WARP / 4;
    float* stage = reinterpret_cast<float*>(moba_shared) + stage_at<D>(row);
    stage_rows<D, MT>(stage, r.acc, 1.0f);
    store_slots<D>(partial, m, item, head, stage, row, 16 * MT);
    for (int i = 0; i < 2 * MT; i++) {
        int e = row + 8 * i + g;
        if (threadIdx.x % 4 == 0 && e < item.count) {
            int entry = item.entries[e];
            partial_lse2[slot_at(m, head, entry / MOBA_MAX_TOPK) + entry % MOBA_MAX_TOPK] = lse2[i / 2][i % 2];
        }
    }
}

// x: eight columns of the own block's part, weight 2^lse2; becomes the whole output, lse2 the whole log2-sum-exp.
// partial, partial_lse2, sel: at the query's first slot (and column)
template <int D>
__device__ inline void merge_slots(float (&x)[8], float& lse2, const floatX* partial, const float* partial_lse2, const uint16_t* sel,
                                   int slots) {
    float top = lse2;
    int used = 0;
    for (; used < slots && sel[used] != MOBA_NONE; used++) { top = fmaxf(top, partial_lse2[used]); }
    float weight = exp2_approx(lse2 - top), sum = weight;
    for (int i = 0; i < 8; i++) { x[i] *= weight; }
    for (int s = 0; s < used; s++) {
        Pack8 part = load8(partial + (size_t)s * D);
        weight = exp2_approx(partial_lse2[s] - top);
        sum += weight;
        for (int i = 0; i < 8; i++) { x[i] += weight * __bfloat162float(part.x[i]); }
    }
    for (int i = 0; i < 8; i++) { x[i] /= sum; }
    lse2 = top + log2f(sum);
}

// one CTA per (64 queries, head): the causal part of their own block, then the slots
template <int D>
__global__ __launch_bounds__(THREADS, Resident<D>::FORWARD)
void moba_own_forward_kernel(floatX* out, float* lse, const floatX* partial, const float* partial_lse2, Moba m) {
    extern __shared__ __align__(16) unsigned char moba_shared[];
    floatX* q_tile = reinterpret_cast<floatX*>(moba_shared);
    int head = m.head0 + blockIdx.y, query = blockIdx.x * TILE, end = min(m.shape.T, query + TILE);
    Attended<D, 1> r;
    float own_lse2[1][2];
    Keys keys = block_keys(m, head, query / m.block, end);
    load_tile<D, TILE>(q_tile, head_rows(m.q, m.shape.ldq, m.shape, head), m.shape.ldq, query, end);
    load_keys<D>(q_tile + TILE * D, keys, keys.from);
    attend<D, 1>(r, q_tile, q_tile + TILE * D, keys, query, EVERYTHING, m.scale * LOG2E);
    attended_close(r, own_lse2, m.scale * LOG2E);

    int row = threadIdx.x / WARP * 16, lane = threadIdx.x % WARP;
    float* stage = reinterpret_cast<float*>(moba_shared) + stage_at<D>(row);
    if (lane % 4 == 0) {                                               // the row's padding has room for its lse2
        for (int half = 0; half < 2; half++) { stage[stage_at<D>(lane / 4 + 8 * half) + D] = own_lse2[0][half]; }
    }
    stage_rows<D, 1>(stage, r.acc, 1.0f);
    floatX* out_head = head_rows(out, m.shape.ldo, m.shape, head);
    for (int i = lane; i < 16 * (D / 8); i += WARP) {
        int local = i / (D / 8), chunk = i % (D / 8), t = query + row + local;
        if (t >= end) { continue; }
        float x[8], lse2 = stage[stage_at<D>(local) + D];
        size_t slot = slot_at(m, head, t);
        staged8<D>(x, stage, local, chunk);
        merge_slots<D>(x, lse2, partial + slot * D + 8 * chunk, partial_lse2 + slot, query_sel(m, head, t), m.slots);
        store8_rounded(out_head + (size_t)t * m.shape.ldo + 8 * chunk, x);
        if (chunk == 0) { lse[(size_t)head * m.shape.T + t] = lse2 * LN2; }
    }
}

template <int D>
static void forward(floatX* out, float* lse, Moba m, void* scratch, int heads, stream_t stream) {
    const int ROWS = Chunk<D>::ROWS;
    floatX* partial = (floatX*)scratch;
    float* partial_lse2 = (float*)(partial + (size_t)heads * m.shape.T * m.slots * D);
    if (m.slots > 0) {
        size_t shared = max_size((size_t)(ROWS + 4 * TILE) * D * sizeof(floatX), (size_t)stage_at<D>(ROWS) * sizeof(float));
        dim3 grid(item_bound(m, ROWS), heads);
        allow_shared(moba_routed_forward_kernel<D>, shared);
        moba_routed_forward_kernel<D><<<grid, THREADS, shared, stream>>>(partial, partial_lse2, m);
        LAUNCH_CHECK();
    }
    size_t shared = (size_t)5 * TILE * D * sizeof(floatX);
    dim3 grid(ceil_div(m.shape.T, TILE), heads);
    allow_shared(moba_own_forward_kernel<D>, shared);
    moba_own_forward_kernel<D><<<grid, THREADS, shared, stream>>>(out, lse, partial, partial_lse2, m);
    LAUNCH_CHECK();
}

// ---- backward -----------------------------------------------------------------------------------------------------------
// delta: (heads, T) of this launch
__device__ inline HeadIn head_in(const Moba& m, const floatX* dout, const float* lse, const float* delta, int head) {
    const AttnShape& s = m.shape;
    return {head_rows(m.q, s.ldq, s, head), head_rows(m.k, s.ldk, s, head), head_rows(m.v, s.ldv, s, head), head_rows(dout, s.ldo, s, head),
            lse + (size_t)head * s.T, delta + (size_t)(head - m.head0) * s.T, s.ldq, s.ldk, s.ldv, s.ldo};
}

// A tail's dK and dV sums of 64 keys, fp32: the accumulators as the threads hold them, so that thread i reads what a thread i wrote.
// tails: (heads, tail_bound, block / TILE) of them
template <int D> struct KeySums { float4 dk[D / 8][THREADS], dv[D / 8][THREADS]; };

static int tail_bound(const Moba& m) { return (int)((size_t)m.shape.T * m.slots / LIST_PIECE); }

__device__ inline float4 as_float4(const float (&x)[4]) { return make_float4(x[0], x[1], x[2], x[3]); }
__device__ inline void add_float4(float (&x)[4], const float4& y) { x[0] += y.x; x[1] += y.y; x[2] += y.z; x[3] += y.w; }

// one CTA per (tail of a list x 64 keys of its block, head): a piece after the list's first
template <int D>
__global__ __launch_bounds__(THREADS, Resident<D>::BACKWARD)
void moba_backward_tails_kernel(KeySums<D>* tails, const floatX* dout, const float* lse, const float* delta, Moba m) {
    extern __shared__ __align__(16) unsigned char moba_shared[];
    KeysShared<D>& shared = *reinterpret_cast<KeysShared<D>*>(moba_shared);
    int head = m.head0 + blockIdx.y, per_block = m.block / TILE, item = blockIdx.x / per_block;
    const int* offset = head_offset(m, head);
    int j = find_block(offset, m.blocks, item, LIST_PIECE, 0), first = (item - offset[j] / LIST_PIECE + 1) * LIST_PIECE;
    int count = min((int)LIST_PIECE, offset[j + 1] - offset[j] - first), key = j * m.block + blockIdx.x % per_block * TILE;
    if (count <= 0) { return; }

    QuerySource source = {0, 0, head_list(m, head) + offset[j] + first, count};
    float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};
    accumulate_keys<D>(dk, dv, shared, head_in(m, dout, lse, delta, head), source, key, m.shape.T, EVERYTHING, m.scale * LOG2E);
    KeySums<D>& sums = tails[(size_t)blockIdx.y * gridDim.x + blockIdx.x];
    #pragma unroll
    for (int n = 0; n < D / 8; n++) {
        sums.dk[n][threadIdx.x] = as_float4(dk[0][n]);
        sums.dv[n][threadIdx.x] = as_float4(dv[0][n]);
    }
}

// one CTA per (64 keys, head): queries of the own block, the first piece of the list, then the tails in order
template <int D>
__global__ __launch_bounds__(THREADS, Resident<D>::BACKWARD)
void moba_backward_keys_kernel(floatX* dk, floatX* dv, const KeySums<D>* tails, const floatX* dout, const float* lse, const float* delta,
                               Moba m) {
    extern __shared__ __align__(16) unsigned char moba_shared[];
    KeysShared<D>& shared = *reinterpret_cast<KeysShared<D>*>(moba_shared);
    int head = m.head0 + blockIdx.y, key = blockIdx.x * TILE, j = key / m.block, per_block = m.block / TILE;
    const int* offset = head_offset(m, head);
    int length = offset[j + 1] - offset[j], row = threadIdx.x / WARP * 16;
    QuerySource source = {key, min(m.shape.T, (j + 1) * m.block), head_list(m, head) + offset[j], min(length, (int)LIST_PIECE)};
    float dk_sum[1][D / 8][4] = {}, dv_sum[1][D / 8][4] = {};
    accumulate_keys<D>(dk_sum, dv_sum, shared, head_in(m, dout, lse, delta, head), source, key, m.shape.T, EVERYTHING, m.scale * LOG2E);

    size_t tail = (size_t)blockIdx.y * ((size_t)m.shape.T * m.slots / LIST_PIECE) + offset[j] / LIST_PIECE;
    for (int piece = 1; piece * LIST_PIECE < length; piece++, tail++) {
        const KeySums<D>& sums = tails[tail * per_block + key % m.block / TILE];
        #pragma unroll
        for (int n = 0; n < D / 8; n++) {
            add_float4(dk_sum[0][n], sums.dk[n][threadIdx.x]);
            add_float4(dv_sum[0][n], sums.dv[n][threadIdx.x]);
        }
    }
    const AttnShape& s = m.shape;
    float* stage = reinterpret_cast<float*>(moba_shared) + stage_at<D>(row);
    stage_rows<D, 1>(stage, dk_sum, m.scale);
    store_staged<D>(head_rows(dk, s.ldk, s, head) + (size_t)(key + row) * s.ldk, s.ldk, stage, 16, s.T - key - row);
    __syncwarp();
    stage_rows<D, 1>(stage, dv_sum, 1.0f);
    store_staged<D>(head_rows(dv, s.ldv, s, head) + (size_t)(key + row) * s.ldv, s.ldv, stage, 16, s.T - key - row);
}

// one CTA per (item of 64 entries, head): their dQ over the block's keys, to slots
template <int D>
__global__ __launch_bounds__(THREADS, Resident<D>::BACKWARD)
void moba_routed_queries_kernel(floatX* dq_slots, const floatX* dout, const float* lse, const float* delta, Moba m) {
    extern __shared__ __align__(16) unsigned char moba_shared[];
    floatX* q_tile = reinterpret_cast<floatX*>(moba_shared);
    int head = m.head0 + blockIdx.y, row = threadIdx.x / WARP * 16, rows[TILE / Copy<D>::STEP];
    Item item = find_item(m, head, blockIdx.x, TILE);
    if (item.count <= 0) { return; }
    HeadIn in = head_in(m, dout, lse, delta, head);
    Keys keys = block_keys(m, head, item.block, m.shape.T);
    float dq[1][D / 8][4] = {}, row_lse[2], row_delta[2];
    entry_rows<D, TILE>(rows, item);
    load_keys<D>(q_tile + 2 * TILE * D, keys, keys.from);
    for (int half = 0; half < 2; half++) {
        int t = item.entries[min(row + (int)threadIdx.x % WARP / 4 + 8 * half, item.count - 1)] / MOBA_MAX_TOPK;
        row_lse[half] = in.lse[t];
        row_delta[half] = in.delta[t];
    }
    gather_tile<D, TILE>(q_tile, in.q, in.ldq, rows);
    gather_tile<D, TILE>(q_tile + TILE * D, in.dout, in.ldo, rows);
    accumulate_queries<D>(dq, q_tile, q_tile + 2 * TILE * D, keys, row_lse, row_delta, AFTER_ALL, EVERYTHING, m.scale * LOG2E);
    float* stage = reinterpret_cast<float*>(moba_shared) + stage_at<D>(row);
    stage_rows<D, 1>(stage, dq, m.scale);
    store_slots<D>(dq_slots, m, item, head, stage, row, 16);
}

// one CTA per (64 queries, head): dQ from their own block, plus the slots in order
template <int D>
__global__ __launch_bounds__(THREADS, Resident<D>::BACKWARD)
void moba_own_queries_kernel(floatX* dq, const floatX* dq_slots, const floatX* dout, const float* lse, const float* delta, Moba m) {
    extern __shared__ __align__(16) unsigned char moba_shared[];
    floatX* q_tile = reinterpret_cast<floatX*>(moba_shared);
    int head = m.head0 + blockIdx.y, query = blockIdx.x * TILE, end = min(m.shape.T, query + TILE);
    int row = threadIdx.x / WARP * 16, lane = threadIdx.x % WARP;
    HeadIn in = head_in(m, dout, lse, delta, head);
    Keys keys = block_keys(m, head, query / m.block, end);
    float dq_sum[1][D / 8][4] = {}, row_lse[2], row_delta[2];
    for (int half = 0; half < 2; half++) {
        int t = min(query + row + lane / 4 + 8 * half, end - 1);
        row_lse[half] = in.lse[t];
        row_delta[half] = in.delta[t];
    }
    load_tile<D, TILE>(q_tile, in.q, in.ldq, query, end);
    load_tile<D, TILE>(q_tile + TILE * D, in.dout, in.ldo, query, end);
    load_keys<D>(q_tile + 2 * TILE * D, keys, keys.from);
    accumulate_queries<D>(dq_sum, q_tile, q_tile + 2 * TILE * D, keys, row_lse, row_delta, query, EVERYTHING, m.scale * LOG2E);

    float* stage = reinterpret_cast<float*>(moba_shared) + stage_at<D>(row);
    stage_rows<D, 1>(stage, dq_sum, m.scale);
    floatX* dq_head = head_rows(dq, m.shape.ldq, m.shape, head);
    for (int i = lane; i < 16 * (D / 8); i += WARP) {
        int local = i / (D / 8), chunk = i % (D / 8), t = query + row + local;
        if (t >= end) { continue; }
        float x[8];
        staged8<D>(x, stage, local, chunk);
        const floatX* slot = dq_slots + slot_at(m, head, t) * D + 8 * chunk;
        const uint16_t* sel = query_sel(m, head, t);
        for (int s = 0; s < m.slots && sel[s] != MOBA_NONE; s++, slot += D) {
            Pack8 part = load8(slot);
            for (int e = 0; e < 8; e++) { x[e] += __bfloat162float(part.x[e]); }
        }
        store8_rounded(dq_head + (size_t)t * m.shape.ldq + 8 * chunk, x);
    }
}

// dK and dV; the slots of dQ and delta are elsewhere in the scratch
template <int D>
static void backward_keys(floatX* dk, floatX* dv, KeySums<D>* tails, const floatX* dout, const float* lse, const float* delta, Moba m,
                          int heads, stream_t stream) {
    dim3 tail_grid(tail_bound(m) * (m.block / TILE), heads), grid(ceil_div(m.shape.T, TILE), heads);
    if (tail_grid.x > 0) {
        allow_shared(moba_backward_tails_kernel<D>, sizeof(KeysShared<D>));
        moba_backward_tails_kernel<D><<<tail_grid, THREADS, sizeof(KeysShared<D>), stream>>>(tails, dout, lse, delta, m);
        LAUNCH_CHECK();
    }
    allow_shared(moba_backward_keys_kernel<D>, sizeof(KeysShared<D>));
    moba_backward_keys_kernel<D><<<grid, THREADS, sizeof(KeysShared<D>), stream>>>(dk, dv, tails, dout, lse, delta, m);
    LAUNCH_CHECK();
}

template <int D>
static void backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, Moba m,
                     void* scratch, int heads, stream_t stream) {
    floatX* dq_slots = (floatX*)scratch;
    KeySums<D>* tails = (KeySums<D>*)(dq_slots + (size_t)heads * m.shape.T * m.slots * D);
    float* delta = (float*)(tails + (size_t)heads * tail_bound(m) * (m.block / TILE));
    dim3 rows(ceil_div(m.shape.T, THREADS / (D / 8)), heads), tiles(ceil_div(m.shape.T, TILE), heads);
    attn_delta_kernel<D><<<rows, THREADS, 0, stream>>>(delta, dout, out, m.shape, m.head0);
    LAUNCH_CHECK();
    backward_keys<D>(dk, dv, tails, dout, lse, delta, m, heads, stream);
    size_t shared = (size_t)6 * TILE * D * sizeof(floatX);
    if (m.slots > 0) {
        dim3 items(item_bound(m, TILE), heads);
        allow_shared(moba_routed_queries_kernel<D>, shared);
        moba_routed_queries_kernel<D><<<items, THREADS, shared, stream>>>(dq_slots, dout, lse, delta, m);
        LAUNCH_CHECK();
    }
    allow_shared(moba_own_queries_kernel<D>, shared);
    moba_own_queries_kernel<D><<<tiles, THREADS, shared, stream>>>(dq, dq_slots, dout, lse, delta, m);
    LAUNCH_CHECK();
}

#include "moba_hopper_backward.cuh"

// ---- what is exported ---------------------------------------------------------------------------------------------------
static Moba moba_open(const floatX* q, const floatX* k, const floatX* v, MobaRoute route, AttnShape s, int block, int topk) {
    const char* refusal = moba_attn_refusal(s.D, block, topk);
    REQUIRE(refusal == NULL, "moba_attn: head dim %d, block %d, top-k %d has no kernel (there are: %s)", s.D, block, topk, refusal);
    REQUIRE(s.B > 0 && s.T > 0 && s.H > 0 && s.B * s.H <= 65535, "moba_attn: B=%d T=%d H=%d is outside the grid", s.B, s.T, s.H);
    REQUIRE((size_t)s.T * MOBA_MAX_TOPK < 0x7fffffff, "moba_attn: T=%d overflows the entries of a list", s.T);
    REQUIRE(s.ldq % 8 == 0 && s.ldk % 8 == 0 && s.ldv % 8 == 0 && s.ldo % 8 == 0,
            "moba_attn: row strides %d %d %d %d are not all multiples of 8", s.ldq, s.ldk, s.ldv, s.ldo);
    return {q, k, v, route, s, block, ceil_div(s.T, block), topk - 1, 0, 1 / sqrtf((float)s.D)};
}

// bytes of scratch that one head needs
static size_t forward_head_bytes(AttnShape s, int topk) { return (size_t)s.T * (topk - 1) * (s.D * sizeof(floatX) + sizeof(float)); }

// for either path: a plan may be made where there is no device
static size_t backward_head_bytes(AttnShape s, int block, int topk) {
    size_t entries = (size_t)s.T * (topk - 1), sums = (size_t)2 * TILE * s.D * sizeof(float);
    size_t portable = entries * s.D * sizeof(floatX) + entries / LIST_PIECE * (block / TILE) * sums + s.T * sizeof(float);
    return max_size(portable, hopper_backward_head_bytes(s, block, topk));
}

static size_t capped(size_t head_bytes, AttnShape s, size_t cap) { return max_size(head_bytes, min_size(cap, head_bytes * s.B * s.H)); }

// heads that fit into the scratch at a time
static int head_group(size_t head_bytes, size_t scratch_bytes, AttnShape s) {
    REQUIRE(scratch_bytes >= head_bytes, "moba_attn: %zu bytes of scratch, one head needs %zu", scratch_bytes, head_bytes);
    return head_bytes == 0 ? s.B * s.H : (int)min_size(scratch_bytes / head_bytes, (size_t)s.B * s.H);
}

extern "C" const char* moba_attn_refusal(int head_dim, int block, int topk) {
    bool block_fits = block >= 64 && block <= 1024 && (block & (block - 1)) == 0;
    return (head_dim == 64 || head_dim == 128) && block_fits && topk >= 1 && topk <= MOBA_MAX_TOPK ? NULL
         : "head dims 64 and 128, blocks 64, 128, 256, 512 and 1024, top-k 1 to 32";
}

extern "C" size_t moba_attn_forward_scratch(AttnShape shape, int block, int topk, size_t cap) {
    size_t plan = forward_plan_bytes(shape, block, topk);
    return plan + capped(forward_head_bytes(shape, topk), shape, cap > plan ? cap - plan : 0);
}

extern "C" size_t moba_attn_backward_scratch(AttnShape shape, int block, int topk, size_t cap) {
    return capped(backward_head_bytes(shape, block, topk), shape, cap);
}

extern "C" void moba_attn_forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, MobaRoute route,
                                  AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream) {
    Moba m = moba_open(q, k, v, route, shape, block, topk);
    size_t plan = forward_plan_bytes(shape, block, topk);
    REQUIRE(scratch_bytes >= plan, "moba_attn: %zu bytes of scratch, the plan alone needs %zu", scratch_bytes, plan);
    int heads = shape.B * shape.H, group = head_group(forward_head_bytes(shape, topk), scratch_bytes - plan, shape);
    if (hopper_chosen(shape.path, "moba_attn")) {
        if (shape.D == 64) { hopper_forward<64>(out, lse, m, scratch, group, stream); }
        else               { hopper_forward<128>(out, lse, m, scratch, group, stream); }
        return;
    }
    for (m.head0 = 0; m.head0 < heads; m.head0 += group) {
        int now = min_int(group, heads - m.head0);
        if (shape.D == 64) { forward<64>(out, lse, m, scratch, now, stream); }
        else               { forward<128>(out, lse, m, scratch, now, stream); }
    }
}

extern "C" void moba_attn_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse,
                                   const floatX* q, const floatX* k, const floatX* v, MobaRoute route,
                                   AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream) {
    Moba m = moba_open(q, k, v, route, shape, block, topk);
    int heads = shape.B * shape.H, group = head_group(backward_head_bytes(shape, block, topk), scratch_bytes, shape);
    bool hopper = hopper_chosen(shape.path, "moba_attn");
    for (m.head0 = 0; m.head0 < heads; m.head0 += group) {
        int now = min_int(group, heads - m.head0);
        if (hopper)              { hopper_backward(dq, dk, dv, dout, out, lse, m, scratch, now, stream); }
        else if (shape.D == 64)  { backward<64>(dq, dk, dv, dout, out, lse, m, scratch, now, stream); }
        else                     { backward<128>(dq, dk, dv, dout, out, lse, m, scratch, now, stream); }
    }
}

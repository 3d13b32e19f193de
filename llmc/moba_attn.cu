// Mixture of block attention, key-major: a block's keys stay, and the queries that picked it are gathered from its list.
// Forward: every (block, chunk of its list) writes a normalised partial output and its log-sum-exp to each query's slot; the own-block
// kernel computes the causal part and merges the slots. Backward: the plan is in moba_backward.cuh, its walk on mma.sync in
// moba_portable_backward.cuh; the Hopper kernels have files of their own. Every sum has a fixed order.
// The work is linear in T; the slots of as many heads as scratch allows exist at a time.
#include "ops.h"
#include "moba_hopper_forward.cuh"
#include "moba_portable_backward.cuh"

struct Item {
    int block, count;       // count <= 0: nothing to do
    const int* entries;     // query * MOBA_MAX_TOPK + slot
};

// the item of a CTA: up to `chunk` entries of one block's list
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
    const int MT = Queries<D>::MT, ROWS = Queries<D>::ROWS;
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

// eight columns of slots first .. first + SLOTS - 1; slot = the query's first slot, at these columns
template <int D>
__device__ inline void load_slots(Pack8 (&parts)[SLOTS], const floatX* slot, int first, int used) {
    #pragma unroll
    for (int i = 0; i < SLOTS; i++) { parts[i] = load8(slot + (size_t)min(first + i, used - 1) * D); }
}

// x: eight columns of the own block's part, weight 2^lse2; becomes the whole output, lse2 the whole log2-sum-exp.
// partial, partial_lse2: at the query's first slot (and column), `used` of them
template <int D>
__device__ inline void merge_slots(float (&x)[8], float& lse2, const floatX* partial, const float* partial_lse2, int used) {
    float top = lse2;
    for (int first = 0; first < used; first += 2 * SLOTS) {
        #pragma unroll
        for (int s = first; s < first + 2 * SLOTS; s++) { top = fmaxf(top, partial_lse2[min(s, used - 1)]); }
    }
    float weight = exp2_approx(lse2 - top), sum = weight;
    for (int i = 0; i < 8; i++) { x[i] *= weight; }
    for (int first = 0; first < used; first += SLOTS) {
        Pack8 parts[SLOTS];
        load_slots<D>(parts, partial, first, used);
        #pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            weight = exp2_approx(partial_lse2[min(first + s, used - 1)] - top);
            if (first + s >= used) { weight = 0; }
            sum += weight;
            for (int i = 0; i < 8; i++) { x[i] += weight * __bfloat162float(parts[s].x[i]); }
        }
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
        merge_slots<D>(x, lse2, partial + slot * D + 8 * chunk, partial_lse2 + slot, used_slots(query_sel(m, head, t), m.slots));
        store8_rounded(out_head + (size_t)t * m.shape.ldo + 8 * chunk, x);
        if (chunk == 0) { lse[(size_t)head * m.shape.T + t] = lse2 * LN2; }
    }
}

template <int D>
static void forward(floatX* out, float* lse, Moba m, void* scratch, int heads, stream_t stream) {
    const int ROWS = Queries<D>::ROWS;
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
template <int D, int KEYS>
static void backward(bool hopper, Backward b, const floatX* out, const float* lse, const Moba& m, void* scratch, stream_t stream) {
    backward_launch<D, KEYS>(hopper ? hopper_walk<D, KEYS>() : portable_walk<D, KEYS>(), b, out, lse, m, scratch, stream);
}

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

// bytes of scratch that one head needs, for either path: a plan may be made where there is no device
static size_t forward_head_bytes(AttnShape s, int block, int topk) {
    size_t portable = (size_t)s.T * (topk - 1) * (s.D * sizeof(floatX) + sizeof(float));
    return max_size(portable, hopper_forward_head_bytes(s, block, topk));
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
    return capped(forward_head_bytes(shape, block, topk), shape, cap);
}

extern "C" size_t moba_attn_backward_scratch(AttnShape shape, int block, int topk, size_t cap) {
    return capped(backward_head_bytes(shape, block, topk), shape, cap);
}

extern "C" void moba_attn_forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, MobaRoute route,
                                  AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream) {
    Moba m = moba_open(q, k, v, route, shape, block, topk);
    int heads = shape.B * shape.H, group = head_group(forward_head_bytes(shape, block, topk), scratch_bytes, shape);
    bool hopper = hopper_chosen(shape.path, "moba_attn");
    for (m.head0 = 0; m.head0 < heads; m.head0 += group) {
        int now = min_int(group, heads - m.head0);
        if (hopper && shape.D == 64)  { hopper_forward<64>(out, lse, m, scratch, now, stream); }
        else if (hopper)              { hopper_forward<128>(out, lse, m, scratch, now, stream); }
        else if (shape.D == 64)       { forward<64>(out, lse, m, scratch, now, stream); }
        else                          { forward<128>(out, lse, m, scratch, now, stream); }
    }
}

extern "C" void moba_attn_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse,
                                   const floatX* q, const floatX* k, const floatX* v, MobaRoute route,
                                   AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream) {
    Moba m = moba_open(q, k, v, route, shape, block, topk);
    int heads = shape.B * shape.H, group = head_group(backward_head_bytes(shape, block, topk), scratch_bytes, shape);
    bool hopper = hopper_chosen(shape.path, "moba_attn");
    for (m.head0 = 0; m.head0 < heads; m.head0 += group) {
        Backward b = {};
        b.dq = dq; b.dk = dk; b.dv = dv;
        b.dout = dout;
        b.heads = min_int(group, heads - m.head0);
        bool small = backward_keys(block) == 64;
        if (shape.D == 64 && small)  { backward<64, 64>(hopper, b, out, lse, m, scratch, stream); }
        else if (shape.D == 64)      { backward<64, 128>(hopper, b, out, lse, m, scratch, stream); }
        else if (small)              { backward<128, 64>(hopper, b, out, lse, m, scratch, stream); }
        else                         { backward<128, 128>(hopper, b, out, lse, m, scratch, stream); }
    }
}

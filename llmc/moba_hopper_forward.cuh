// Forward of MoBA attention on Hopper (wgmma), by the plan of the backward (moba_hopper_backward.cuh): a CTA is one warpgroup that owns KEYS
// keys and values of a head and walks over the queries that see them, 64 at a time, its own block's first. Three CTAs an SM at D 64 hide
// each other's softmax. A query meets the KEYS keys once, so that the softmax is one pass; its normalised partial output goes to the slot
// of (query, part of a block) in bf16, the part its own position lies in to `out` itself, and log2-sum-exp beside. A last kernel merges.
//
// In round i: S(i) is done, P(i) = softmax; then O(i) = P V and S(i+1) = Q K^T are issued together, and while they run the queries
// of round i + STAGES are gathered; O(i) is normalised and stored while S(i+1) runs.
#ifndef MOBA_HOPPER_FORWARD_CUH
#define MOBA_HOPPER_FORWARD_CUH

#include "moba_hopper_backward.cuh"

template <int D, int KEYS> struct Routed {
    static const int STAGES = D == 64 ? 3 : 2, RESIDENT = D == 64 ? 3 : 2, CHUNKS = D / 8, STEP = WARPGROUP / CHUNKS;
};

template <int D, int KEYS> struct ForwardShared {
    floatX k[KEYS * D], v[KEYS * D], q[Routed<D, KEYS>::STAGES][QUERIES * D];
    int entries[ENTRY_STAGES][QUERIES];
    KeyWalk walk;
};

// (heads, T, slot_rows + 1): log2-sum-exp of the slots, and of the own part, which comes last
__device__ inline size_t lse2_at(const Backward& b, const Moba& m, int head, int t) {
    return ((size_t)head * m.shape.T + t) * (slot_rows(m.slots, b.parts) + 1);
}

template <int D, int KEYS>
__device__ inline void load_keys(floatX* tile, const floatX* matrix, int ld, int first, int end) {
    const int STEP = Routed<D, KEYS>::STEP;
    int chunk = threadIdx.x % Routed<D, KEYS>::CHUNKS, first_row = threadIdx.x / Routed<D, KEYS>::CHUNKS, at = panel_at<KEYS>(first_row, chunk);
    #pragma unroll
    for (int i = 0; i < KEYS / STEP; i++) {
        int row = first + first_row + i * STEP;
        bool live = row < end;
        cp_async_16(tile + at + i * STEP * PANEL, matrix + (size_t)(live ? row : 0) * ld + 8 * chunk, live);
    }
}

// the queries of a tile, zeros where there are none
template <int D, int KEYS>
__device__ inline void gather_rows(ForwardShared<D, KEYS>& shared, int ldq, int tile) {
    const int STEP = Routed<D, KEYS>::STEP;
    const KeyWalk& w = shared.walk;
    if (tile >= w.tiles) { return; }
    const int* entries = shared.entries[tile % ENTRY_STAGES];
    int chunk = threadIdx.x % Routed<D, KEYS>::CHUNKS, first_row = threadIdx.x / Routed<D, KEYS>::CHUNKS, live = live_rows(w, tile);
    floatX* to = shared.q[tile % Routed<D, KEYS>::STAGES] + panel_at<QUERIES>(first_row, chunk);
    #pragma unroll
    for (int i = 0; i < QUERIES / STEP; i++) {
        int row = first_row + i * STEP;
        bool is_live = row < live;
        cp_async_16(to + i * STEP * PANEL, w.q + (size_t)(is_live ? entries[row] / MOBA_MAX_TOPK : 0) * ldq + 8 * chunk, is_live);
    }
}

// Keys after the query are not seen; rows are queries from `query` on, columns keys from 0.
template <int COUNT>
__device__ inline void mask_later_keys(float (&s)[COUNT], int query) {
    int t = query + threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4, u = threadIdx.x % 4 * 2;
    #pragma unroll
    for (int i = 0; i < COUNT; i++) {
        if (u + i / 4 * 8 + i % 2 > t + i % 4 / 2 * 8) { s[i] = -INFINITY; }
    }
}

// Scores become exponentials relative to the row's maximum; inverse: 1 / their sum, lse2: its log2 with the maximum; of rows g and g + 8.
template <int COUNT>
__device__ inline void softmax_once(float (&s)[COUNT], float (&inverse)[2], float (&lse2)[2], float scale2) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = -INFINITY, sum = 0;
        #pragma unroll
        for (int i = 2 * half; i < COUNT; i += 4) { top = fmaxf(top, fmaxf(s[i], s[i + 1])); }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = scale2 * fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        #pragma unroll
        for (int i = 2 * half; i < COUNT; i += 4) {
            s[i] = exp2_approx(fmaf(s[i], scale2, -top));
            s[i + 1] = exp2_approx(fmaf(s[i + 1], scale2, -top));
            sum += s[i] + s[i + 1];
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        inverse[half] = 1 / sum;
        lse2[half] = top + log2f(sum);
    }
}

// The tile's outputs to `out` (queries of these very keys) or to slots.
template <int D, int KEYS>
__device__ inline void store_partials(floatX* out_rows, float* lse2_rows, const Backward& b, const Moba& m, const KeyWalk& w, const int* entries, int live,
                                      const float (&o)[D / 2], const float (&inverse)[2], const float (&lse2)[2]) {
    int rows = slot_rows(m.slots, b.parts);
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4 + 8 * half;
        floatX* to = NULL;
        if (row < live) {
            int t = entries[row] / MOBA_MAX_TOPK, slot = entries[row] % MOBA_MAX_TOPK;
            bool own = slot == OWN_SLOT && t < w.key + KEYS;
            int at = (slot == OWN_SLOT ? m.slots : slot) * b.parts;
            to = own ? out_rows + (size_t)t * m.shape.ldo : w.slots + ((size_t)t * rows + at) * D;
            if (threadIdx.x % 4 == 0) { lse2_rows[(size_t)t * (rows + 1) + (own ? rows : at + w.part)] = lse2[half]; }
        }
        #pragma unroll
        for (int panel = 0; panel < D / PANEL; panel++) {
            store_row(to == NULL ? NULL : to + PANEL * panel, o, 32 * panel, half, inverse[half]);
        }
    }
}

// one CTA per item: see find_walk
template <int D, int KEYS>
__global__ __launch_bounds__(WARPGROUP, (Routed<D, KEYS>::RESIDENT))
void moba_hopper_forward_kernel(floatX* out, float* lse2_out, Backward b, Moba m) {
#ifdef HOPPER_CODE
    const int STAGES = Routed<D, KEYS>::STAGES;
    extern __shared__ __align__(1024) unsigned char moba_hopper_shared[];
    ForwardShared<D, KEYS>& shared = *reinterpret_cast<ForwardShared<D, KEYS>*>(moba_hopper_shared);
    const AttnShape& shape = m.shape;
    const KeyWalk& w = shared.walk;
    if (threadIdx.x < WARP) {
        KeyWalk mine = find_walk<D, KEYS>(m, b, blockIdx.x);
        if (threadIdx.x == 0) { shared.walk = mine; }
    }
    __syncthreads();
    if (w.tiles == 0) { return; }

    int head = m.head0 + w.head;
    floatX* out_rows = head_rows(out, shape.ldo, shape, head);
    float* lse2_rows = lse2_out + lse2_at(b, m, w.head, 0);
    for (int tile = 0; tile < STAGES + 2; tile++) { fetch_entries(shared.entries[tile], w, tile); }
    cp_async_commit();
    load_keys<D, KEYS>(shared.k, head_rows(m.k, shape.ldk, shape, head), shape.ldk, w.key, shape.T);
    load_keys<D, KEYS>(shared.v, head_rows(m.v, shape.ldv, shape, head), shape.ldv, w.key, shape.T);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (int tile = 0; tile < STAGES; tile++) {
        gather_rows<D, KEYS>(shared, shape.ldq, tile);
        cp_async_commit();
    }
    cp_async_wait<STAGES - 1>();
    fence_proxy_async();
    __syncthreads();

    float s[KEYS / 2];
    product_abt<D, QUERIES, KEYS>(s, shared.q[0], 0, shared.k, 0);
    #pragma unroll 1
    for (int tile = 0; tile < w.tiles; tile++) {
        float o[D / 2], inverse[2], lse2[2];
        uint32_t p[KEYS / 16][4];
        wgmma_wait<0>();
        wgmma_ready(s);
        if (tile < w.own_tiles && tile < KEYS / QUERIES) { mask_later_keys(s, QUERIES * tile); }
        softmax_once(s, inverse, lse2, m.scale * LOG2E);
        round_operand(p, s);
        cp_async_wait<STAGES - 2>();                   // the next tile has landed, and entries of the one STAGES after this
        fence_proxy_async();
        __syncthreads();                               // for all; and all are done with this tile's queries
        product_ab<KEYS>(o, p, shared.v, 0, false);
        product_abt<D, QUERIES, KEYS>(s, shared.q[(tile + 1) % STAGES], 0, shared.k, 0);     // after the last tile: of anything, for nobody
        gather_rows<D, KEYS>(shared, shape.ldq, tile + STAGES);
        fetch_entries(shared.entries[(tile + STAGES + 2) % ENTRY_STAGES], w, tile + STAGES + 2);
        cp_async_commit();
        wgmma_wait<1>();
        wgmma_ready(o);
        store_partials<D, KEYS>(out_rows, lse2_rows, b, m, w, shared.entries[tile % ENTRY_STAGES], live_rows(w, tile), o, inverse, lse2);
    }
    wgmma_wait<0>();
#endif
}

__device__ inline void add_weighted(float (&x)[8], const floatX* from, float weight) {
    Pack8 part = load8(from);
    for (int e = 0; e < 8; e++) { x[e] = fmaf(weight, __bfloat162float(part.x[e]), x[e]); }
}

// out, of the part of its block in which a query lies, becomes the whole: with the block's earlier parts and the routed ones, in order.
// D/8 lanes per query, grid (queries, heads)
template <int D>
__global__ __launch_bounds__(THREADS)
void moba_hopper_merge_kernel(floatX* out, float* lse, const float* lse2_in, Backward b, Moba m) {
    int t = (blockIdx.x * THREADS + threadIdx.x) / (D / 8), chunk = threadIdx.x % (D / 8), head = m.head0 + blockIdx.y;
    if (t >= m.shape.T) { return; }
    int rows = slot_rows(m.slots, b.parts), used = 0, own = t % m.block / (m.block / b.parts), behind = m.slots * b.parts;
    const float* lse2 = lse2_in + lse2_at(b, m, blockIdx.y, t);
    const floatX* slot = b.slots + ((size_t)blockIdx.y * m.shape.T + t) * rows * D + 8 * chunk;
    floatX* row = head_rows(out, m.shape.ldo, m.shape, head) + (size_t)t * m.shape.ldo + 8 * chunk;
    const uint16_t* sel = query_sel(m, head, t);
    while (used < m.slots && sel[used] != MOBA_NONE) { used++; }
    used *= b.parts;
    float top = lse2[rows], sum, x[8] = {};
    for (int part = 0; part < own; part++) { top = fmaxf(top, lse2[behind + part]); }
    for (int s = 0; s < used; s++) { top = fmaxf(top, lse2[s]); }
    sum = exp2_approx(lse2[rows] - top);
    add_weighted(x, row, sum);
    for (int part = 0; part < own; part++) {
        float weight = exp2_approx(lse2[behind + part] - top);
        sum += weight;
        add_weighted(x, slot + (size_t)(behind + part) * D, weight);
    }
    #pragma unroll 8
    for (int s = 0; s < used; s++) {
        float weight = exp2_approx(lse2[s] - top);
        sum += weight;
        add_weighted(x, slot + (size_t)s * D, weight);
    }
    for (int e = 0; e < 8; e++) { x[e] /= sum; }
    store8_rounded(row, x);
    if (chunk == 0) { lse[(size_t)head * m.shape.T + t] = (top + log2f(sum)) * LN2; }
}

// ---- launch -----------------------------------------------------------------------------------------------------------------
// bytes of scratch that one head needs
static size_t hopper_forward_head_bytes(AttnShape s, int block, int topk) {
    size_t rows = (size_t)slot_rows(topk - 1, block / hopper_keys(block));
    return s.T * (rows * s.D * sizeof(floatX) + (rows + 1) * sizeof(float));
}

template <int D, int KEYS>
static void hopper_forward_launch(floatX* out, float* lse, const Moba& m, void* scratch, int heads, stream_t stream) {
    const AttnShape& s = m.shape;
    Backward b = {};
    b.heads = heads;
    b.parts = m.block / KEYS;
    b.tiles = ceil_div(s.T, KEYS);
    b.tails = hopper_tails(s, m.slots + 1);
    b.together = (int)min_size(heads, max_size(1, ((size_t)16 << 20) / ((size_t)s.T * D * sizeof(floatX))));
    b.slots = (floatX*)scratch;
    float* lse2 = (float*)(b.slots + (size_t)heads * s.T * slot_rows(m.slots, b.parts) * D);
    int items = heads * (b.tails * b.parts + b.tiles);
    allow_shared(moba_hopper_forward_kernel<D, KEYS>, sizeof(ForwardShared<D, KEYS>));
    moba_hopper_forward_kernel<D, KEYS><<<items, WARPGROUP, sizeof(ForwardShared<D, KEYS>), stream>>>(out, lse2, b, m);
    LAUNCH_CHECK();
    dim3 row_grid(ceil_div(s.T, THREADS / (D / 8)), heads);
    moba_hopper_merge_kernel<D><<<row_grid, THREADS, 0, stream>>>(out, lse, lse2, b, m);
    LAUNCH_CHECK();
}

template <int D>
static void hopper_forward(floatX* out, float* lse, const Moba& m, void* scratch, int heads, stream_t stream) {
    if (m.block == 64) { hopper_forward_launch<D, 64>(out, lse, m, scratch, heads, stream); }
    else               { hopper_forward_launch<D, 128>(out, lse, m, scratch, heads, stream); }
}

#endif

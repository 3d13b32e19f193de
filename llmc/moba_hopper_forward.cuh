// Forward of MoBA attention on Hopper (wgmma), by the plan of the backward (moba_hopper_backward.cuh): a CTA is one warpgroup that owns KEYS
// keys and values of a head and walks over the queries that see them, 64 at a time, its own block's first. Four CTAs an SM at D 64 hide
// each other's waits. A query meets the KEYS keys once, so that the softmax is one pass; its normalised partial output goes to the slot of
// (query, part of a block) in bf16, the part its own position lies in to `out` itself, and log2-sum-exp beside. A last kernel merges.
//
// The warps of a CTA meet at the products alone: a warp gathers its own 16 queries of the next tile into its own corner of shared memory and
// takes them from there as left operand. Outputs go from the registers straight to memory, 16 bytes a lane: of 32 columns, 4 chunks of 4
// words (2 columns each), a lane of the four that share a row holds one word of each chunk. So partial rows lie with their words
// transposed, word w of chunk c where word c of chunk w would; the merge puts them right once it has summed them.
//
// L2 is told what to hold: queries, which are read top-k times, and the log-sum-exp numbers, whose sectors fill up over time; not the partial
// outputs, and not keys and values.
#ifndef MOBA_HOPPER_FORWARD_CUH
#define MOBA_HOPPER_FORWARD_CUH

#include "moba_hopper_backward.cuh"

template <int D, int KEYS> struct Routed { static const int RESIDENT = D == 64 ? 4 : 3; };

template <int D, int KEYS> struct ForwardShared {
    floatX k[KEYS * D], v[KEYS * D], q[4][16 * D];                      // q: of each warp
    KeyWalk walk;
};

// (heads, T, slot_rows + 1): log2-sum-exp of the slots, and of the own part, which comes last
__device__ inline size_t lse2_at(const Backward& b, const Moba& m, int head, int t) {
    return ((size_t)head * m.shape.T + t) * (slot_rows(m.slots, b.parts) + 1);
}

// The entries (query * MOBA_MAX_TOPK + slot) of the thread's rows g and g + 8 of a tile, -1 where there is none; own queries have the
// slot behind the routed ones.
__device__ inline void load_entries(int (&entries)[2], const KeyWalk& w, int slots, int tile) {
    int row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    entries[0] = entries[1] = -1;
    if (tile < w.own_tiles) {
        int own = w.key + tile * QUERIES + row;
        if (own < w.own_end)     { entries[0] = own * MOBA_MAX_TOPK + slots; }
        if (own + 8 < w.own_end) { entries[1] = (own + 8) * MOBA_MAX_TOPK + slots; }
    } else {
        int at = (tile - w.own_tiles) * QUERIES + row;
        const int* from = w.list + at;
        if (at < w.count)     { entries[0] = __ldg(from); }
        if (at + 8 < w.count) { entries[1] = __ldg(from + 8); }
    }
}

// The rows of the entries to the warp's corner, D/8 lanes a row; those of none hold anything.
template <int D>
__device__ inline void gather_rows(floatX* corner, const floatX* rows, uint32_t ldq, const int (&entries)[2]) {
    const int CHUNKS = D / 8, STEP = WARP / CHUNKS;
    int row = threadIdx.x % WARP / CHUNKS, chunk = threadIdx.x % CHUNKS;
    #pragma unroll
    for (int first = 0; first < 16; first += STEP) {
        int entry = __shfl_sync(0xffffffffu, entries[first / 8], (first % 8 + row) * 4);
        cp_async_16(corner + panel_at<16>(first + row, chunk), rows + (size_t)((uint32_t)max(entry, 0) / MOBA_MAX_TOPK) * ldq + 8 * chunk, true, l2_keep());
    }
}

// s (64 x KEYS) = Q K^T, issued and committed
template <int D, int KEYS>
__device__ inline void product_qk(float (&s)[KEYS / 2], const floatX* corner, const floatX* k) {
    uint32_t q[D / 16][4];
    int lane = threadIdx.x % WARP;
    #pragma unroll
    for (int i = 0; i < D / 16; i++) { ldmatrix_x4(q[i], corner + panel_at<16>(lane % 16, 2 * i + lane / 16)); }
    wgmma_fence();
    #pragma unroll
    for (int i = 0; i < D / 16; i++) { wgmma<0>(s, q[i], rows_operand<KEYS>(k, 0, i), i > 0); }
    wgmma_commit();
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

// top: the rows' maxima, times scale2
template <int COUNT>
__device__ inline void row_maxima(float (&top)[2], const float (&s)[COUNT], float scale2) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float even = s[2 * half], odd = s[2 * half + 1];
        #pragma unroll
        for (int i = 4 + 2 * half; i < COUNT; i += 4) { even = fmaxf(even, s[i]); odd = fmaxf(odd, s[i + 1]); }
        top[half] = fmaxf(even, odd);
        top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 1));
        top[half] = scale2 * fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 2));
    }
}

// p = 2^(s * scale2 - top) as a left operand, and the rows' sums
template <int COUNT>
__device__ inline void exponentials(uint32_t (&p)[COUNT / 8][4], float (&sum)[2], const float (&s)[COUNT], float scale2, const float (&top)[2]) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float even = 0, odd = 0;
        #pragma unroll
        for (int i = 2 * half; i < COUNT; i += 4) {
            float left = exp2_approx(fmaf(s[i], scale2, -top[half])), right = exp2_approx(fmaf(s[i + 1], scale2, -top[half]));
            even += left;
            odd += right;
            p[i / 8][i / 2 % 4] = pack_bf16(left, right);
        }
        sum[half] = even + odd;
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
    }
}

// Scores become exponentials, as a left operand; inverse: 1 / their sum, of rows g and g + 8; the return value: log2-sum-exp of row g in the
// even lanes, of row g + 8 in the odd. A softmax subtracts the row's maximum only to stay within range, and bf16 has the range of fp32: so
// unless `relative` the exponentials are first taken as they are. Rows whose sum leaves 2^-60 .. 2^60 are then taken again, relative to
// their maximum; the warp's others come out the same again: no query's bits depend on another's. A query of the block itself may see but few
// keys: relative, so that the exponential of a single one is 1 and nothing is rounded.
template <int COUNT>
__device__ inline float softmax_once(uint32_t (&p)[COUNT / 8][4], float (&inverse)[2], const float (&s)[COUNT], float scale2, bool relative) {
    const float LOWEST = 0x1p-60f, HIGHEST = 0x1p60f;
    float top[2] = {0, 0}, sum[2];
    bool fits[2] = {!relative, !relative};
    #pragma unroll 1
    for (bool again = relative; ; again = true) {
        if (again) {
            row_maxima(top, s, scale2);
            for (int half = 0; half < 2; half++) { top[half] = fits[half] ? 0 : top[half]; }
        }
        exponentials(p, sum, s, scale2, top);
        for (int half = 0; half < 2; half++) { fits[half] = sum[half] > LOWEST && sum[half] < HIGHEST; }
        if (again || __all_sync(0xffffffffu, fits[0] && fits[1])) { break; }
    }
    inverse[0] = reciprocal_approx(sum[0]);
    inverse[1] = reciprocal_approx(sum[1]);
    bool second = threadIdx.x % 2;
    return (second ? top[1] : top[0]) + log2_approx(second ? sum[1] : sum[0]);
}

// The tile's outputs to `out` (queries of these very keys) or to slots.
template <int D, int KEYS>
__device__ inline void store_partials(floatX* out_rows, float* lse2_rows, const Backward& b, const Moba& m, const KeyWalk& w, int tile,
                                      const int (&entries)[2], const float (&o)[D / 2], const float (&inverse)[2], float lse2) {
    bool own_part = tile < w.own_tiles && tile < KEYS / QUERIES;
    uint32_t rows = slot_rows(m.slots, b.parts), query = own_part ? m.shape.ldo : rows * D, slot = own_part ? 0 : b.parts;   // strides
    floatX* to = (own_part ? out_rows : w.slots) + 8 * (threadIdx.x % 4);
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t entry = entries[half], t = entry / MOBA_MAX_TOPK, s = entry % MOBA_MAX_TOPK;
        floatX* row = to + (size_t)t * query + s * slot * D;
        #pragma unroll
        for (int i = 0; i < D / 32; i++) {
            uint32_t words[4];
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                const float* x = &o[16 * i + 4 * j + 2 * half];
                words[j] = pack_bf16(x[0] * inverse[half], x[1] * inverse[half]);
            }
            if (entries[half] >= 0) { store_16(row + 32 * i, make_uint4(words[0], words[1], words[2], words[3]), l2_pass()); }
        }
    }
    int mine = threadIdx.x % 2 ? entries[1] : entries[0];
    uint32_t t = (uint32_t)mine / MOBA_MAX_TOPK, s = (uint32_t)mine % MOBA_MAX_TOPK;
    float* lse2_to = lse2_rows + (own_part ? rows : w.part) + (size_t)t * (rows + 1);
    if (mine >= 0 && threadIdx.x % 4 < 2) { store_4(lse2_to + s * slot, lse2, l2_keep()); }
}

// one CTA per item: see find_walk
template <int D, int KEYS>
__global__ __launch_bounds__(WARPGROUP, (Routed<D, KEYS>::RESIDENT))
void moba_hopper_forward_kernel(floatX* out, float* lse2_out, Backward b, Moba m) {
#ifdef HOPPER_CODE
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

    int head = m.head0 + w.head, entries[2], next[2], after_next[2];
    floatX *out_rows = head_rows(out, shape.ldo, shape, head), *corner = shared.q[threadIdx.x / WARP];
    float* lse2_rows = lse2_out + lse2_at(b, m, w.head, 0);
    load_entries(entries, w, m.slots, 0);
    load_entries(next, w, m.slots, 1);
    load_rows<D, KEYS, WARPGROUP>(shared.k, head_rows(m.k, shape.ldk, shape, head), shape.ldk, w.key, shape.T);
    load_rows<D, KEYS, WARPGROUP>(shared.v, head_rows(m.v, shape.ldv, shape, head), shape.ldv, w.key, shape.T);
    gather_rows<D>(corner, w.q, shape.ldq, entries);
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();

    float s[KEYS / 2];
    product_qk<D, KEYS>(s, corner, shared.k);
    #pragma unroll 1
    for (int tile = 0; tile < w.tiles; tile++) {
        float o[D / 2];
        uint32_t p[KEYS / 16][4];
        __syncwarp();                                  // all lanes have read this tile's queries
        gather_rows<D>(corner, w.q, shape.ldq, next);
        cp_async_commit();
        load_entries(after_next, w, m.slots, tile + 2);
        wgmma_wait<0>();
        wgmma_ready(s);
        if (tile < w.own_tiles && tile < KEYS / QUERIES) { mask_later_keys(s, QUERIES * tile); }
        float inverse[2], lse2 = softmax_once(p, inverse, s, m.scale * LOG2E, tile < w.own_tiles);
        product_ab<KEYS>(o, p, shared.v, 0, false);
        wgmma_wait<0>();
        wgmma_ready(o);
        store_partials<D, KEYS>(out_rows, lse2_rows, b, m, w, tile, entries, o, inverse, lse2);
        cp_async_wait<0>();
        __syncwarp();
        product_qk<D, KEYS>(s, corner, shared.k);      // after the last tile: of anything, for nobody
        for (int half = 0; half < 2; half++) { entries[half] = next[half]; next[half] = after_next[half]; }
    }
    wgmma_wait<0>();
#endif
}

// ---- merge ------------------------------------------------------------------------------------------------------------------
// x, eight columns of a sum of weight `sum` relative to 2^top, and with it `count` partial outputs: row i's eight columns are at
// slots + row * D, its log2-sum-exp is lse2[row], with row = i, or i + skip from i = routed on. BATCH rows are in flight.
template <int D>
__device__ inline void add_partials(float (&x)[8], float& top, float& sum, const floatX* slots, const float* lse2, int count, int routed, int skip) {
    const int BATCH = 8;
    for (int first = 0; first < count; first += BATCH) {
        float part_lse2[BATCH];
        Pack8 parts[BATCH];
        #pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int row = min(first + i, count - 1);
            row += row >= routed ? skip : 0;
            part_lse2[i] = lse2[row];
            parts[i] = load8(slots + (size_t)row * D);
        }
        float highest = top;
        #pragma unroll
        for (int i = 0; i < BATCH; i++) { highest = fmaxf(highest, part_lse2[i]); }
        float weight = exp2_approx(top - highest);
        top = highest;
        sum *= weight;
        for (int e = 0; e < 8; e++) { x[e] *= weight; }
        #pragma unroll
        for (int i = 0; i < BATCH; i++) {
            weight = first + i < count ? exp2_approx(part_lse2[i] - top) : 0;
            sum += weight;
            for (int e = 0; e < 8; e++) { x[e] = fmaf(weight, __bfloat162float(parts[i].x[e]), x[e]); }
        }
    }
}

// out, of the part of its block in which a query lies, becomes the whole: with the routed ones and the block's earlier parts, in order.
// D/8 lanes per query, grid (queries, heads)
template <int D>
__global__ __launch_bounds__(THREADS)
void moba_hopper_merge_kernel(floatX* out, float* lse, const float* lse2_in, Backward b, Moba m) {
    int query = (blockIdx.x * THREADS + threadIdx.x) / (D / 8), t = min(query, m.shape.T - 1), chunk = threadIdx.x % (D / 8), head = m.head0 + blockIdx.y;
    int rows = slot_rows(m.slots, b.parts), routed = used_slots(query_sel(m, head, t), m.slots) * b.parts;
    int earlier = t % m.block / (m.block / b.parts);
    const float* lse2 = lse2_in + lse2_at(b, m, blockIdx.y, t);
    const floatX* slots = b.slots + ((size_t)blockIdx.y * m.shape.T + t) * rows * D + 8 * chunk;
    floatX* row = head_rows(out, m.shape.ldo, m.shape, head) + (size_t)t * m.shape.ldo + 8 * chunk;
    Pack8 own = {};
    if (query < m.shape.T) { own = load8(row); }               // a row past the last is nobody's to read while the last is written
    float top = lse2[rows], sum = 1, x[8];
    for (int e = 0; e < 8; e++) { x[e] = __bfloat162float(own.x[e]); }
    add_partials<D>(x, top, sum, slots, lse2, routed + earlier, routed, m.slots * b.parts - routed);
    uint32_t words[4];
    for (int i = 0; i < 4; i++) { words[i] = pack_bf16(x[2 * i] / sum, x[2 * i + 1] / sum); }
    quad_transpose(words);
    if (query < m.shape.T) {
        *reinterpret_cast<uint4*>(row) = make_uint4(words[0], words[1], words[2], words[3]);
        if (chunk == 0) { lse[(size_t)head * m.shape.T + t] = (top + log2f(sum)) * LN2; }
    }
}

// ---- launch -----------------------------------------------------------------------------------------------------------------
// bytes of scratch that one head needs
static size_t hopper_forward_head_bytes(AttnShape s, int block, int topk) {
    size_t rows = (size_t)slot_rows(topk - 1, block / backward_keys(block));
    return s.T * (rows * s.D * sizeof(floatX) + (rows + 1) * sizeof(float));
}

// Heads whose items are taken in turn, by the bytes of a head's queries: enough for the CTAs at work, few enough that their queries stay in L2.
// Measured from 8K to 512K tokens: dev/LOG.md.
static size_t heads_together(size_t head_bytes) { return head_bytes >= (size_t)8 << 20 ? 1 : ((size_t)16 << 20) / head_bytes; }

template <int D, int KEYS>
static void hopper_forward_launch(floatX* out, float* lse, const Moba& m, void* scratch, int heads, stream_t stream) {
    const AttnShape& s = m.shape;
    Backward b = {};
    b.heads = heads;
    b.parts = m.block / KEYS;
    b.tiles = ceil_div(s.T, KEYS);
    b.tails = backward_tails(s, m.slots + 1);
    b.together = (int)min_size(heads, heads_together((size_t)s.T * D * sizeof(floatX)));
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

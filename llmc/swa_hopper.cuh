// Sliding-window and dense causal attention on Hopper: warpgroup products from tiles that TMA brings.
//
// A CTA is warpgroups of 64 rows that stay (queries forward and for dQ, keys for dK and dV), in shared memory, with the accumulators in
// registers. The other operands come by in a ring of stages: one thread loads ahead, all warpgroups use a stage, each at its own pace, so
// that the exponentials of one run beside the products of another (Shah et al. 2024).
// Backward recomputes P twice, by keys and by queries: 7 products instead of 5, and no dQ that several CTAs add to (swa_dense.cuh has one).
#ifndef SWA_HOPPER_CUH
#define SWA_HOPPER_CUH

#include "hopper_tile.cuh"

enum { ROWS = 64 };                 // of a warpgroup's product

// ---- the ring -------------------------------------------------------------------------------------------------------
// Pairs of tiles of COUNT rows: K and V, or q and dout.
template <int D, int COUNT, int STAGES> struct Ring {
    floatX a[STAGES][COUNT * D], b[STAGES][COUNT * D];
    uint64_t full[STAGES], empty[STAGES];
};

// The walk of a CTA over `tiles` pairs, from row `first` of head `head` on. It is at tile `at`, in `stage`, whose barriers' phase has `parity`.
struct Walk {
    int head, first, tiles, at, stage, parity;
};

template <int D, int COUNT, int STAGES>
__device__ inline void ring_open(Ring<D, COUNT, STAGES>& ring, int warps) {
    for (int i = 0; i < STAGES; i++) {
        mbarrier_init(&ring.full[i], 1);
        mbarrier_init(&ring.empty[i], warps);
    }
}

// Begins the copy of tile n, and the count of `extra` bytes that the caller copies.
template <int D, int COUNT, int STAGES>
__device__ inline void ring_load(Ring<D, COUNT, STAGES>& ring, const Walk& walk, const CUtensorMap* a, const CUtensorMap* b, const AttnShape& s,
                                 int n, int stage, int extra) {
    mbarrier_arrive_expect(&ring.full[stage], 2 * COUNT * D * (int)sizeof(floatX) + extra);
    tma_load_rows<D, COUNT>(ring.a[stage], a, s, walk.head, walk.first + n * COUNT, &ring.full[stage]);
    tma_load_rows<D, COUNT>(ring.b[stage], b, s, walk.head, walk.first + n * COUNT, &ring.full[stage]);
}

// One thread: loads tile at + STAGES - 1, if there is one, into the stage that tile at - 1 had. The stage, or -1.
template <int D, int COUNT, int STAGES>
__device__ inline int ring_load_ahead(Ring<D, COUNT, STAGES>& ring, const Walk& walk, const CUtensorMap* a, const CUtensorMap* b,
                                      const AttnShape& s, int extra) {
    int n = walk.at + STAGES - 1, stage = walk.stage == 0 ? STAGES - 1 : walk.stage - 1;
    if (n >= walk.tiles) { return -1; }
    if (walk.at > 0) { mbarrier_wait(&ring.empty[stage], walk.stage == 0 ? walk.parity ^ 1 : walk.parity); }
    ring_load(ring, walk, a, b, s, n, stage, extra);
    return stage;
}

// The warp is through with the stage.
template <int D, int COUNT, int STAGES>
__device__ inline void ring_next(Ring<D, COUNT, STAGES>& ring, Walk& walk) {
    __syncwarp();
    if (threadIdx.x % WARP == 0) { mbarrier_arrive(&ring.empty[walk.stage]); }
    walk.at++;
    walk.stage++;
    if (walk.stage == STAGES) { walk.stage = 0; walk.parity ^= 1; }
}

// ---- rows of a warpgroup ----------------------------------------------------------------------------------------------
// A thread has rows g and g+8 of its warp's 16 (half 0 and 1), columns 8n + 2c and the next (hopper_ptx.cuh).
__device__ inline int thread_row() { return threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4; }        // of the CTA

__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Scores of unseen pairs become -inf: u > t or u <= t - window. query: of row g; key: of column 0
template <int COUNT>
__device__ inline void mask_by_query(float (&s)[COUNT], int query, int window, int key) {
    int ahead = key + threadIdx.x % 4 * 2 - query;                               // u - t of s[0]
    #pragma unroll
    for (int i = 0; i < COUNT; i++) {
        int more = i / 4 * 8 + i % 2 - i % 4 / 2 * 8;
        if (ahead > -more || ahead <= -window - more) { s[i] = -INFINITY; }
    }
}
// the transposed case; key: of row g, query: of column 0
template <int COUNT>
__device__ inline void mask_by_key(float (&s)[COUNT], int query, int window, int key) {
    int ahead = key - query - threadIdx.x % 4 * 2;
    #pragma unroll
    for (int i = 0; i < COUNT; i++) {
        int less = i / 4 * 8 + i % 2 - i % 4 / 2 * 8;
        if (ahead > less || ahead <= less - window) { s[i] = -INFINITY; }
    }
}

// acc times factor[half] to rows to[0], to[8]; a row from `live` on does not exist
template <int D>
__device__ inline void store_rows(floatX* to, int ld, const float (&acc)[D / 2], const float (&factor)[2], int live) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        #pragma unroll
        for (int i = 0; i < D / 32; i++) {
            uint32_t x[4];
            #pragma unroll
            for (int n = 0; n < 4; n++) {
                int at = 16 * i + 4 * n + 2 * half;
                x[n] = pack_bf16(acc[at] * factor[half], acc[at + 1] * factor[half]);
            }
            quad_transpose(x);
            floatX* chunk = to + (size_t)(8 * half) * ld + 32 * i + threadIdx.x % 4 * 8;
            if (8 * half < live) { *reinterpret_cast<uint4*>(chunk) = make_uint4(x[0], x[1], x[2], x[3]); }
        }
    }
}

// ---- forward --------------------------------------------------------------------------------------------------------
enum { FORWARD_GROUPS = 2, FORWARD_THREADS = FORWARD_GROUPS * WARPGROUP, QUERIES = FORWARD_GROUPS * ROWS, KEYS = 128 };

// stages of 128 keys, and CTAs of a multiprocessor, by shared memory and registers
template <int D> struct ForwardPlan { static const int STAGES = D == 64 ? 3 : 2, CTAS = D == 64 ? 2 : 1; };

template <int D> struct ForwardShared {
    floatX q[QUERIES * D];
    Ring<D, KEYS, ForwardPlan<D>::STAGES> ring;
    uint64_t q_full;
};

// Scores become exponentials relative to the row's new maximum; sum (this thread's share) and acc are brought to it.
template <int D, int COUNT>
__device__ inline void softmax_step(float (&s)[COUNT], float (&top)[2], float (&sum)[2], float (&acc)[D / 2], float scale2) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float now = top[half], share = 0;
        #pragma unroll
        for (int i = 2 * half; i < COUNT; i += 4) { now = fmaxf(now, fmaxf(s[i], s[i + 1])); }
        now = quad_max(now);
        float base = now == -INFINITY ? 0.0f : now * scale2;                     // a row that has seen no key yet
        float shrink = exp2_approx(top[half] * scale2 - base);
        #pragma unroll
        for (int i = 2 * half; i < COUNT; i += 4) {
            s[i] = exp2_approx(fmaf(s[i], scale2, -base));
            s[i + 1] = exp2_approx(fmaf(s[i + 1], scale2, -base));
            share += s[i] + s[i + 1];
        }
        sum[half] = sum[half] * shrink + share;
        top[half] = now;
        #pragma unroll
        for (int i = 2 * half; i < D / 2; i += 4) { acc[i] *= shrink; acc[i + 1] *= shrink; }
    }
}

// where the window of the first of a CTA's queries begins, to whole 64 rows
__device__ inline int window_start(int query, int window) { return max(0, query - window + 1) / ROWS * ROWS; }

// one CTA per (128 queries, head), head by head (their keys stay in the L2 cache), late queries, which see most keys, first
template <int D>
__global__ __launch_bounds__(FORWARD_THREADS, ForwardPlan<D>::CTAS)
void swa_hopper_forward_kernel(floatX* out, float* lse, const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                               const __grid_constant__ CUtensorMap v_map, AttnShape shape, int window, float scale2) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char swa_hopper_shared[];
    ForwardShared<D>& shared = *reinterpret_cast<ForwardShared<D>*>(swa_hopper_shared);
    const int STAGES = ForwardPlan<D>::STAGES;
    int tiles = (shape.T + QUERIES - 1) / QUERIES, head = blockIdx.x / tiles, query = (tiles - 1 - blockIdx.x % tiles) * QUERIES;
    int first = window_start(query, window), end = min(shape.T, query + QUERIES);
    Walk walk = {head, first, (end - first + KEYS - 1) / KEYS, 0, 0, 0};
    if (threadIdx.x == 0) {
        ring_open(shared.ring, FORWARD_THREADS / WARP);
        mbarrier_init(&shared.q_full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(&shared.q_full, (int)sizeof(shared.q));
        tma_load_rows<D, QUERIES>(shared.q, &q_map, shape, head, query, &shared.q_full);
        for (int i = 0; i < min(STAGES - 1, walk.tiles); i++) { ring_load(shared.ring, walk, &k_map, &v_map, shape, i, i, 0); }
    }
    __syncthreads();

    int group_row = threadIdx.x / WARPGROUP * ROWS, group_query = query + group_row, t = query + thread_row();
    float acc[D / 2] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    mbarrier_wait(&shared.q_full, 0);
    while (walk.at < walk.tiles) {
        int stage = walk.stage, key = first + walk.at * KEYS;
        mbarrier_wait(&shared.ring.full[stage], walk.parity);
        if (sees_nothing(group_query, ROWS, window, key, KEYS)) {
            if (threadIdx.x == 0) { ring_load_ahead(shared.ring, walk, &k_map, &v_map, shape, 0); }
        } else {
            float s[KEYS / 2];
            uint32_t p[KEYS / 16][4];
            product_abt<D, QUERIES, KEYS>(s, shared.q, group_row, shared.ring.a[stage], 0);
            if (threadIdx.x == 0) { ring_load_ahead(shared.ring, walk, &k_map, &v_map, shape, 0); }
            __syncwarp();
            wgmma_wait<0>();
            wgmma_ready(s);
            if (!sees_everything(group_query, ROWS, window, key, KEYS)) { mask_by_query(s, t, window, key); }
            softmax_step<D>(s, top, sum, acc, scale2);
            round_operand(p, s);
            product_ab<KEYS>(acc, p, shared.ring.b[stage], 0, true);
            wgmma_wait<0>();
            wgmma_ready(acc);
        }
        ring_next(shared.ring, walk);
    }

    float factor[2];
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = quad_sum(sum[half]);
        factor[half] = 1 / total;
        if (threadIdx.x % 4 == 0 && t + 8 * half < end) {
            lse[(size_t)head * shape.T + t + 8 * half] = (top[half] * scale2 + log2f(total)) * LN2;
        }
    }
    store_rows<D>(head_rows(out, shape.ldo, shape, head) + (size_t)t * shape.ldo, shape.ldo, acc, factor, end - t);
#endif
}

template <int D>
static void hopper_forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, AttnShape s, int window, stream_t stream) {
    int columns = s.H * s.D, grid = ceil_div(s.T, QUERIES) * s.B * s.H;
    CUtensorMap q_map = rows_map(q, s.B, s.T, columns, s.ldq, QUERIES), k_map = rows_map(k, s.B, s.T, columns, s.ldk, KEYS);
    CUtensorMap v_map = rows_map(v, s.B, s.T, columns, s.ldv, KEYS);
    float scale2 = LOG2E / sqrtf((float)D);
    size_t shared = sizeof(ForwardShared<D>);
    allow_shared(swa_hopper_forward_kernel<D>, shared);
    swa_hopper_forward_kernel<D><<<grid, FORWARD_THREADS, shared, stream>>>(out, lse, q_map, k_map, v_map, s, window, scale2);
    LAUNCH_CHECK();
}

// ---- backward -------------------------------------------------------------------------------------------------------
// Of each query: lse in base 2, and delta = sum over d of dout * out. The dQ kernel makes them for itself and leaves them for the other:
// (heads, scalar_rows(T)) pairs; behind T lse2 is infinite: P = 0.
static inline __host__ __device__ int scalar_rows(int T) { return (T + ROWS - 1) / ROWS * ROWS; }

struct SwaMaps { CUtensorMap q, k, v, dout; };       // boxes of 64 rows

// Warpgroups, and CTAs of a multiprocessor: as the accumulators leave registers for. Warpgroups that share tiles read less from L2, which long
// walks are glad of; a short window's walk is a few tiles, and there CTAs that begin and end beside each other's products win.
enum { SHORT_WINDOW = 1024 };
template <int D, bool SHORT> struct KeysPlan    { static const int GROUPS = SHORT ? 1 : D == 64 ? 3 : 2, CTAS = SHORT ? 3 : 1, STAGES = 3; };
template <int D, bool SHORT> struct QueriesPlan { static const int GROUPS = SHORT ? 1 : 2, CTAS = SHORT ? 4 : D == 64 ? 2 : 1, STAGES = SHORT ? 2 : 3; };

enum { SCALARS_BYTES = ROWS * (int)sizeof(float2) };     // of a tile

template <int D, bool SHORT> struct KeysShared90 {
    floatX k[KeysPlan<D, SHORT>::GROUPS][ROWS * D], v[KeysPlan<D, SHORT>::GROUPS][ROWS * D];
    Ring<D, ROWS, KeysPlan<D, SHORT>::STAGES> ring;
    float2 scalars[KeysPlan<D, SHORT>::STAGES][ROWS];
    uint64_t keys_full;
};

// the scalars of tile n of queries
template <int D, bool SHORT>
__device__ inline void load_scalars(KeysShared90<D, SHORT>& shared, const Walk& walk, const float2* scalars, const AttnShape& s, int n, int stage) {
    const float2* from = scalars + (size_t)walk.head * scalar_rows(s.T) + walk.first + n * ROWS;
    bulk_load(shared.scalars[stage], from, SCALARS_BYTES, &shared.ring.full[stage]);
}

// one thread: the tile of queries that is loaded while tile walk.at is used
template <int D, bool SHORT>
__device__ inline void load_queries_ahead(KeysShared90<D, SHORT>& shared, const Walk& walk, const float2* scalars, const SwaMaps& maps, const AttnShape& s) {
    int stage = ring_load_ahead(shared.ring, walk, &maps.q, &maps.dout, s, SCALARS_BYTES);
    if (stage >= 0) { load_scalars(shared, walk, scalars, s, walk.at + KeysPlan<D, SHORT>::STAGES - 1, stage); }
}

// s: scores of keys (rows) and queries (columns) become P^T; dp = V dout^T becomes dS^T, without the factor 1/sqrt(D)
template <int COUNT>
__device__ inline void probabilities_by_key(float (&s)[COUNT], const float2* scalars, float scale2) {
    #pragma unroll
    for (int i = 0; i < COUNT; i++) { s[i] = exp2_approx(fmaf(s[i], scale2, -scalars[i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2].x)); }
}
template <int COUNT>
__device__ inline void gradients_by_key(float (&dp)[COUNT], const float (&p)[COUNT], const float2* scalars) {
    #pragma unroll
    for (int i = 0; i < COUNT; i++) { dp[i] = p[i] * (dp[i] - scalars[i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2].y); }
}

// dK and dV. One CTA per (64 keys a warpgroup, head), over the queries whose windows reach them; early keys, which most queries see, first,
// and the last heads, which the dQ kernel has left in the L2 cache
template <int D, bool SHORT>
__global__ __launch_bounds__(KeysPlan<D, SHORT>::GROUPS * WARPGROUP, KeysPlan<D, SHORT>::CTAS)
void swa_hopper_keys_kernel(floatX* dk, floatX* dv, const float2* scalars, const float* rope, const __grid_constant__ SwaMaps maps,
                            AttnShape shape, int window, float scale) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char swa_hopper_shared[];
    KeysShared90<D, SHORT>& shared = *reinterpret_cast<KeysShared90<D, SHORT>*>(swa_hopper_shared);
    const int GROUPS = KeysPlan<D, SHORT>::GROUPS, STAGES = KeysPlan<D, SHORT>::STAGES, CTA_KEYS = GROUPS * ROWS;
    int tiles = (shape.T + CTA_KEYS - 1) / CTA_KEYS, key = blockIdx.x % tiles * CTA_KEYS;
    int head = (gridDim.x - 1 - blockIdx.x) / tiles;
    int end = min(shape.T, key + CTA_KEYS - 1 + window);
    Walk walk = {head, key, (end - key + ROWS - 1) / ROWS, 0, 0, 0};
    if (threadIdx.x == 0) {
        ring_open(shared.ring, GROUPS * WARPGROUP / WARP);
        mbarrier_init(&shared.keys_full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(&shared.keys_full, (int)(sizeof(shared.k) + sizeof(shared.v)));
        for (int i = 0; i < GROUPS; i++) {
            tma_load_rows<D, ROWS>(shared.k[i], &maps.k, shape, head, key + i * ROWS, &shared.keys_full);
            tma_load_rows<D, ROWS>(shared.v[i], &maps.v, shape, head, key + i * ROWS, &shared.keys_full);
        }
        for (int i = 0; i < min(STAGES - 1, walk.tiles); i++) {
            ring_load(shared.ring, walk, &maps.q, &maps.dout, shape, i, i, SCALARS_BYTES);
            load_scalars(shared, walk, scalars, shape, i, i);
        }
    }
    __syncthreads();

    int group = threadIdx.x / WARPGROUP, group_key = key + group * ROWS, u = key + thread_row();
    float dk_sum[D / 2] = {}, dv_sum[D / 2] = {};
    mbarrier_wait(&shared.keys_full, 0);
    while (walk.at < walk.tiles) {
        int stage = walk.stage, query = key + walk.at * ROWS;
        mbarrier_wait(&shared.ring.full[stage], walk.parity);
        if (sees_nothing(query, ROWS, window, group_key, ROWS)) {
            if (threadIdx.x == 0) { load_queries_ahead(shared, walk, scalars, maps, shape); }
        } else {
            float s[ROWS / 2], dp[ROWS / 2];
            uint32_t p[ROWS / 16][4], ds[ROWS / 16][4];
            product_abt<D, ROWS, ROWS>(s, shared.k[group], 0, shared.ring.a[stage], 0);
            product_abt<D, ROWS, ROWS>(dp, shared.v[group], 0, shared.ring.b[stage], 0);
            if (threadIdx.x == 0) { load_queries_ahead(shared, walk, scalars, maps, shape); }
            __syncwarp();
            wgmma_wait<1>();
            wgmma_ready(s);
            if (!sees_everything(query, ROWS, window, group_key, ROWS)) { mask_by_key(s, query, window, u); }
            probabilities_by_key(s, shared.scalars[stage], scale * LOG2E);
            wgmma_wait<0>();
            wgmma_ready(dp);
            gradients_by_key(dp, s, shared.scalars[stage]);
            round_operand(p, s);
            round_operand(ds, dp);
            product_ab<ROWS>(dv_sum, p, shared.ring.b[stage], 0, true);
            product_ab<ROWS>(dk_sum, ds, shared.ring.a[stage], 0, true);
            wgmma_wait<0>();
            wgmma_ready(dv_sum);
            wgmma_ready(dk_sum);
        }
        ring_next(shared.ring, walk);
    }
    const float one[2] = {1, 1}, scales[2] = {scale, scale};
    Angles<D> angles;
    if (rope != NULL) { load_angles(angles, rope, min(u, shape.T - 1), min(u + 8, shape.T - 1)); }         // they come while dV goes
    store_rows<D>(head_rows(dv, shape.ldv, shape, head) + (size_t)u * shape.ldv, shape.ldv, dv_sum, one, shape.T - u);
    if (rope != NULL) { turn(dk_sum, angles, -1); }
    store_rows<D>(head_rows(dk, shape.ldk, shape, head) + (size_t)u * shape.ldk, shape.ldk, dk_sum, scales, shape.T - u);
#endif
}

template <int D, bool SHORT> struct QueriesShared90 {
    floatX q[QueriesPlan<D, SHORT>::GROUPS][ROWS * D], dout[QueriesPlan<D, SHORT>::GROUPS][ROWS * D];
    Ring<D, ROWS, QueriesPlan<D, SHORT>::STAGES> ring;
    uint64_t q_full;
};

// Of this thread's rows, queries t and t+8: lse, and the quarter of out that each of a row's four threads reads. Read once, so that it is the
// first to leave the L2 cache: the other kernel wants what lies beside it there.
template <int D> struct OutRows { Pack8 x[2][D / 32]; float lse[2]; };

template <int D>
__device__ inline void load_out_rows(OutRows<D>& rows, const floatX* out, const float* lse, const AttnShape& s, int head, int t) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int query = min(t + 8 * half, s.T - 1);
        const floatX* from = head_rows(out, s.ldo, s, head) + (size_t)query * s.ldo + threadIdx.x % 4 * 8;
        #pragma unroll
        for (int i = 0; i < D / 32; i++) {
            uint4 chunk = __ldcs(reinterpret_cast<const uint4*>(from + 32 * i));
            rows.x[half][i] = *reinterpret_cast<Pack8*>(&chunk);
        }
        rows.lse[half] = lse[(size_t)head * s.T + query];
    }
}

// Their scalars; dout is the warpgroup's tile.
template <int D>
__device__ inline void query_scalars(float2 (&mine)[2], float2* scalars, const floatX* dout, const OutRows<D>& rows, const AttnShape& s, int head,
                                     int t) {
    int row = threadIdx.x % WARPGROUP / WARP * 16 + threadIdx.x % WARP / 4;      // of the tile
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int query = t + 8 * half;
        float delta = 0;
        #pragma unroll
        for (int n = 0; n < D / 32; n++) {
            delta += dot8(load8(dout + panel_at<ROWS>(row + 8 * half, 4 * n + threadIdx.x % 4)), rows.x[half][n]);
        }
        delta = quad_sum(delta);
        mine[half] = query < s.T ? make_float2(rows.lse[half] * LOG2E, delta) : make_float2(INFINITY, 0);
        if (threadIdx.x % 4 == 0 && query < scalar_rows(s.T)) { scalars[(size_t)head * scalar_rows(s.T) + query] = mine[half]; }
    }
}

// dQ, and the scalars. One CTA per (64 queries a warpgroup, head), late ones first
template <int D, bool SHORT>
__global__ __launch_bounds__(QueriesPlan<D, SHORT>::GROUPS * WARPGROUP, QueriesPlan<D, SHORT>::CTAS)
void swa_hopper_queries_kernel(floatX* dq, float2* scalars, const floatX* out, const float* lse, const float* rope,
                               const __grid_constant__ SwaMaps maps, AttnShape shape, int window, float scale) {
#ifdef HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char swa_hopper_shared[];
    QueriesShared90<D, SHORT>& shared = *reinterpret_cast<QueriesShared90<D, SHORT>*>(swa_hopper_shared);
    const int GROUPS = QueriesPlan<D, SHORT>::GROUPS, STAGES = QueriesPlan<D, SHORT>::STAGES, CTA_QUERIES = GROUPS * ROWS;
    int tiles = (shape.T + CTA_QUERIES - 1) / CTA_QUERIES, head = blockIdx.x / tiles, query = (tiles - 1 - blockIdx.x % tiles) * CTA_QUERIES;
    int first = window_start(query, window), end = min(shape.T, query + CTA_QUERIES);
    Walk walk = {head, first, (end - first + ROWS - 1) / ROWS, 0, 0, 0};
    if (threadIdx.x == 0) {
        ring_open(shared.ring, GROUPS * WARPGROUP / WARP);
        mbarrier_init(&shared.q_full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(&shared.q_full, (int)(sizeof(shared.q) + sizeof(shared.dout)));
        for (int i = 0; i < GROUPS; i++) {
            tma_load_rows<D, ROWS>(shared.q[i], &maps.q, shape, head, query + i * ROWS, &shared.q_full);
            tma_load_rows<D, ROWS>(shared.dout[i], &maps.dout, shape, head, query + i * ROWS, &shared.q_full);
        }
        for (int i = 0; i < min(STAGES - 1, walk.tiles); i++) { ring_load(shared.ring, walk, &maps.k, &maps.v, shape, i, i, 0); }
    }
    __syncthreads();

    int group = threadIdx.x / WARPGROUP, group_query = query + group * ROWS, t = query + thread_row();
    float2 mine[2];
    float dq_sum[D / 2] = {};
    OutRows<D> out_rows;
    load_out_rows<D>(out_rows, out, lse, shape, head, t);
    mbarrier_wait(&shared.q_full, 0);
    query_scalars<D>(mine, scalars, shared.dout[group], out_rows, shape, head, t);
    while (walk.at < walk.tiles) {
        int stage = walk.stage, key = first + walk.at * ROWS;
        mbarrier_wait(&shared.ring.full[stage], walk.parity);
        if (sees_nothing(group_query, ROWS, window, key, ROWS)) {
            if (threadIdx.x == 0) { ring_load_ahead(shared.ring, walk, &maps.k, &maps.v, shape, 0); }
        } else {
            float s[ROWS / 2], dp[ROWS / 2];
            uint32_t ds[ROWS / 16][4];
            product_abt<D, ROWS, ROWS>(s, shared.q[group], 0, shared.ring.a[stage], 0);
            product_abt<D, ROWS, ROWS>(dp, shared.dout[group], 0, shared.ring.b[stage], 0);
            if (threadIdx.x == 0) { ring_load_ahead(shared.ring, walk, &maps.k, &maps.v, shape, 0); }
            __syncwarp();
            wgmma_wait<1>();
            wgmma_ready(s);
            if (!sees_everything(group_query, ROWS, window, key, ROWS)) { mask_by_query(s, t, window, key); }
            #pragma unroll
            for (int n = 0; n < ROWS / 2; n++) { s[n] = exp2_approx(fmaf(s[n], scale * LOG2E, -mine[n % 4 / 2].x)); }
            wgmma_wait<0>();
            wgmma_ready(dp);
            #pragma unroll
            for (int n = 0; n < ROWS / 2; n++) { dp[n] = s[n] * (dp[n] - mine[n % 4 / 2].y); }
            round_operand(ds, dp);
            product_ab<ROWS>(dq_sum, ds, shared.ring.a[stage], 0, true);
            wgmma_wait<0>();
            wgmma_ready(dq_sum);
        }
        ring_next(shared.ring, walk);
    }
    if (rope != NULL) { turn_rows_back<D>(dq_sum, rope, t, shape.T); }
    const float scales[2] = {scale, scale};
    store_rows<D>(head_rows(dq, shape.ldq, shape, head) + (size_t)t * shape.ldq, shape.ldq, dq_sum, scales, end - t);
#endif
}

static size_t hopper_backward_scratch(AttnShape s) { return (size_t)s.B * s.H * scalar_rows(s.T) * sizeof(float2); }

template <int D, bool SHORT>
static void hopper_backward_planned(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, const floatX* q,
                            const floatX* k, const floatX* v, const float* rope, AttnShape s, int window, float2* scalars, stream_t stream) {
    const int KEYS_THREADS = KeysPlan<D, SHORT>::GROUPS * WARPGROUP, QUERIES_THREADS = QueriesPlan<D, SHORT>::GROUPS * WARPGROUP;
    int columns = s.H * s.D, heads = s.B * s.H;
    float scale = 1 / sqrtf((float)D);
    SwaMaps maps = {rows_map(q, s.B, s.T, columns, s.ldq, ROWS), rows_map(k, s.B, s.T, columns, s.ldk, ROWS),
                    rows_map(v, s.B, s.T, columns, s.ldv, ROWS), rows_map(dout, s.B, s.T, columns, s.ldo, ROWS)};
    int grid = ceil_div(s.T, QueriesPlan<D, SHORT>::GROUPS * ROWS) * heads;
    size_t shared = sizeof(QueriesShared90<D, SHORT>);
    allow_shared(swa_hopper_queries_kernel<D, SHORT>, shared);
    swa_hopper_queries_kernel<D, SHORT><<<grid, QUERIES_THREADS, shared, stream>>>(dq, scalars, out, lse, rope, maps, s, window, scale);
    LAUNCH_CHECK();
    grid = ceil_div(s.T, KeysPlan<D, SHORT>::GROUPS * ROWS) * heads;
    shared = sizeof(KeysShared90<D, SHORT>);
    allow_shared(swa_hopper_keys_kernel<D, SHORT>, shared);
    swa_hopper_keys_kernel<D, SHORT><<<grid, KEYS_THREADS, shared, stream>>>(dk, dv, scalars, rope, maps, s, window, scale);
    LAUNCH_CHECK();
}

template <int D>
static void hopper_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, const floatX* q,
                            const floatX* k, const floatX* v, const float* rope, AttnShape s, int window, float2* scalars, stream_t stream) {
    bool narrow = D == 64 && window <= SHORT_WINDOW;                     // at D = 128 one warpgroup a CTA leaves half the registers idle
    (narrow ? hopper_backward_planned<D, D == 64> : hopper_backward_planned<D, false>)
        (dq, dk, dv, dout, out, lse, q, k, v, rope, s, window, scalars, stream);
}

#endif

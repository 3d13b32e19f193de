// Sliding-window and dense causal attention: the tile pieces over consecutive queries and the keys of their windows.
// FlashAttention-2's plan (Dao 2023): online softmax forward; backward recomputes P from lse, by keys for dK and dV, by queries for dQ.
// The kernels here are the portable ones; those for compute capability 9.0 are in swa_hopper.cuh, and in swa_dense.cuh a dense backward.
#include "ops.h"
#include "attn_tile.cuh"
#include "swa_dense.cuh"

// where the window of the first of a CTA's queries begins, to a whole tile
__device__ inline int first_key(int query, int window) { return max(0, query - window + 1) / TILE * TILE; }

// one CTA per (query tile, head); late tiles, which see most keys, first
template <int D>
__global__ __launch_bounds__(THREADS)
void swa_forward_kernel(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, AttnShape shape, int window,
                        float scale2) {
    const int MT = Queries<D>::MT, ROWS = Queries<D>::ROWS;
    extern __shared__ __align__(16) unsigned char swa_shared[];
    floatX* q_tile = reinterpret_cast<floatX*>(swa_shared);
    int head = blockIdx.y, query = (gridDim.x - 1 - blockIdx.x) * ROWS, end = min(shape.T, query + ROWS);
    Keys keys = {head_rows(k, shape.ldk, shape, head), head_rows(v, shape.ldv, shape, head), shape.ldk, shape.ldv,
                 first_key(query, window), end};

    Attended<D, MT> r;
    float lse2[MT][2];
    load_tile<D, ROWS>(q_tile, head_rows(q, shape.ldq, shape, head), shape.ldq, query, end);
    load_keys<D>(q_tile + ROWS * D, keys, keys.from);
    attend<D, MT>(r, q_tile, q_tile + ROWS * D, keys, query, window, scale2);
    attended_close(r, lse2, scale2);

    int row = threadIdx.x / WARP * 16 * MT, g = threadIdx.x % WARP / 4;
    float* stage = reinterpret_cast<float*>(swa_shared) + stage_at<D>(row);
    stage_rows<D, MT>(stage, r.acc, 1.0f);
    floatX* out_row = head_rows(out, shape.ldo, shape, head) + (size_t)(query + row) * shape.ldo;
    store_staged<D>(out_row, shape.ldo, stage, 16 * MT, end - query - row);
    for (int i = 0; i < 2 * MT; i++) {
        int t = query + row + 8 * i + g;
        if (threadIdx.x % 4 == 0 && t < end) { lse[(size_t)head * shape.T + t] = lse2[i / 2][i % 2] * LN2; }
    }
}

template <int D>
static void forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, AttnShape shape, int window,
                    stream_t stream) {
    const int ROWS = Queries<D>::ROWS;
    dim3 grid(ceil_div(shape.T, ROWS), shape.B * shape.H);
    size_t shared = max_size((size_t)(ROWS + 4 * TILE) * D * sizeof(floatX), (size_t)stage_at<D>(ROWS) * sizeof(float));
    allow_shared(swa_forward_kernel<D>, shared);
    swa_forward_kernel<D><<<grid, THREADS, shared, stream>>>(out, lse, q, k, v, shape, window, LOG2E / sqrtf((float)D));
    LAUNCH_CHECK();
}

__device__ inline HeadIn head_in(const floatX* dout, const float* lse, const float* delta, const floatX* q, const floatX* k,
                                 const floatX* v, const AttnShape& s, int head) {
    return {head_rows(q, s.ldq, s, head), head_rows(k, s.ldk, s, head), head_rows(v, s.ldv, s, head), head_rows(dout, s.ldo, s, head),
            lse + (size_t)head * s.T, delta + (size_t)head * s.T, s.ldq, s.ldk, s.ldv, s.ldo};
}

// one CTA per (64 keys, head), over the queries whose windows reach them
template <int D>
__global__ __launch_bounds__(THREADS, Resident<D>::BACKWARD)
void swa_backward_keys_kernel(floatX* dk, floatX* dv, const floatX* dout, const float* lse, const float* delta, const floatX* q,
                              const floatX* k, const floatX* v, const float* rope, AttnShape shape, int window, float scale) {
    extern __shared__ __align__(16) unsigned char swa_shared[];
    KeysShared<D>& shared = *reinterpret_cast<KeysShared<D>*>(swa_shared);
    int head = blockIdx.y, key = blockIdx.x * TILE, row = threadIdx.x / WARP * 16;
    float dk_sum[1][D / 8][4] = {}, dv_sum[1][D / 8][4] = {};
    HeadIn in = head_in(dout, lse, delta, q, k, v, shape, head);
    accumulate_keys<D>(dk_sum, dv_sum, shared, in, key, min(shape.T, key + TILE - 1 + window), key, shape.T, window, scale * LOG2E);

    if (rope != NULL) { turn_rows_back<D>(dk_sum[0][0], rope, key + row + threadIdx.x % WARP / 4, shape.T); }
    float* stage = reinterpret_cast<float*>(swa_shared) + stage_at<D>(row);
    stage_rows<D, 1>(stage, dk_sum, scale);
    store_staged<D>(head_rows(dk, shape.ldk, shape, head) + (size_t)(key + row) * shape.ldk, shape.ldk, stage, 16, shape.T - key - row);
    __syncwarp();
    stage_rows<D, 1>(stage, dv_sum, 1.0f);
    store_staged<D>(head_rows(dv, shape.ldv, shape, head) + (size_t)(key + row) * shape.ldv, shape.ldv, stage, 16, shape.T - key - row);
}

// one CTA per (64 queries, head), late ones first
template <int D>
__global__ __launch_bounds__(THREADS, Resident<D>::BACKWARD)
void swa_backward_queries_kernel(floatX* dq, const floatX* dout, const float* lse, const float* delta, const floatX* q, const floatX* k,
                                 const floatX* v, const float* rope, AttnShape shape, int window, float scale) {
    extern __shared__ __align__(16) unsigned char swa_shared[];
    floatX* q_tile = reinterpret_cast<floatX*>(swa_shared);
    int head = blockIdx.y, query = (gridDim.x - 1 - blockIdx.x) * TILE, end = min(shape.T, query + TILE), row = threadIdx.x / WARP * 16;
    HeadIn in = head_in(dout, lse, delta, q, k, v, shape, head);
    float dq_sum[1][D / 8][4] = {}, row_lse[2], row_delta[2];
    for (int half = 0; half < 2; half++) {
        int t = min(query + row + threadIdx.x % WARP / 4 + 8 * half, end - 1);
        row_lse[half] = in.lse[t];
        row_delta[half] = in.delta[t];
    }
    Keys keys = {in.k, in.v, in.ldk, in.ldv, first_key(query, window), end};
    load_tile<D, TILE>(q_tile, in.q, in.ldq, query, end);
    load_tile<D, TILE>(q_tile + TILE * D, in.dout, in.ldo, query, end);
    load_keys<D>(q_tile + 2 * TILE * D, keys, keys.from);
    accumulate_queries<D>(dq_sum, q_tile, q_tile + 2 * TILE * D, keys, row_lse, row_delta, query, window, scale * LOG2E);

    if (rope != NULL) { turn_rows_back<D>(dq_sum[0][0], rope, query + row + threadIdx.x % WARP / 4, shape.T); }
    float* stage = reinterpret_cast<float*>(swa_shared) + stage_at<D>(row);
    stage_rows<D, 1>(stage, dq_sum, scale);
    store_staged<D>(head_rows(dq, shape.ldq, shape, head) + (size_t)(query + row) * shape.ldq, shape.ldq, stage, 16, end - query - row);
}

template <int D>
static void backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse,
                     const floatX* q, const floatX* k, const floatX* v, const float* rope, AttnShape shape, int window, float* delta,
                     stream_t stream) {
    int heads = shape.B * shape.H;
    float scale = 1 / sqrtf((float)D);
    dim3 rows(ceil_div(shape.T, THREADS / (D / 8)), heads), tiles(ceil_div(shape.T, TILE), heads);
    attn_delta_kernel<D><<<rows, THREADS, 0, stream>>>(delta, dout, out, shape);
    LAUNCH_CHECK();
    allow_shared(swa_backward_keys_kernel<D>, sizeof(KeysShared<D>));
    swa_backward_keys_kernel<D><<<tiles, THREADS, sizeof(KeysShared<D>), stream>>>(dk, dv, dout, lse, delta, q, k, v, rope, shape, window, scale);
    LAUNCH_CHECK();
    size_t shared = (size_t)6 * TILE * D * sizeof(floatX);
    allow_shared(swa_backward_queries_kernel<D>, shared);
    swa_backward_queries_kernel<D><<<tiles, THREADS, shared, stream>>>(dq, dout, lse, delta, q, k, v, rope, shape, window, scale);
    LAUNCH_CHECK();
}

static void require_shape(AttnShape s, int window) {
    REQUIRE(swa_refusal(s.D) == NULL, "swa: head dim %d has no kernel (%s have)", s.D, swa_refusal(s.D));
    REQUIRE(s.B > 0 && s.T > 0 && s.T <= AFTER_ALL / 2 && s.H > 0 && s.B * s.H <= 65535,
            "swa: B=%d T=%d H=%d is outside the grid", s.B, s.T, s.H);
    REQUIRE(s.ldq % 8 == 0 && s.ldk % 8 == 0 && s.ldv % 8 == 0 && s.ldo % 8 == 0, "swa: row strides %d %d %d %d are not all multiples of 8",
            s.ldq, s.ldk, s.ldv, s.ldo);
    REQUIRE(window > 0, "swa: window=%d sees no key", window);
}

extern "C" const char* swa_refusal(int head_dim) { return head_dim == 64 || head_dim == 128 ? NULL : "64 and 128"; }

extern "C" void swa_forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, AttnShape shape, int window,
                            stream_t stream) {
    require_shape(shape, window);
    window = min_int(window, shape.T);
    bool hopper = hopper_chosen(shape.path, "swa");
    if (hopper && shape.D == 64) { hopper_forward<64>(out, lse, q, k, v, shape, window, stream); }
    else if (hopper)             { hopper_forward<128>(out, lse, q, k, v, shape, window, stream); }
    else if (shape.D == 64)      { forward<64>(out, lse, q, k, v, shape, window, stream); }
    else                         { forward<128>(out, lse, q, k, v, shape, window, stream); }
}

extern "C" void swa_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, const floatX* q,
                             const floatX* k, const floatX* v, const float* rope, AttnShape shape, int window, void* scratch, stream_t stream) {
    require_shape(shape, window);
    window = min_int(window, shape.T);
    bool hopper = hopper_chosen(shape.path, "swa");
    float* delta = (float*)scratch;
    float2* scalars = (float2*)scratch;
    if (hopper && dense_chosen(shape, window)) { dense_backward(dq, dk, dv, dout, out, lse, q, k, v, rope, shape, scratch, stream); }
    else if (hopper && shape.D == 64) { hopper_backward<64>(dq, dk, dv, dout, out, lse, q, k, v, rope, shape, window, scalars, stream); }
    else if (hopper)             { hopper_backward<128>(dq, dk, dv, dout, out, lse, q, k, v, rope, shape, window, scalars, stream); }
    else if (shape.D == 64)      { backward<64>(dq, dk, dv, dout, out, lse, q, k, v, rope, shape, window, delta, stream); }
    else                         { backward<128>(dq, dk, dv, dout, out, lse, q, k, v, rope, shape, window, delta, stream); }
}

// The dense backward's scratch is planned for whoever may be served by it: a shorter row, on any path but the portable one.
extern "C" size_t swa_backward_scratch(AttnShape shape, int window) {
    AttnShape dense = shape;
    dense.T = min_int(shape.T, window);
    size_t bytes = hopper_backward_scratch(shape);
    return shape.D == DENSE_D && shape.path != ATTN_PORTABLE ? max_size(bytes, dense_scratch_bytes(dense)) : bytes;
}

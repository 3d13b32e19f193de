// MoBA attention at batch 2, 16 heads, block 128, top-k 8, the routing by the real top-k: of random q and k, and with every query also
// drawn to block 0. Attention alone (slots written and merged included); the other stages have their own benchmarks.
// flops: 4*D a (query, key) pair forward, 10*D backward, as routed.
#include "bench.h"

typedef struct {
    floatX *out, *q, *k, *v, *dout, *dq, *dk, *dv;
    float* lse;
    MobaRoute route;
    void* scratch;
    size_t forward_bytes, backward_bytes;
    AttnShape shape;
    int block, topk;
} Moba;

static void forward(void* context) {
    Moba* m = (Moba*)context;
    moba_attn_forward(m->out, m->lse, m->q, m->k, m->v, m->route, m->shape, m->block, m->topk, m->scratch, m->forward_bytes, NULL);
}

static void backward(void* context) {
    Moba* m = (Moba*)context;
    moba_attn_backward(m->dq, m->dk, m->dv, m->dout, m->out, m->lse, m->q, m->k, m->v, m->route, m->shape, m->block, m->topk,
                       m->scratch, m->backward_bytes, NULL);
}

// one thread per element: a direction that all queries share, and the keys of block 0 have
__global__ static void pull_to_block_0_kernel(floatX* q, floatX* k, AttnShape s, int block) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / (s.H * s.D);
    if (row >= (size_t)s.B * s.T || i % s.D != 0) { return; }
    q[i] = __float2bfloat16(8.0f);
    if (row % s.T < block) { k[i] = __float2bfloat16(8.0f); }
}

static void* route_open(Moba* m) {
    int B = m->shape.B, H = m->shape.H, T = m->shape.T, n = ceil_div(T, m->block);
    size_t entries = (size_t)B * H * T * (m->topk - 1);
    float* centroid = (float*)device_malloc((size_t)B * H * n * m->shape.D * sizeof(float));
    uint16_t* sel = (uint16_t*)device_malloc(entries * sizeof(uint16_t));
    int *list = (int*)device_malloc(entries * sizeof(int)), *offset = (int*)device_malloc((size_t)B * H * (n + 1) * sizeof(int));
    void* scratch = device_malloc(max_size(moba_index_scratch(B, H, T, m->block, m->topk), moba_topk_scratch(m->shape, m->block, m->topk)));
    moba_centroid(centroid, m->k, m->shape, m->block, NULL);
    moba_topk(sel, m->q, centroid, m->shape, m->block, m->topk, scratch, NULL);
    moba_index(offset, list, sel, B, H, T, m->block, m->topk, scratch, NULL);
    stream_sync(NULL);
    device_free(centroid);
    device_free(scratch);
    m->route.sel = sel; m->route.offset = offset; m->route.list = list;
    return sel;
}

static void shape_rows(int T, int D, const char* routing) {
    const int B = 2, H = 16, C = H * D;
    Moba m;
    m.shape.B = B; m.shape.T = T; m.shape.H = H; m.shape.D = D;
    m.shape.ldq = m.shape.ldk = m.shape.ldv = m.shape.ldo = C;
    m.shape.path = ATTN_AUTO;
    m.block = 128; m.topk = 8;
    size_t n = (size_t)B * T * C, cap = (size_t)4 << 30;
    floatX** tensors[] = {&m.out, &m.q, &m.k, &m.v, &m.dout, &m.dq, &m.dk, &m.dv};
    for (int i = 0; i < 8; i++) { *tensors[i] = bench_bf16(n, i + 1, 1); }
    if (strcmp(routing, "block 0") == 0) {
        pull_to_block_0_kernel<<<bench_blocks(n), 256, 0, 0>>>(m.q, m.k, m.shape, m.block);
        LAUNCH_CHECK();
    }
    m.lse = bench_f32((size_t)B * H * T, 9, 1);
    m.forward_bytes = moba_attn_forward_scratch(m.shape, m.block, m.topk, cap);
    m.backward_bytes = moba_attn_backward_scratch(m.shape, m.block, m.topk, cap);
    m.scratch = device_malloc(max_size(m.forward_bytes, m.backward_bytes));
    void* sel = route_open(&m);

    // pairs of the steady state: the first topk blocks of T see fewer keys, under 1 % at these lengths
    double pairs = (double)B * H * T * ((m.topk - 1) * m.block + m.block / 2);
    double slots = (double)B * H * T * (m.topk - 1) * D * sizeof(floatX);            // written or read once
    char row[160];
    snprintf(row, sizeof row, "\"B\":%d,\"H\":%d,\"T\":%d,\"D\":%d,\"block\":128,\"topk\":8,\"routing\":\"%s\"", B, H, T, D, routing);
    bench_row("moba_attn_forward", row, forward, &m, 8.0 * n + 2 * slots, 4.0 * D * pairs);
    bench_row("moba_attn_backward", row, backward, &m, 16.0 * n + 2 * slots, 10.0 * D * pairs);
    for (int i = 0; i < 8; i++) { device_free(*tensors[i]); }
    device_free(m.lse);
    device_free(m.scratch);
    device_free(sel);
    device_free((void*)m.route.list);
    device_free((void*)m.route.offset);
}

int main(void) {
    shape_rows(8192, 64, "random");
    shape_rows(65536, 64, "random");
    shape_rows(65536, 64, "block 0");
    shape_rows(8192, 128, "random");
    return 0;
}

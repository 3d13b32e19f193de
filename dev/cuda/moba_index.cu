// Routed by the real top-k of random queries and centroids.
#include "bench.h"

typedef struct { int *offset, *list; uint16_t* sel; int B, H, T, block, topk; void* scratch; } IndexBench;

static void run(void* context) {
    IndexBench* c = (IndexBench*)context;
    moba_index(c->offset, c->list, c->sel, c->B, c->H, c->T, c->block, c->topk, c->scratch, NULL);
}

static void row(int T, int block, int topk) {
    int B = 2, H = 16, D = 64, n = ceil_div(T, block), C = H * D;
    size_t queries = (size_t)B * T * H, picks = queries * (topk - 1);
    IndexBench c = {(int*)device_malloc((size_t)B * H * (n + 1) * sizeof(int)), (int*)device_malloc(picks * sizeof(int)),
                    (uint16_t*)device_malloc(picks * sizeof(uint16_t)), B, H, T, block, topk,
                    NULL};
    floatX* q = bench_bf16(queries * D, 1, 1);
    float* centroid = bench_f32((size_t)B * H * n * D, 2, 0.1f);
    AttnShape attention = {B, T, H, D, C, C, C, C, ATTN_AUTO};
    c.scratch = device_malloc(max_size(moba_index_scratch(B, H, T, block, topk), moba_topk_scratch(attention, block, topk)));
    moba_topk(c.sel, q, centroid, attention, block, topk, c.scratch, NULL);
    char shape[96];
    snprintf(shape, sizeof shape, "\"T\":%d,\"heads\":%d,\"block\":%d,\"topk\":%d", T, B * H, block, topk);
    bench_row("moba_index", shape, run, &c, 6.0 * picks, 0);             // sel once read, list once written
    device_free(q); device_free(centroid);
    device_free(c.offset); device_free(c.list); device_free(c.sel); device_free(c.scratch);
}

int main(void) {
    row(8192, 128, 8);
    row(8192, 512, 2);
    row(65536, 128, 8);
    row(524288, 128, 8);
    return 0;
}

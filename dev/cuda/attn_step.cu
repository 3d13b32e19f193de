#include "bench.h"

// One step of generation in one layer: routing and attention of the newest token of a sequence of T.
typedef struct { floatX *out, *q, *k, *v; float* centroid; uint16_t* sel; void* scratch; int H, D, T, from, block, topk; } Step;

static void run(void* context) {
    Step* s = (Step*)context;
    int slots = s->topk - 1;
    if (slots) { attn_step_topk(s->sel, s->q, s->centroid, s->H, s->D, s->T / s->block, s->topk, s->scratch, NULL); }
    attn_step_forward(s->out, s->q, s->k, s->v, s->sel, s->H, s->D, s->from, s->T, s->block, slots, s->scratch, NULL);
}

static void row(const char* kind, int T, int from, int block, int topk) {
    enum { H = 16, D = 64, C = H * D };
    int blocks = T / block, slots = topk - 1;
    size_t scratch = max_size(attn_step_topk_scratch(H, blocks), attn_step_forward_scratch(H, D, T - from, slots));
    Step s = {bench_bf16(C, 1, 1), bench_bf16(C, 2, 1), bench_bf16((size_t)T * C, 3, 1), bench_bf16((size_t)T * C, 4, 1),
              bench_f32((size_t)blocks * C, 5, 1), (uint16_t*)device_malloc(H * MOBA_MAX_TOPK * sizeof(uint16_t)), device_malloc(scratch),
              H, D, T, from, block, topk};
    double keys = (double)(T - from) + (double)slots * block;
    char shape[96];
    snprintf(shape, sizeof shape, "\"kind\":\"%s\",\"T\":%d,\"H\":%d,\"D\":%d", kind, T, H, D);
    bench_row("attn_step", shape, run, &s, 4.0 * keys * C + (slots ? 4.0 * blocks * C : 0), 0);
    device_free(s.out); device_free(s.q); device_free(s.k); device_free(s.v); device_free(s.centroid); device_free(s.sel); device_free(s.scratch);
}

int main(void) {
    for (int T = 8192; T <= 524288; T *= 8) {
        row("S256", T, T - 256, T, 1);
        row("M128:8", T, T - 64, 128, 8);
        row("D", T, 0, T, 1);
    }
    return 0;
}

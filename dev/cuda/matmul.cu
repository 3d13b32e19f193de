#include "bench.h"

typedef struct { floatX *out, *add, *inp, *weight; float* dweight; struct MatmulPlans* plans; int N, C, OC; } Matmul;

static void forward(void* context) {
    Matmul* m = (Matmul*)context;
    matmul_forward(m->out, m->inp, m->weight, m->N, m->C, m->OC, m->plans, NULL);
}

static void forward_add(void* context) {
    Matmul* m = (Matmul*)context;
    matmul_forward_add(m->out, m->inp, m->weight, m->add, m->N, m->C, m->OC, m->plans, NULL);
}

static void backward_input(void* context) {
    Matmul* m = (Matmul*)context;
    matmul_backward_input(m->inp, m->out, m->weight, m->N, m->C, m->OC, m->plans, NULL);
}

static void backward_weight(void* context) {
    Matmul* m = (Matmul*)context;
    matmul_backward_weight(m->dweight, m->out, m->inp, m->N, m->C, m->OC, 0, m->plans, NULL);
}

static void bench_shape(const char* layer, int N, int C, int OC, struct MatmulPlans* plans) {
    size_t inps = (size_t)N * C, outs = (size_t)N * OC, weights = (size_t)OC * C;
    Matmul m = {bench_bf16(outs, 1, 1), bench_bf16(outs, 5, 1), bench_bf16(inps, 2, 1), bench_bf16(weights, 3, 0.02f), bench_f32(weights, 4, 1), plans, N, C, OC};
    char shape[128];
    snprintf(shape, sizeof shape, "\"layer\":\"%s\",\"N\":%d,\"C\":%d,\"OC\":%d", layer, N, C, OC);
    double flops = 2.0 * N * C * OC, bytes = 2.0 * (inps + outs + weights);
    bench_row("matmul_forward", shape, forward, &m, bytes, flops);
    bench_row("matmul_forward_add", shape, forward_add, &m, bytes + 2.0 * outs, flops);
    bench_row("matmul_backward_weight", shape, backward_weight, &m, 2.0 * (inps + outs) + 4.0 * weights, flops);
    bench_row("matmul_backward_input", shape, backward_input, &m, bytes, flops);
    device_free(m.out); device_free(m.add); device_free(m.inp); device_free(m.weight); device_free(m.dweight);
}

int main(void) {
    struct MatmulPlans* plans = bench_plans();
    bench_shape("qkv",  32768, 1024, 3072, plans);
    bench_shape("proj", 32768, 1024, 1024, plans);
    bench_shape("w13",  32768, 1024, 5632, plans);
    bench_shape("w2",   32768, 2816, 1024, plans);
    bench_shape("head", 32768, 1024, 50304, plans);
    matmul_close(plans);
    return 0;
}

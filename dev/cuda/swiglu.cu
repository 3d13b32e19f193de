// SwiGLU as a pass of its own, and the MLP's two products beside it: product and pass one after the other, and as one op.
#include "bench.h"

typedef struct {
    floatX *inp, *w13, *gate_up, *out, *w2, *dout, *dgate_up;            // dout: of w2's output, (N, C)
    float* sums;
    struct MatmulPlans* plans;
    int N, C, F;
} Mlp;

static void pass_forward(void* context) {
    Mlp* m = (Mlp*)context;
    swiglu_forward(m->out, m->gate_up, m->N, m->F, NULL);
}

static void pass_backward(void* context) {
    Mlp* m = (Mlp*)context;
    swiglu_backward(m->dgate_up, m->out, m->gate_up, m->N, m->F, NULL);
}

static void product_forward(void* context) {
    Mlp* m = (Mlp*)context;
    matmul_forward(m->gate_up, m->inp, m->w13, m->N, m->C, 2 * m->F, m->plans, NULL);
}

static void product_backward(void* context) {
    Mlp* m = (Mlp*)context;
    matmul_backward_input(m->out, m->dout, m->w2, m->N, m->F, m->C, m->plans, NULL);
}

static void apart_forward(void* context)  { product_forward(context); pass_forward(context); }
static void apart_backward(void* context) { product_backward(context); pass_backward(context); }

static void joined_forward(void* context) {
    Mlp* m = (Mlp*)context;
    matmul_swiglu_forward(m->out, m->gate_up, m->inp, m->w13, m->N, m->C, m->F, m->plans, NULL);
}

static void joined_backward(void* context) {
    Mlp* m = (Mlp*)context;
    matmul_swiglu_backward(m->dgate_up, m->sums, m->out, m->dout, m->w2, m->gate_up, m->N, m->F, m->C, m->plans, NULL);
}

static void bench_shape(const char* model, int N, int C, int F, struct MatmulPlans* plans) {
    size_t inps = (size_t)N * C, outs = (size_t)N * F, weights = (size_t)C * F;
    Mlp m = {bench_bf16(inps, 1, 1), bench_bf16(2 * weights, 2, 0.03f), bench_bf16(2 * outs, 3, 1), bench_bf16(outs, 4, 1), bench_bf16(weights, 5, 0.03f),
             bench_bf16(inps, 6, 1), bench_bf16(2 * outs, 7, 1), bench_f32((size_t)N * matmul_swiglu_sums(F), 8, 1), plans, N, C, F};
    char shape[128];
    snprintf(shape, sizeof shape, "\"model\":\"%s\",\"N\":%d,\"C\":%d,\"F\":%d", model, N, C, F);
    floatX *other_out = bench_bf16(outs, 9, 1), *other_gate_up = bench_bf16(2 * outs, 10, 1);
    matmul_swiglu_forward(other_out, other_gate_up, m.inp, m.w13, N, C, F, plans, NULL);
    apart_forward(&m);
    bench_same("gate_up", other_gate_up, m.gate_up, 2 * outs);
    bench_same("out", other_out, m.out, outs);
    matmul_swiglu_backward(other_gate_up, m.sums, m.out, m.dout, m.w2, m.gate_up, N, F, C, plans, NULL);
    apart_backward(&m);
    bench_same("dgate_up", other_gate_up, m.dgate_up, 2 * outs);
    device_free(other_out); device_free(other_gate_up);
    double forward = 4.0 * N * C * F, backward = 2.0 * N * C * F, gate_up = 4.0 * outs, ends = 2.0 * inps;
    bench_row("swiglu_forward", shape, pass_forward, &m, gate_up + 2.0 * outs, 0);
    bench_row("matmul_forward", shape, product_forward, &m, gate_up + ends + 4.0 * weights, forward);
    bench_row("both", shape, apart_forward, &m, gate_up + 2.0 * outs + ends + 4.0 * weights, forward);
    bench_row("matmul_swiglu_forward", shape, joined_forward, &m, gate_up + 2.0 * outs + ends + 4.0 * weights, forward);
    bench_row("swiglu_backward", shape, pass_backward, &m, 2 * gate_up + 2.0 * outs, 0);
    bench_row("matmul_backward_input", shape, product_backward, &m, 2.0 * outs + ends + 2.0 * weights, backward);
    bench_row("both", shape, apart_backward, &m, 2 * gate_up + ends + 2.0 * weights, backward);
    bench_row("matmul_swiglu_backward", shape, joined_backward, &m, 2 * gate_up + ends + 2.0 * weights, backward);
    floatX* all[] = {m.inp, m.w13, m.gate_up, m.out, m.w2, m.dout, m.dgate_up};
    for (floatX* x : all) { device_free(x); }
    device_free(m.sums);
}

int main(void) {
    struct MatmulPlans* plans = bench_plans();
    bench_shape("124M", 32768, 768, 2048, plans);
    bench_shape("340M", 32768, 1024, 2816, plans);
    bench_shape("1B", 16384, 2048, 8192, plans);
    matmul_close(plans);
    return 0;
}

// The turn of q and k as a pass of its own, and with the product before it: one after the other, and as one op.
#include "bench.h"

typedef struct { floatX *inp, *weight, *qkv; float* table; struct MatmulPlans* plans; int N, T, H, D; } Rope;

static void pass(void* context) {
    Rope* r = (Rope*)context;
    rope_forward(r->qkv, r->table, r->N, r->T, 2 * r->H, r->D, 3 * r->H * r->D, NULL);
}

static void product(void* context) {
    Rope* r = (Rope*)context;
    matmul_forward(r->qkv, r->inp, r->weight, r->N, r->H * r->D, 3 * r->H * r->D, r->plans, NULL);
}

static void apart(void* context) { product(context); pass(context); }

static void joined(void* context) {
    Rope* r = (Rope*)context;
    matmul_rope_forward(r->qkv, r->inp, r->weight, r->table, r->N, r->T, 2 * r->H, r->D, r->H * r->D, 3 * r->H * r->D, r->plans, NULL);
}

static void bench_shape(const char* model, int N, int H, int D, struct MatmulPlans* plans) {
    enum { T = 8192 };
    size_t C = (size_t)H * D;
    Rope r = {bench_bf16(N * C, 1, 1), bench_bf16(3 * C * C, 2, 0.03f), bench_bf16(3 * N * C, 3, 1), bench_angles(T, D), plans, N, T, H, D};
    floatX* other = bench_bf16(3 * N * C, 4, 1);
    matmul_rope_forward(other, r.inp, r.weight, r.table, N, T, 2 * H, D, (int)C, 3 * (int)C, plans, NULL);
    apart(&r);
    bench_same("qkv", other, r.qkv, 3 * N * C);
    device_free(other);
    char shape[128];
    snprintf(shape, sizeof shape, "\"model\":\"%s\",\"N\":%d,\"heads\":%d,\"D\":%d", model, N, H, D);
    double flops = 6.0 * N * C * C, product_bytes = 2.0 * (4 * N * C + 3 * C * C);
    bench_row("rope_forward", shape, pass, &r, 8.0 * N * C, 0);          // q and k, read and written
    bench_row("matmul_forward", shape, product, &r, product_bytes, flops);
    bench_row("both", shape, apart, &r, product_bytes, flops);
    bench_row("matmul_rope_forward", shape, joined, &r, product_bytes, flops);
    device_free(r.inp); device_free(r.weight); device_free(r.qkv); device_free(r.table);
}

int main(void) {
    struct MatmulPlans* plans = bench_plans();
    bench_shape("124M", 65536, 12, 64, plans);
    bench_shape("340M", 32768, 16, 64, plans);
    bench_shape("1B", 16384, 32, 64, plans);
    matmul_close(plans);
    return 0;
}

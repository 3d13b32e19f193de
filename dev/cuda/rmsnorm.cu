#include "bench.h"

// The norms, and the backward one with the product before it: one after the other, and as one op.
typedef struct { floatX *out, *inp, *add, *dout, *product; float *rstd, *weight, *dweight, *sums; void* scratch; struct MatmulPlans* plans; int N, C, OC; } Rmsnorm;

static void forward(void* context) {
    Rmsnorm* r = (Rmsnorm*)context;
    rmsnorm_forward(r->out, r->rstd, r->inp, r->weight, r->N, r->C, 1e-6f, NULL);
}

static void backward(void* context) {
    Rmsnorm* r = (Rmsnorm*)context;
    rmsnorm_backward(r->out, r->dweight, r->add, r->inp, r->weight, r->rstd, r->N, r->C, r->scratch, NULL);
}

// a warp a row: the sum of a * b, all of it in the first of `parts`
__global__ static void bench_row_sums_kernel(float* sums, const floatX* a, const floatX* b, int columns, int parts) {
    float sum = 0;
    for (int c = threadIdx.x; c < columns; c += WARP) {
        size_t i = (size_t)blockIdx.x * columns + c;
        sum += __bfloat162float(a[i]) * __bfloat162float(b[i]);
    }
    sum = warp_sum(sum);
    for (int p = threadIdx.x; p < parts; p += WARP) { sums[(size_t)blockIdx.x * parts + p] = p == 0 ? sum : 0; }
}

static void product(void* context) {
    Rmsnorm* r = (Rmsnorm*)context;
    matmul_backward_input(r->add, r->dout, r->product, r->N, r->C, r->OC, r->plans, NULL);
}

static void apart(void* context) { product(context); backward(context); }

static void joined(void* context) {
    Rmsnorm* r = (Rmsnorm*)context;
    matmul_rmsnorm_backward(r->out, r->dweight, r->add, r->dout, r->product, r->inp, r->weight, r->rstd, r->sums, matmul_swiglu_sums(r->OC / 2), r->N, r->C,
                            r->OC, r->scratch, r->plans, NULL);
}

// Joined and apart from the same gradient. The row sums are those of a product that was made of the norm.
static void check_joined(Rmsnorm* r) {
    size_t n = (size_t)r->N * r->C, outs = (size_t)r->N * r->OC;
    floatX *norm = bench_bf16(n, 10, 1), *out = bench_bf16(outs, 11, 1), *other = bench_bf16(n, 1, 1);
    rmsnorm_forward(norm, r->rstd, r->inp, r->weight, r->N, r->C, 1e-6f, NULL);
    matmul_forward(out, norm, r->product, r->N, r->C, r->OC, r->plans, NULL);
    bench_row_sums_kernel<<<r->N, WARP>>>(r->sums, r->dout, out, r->OC, matmul_swiglu_sums(r->OC / 2));
    LAUNCH_CHECK();
    matmul_rmsnorm_backward(other, r->dweight, r->add, r->dout, r->product, r->inp, r->weight, r->rstd, r->sums, matmul_swiglu_sums(r->OC / 2), r->N, r->C,
                            r->OC, r->scratch, r->plans, NULL);
    apart(r);
    bench_same("dinp", other, r->out, n);
    device_free(norm); device_free(out); device_free(other);
}

static void bench_shape(const char* model, int N, int C, int OC, struct MatmulPlans* plans) {
    size_t n = (size_t)N * C;
    Rmsnorm r = {bench_bf16(n, 1, 1), bench_bf16(n, 2, 1), bench_bf16(n, 3, 1), bench_bf16((size_t)N * OC, 7, 1), bench_bf16((size_t)OC * C, 8, 0.03f),
                 bench_f32(N, 4, 1), bench_f32(C, 5, 1), bench_f32(C, 6, 1), bench_f32((size_t)N * matmul_swiglu_sums(OC / 2), 9, 1),
                 device_malloc(matmul_rmsnorm_backward_scratch(N, C)), plans, N, C, OC};
    check_joined(&r);
    char shape[128];
    snprintf(shape, sizeof shape, "\"model\":\"%s\",\"N\":%d,\"C\":%d,\"OC\":%d", model, N, C, OC);
    double flops = 2.0 * n * OC, product_bytes = 2.0 * ((double)N * OC + (double)OC * C);
    bench_row("rmsnorm_forward", shape, forward, &r, 4.0 * n, 0);
    bench_row("rmsnorm_backward", shape, backward, &r, 8.0 * n, 0);
    bench_row("matmul_backward_input", shape, product, &r, product_bytes + 2.0 * n, flops);
    bench_row("both", shape, apart, &r, product_bytes + 6.0 * n, flops);
    bench_row("matmul_rmsnorm_backward", shape, joined, &r, product_bytes + 6.0 * n, flops);
    floatX* all[] = {r.out, r.inp, r.add, r.dout, r.product};
    for (floatX* x : all) { device_free(x); }
    device_free(r.rstd); device_free(r.weight); device_free(r.dweight); device_free(r.sums); device_free(r.scratch);
}

int main(void) {
    struct MatmulPlans* plans = bench_plans();
    bench_shape("124M", 32768, 768, 4096, plans);
    bench_shape("340M", 32768, 1024, 5632, plans);
    bench_shape("1B", 16384, 2048, 16384, plans);
    matmul_close(plans);
    return 0;
}

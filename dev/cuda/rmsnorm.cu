#include "bench.h"

typedef struct { floatX *out, *inp, *add; float *rstd, *weight, *dweight; void* scratch; int N, C; } Rmsnorm;

static void forward(void* context) {
    Rmsnorm* r = (Rmsnorm*)context;
    rmsnorm_forward(r->out, r->rstd, r->inp, r->weight, r->N, r->C, 1e-6f, NULL);
}

static void backward(void* context) {
    Rmsnorm* r = (Rmsnorm*)context;
    rmsnorm_backward(r->out, r->dweight, r->add, r->inp, r->weight, r->rstd, r->N, r->C, r->scratch, NULL);
}

int main(void) {
    Rmsnorm r;
    r.N = 32768, r.C = 1024;
    size_t n = (size_t)r.N * r.C;
    r.out = bench_bf16(n, 1, 1);
    r.inp = bench_bf16(n, 2, 1);
    r.add = bench_bf16(n, 3, 1);
    r.rstd = bench_f32(r.N, 4, 1);
    r.weight = bench_f32(r.C, 5, 1);
    r.dweight = bench_f32(r.C, 6, 1);
    r.scratch = device_malloc(rmsnorm_backward_scratch(r.N, r.C));
    bench_row("rmsnorm_forward", "\"N\":32768,\"C\":1024", forward, &r, 4.0 * n, 0);
    bench_row("rmsnorm_backward", "\"N\":32768,\"C\":1024", backward, &r, 8.0 * n, 0);
    return 0;
}

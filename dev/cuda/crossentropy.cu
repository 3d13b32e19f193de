#include "bench.h"

typedef struct { float* losses; double* total; floatX* logits; int* targets; int N, V, Vp; } Crossentropy;

static void forward(void* context) {
    Crossentropy* x = (Crossentropy*)context;
    crossentropy_forward(x->losses, x->logits, x->targets, x->N, x->V, x->Vp, NULL);
}

// in place: later runs see gradients for logits, which take the same time
static void forward_backward(void* context) {
    Crossentropy* x = (Crossentropy*)context;
    crossentropy_forward_backward(x->losses, x->logits, x->targets, 1, x->N, x->V, x->Vp, NULL);
}

static void total(void* context) {
    Crossentropy* x = (Crossentropy*)context;
    crossentropy_total(x->total, x->losses, x->N, NULL);
}

int main(void) {
    enum { N = 32768, V = 50257, Vp = 50304 };
    size_t n = (size_t)N * Vp;
    Crossentropy x = {bench_f32(N, 1, 1), (double*)bench_f32(2, 2, 1), bench_bf16(n, 3, 1), bench_ints(N, 4, V), N, V, Vp};
    bench_row("crossentropy_forward", "\"N\":32768,\"V\":50257,\"Vp\":50304", forward, &x, 2.0 * n, 0);
    bench_row("crossentropy_forward_backward", "\"N\":32768,\"V\":50257,\"Vp\":50304", forward_backward, &x, 4.0 * n, 0);
    bench_row("crossentropy_total", "\"N\":32768", total, &x, 4.0 * N, 0);
    return 0;
}

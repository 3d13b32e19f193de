#include "bench.h"

typedef struct { floatX *out, *gate_up, *dgate_up; int N, F; } Swiglu;

static void forward(void* context) {
    Swiglu* s = (Swiglu*)context;
    swiglu_forward(s->out, s->gate_up, s->N, s->F, NULL);
}

static void backward(void* context) {
    Swiglu* s = (Swiglu*)context;
    swiglu_backward(s->dgate_up, s->out, s->gate_up, s->N, s->F, NULL);
}

int main(void) {
    enum { N = 32768, F = 2816 };
    size_t n = (size_t)N * F;
    Swiglu s = {bench_bf16(n, 1, 1), bench_bf16(2 * n, 2, 1), bench_bf16(2 * n, 3, 1), N, F};
    bench_row("swiglu_forward", "\"N\":32768,\"F\":2816", forward, &s, 6.0 * n, 0);
    bench_row("swiglu_backward", "\"N\":32768,\"F\":2816", backward, &s, 10.0 * n, 0);
    return 0;
}

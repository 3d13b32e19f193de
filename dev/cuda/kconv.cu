#include "bench.h"

typedef struct { floatX *out, *k, *dk; float *w, *dw; void* scratch; int B, T, C, W, ldk; } Kconv;

static void forward(void* context) {
    Kconv* c = (Kconv*)context;
    kconv_forward(c->out, c->k, c->w, c->B, c->T, c->C, c->W, c->ldk, NULL);
}

static void backward(void* context) {
    Kconv* c = (Kconv*)context;
    kconv_backward(c->dk, c->dw, c->out, c->k, c->w, c->B, c->T, c->C, c->W, c->ldk, c->scratch, NULL);
}

int main(void) {
    enum { B = 4, T = 8192, C = 1024, LD = 3 * C };
    size_t n = (size_t)B * T * C;
    for (int W = 3; W <= 5; W += 2) {
        Kconv c = {bench_bf16(n, 1, 1), bench_bf16(3 * n, 2, 1), bench_bf16(3 * n, 3, 1), bench_f32(W * C, 4, 0.5f), bench_f32(W * C, 5, 1),
                   device_malloc(kconv_backward_scratch(B, T, C, W)), B, T, C, W, LD};
        char shape[64];
        snprintf(shape, sizeof shape, "\"N\":%d,\"C\":%d,\"W\":%d", B * T, C, W);
        bench_row("kconv_forward", shape, forward, &c, 4.0 * n, 0);
        bench_row("kconv_backward", shape, backward, &c, 6.0 * n, 0);
        device_free(c.out); device_free(c.k); device_free(c.dk); device_free(c.w); device_free(c.dw); device_free(c.scratch);
    }
    return 0;
}

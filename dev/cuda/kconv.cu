// Key convolution forward and backward; and k' with the block means, by the two ops one after the other and in one pass.
#include "bench.h"

typedef struct { floatX *out, *k, *dk; float *w, *dw, *centroid; void* scratch; int B, T, H, D, W, block; } Kconv;

static void forward(void* context) {
    Kconv* c = (Kconv*)context;
    kconv_forward(c->out, c->k, c->w, c->B, c->T, c->H * c->D, c->W, 3 * c->H * c->D, NULL);
}

static void apart(void* context) {
    Kconv* c = (Kconv*)context;
    int C = c->H * c->D;
    AttnShape shape = {c->B, c->T, c->H, c->D, C, C, C, C, ATTN_AUTO};
    forward(c);
    moba_centroid(c->centroid, c->out, shape, c->block, NULL);
}

static void joined(void* context) {
    Kconv* c = (Kconv*)context;
    kconv_centroid_forward(c->out, c->centroid, c->k, c->w, c->B, c->T, c->H, c->D, c->W, 3 * c->H * c->D, c->block, NULL);
}

static void backward(void* context) {
    Kconv* c = (Kconv*)context;
    kconv_backward(c->dk, c->dw, c->out, c->k, c->w, c->B, c->T, c->H * c->D, c->W, 3 * c->H * c->D, c->scratch, NULL);
}

// what the one pass is held against: the same bytes in and out
static void copy(void* context) {
    Kconv* c = (Kconv*)context;
    device_copy(c->out, c->k, (size_t)c->B * c->T * c->H * c->D * sizeof(floatX), NULL);
}

static void bench_shape(const char* model, int B, int H, int D, int W) {
    enum { T = 8192, SMALLEST = 64 };
    int C = H * D;
    size_t n = (size_t)B * T * C;
    Kconv c = {bench_bf16(n, 1, 1), bench_bf16(3 * n, 2, 1), bench_bf16(3 * n, 3, 1), bench_f32(W * C, 4, 0.5f), bench_f32(W * C, 5, 1),
               (float*)device_malloc(n / SMALLEST * sizeof(float)), device_malloc(kconv_backward_scratch(B, T, C, W)), B, T, H, D, W, 0};
    char shape[96];
    snprintf(shape, sizeof shape, "\"model\":\"%s\",\"N\":%d,\"C\":%d,\"W\":%d", model, B * T, C, W);
    double copy_ms = bench_row("copy", shape, copy, &c, 4.0 * n, 0);
    bench_row("kconv_forward", shape, forward, &c, 4.0 * n, 0);
    for (c.block = SMALLEST; c.block <= 1024; c.block *= 2) {
        snprintf(shape, sizeof shape, "\"model\":\"%s\",\"N\":%d,\"C\":%d,\"W\":%d,\"block\":%d", model, B * T, C, W, c.block);
        double apart_ms  = bench_row("kconv_forward, moba_centroid", shape, apart, &c, 4.0 * n, 0);
        double joined_ms = bench_row("kconv_centroid_forward", shape, joined, &c, 4.0 * n, 0);
        fprintf(stderr, "%s, W %d, block %d: two ops %.0f %% of copy speed, one pass %.0f %%\n", model, W, c.block, 100 * copy_ms / apart_ms,
                100 * copy_ms / joined_ms);
    }
    snprintf(shape, sizeof shape, "\"model\":\"%s\",\"N\":%d,\"C\":%d,\"W\":%d", model, B * T, C, W);
    bench_row("kconv_backward", shape, backward, &c, 6.0 * n, 0);
    device_free(c.out); device_free(c.k); device_free(c.dk); device_free(c.w); device_free(c.dw); device_free(c.centroid); device_free(c.scratch);
}

int main(void) {
    for (int W = 3; W <= 5; W += 2) {
        bench_shape("124M", 8, 12, 64, W);
        bench_shape("340M", 4, 16, 64, W);
        bench_shape("1B", 2, 32, 64, W);
    }
    return 0;
}

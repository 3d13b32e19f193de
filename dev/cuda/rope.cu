#include "bench.h"

typedef struct { floatX* qkv; float* table; int N, T, heads, D, ld; } Rope;

static void forward(void* context) {
    Rope* r = (Rope*)context;
    rope_forward(r->qkv, r->table, r->N, r->T, r->heads, r->D, r->ld, NULL);
}

static void backward(void* context) {
    Rope* r = (Rope*)context;
    rope_backward(r->qkv, r->table, r->N, r->T, r->heads, r->D, r->ld, NULL);
}

// unit turns, so that repeats in place neither grow nor shrink x
static float* angles(int T, int D) {
    size_t pairs = (size_t)T * D / 2;
    float* table = (float*)xmalloc(pairs * 2 * sizeof(float));
    for (size_t i = 0; i < pairs; i++) {
        double angle = (i / (D / 2)) * pow(10000.0, -2.0 * (i % (D / 2)) / D);
        table[2 * i]     = (float)cos(angle);
        table[2 * i + 1] = (float)sin(angle);
    }
    float* device = (float*)device_malloc(pairs * 2 * sizeof(float));
    device_upload(device, table, pairs * 2 * sizeof(float), NULL);
    stream_sync(NULL);
    free(table);
    return device;
}

int main(void) {
    enum { N = 32768, T = 8192, H = 16, D = 64, C = H * D };
    Rope r = {bench_bf16((size_t)N * 3 * C, 1, 1), angles(T, D), N, T, 2 * H, D, 3 * C};
    double bytes = 2.0 * N * 2 * C * sizeof(floatX);                     // q and k, read and written
    bench_row("rope_forward", "\"N\":32768,\"heads\":32,\"D\":64", forward, &r, bytes, 0);
    bench_row("rope_backward", "\"N\":32768,\"heads\":32,\"D\":64", backward, &r, bytes, 0);
    return 0;
}

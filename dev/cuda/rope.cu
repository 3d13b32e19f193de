#include "bench.h"

typedef struct { floatX* qkv; float* table; int N, T, heads, D, ld; } Rope;

static void forward(void* context) {
    Rope* r = (Rope*)context;
    rope_forward(r->qkv, r->table, r->N, r->T, r->heads, r->D, r->ld, NULL);
}

int main(void) {
    enum { N = 32768, T = 8192, H = 16, D = 64, C = H * D };
    Rope r = {bench_bf16((size_t)N * 3 * C, 1, 1), bench_angles(T, D), N, T, 2 * H, D, 3 * C};
    double bytes = 2.0 * N * 2 * C * sizeof(floatX);                     // q and k, read and written
    bench_row("rope_forward", "\"N\":32768,\"heads\":32,\"D\":64", forward, &r, bytes, 0);
    return 0;
}

#include "bench.h"

typedef struct { float* centroid; floatX* k; AttnShape shape; int block; } Centroid;

static void run(void* context) {
    Centroid* c = (Centroid*)context;
    moba_centroid(c->centroid, c->k, c->shape, c->block, NULL);
}

int main(void) {
    enum { B = 4, T = 8192, H = 16, D = 64, C = H * D };
    size_t n = (size_t)B * T * C;
    for (int block = 128; block <= 512; block *= 2) {
        Centroid c = {(float*)device_malloc(n / block * sizeof(float)), bench_bf16(n, 1, 1), {B, T, H, D, C, C, C, C, ATTN_AUTO}, block};
        char shape[64];
        snprintf(shape, sizeof shape, "\"N\":%d,\"C\":%d,\"block\":%d", B * T, C, block);
        bench_row("moba_centroid", shape, run, &c, 2.0 * n + 4.0 * n / block, 0);
        device_free(c.centroid); device_free(c.k);
    }
    return 0;
}

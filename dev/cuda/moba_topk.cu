// Lengths and top-k as in the published FlashMoBA comparison: batch 2, 16 heads.
#include "bench.h"

typedef struct { uint16_t* sel; floatX* q; float* centroid; AttnShape shape; int block, topk; void* scratch; } Topk;

static void run(void* context) {
    Topk* c = (Topk*)context;
    moba_topk(c->sel, c->q, c->centroid, c->shape, c->block, c->topk, c->scratch, NULL);
}

static void row(int T, int D, int block, int topk, AttnPath path) {
    int B = 2, H = 16, n = ceil_div(T, block), C = H * D;
    size_t queries = (size_t)B * T * H, picks = queries * (topk - 1);
    Topk c = {(uint16_t*)device_malloc(picks * sizeof(uint16_t)), bench_bf16(queries * D, 1, 1), bench_f32((size_t)B * H * n * D, 2, 0.1f),
              {B, T, H, D, C, C, C, C, path}, block, topk, NULL};
    c.scratch = device_malloc(moba_topk_scratch(c.shape, block, topk));
    char shape[96];
    snprintf(shape, sizeof shape, "\"T\":%d,\"heads\":%d,\"D\":%d,\"block\":%d,\"topk\":%d,\"path\":\"%s\"", T, B * H, D, block, topk, path == ATTN_HOPPER ? "hopper" : "portable");
    // every query against half the blocks on average, high and low halves
    bench_row("moba_topk", shape, run, &c, 2.0 * queries * D + 2.0 * picks, 2 * 2.0 * D * queries * (n / 2.0));
    device_free(c.sel); device_free(c.q); device_free(c.centroid); device_free(c.scratch);
}

int main(void) {
    cudaDeviceProp device;
    CUDA_CHECK(cudaGetDeviceProperties(&device, 0));
    for (int path = device.major == 9 ? ATTN_HOPPER : ATTN_PORTABLE; path <= ATTN_PORTABLE; path++) {
        row(8192, 64, 128, 8, (AttnPath)path);
        row(8192, 64, 256, 4, (AttnPath)path);
        row(8192, 64, 512, 2, (AttnPath)path);
        row(8192, 128, 128, 8, (AttnPath)path);
        row(8192, 64, 128, 32, (AttnPath)path);
        row(16384, 64, 128, 8, (AttnPath)path);
        row(65536, 64, 128, 8, (AttnPath)path);
        row(65536, 128, 128, 8, (AttnPath)path);
        row(131072, 64, 128, 8, (AttnPath)path);
        row(524288, 64, 128, 8, (AttnPath)path);
    }
    return 0;
}

#include "bench.h"

typedef struct { floatX *out, *wte; float* dwte; int* tokens; void* scratch; int N, C, V; } Embedding;

static void forward(void* context) {
    Embedding* e = (Embedding*)context;
    embedding_forward(e->out, e->wte, e->tokens, e->N, e->C, NULL);
}

static void backward(void* context) {
    Embedding* e = (Embedding*)context;
    embedding_backward(e->dwte, e->out, e->tokens, e->N, e->C, e->V, e->scratch, NULL);
}

// every `of`-th token becomes token 0, as the most frequent words of a text are
__global__ static void make_hot_kernel(int* tokens, int N, int of) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < N && i % of == 0) { tokens[i] = 0; }
}

int main(void) {
    Embedding e;
    e.N = 32768, e.C = 1024, e.V = 50257;
    size_t n = (size_t)e.N * e.C, weights = (size_t)50304 * e.C;
    e.out = bench_bf16(n, 1, 1);
    e.wte = bench_bf16(weights, 2, 1);
    e.dwte = bench_f32(weights, 3, 1);
    e.tokens = bench_ints(e.N, 4, e.V);
    e.scratch = device_malloc(embedding_backward_scratch(e.N, e.C, e.V));
    // backward reads dout, and reads and writes dwte's row of every distinct token: V (1 - exp(-N/V)) = 0.74 N of them, 0.62 N beside a hot one
    bench_row("embedding_forward", "\"N\":32768,\"C\":1024,\"V\":50257", forward, &e, 4.0 * n, 0);
    bench_row("embedding_backward", "\"N\":32768,\"C\":1024,\"V\":50257,\"hot\":0", backward, &e, 2.0 * n + 8.0 * n * 0.74, 0);
    make_hot_kernel<<<(e.N + 255) / 256, 256, 0, 0>>>(e.tokens, e.N, 5);
    LAUNCH_CHECK();
    bench_row("embedding_backward", "\"N\":32768,\"C\":1024,\"V\":50257,\"hot\":0.2", backward, &e, 2.0 * n + 8.0 * n * 0.62, 0);
    return 0;
}

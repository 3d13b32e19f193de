// Sliding-window and dense causal attention at batch 2, 16 heads. flops: what the windows need, 4*D a pair forward and 10*D backward.
#include "bench.h"

typedef struct {
    floatX *out, *q, *k, *v, *dout, *dq, *dk, *dv;
    float *lse, *angles;
    const float* rope;       // of backward: angles or NULL
    void* scratch;
    AttnShape shape;
    int window;
} Swa;

static void forward(void* context) {
    Swa* s = (Swa*)context;
    swa_forward(s->out, s->lse, s->q, s->k, s->v, s->shape, s->window, NULL);
}

static void backward(void* context) {
    Swa* s = (Swa*)context;
    swa_backward(s->dq, s->dk, s->dv, s->dout, s->out, s->lse, s->q, s->k, s->v, s->rope, s->shape, s->window, s->scratch, NULL);
}

static void shape_rows(int T, int D, int window, AttnPath path) {
    const int B = 2, H = 16, C = H * D;
    Swa s;
    s.shape.B = B; s.shape.T = T; s.shape.H = H; s.shape.D = D;
    s.shape.ldq = s.shape.ldk = s.shape.ldv = s.shape.ldo = C;
    s.shape.path = path;
    s.window = window;
    size_t n = (size_t)B * T * C;
    floatX** tensors[] = {&s.out, &s.q, &s.k, &s.v, &s.dout, &s.dq, &s.dk, &s.dv};
    for (int i = 0; i < 8; i++) { *tensors[i] = bench_bf16(n, i + 1, 1); }
    s.lse = bench_f32((size_t)B * H * T, 9, 1);
    s.angles = bench_angles(T, D);
    s.rope = NULL;
    s.scratch = device_malloc(swa_backward_scratch(s.shape, s.window));
    double w = fmin(window, T), pairs = (double)B * H * (w * T - w * (w - 1) / 2);
    char row[128];
    snprintf(row, sizeof row, "\"B\":%d,\"H\":%d,\"T\":%d,\"D\":%d,\"window\":%d,\"path\":\"%s\"", B, H, T, D, window,
             path == ATTN_AUTO ? "auto" : "hopper");
    bench_row("swa_forward", row, forward, &s, 8.0 * n, 4.0 * D * pairs);
    bench_row("swa_backward", row, backward, &s, 16.0 * n, 10.0 * D * pairs);
    s.rope = s.angles;
    if (window < T) { bench_row("swa_backward with rope", row, backward, &s, 16.0 * n, 10.0 * D * pairs); }
    for (int i = 0; i < 8; i++) { device_free(*tensors[i]); }
    device_free(s.lse);
    device_free(s.angles);
    device_free(s.scratch);
}

int main(void) {
    shape_rows(8192, 64, 256, ATTN_AUTO);
    shape_rows(65536, 64, 256, ATTN_AUTO);
    shape_rows(8192, 128, 256, ATTN_AUTO);
    shape_rows(8192, 64, 8192, ATTN_AUTO);
    shape_rows(8192, 128, 8192, ATTN_AUTO);
    for (int T = 1024; T <= 8192; T *= 2) {           // from where on are five products (of a dense layer) faster than seven (of the window)?
        shape_rows(T, 128, T, ATTN_HOPPER);
        shape_rows(T, 128, T - 1, ATTN_HOPPER);
    }
    return 0;
}

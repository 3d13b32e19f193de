// Every op the model calls, between two events: the linker calls __wrap_NAME in NAME's place (Makefile: --wrap). Beside its time stands
// what an op cannot do without: bytes of its operands once in and once out, and floating-point operations.
#ifndef STEP_OPS_H
#define STEP_OPS_H

#include "bench.h"
#include "flops.h"

enum { MAX_KINDS = 160, MAX_MARKS = 16384, LABEL_BYTES = 80 };

typedef struct {
    char   label[LABEL_BYTES];       // of a product with its shape
    int    calls;
    double ms, bytes, flops;         // of all calls
} OpKind;

typedef struct { int kind; cudaEvent_t begin, end; } Mark;

typedef struct {
    bool   on, inside;               // inside: an op that calls another one is recorded as one
    OpKind kind[MAX_KINDS];
    int    kinds;
    Mark*  mark;                     // (MAX_MARKS), events made once
    int    marks;
} Recorder;

static Recorder recorder;

static void recorder_start(void) {
    if (!recorder.mark) {
        recorder.mark = (Mark*)xcalloc(MAX_MARKS, sizeof(Mark));
        for (int i = 0; i < MAX_MARKS; i++) {
            CUDA_CHECK(cudaEventCreate(&recorder.mark[i].begin));
            CUDA_CHECK(cudaEventCreate(&recorder.mark[i].end));
        }
    }
    recorder.kinds = recorder.marks = 0;
    recorder.on = true;
    recorder.inside = false;
}

// milliseconds from the first op's begin to the last one's end
static double recorder_stop(void) {
    float ms = 0;
    recorder.on = false;
    REQUIRE(recorder.marks > 0, "no op was recorded");
    CUDA_CHECK(cudaEventSynchronize(recorder.mark[recorder.marks - 1].end));
    for (int i = 0; i < recorder.marks; i++) {
        CUDA_CHECK(cudaEventElapsedTime(&ms, recorder.mark[i].begin, recorder.mark[i].end));
        recorder.kind[recorder.mark[i].kind].ms += ms;
    }
    CUDA_CHECK(cudaEventElapsedTime(&ms, recorder.mark[0].begin, recorder.mark[recorder.marks - 1].end));
    return ms;
}

static OpKind* kind_of(const char* label) {
    for (int i = 0; i < recorder.kinds; i++) {
        if (strcmp(recorder.kind[i].label, label) == 0) { return &recorder.kind[i]; }
    }
    REQUIRE(recorder.kinds < MAX_KINDS, "more than %d kinds of op", MAX_KINDS);
    OpKind* kind = &recorder.kind[recorder.kinds++];
    memset(kind, 0, sizeof *kind);
    snprintf(kind->label, sizeof kind->label, "%s", label);
    return kind;
}

static Mark* mark_begin(const char* label, double bytes, double flops, stream_t stream) {
    if (!recorder.on || recorder.inside) { return NULL; }
    recorder.inside = true;
    REQUIRE(recorder.marks < MAX_MARKS, "a step of more than %d ops", MAX_MARKS);
    OpKind* kind = kind_of(label);
    kind->calls++;
    kind->bytes += bytes;
    kind->flops += flops;
    Mark* mark = &recorder.mark[recorder.marks++];
    mark->kind = (int)(kind - recorder.kind);
    CUDA_CHECK(cudaEventRecord(mark->begin, stream));
    return mark;
}

static void mark_end(Mark* mark, stream_t stream) {
    if (!mark) { return; }
    CUDA_CHECK(cudaEventRecord(mark->end, stream));
    recorder.inside = false;
}

static const char* product_label(const char* name, int N, int C, int OC) {
    static char label[LABEL_BYTES];
    snprintf(label, sizeof label, "%s %d %d %d", name, N, C, OC);
    return label;
}

// multiplications and additions of S = Q K^T and O = P V of one layer
static double attention_flops(AttnShape s, LayerSpec spec) {
    ModelShape one = {};
    one.layer = &spec;
    return 4.0 * s.B * s.T * s.H * s.D * mean_keys(&one, 0, s.T, false);
}

static LayerSpec window_layer(int window)        { LayerSpec spec = {}; spec.kind = LAYER_S; spec.window = window; return spec; }
static LayerSpec moba_layer(int block, int topk) { LayerSpec spec = {}; spec.kind = LAYER_M; spec.block = block; spec.topk = topk; return spec; }
static double picks(AttnShape s, int topk)       { return (double)s.B * s.H * s.T * (topk - 1); }
static double q_bytes(AttnShape s)               { return 2.0 * s.B * s.T * s.H * s.D; }

// (declared by the type of what it stands for, so that other parameters do not compile)
#define WRAP(name, label, bytes, flops, parameters, arguments) \
    extern "C" { decltype(name) __real_##name, __wrap_##name; } \
    extern "C" void __wrap_##name parameters { \
        Mark* mark = mark_begin(label, bytes, flops, stream); \
        __real_##name arguments; \
        mark_end(mark, stream); \
    }

// the same of an op that returns a number
#define WRAP_INT(name, label, bytes, flops, parameters, arguments) \
    extern "C" { decltype(name) __real_##name, __wrap_##name; } \
    extern "C" int __wrap_##name parameters { \
        Mark* mark = mark_begin(label, bytes, flops, stream); \
        int result = __real_##name arguments; \
        mark_end(mark, stream); \
        return result; \
    }

WRAP(embedding_forward, "embedding_forward", 2.0 * N * C, 0,        // what is written: rows read again come from the cache
     (floatX* out, const floatX* wte, const int* tokens, int N, int C, stream_t stream), (out, wte, tokens, N, C, stream))
WRAP(embedding_backward, "embedding_backward", 2.0 * N * C + 8.0 * min_int(N, V) * C, 0,
     (float* dwte, const floatX* dout, const int* tokens, int N, int C, int V, void* scratch, stream_t stream),
     (dwte, dout, tokens, N, C, V, scratch, stream))
WRAP(rmsnorm_forward, "rmsnorm_forward", 4.0 * N * C, 0,
     (floatX* out, float* rstd, const floatX* inp, const float* weight, int N, int C, float eps, stream_t stream),
     (out, rstd, inp, weight, N, C, eps, stream))
WRAP(rmsnorm_backward, "rmsnorm_backward", 8.0 * N * C, 0,
     (floatX* dinp, float* dweight, const floatX* dout, const floatX* inp, const float* weight, const float* rstd, int N, int C, void* scratch,
      stream_t stream),
     (dinp, dweight, dout, inp, weight, rstd, N, C, scratch, stream))
WRAP(matmul_forward, product_label("matmul_forward", N, C, OC), 0, 2.0 * N * C * OC,
     (floatX* out, const floatX* inp, const floatX* weight, int N, int C, int OC, struct MatmulPlans* plans, stream_t stream),
     (out, inp, weight, N, C, OC, plans, stream))
WRAP(matmul_forward_add, product_label("matmul_forward_add", N, C, OC), 0, 2.0 * N * C * OC,
     (floatX* out, const floatX* inp, const floatX* weight, const floatX* add, int N, int C, int OC, struct MatmulPlans* plans, stream_t stream),
     (out, inp, weight, add, N, C, OC, plans, stream))
WRAP(matmul_backward_input, product_label("matmul_backward_input", N, C, OC), 0, 2.0 * N * C * OC,
     (floatX* dinp, const floatX* dout, const floatX* weight, int N, int C, int OC, struct MatmulPlans* plans, stream_t stream),
     (dinp, dout, weight, N, C, OC, plans, stream))
WRAP(matmul_backward_weight, product_label("matmul_backward_weight", N, C, OC), 0, 2.0 * N * C * OC,
     (float* dweight, const floatX* dout, const floatX* inp, int N, int C, int OC, int add, struct MatmulPlans* plans, stream_t stream),
     (dweight, dout, inp, N, C, OC, add, plans, stream))
WRAP(matmul_rope_forward, product_label("matmul_rope_forward", N, C, OC), 2.0 * N * (C + OC), 2.0 * N * C * OC,
     (floatX* out, const floatX* inp, const floatX* weight, const float* table, int N, int T, int heads, int D, int C, int OC, struct MatmulPlans* plans,
      stream_t stream),
     (out, inp, weight, table, N, T, heads, D, C, OC, plans, stream))
WRAP(rope_forward, "rope_forward", 4.0 * N * heads * D, 0,
     (floatX* x, const float* table, int N, int T, int heads, int D, int ld, stream_t stream), (x, table, N, T, heads, D, ld, stream))
WRAP(kconv_forward, "kconv_forward", 4.0 * B * T * C, 0,
     (floatX* out, const floatX* k, const float* w, int B, int T, int C, int W, int ldk, stream_t stream), (out, k, w, B, T, C, W, ldk, stream))
WRAP(kconv_centroid_forward, "kconv_centroid_forward", 4.0 * B * T * H * D, 0,
     (floatX* out, float* centroid, const floatX* k, const float* w, int B, int T, int H, int D, int W, int ldk, int block, stream_t stream),
     (out, centroid, k, w, B, T, H, D, W, ldk, block, stream))
WRAP(kconv_backward, "kconv_backward", 6.0 * B * T * C, 0,
     (floatX* dk, float* dw, const floatX* dout, const floatX* k, const float* w, int B, int T, int C, int W, int ldk, void* scratch, stream_t stream),
     (dk, dw, dout, k, w, B, T, C, W, ldk, scratch, stream))
WRAP(swa_forward, window < shape.T ? "swa_forward window" : "swa_forward dense", 4 * q_bytes(shape), attention_flops(shape, window_layer(window)),
     (floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, AttnShape shape, int window, stream_t stream),
     (out, lse, q, k, v, shape, window, stream))
WRAP(swa_backward, window < shape.T ? "swa_backward window" : "swa_backward dense", 8 * q_bytes(shape),
     2.5 * attention_flops(shape, window_layer(window)),
     (floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, const floatX* q, const floatX* k, const floatX* v,
      const float* rope, AttnShape shape, int window, void* scratch, stream_t stream),
     (dq, dk, dv, dout, out, lse, q, k, v, rope, shape, window, scratch, stream))
WRAP(moba_centroid, "moba_centroid", q_bytes(shape), 0,
     (float* centroid, const floatX* k, AttnShape shape, int block, stream_t stream), (centroid, k, shape, block, stream))
WRAP(moba_topk, "moba_topk", q_bytes(shape) + 2 * picks(shape, topk), q_bytes(shape) * ceil_div(shape.T, block),       // two bf16 products, half of them past
     (uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch, stream_t stream),
     (sel, q, centroid, shape, block, topk, scratch, stream))
WRAP(moba_index, "moba_index", 6.0 * B * H * T * (topk - 1), 0,
     (int* offset, int* list, const uint16_t* sel, int B, int H, int T, int block, int topk, void* scratch, stream_t stream),
     (offset, list, sel, B, H, T, block, topk, scratch, stream))
WRAP(moba_attn_forward, "moba_attn_forward", 4 * q_bytes(shape), attention_flops(shape, moba_layer(block, topk)),
     (floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, MobaRoute route, AttnShape shape, int block, int topk, void* scratch,
      size_t scratch_bytes, stream_t stream),
     (out, lse, q, k, v, route, shape, block, topk, scratch, scratch_bytes, stream))
WRAP(moba_attn_backward, "moba_attn_backward", 8 * q_bytes(shape), 2.5 * attention_flops(shape, moba_layer(block, topk)),
     (floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, const floatX* q, const floatX* k, const floatX* v,
      MobaRoute route, AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream),
     (dq, dk, dv, dout, out, lse, q, k, v, route, shape, block, topk, scratch, scratch_bytes, stream))
WRAP(swiglu_forward, "swiglu_forward", 6.0 * N * F, 0,
     (floatX* out, const floatX* gate_up, int N, int F, stream_t stream), (out, gate_up, N, F, stream))
WRAP(swiglu_backward, "swiglu_backward", 10.0 * N * F, 0,
     (floatX* dgate_up, const floatX* dout, const floatX* gate_up, int N, int F, stream_t stream), (dgate_up, dout, gate_up, N, F, stream))
WRAP(matmul_swiglu_forward, product_label("matmul_swiglu_forward", N, C, 2 * F), 2.0 * N * (C + 3.0 * F), 4.0 * N * C * F,
     (floatX* out, floatX* gate_up, const floatX* inp, const floatX* weight, int N, int C, int F, struct MatmulPlans* plans, stream_t stream),
     (out, gate_up, inp, weight, N, C, F, plans, stream))
WRAP_INT(matmul_swiglu_backward, product_label("matmul_swiglu_backward", N, F, OC), 2.0 * N * (OC + 4.0 * F), 2.0 * N * F * OC,
     (floatX* dgate_up, float* sums, floatX* dproduct, const floatX* dout, const floatX* weight, const floatX* gate_up, int N, int F, int OC,
      struct MatmulPlans* plans, stream_t stream),
     (dgate_up, sums, dproduct, dout, weight, gate_up, N, F, OC, plans, stream))
WRAP(matmul_rmsnorm_backward, product_label("matmul_rmsnorm_backward", N, C, OC), 2.0 * N * (OC + 3.0 * C), 2.0 * N * C * OC,
     (floatX* dinp, float* dweight, floatX* dnorm, const floatX* dout, const floatX* product_weight, const floatX* inp, const float* weight,
      const float* rstd, const float* sums, int parts, int N, int C, int OC, void* scratch, struct MatmulPlans* plans, stream_t stream),
     (dinp, dweight, dnorm, dout, product_weight, inp, weight, rstd, sums, parts, N, C, OC, scratch, plans, stream))
WRAP(crossentropy_forward_backward, "crossentropy_forward_backward", 4.0 * N * Vp, 0,
     (float* losses, floatX* logits, const int* targets, float scale, int N, int V, int Vp, stream_t stream),
     (losses, logits, targets, scale, N, V, Vp, stream))
WRAP(crossentropy_total, "crossentropy_total", 4.0 * N, 0,
     (double* total, const float* losses, int N, stream_t stream), (total, losses, N, stream))
WRAP(gradnorm_sumsq, "gradnorm_sumsq", 4.0 * n, 0,
     (double* sumsq, const float* grad, size_t n, void* scratch, stream_t stream), (sumsq, grad, n, scratch, stream))
WRAP(adamw_decide, "adamw_decide", 0, 0,
     (UpdateDecision* decision, const double* sumsq, const double* total, double beta1, double beta2, double clip, double max_norm, double max_total,
      stream_t stream),
     (decision, sumsq, total, beta1, beta2, clip, max_norm, max_total, stream))
WRAP(adamw_update, "adamw_update", (copy_x ? 30.0 : 32.0) * n, 0,
     (float* master, float* m, float* v, floatX* copy_x, float* copy_f, const float* grad, size_t n, float lr, float beta1, float beta2, float eps,
      float decay, const UpdateDecision* decision, stream_t stream),
     (master, m, v, copy_x, copy_f, grad, n, lr, beta1, beta2, eps, decay, decision, stream))
WRAP(device_zero, "zeros", (double)bytes, 0, (void* device, size_t bytes, stream_t stream), (device, bytes, stream))
WRAP(device_upload, "upload of tokens", 0, 0, (void* device, const void* host, size_t bytes, stream_t stream), (device, host, bytes, stream))

#endif

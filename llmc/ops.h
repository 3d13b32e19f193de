// Level 3: every op, one contract each. llmc/<op>.cu and llmc/cpu/<op>.c implement the same prototypes;
// which one a program gets is decided at link time.
//
// Manners common to all: outputs first, then inputs, then sizes, then scratch, then stream. `dx` means dLoss/dx.
// "set" (=) overwrites, "added" (+=) accumulates. Nothing aliases unless said. All are deterministic: fixed-order sums, no float atomics.
// N = B*T rows (tokens). floatX = bf16 on the GPU, float on the CPU. Pointers are device memory, 16-byte aligned; so is every row.
// A function `X_scratch` gives the bytes of device scratch that `X` wants; scratch holds nothing between calls.
//
// This file is read a second time by test/ref.h (floatX = float, names prefixed) to declare the reference: keep one
// prototype a statement, its name at the start of a line after the return type, and no types defined here.
#ifndef OPS_H
#define OPS_H

#include "dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- embedding ------------------------------------------------------------------------------------------------------
// out[i] = wte[tokens[i]]                                out: (N, C)  wte: (Vp, C)  tokens: (N), each in [0, V)    C % 8 == 0
void embedding_forward(floatX* out, const floatX* wte, const int* tokens, int N, int C, stream_t stream);

// dwte[v] += sum over i with tokens[i] == v of dout[i], in ascending i                                   (added)
void embedding_backward(float* dwte, const floatX* dout, const int* tokens, int N, int C, int V, void* scratch, stream_t stream);
size_t embedding_backward_scratch(int N, int C, int V);

// ---- matmul ---------------------------------------------------------------------------------------------------------
// Weights are (OC, C) row-major. fp32 accumulation. C and OC are multiples of 8 on the GPU; N is anything.
// MatmulPlans (opaque) keeps one cuBLASLt algorithm per kind of product and shape; the workspace, device memory, stays the caller's. The CPU's
// is NULL. Only algorithms that sum in a fixed order are taken; which one it is shows in the last bits, so a run keeps its plans.
struct MatmulPlans* matmul_open(void* workspace, size_t workspace_bytes);
void matmul_close(struct MatmulPlans* plans);
size_t matmul_workspace(void);

// A shape met for the first time gets the library's first proposal or, while `on`, the fastest of all its proposals: each is timed on the
// operands at hand, one that adds to its own output on memory of its own.
void matmul_measure(struct MatmulPlans* plans, int on);

// The plans as text, a line each under a line that names GPU and library: writes at most `room` bytes with the final 0, returns the length.
size_t matmul_plans_text(char* text, size_t room, const struct MatmulPlans* plans);
// Takes over those of a text; returns how many. 0 of another GPU's or library's.
size_t matmul_plans_take(struct MatmulPlans* plans, const char* text);
size_t matmul_plans_count(const struct MatmulPlans* plans);

// out = inp weight^T                       (set)       out: (N, OC)   inp: (N, C)
void matmul_forward(floatX* out, const floatX* inp, const floatX* weight, int N, int C, int OC, struct MatmulPlans* plans, stream_t stream);

// out = add + inp weight^T, rounded once   (set)       add: (N, OC): a branch joins the residual stream
void matmul_forward_add(floatX* out, const floatX* inp, const floatX* weight, const floatX* add, int N, int C, int OC,
                        struct MatmulPlans* plans, stream_t stream);

// dinp = dout weight                       (set)       dinp: (N, C)   dout: (N, OC)
void matmul_backward_input(floatX* dinp, const floatX* dout, const floatX* weight, int N, int C, int OC,
                           struct MatmulPlans* plans, stream_t stream);

// dweight = dout^T inp, with `add` dweight += dout^T inp                   (fp32)                     dweight: (OC, C)
void matmul_backward_weight(float* dweight, const floatX* dout, const floatX* inp, int N, int C, int OC, int add,
                            struct MatmulPlans* plans, stream_t stream);

// ---- rmsnorm --------------------------------------------------------------------------------------------------------
// out = inp * rstd * weight, rstd = 1/sqrt(mean(inp^2) + eps) kept for backward
// out, inp: (N, C)   rstd: (N) fp32   weight: (C) fp32      out may be inp      C % 8 == 0, on the GPU C <= 8192
void rmsnorm_forward(floatX* out, float* rstd, const floatX* inp, const float* weight, int N, int C, float eps, stream_t stream);

// g = dout * weight;  dinp += rstd * (g - inp * rstd^2 * mean(g * inp))     (added: the residual stream's gradient passes through)
// dweight += sum over rows of dout * inp * rstd                             (added)
void rmsnorm_backward(floatX* dinp, float* dweight, const floatX* dout, const floatX* inp, const float* weight, const float* rstd,
                      int N, int C, void* scratch, stream_t stream);
size_t rmsnorm_backward_scratch(int N, int C);

// The product in front of a norm, backward, and the norm's: dnorm = dout product_weight, then rmsnorm_backward with dnorm as its dout (dinp and
// dweight added).    dnorm: (N, C), scratch    dout: (N, OC)    product_weight: (OC, C)    sums: (N, parts) fp32, not read where parts is 0
// A row of sums adds up to that of dout * out, out = norm product_weight^T; but for out's rounding that is the row's sum of dnorm * norm, with
// which the GPU may leave dnorm unwritten.
void matmul_rmsnorm_backward(floatX* dinp, float* dweight, floatX* dnorm, const floatX* dout, const floatX* product_weight, const floatX* inp,
                             const float* weight, const float* rstd, const float* sums, int parts, int N, int C, int OC, void* scratch,
                             struct MatmulPlans* plans, stream_t stream);
size_t matmul_rmsnorm_backward_scratch(int N, int C);

// ---- rope -----------------------------------------------------------------------------------------------------------
// In place on `heads` consecutive heads of every row: pair (i, i + D/2) turns by the angle of position t = row % T. Backward is the turn back,
// which swa_backward does to dq and dk before they are rounded.
// x: (N, ld) rows, heads*D <= ld     table: (T, D/2, 2) fp32, {cos, sin} of t * theta^(-2i/D)     D % 8 == 0, on the GPU D % 16 == 0
void rope_forward(floatX* x, const float* table, int N, int T, int heads, int D, int ld, stream_t stream);

// The product before it and the turn: out = inp weight^T, then of each row the first `heads` heads turn by table[row % T].      (set)
// out: (N, OC), rounded by the product and again where it turns    inp: (N, C)    weight: (OC, C)    heads*D <= OC
void matmul_rope_forward(floatX* out, const floatX* inp, const floatX* weight, const float* table, int N, int T, int heads, int D, int C, int OC,
                         struct MatmulPlans* plans, stream_t stream);

// ---- kconv ----------------------------------------------------------------------------------------------------------
// z[t,c] = sum_{i<W} w[i,c] * k[t-i,c], k[negative] = 0, never across the B sequences;  out = k + silu(z), rounded once
// out: (B*T, C) dense    k: (B*T rows, stride ldk)    w: (W, C) fp32    W in {3, 5}    C % 8 == 0
void kconv_forward(floatX* out, const floatX* k, const float* w, int B, int T, int C, int W, int ldk, stream_t stream);

// The same and moba_centroid of its out, to the bit as one op after the other: k is read once, out only written.      (both set)
// out: (B*T, H*D) dense    centroid: (B, H, n, D) fp32, n = ceil(T/block), of out as it is rounded    D % 8 == 0    any block
void kconv_centroid_forward(floatX* out, float* centroid, const floatX* k, const float* w, int B, int T, int H, int D, int W, int ldk, int block,
                            stream_t stream);

// z recomputed in fp32, dz = dout * silu'(z);  dk[t] = dout[t] + sum_{i<W, t+i<T} w[i] dz[t+i]   (set, stride ldk)
// dw[i] += sum over sequences and t >= i of dz[t] k[t-i]                                          (added)
void kconv_backward(floatX* dk, float* dw, const floatX* dout, const floatX* k, const float* w, int B, int T, int C, int W, int ldk,
                    void* scratch, stream_t stream);
size_t kconv_backward_scratch(int B, int T, int C, int W);

// ---- swa: sliding-window and dense causal attention -----------------------------------------------------------------
// Query t sees keys max(0, t-window+1) .. t; window >= T is dense.  scale 1/sqrt(D), softmax in fp32, P rounded to floatX before P V.
// out: (B,T,H,D) stride ldo    lse: (B,H,T) fp32, natural log of sum exp(scaled scores)
void swa_forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, AttnShape shape, int window, stream_t stream);

// dq, dk, dv (set) from dout; out and lse as forward left them. P and dS are rounded to floatX before their products.
// rope: NULL, or the table by which rope_forward has turned q and k; then dq and dk are those of q and k in front of it, rounded once.
void swa_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse, const floatX* q,
                  const floatX* k, const floatX* v, const float* rope, AttnShape shape, int window, void* scratch, stream_t stream);
// Enough for every T up to shape's; with ATTN_AUTO for every path. Of dense attention with D = 128: an fp32 dq of all tokens.
size_t swa_backward_scratch(AttnShape shape, int window);

// NULL if this backend has attention kernels for the head dim, else what it has ("64 and 128").
const char* swa_refusal(int head_dim);

// ---- moba_centroid --------------------------------------------------------------------------------------------------
// centroid[b,h,j] = mean of k[t] over t in block j, fp32      centroid: (B, H, n, D) fp32, n = ceil(T/block)
// The short last block averages the keys it has (it is never a past block, so never routed to).
void moba_centroid(float* centroid, const floatX* k, AttnShape shape, int block, stream_t stream);

// ---- moba_topk ------------------------------------------------------------------------------------------------------
// sel[b,h,t] = the min(topk-1, t/block) past blocks with the highest q_t . c_j, listed ascending, then MOBA_NONE.
// Ties: the lower index wins; -0 equals 0; a NaN score counts as -inf. sel: (B, H, T, topk-1). topk in 1..32; topk == 1 writes nothing.
// Scores: fp32 on the CPU; on the GPU tensor cores with centroids split in high + low bf16, never T x n of them in memory.
// There scores closer than 2^-18 of their size (2^-17 above topk 16) are ties, and -FLT_MAX counts as -inf.
// scratch: moba_topk_scratch bytes, for the split centroids of the Hopper kernel, which serves more than 128 blocks.
void moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch, stream_t stream);
size_t moba_topk_scratch(AttnShape shape, int block, int topk);

// ---- moba_index -----------------------------------------------------------------------------------------------------
// Turns sel into block -> (query, slot) lists: count, scan, stable scatter. offset, list: see MobaRoute. T*(topk-1) < 2^31.
void moba_index(int* offset, int* list, const uint16_t* sel, int B, int H, int T, int block, int topk, void* scratch, stream_t stream);
size_t moba_index_scratch(int B, int H, int T, int block, int topk);

// ---- moba_attn ------------------------------------------------------------------------------------------------------
// out_t = softmax(q_t . k_u / sqrt(D)) v_u over the keys u <= t of t's own block and of the blocks sel names. lse as in swa_forward.
// GPU: head dim 64 or 128, block 64..1024 (powers of two), topk 1..32; shape.path chooses the kernels. The CPU takes any block and head dim.
// scratch_bytes caps the memory; with less than all heads need, heads are walked in groups (one head must fit).
void moba_attn_forward(floatX* out, float* lse, const floatX* q, const floatX* k, const floatX* v, MobaRoute route,
                       AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream);
size_t moba_attn_forward_scratch(AttnShape shape, int block, int topk, size_t cap);

// dq, dk, dv (set); the selection is a constant. P and dS rounded before their products, dQ slots in floatX.
void moba_attn_backward(floatX* dq, floatX* dk, floatX* dv, const floatX* dout, const floatX* out, const float* lse,
                        const floatX* q, const floatX* k, const floatX* v, MobaRoute route,
                        AttnShape shape, int block, int topk, void* scratch, size_t scratch_bytes, stream_t stream);
size_t moba_attn_backward_scratch(AttnShape shape, int block, int topk, size_t cap);

// NULL if this backend has a kernel for it, else what it has, for an error message.
const char* moba_attn_refusal(int head_dim, int block, int topk);

// ---- attn_step: the newest token against a cache of keys and values (generation) ------------------------------------------
// One sequence; a row of a cache has H*D elements. Sums and P in fp32, in an order that depends on the sizes alone.
// sel[h] = the min(topk-1, past) blocks with the highest q_h . c_jh, ascending, then MOBA_NONE; ties and NaN as in moba_topk
// sel: (H, topk-1)   q: (H, D)   centroid: (past, H, D) fp32, a block's mean keys next to each other    topk in 2..32
void attn_step_topk(uint16_t* sel, const floatX* q, const float* centroid, int H, int D, int past, int topk, void* scratch, stream_t stream);
size_t attn_step_topk_scratch(int H, int past);

// out_h = softmax(q_h . k_u / sqrt(D)) v_u over the rows from <= u < to and those of the blocks sel[h] names, rows j*block .. (j+1)*block - 1
// out, q: (H, D)   k, v: (rows, H*D)   sel: (H, slots), MOBA_NONE last; not read where slots is 0     from < to     D as in swa_forward
void attn_step_forward(floatX* out, const floatX* q, const floatX* k, const floatX* v, const uint16_t* sel, int H, int D, int from, int to,
                       int block, int slots, void* scratch, stream_t stream);
size_t attn_step_forward_scratch(int H, int D, int rows, int slots);            // for runs of at most `rows`

// ---- swiglu ---------------------------------------------------------------------------------------------------------
// out = silu(gate) * up       out: (N, F)    gate_up: (N, 2F), row = [gate (F) ; up (F)]    F % 8 == 0
void swiglu_forward(floatX* out, const floatX* gate_up, int N, int F, stream_t stream);

// s = 1 / (1 + exp(-gate)):   dgate = dout * up * s * (1 + gate * (1 - s)), dup = dout * gate * s  (set)
// dgate_up may be gate_up (each element is read before it is written)
void swiglu_backward(floatX* dgate_up, const floatX* dout, const floatX* gate_up, int N, int F, stream_t stream);

// SwiGLU with the product before it:  gate_up = inp weight^T, out = silu(gate) * up of gate_up as it is rounded      (both set)
// inp: (N, C)   weight: (2F, C), rows of gate, then of up   gate_up, out: as above   C % 8 == 0
void matmul_swiglu_forward(floatX* out, floatX* gate_up, const floatX* inp, const floatX* weight, int N, int C, int F,
                           struct MatmulPlans* plans, stream_t stream);

// dproduct = dout weight, dgate_up = swiglu_backward of it (set)      dgate_up may be gate_up      dout: (N, OC)   weight: (OC, F)
// dproduct: (N, F), scratch, which the GPU may leave unwritten: then a row of `sums` (fp32) holds as many parts of
// the row's sum of dgate_up * gate_up as the return value says; 0: there are none. Room for (N, matmul_swiglu_sums(F)).
int matmul_swiglu_backward(floatX* dgate_up, float* sums, floatX* dproduct, const floatX* dout, const floatX* weight, const floatX* gate_up,
                           int N, int F, int OC, struct MatmulPlans* plans, stream_t stream);
int matmul_swiglu_sums(int F);

// ---- crossentropy ---------------------------------------------------------------------------------------------------
// losses[i] = log sum_{v<V} exp(logits[i,v]) - logits[i,targets[i]];  a target of -1 is not scored: loss 0, gradient 0
// losses: (N) fp32, set    logits: (N, Vp), columns V..Vp-1 are outside the softmax    V <= Vp, Vp % 8 == 0
void crossentropy_forward(float* losses, const floatX* logits, const int* targets, int N, int V, int Vp, stream_t stream);

// The same losses, and logits become dlogits = scale * (softmax - onehot) in place, zero in columns V..Vp-1.
void crossentropy_forward_backward(float* losses, floatX* logits, const int* targets, float scale, int N, int V, int Vp, stream_t stream);

// *total += sum of losses, fixed order        total: fp64 in device memory                               (added)
void crossentropy_total(double* total, const float* losses, int N, stream_t stream);

// ---- gradnorm -------------------------------------------------------------------------------------------------------
// *sumsq += sum of grad[i]^2, fixed order     sumsq: fp64 in device memory    a non-finite gradient gives a non-finite sum    (added)
void gradnorm_sumsq(double* sumsq, const float* grad, size_t n, void* scratch, stream_t stream);
size_t gradnorm_scratch(size_t n);

// ---- adamw ----------------------------------------------------------------------------------------------------------
// Whether and how the next update is applied, decided on the device so that the host need not wait for the norm:
// norm = sqrt(*sumsq);  apply = norm and *total are finite, norm <= max_norm and *total <= max_total (a limit of 0 is none)
// where it applies: updates += 1, c1 = 1 - beta1^updates, c2 = 1 - beta2^updates, grad_scale = clip > 0 ? min(1, clip / (norm + 1e-6)) : 1
// decision, sumsq, total: one each, in device memory; decision->updates is read and written, the rest set
void adamw_decide(UpdateDecision* decision, const double* sumsq, const double* total, double beta1, double beta2, double clip,
                  double max_norm, double max_total, stream_t stream);

// Nothing if decision->apply is 0; else, with grad_scale, c1, c2 of the decision:
// g = grad * grad_scale;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
// master -= lr * ( (m/c1) / (sqrt(v/c2) + eps) + decay * master )
// then the compute copy: copy_x (floatX, round to nearest even) or copy_f (fp32), whichever is not NULL.
// Loshchilov and Hutter 2019 (decoupled decay).
void adamw_update(float* master, float* m, float* v, floatX* copy_x, float* copy_f, const float* grad, size_t n,
                  float lr, float beta1, float beta2, float eps, float decay, const UpdateDecision* decision, stream_t stream);

// The compute copy alone, after init or load. Either output may be NULL.
void adamw_copy(floatX* copy_x, float* copy_f, const float* master, size_t n, stream_t stream);

#ifdef __cplusplus
}
#endif
#endif

// Level 3: the activations. One line per tensor of a layer: how many elements a token has, and below which recompute level it is kept.
#ifndef ACTS_H
#define ACTS_H

#include "arena.h"
#include "params.h"

typedef enum { RECOMPUTE_NONE, RECOMPUTE_CHEAP, RECOMPUTE_GATE_UP, RECOMPUTE_LAYER, RECOMPUTE_PAIR, FORWARD_ONLY } KeepLevel;

// KEPT tensors exist once per layer; the others once for all layers, and backward redoes them (ALL rows, or a CHUNK of mlp_rows).
//        field    type      elements a token        kept below          rows when not kept
#define LAYER_ACTS(X) \
        X(norm1,   floatX,   s->C,                   RECOMPUTE_CHEAP,    ALL)   /* rmsnorm(x) */ \
        X(rstd1,   float,    1,                      RECOMPUTE_CHEAP,    ALL) \
        X(qkv,     floatX,   3 * s->C,               RECOMPUTE_LAYER,    ALL)   /* q and k after RoPE on S layers */ \
        X(kprime,  floatX,   kprime_width(s, l),     RECOMPUTE_LAYER,    ALL)   /* k' = k + silu(conv k), M layers with kconv */ \
        X(sel,     uint16_t, routed_slots(s, l),     RECOMPUTE_LAYER,    ALL)   /* MoBA's picked blocks, (B, H, T, topk-1) */ \
        X(list,    int,      routed_slots(s, l),     RECOMPUTE_CHEAP,    ALL)   /* who picked each block: MobaRoute */ \
        X(att,     floatX,   s->C,                   RECOMPUTE_LAYER,    ALL)   /* attention's output, before wo */ \
        X(lse,     float,    s->H,                   RECOMPUTE_LAYER,    ALL)   /* (B, H, T) */ \
        X(x2,      floatX,   s->C,                   RECOMPUTE_LAYER,    ALL)   /* residual stream after attention */ \
        X(norm2,   floatX,   s->C,                   RECOMPUTE_CHEAP,    CHUNK) /* rmsnorm(x2) */ \
        X(rstd2,   float,    1,                      RECOMPUTE_CHEAP,    CHUNK) \
        X(gate_up, floatX,   2 * s->F,               RECOMPUTE_GATE_UP,  CHUNK) /* norm2 w13^T; backward turns it into its gradient */ \
        X(product, floatX,   s->F,                   RECOMPUTE_CHEAP,    CHUNK) /* silu(gate) * up */

#define ACT_FIELD(field, type, ...) type* field;
typedef struct { LAYER_ACTS(ACT_FIELD) } LayerActs;

// Buffers that live only inside a step, and what is shared by all layers.
typedef struct {
    floatX** x;               // (L + 1) residual stream before layer l; x[L] goes into the final norm
    LayerActs* layer;         // (L)
    floatX* normf;            // (N, C) final norm
    float*  rstdf;            // (N)
    floatX* dx;               // (N, C) gradient of the residual stream
    floatX* dy;               // (N, C) gradient of a norm's or of attention's output, on its way
    floatX* dqkv;             // (N, 3C)
    floatX* dkprime;          // (N, C)
    int     mlp_rows;         // of the MLP half that are worked on at once: a chunk. The same at every recompute level, so that all give the same bits.
    float*  row_sums;         // (mlp_rows, matmul_swiglu_sums)
    floatX* logits;           // (logit_rows, Vp); become dlogits
    int     logit_rows;
    float*  losses;           // (N)
    double* total;            // sum of losses since the gradients were zeroed
    int    *tokens, *targets; // (N) each; the targets of a micro-batch follow its tokens, so that both come in one copy
    float*  rope;             // (T, D/2, 2) cos, sin
    float*  centroid;         // (B, H, n, D)
    int**   route_offset;     // (L) where each block's part of a layer's list begins, (B, H, n + 1); M layers only
    void*   scratch;          // shared by all ops, one at a time
    size_t  scratch_bytes;
} Acts;

#ifdef __cplusplus
extern "C" {
#endif

int  kprime_width(const ModelShape* s, int l);        // C on M layers with key convolution, else 0
int  routed_slots(const ModelShape* s, int l);        // H * (topk - 1) on M layers, else 0

// Adds everything for at most B rows of T tokens to the plan. `scratch_cap` bounds what attention may ask for, in bytes.
void acts_plan(Acts* acts, Arena* arena, const ModelShape* s, int B, int T, KeepLevel level, size_t scratch_cap);
void acts_share(Acts* acts, const ModelShape* s, KeepLevel level);   // after arena_allocate: point unkept tensors at their shared buffer
void acts_free(Acts* acts);

// Is `field` of layer l kept between forward and backward at this level?  KEPT(norm1, level)
#define ACT_KEPT_BELOW(field, type, width, below, rows) ACT_KEPT_BELOW_##field = below,
enum { LAYER_ACTS(ACT_KEPT_BELOW) ACT_KEPT_END };
#define KEPT(field, level) ((int)(level) < (int)ACT_KEPT_BELOW_##field)

#ifdef __cplusplus
}
#endif
#endif

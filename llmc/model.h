// Level 3: the network. Plans its memory, runs forward, loss and backward on one micro-batch.
#ifndef MODEL_H
#define MODEL_H

#include "acts.h"
#include "arena.h"
#include "device.h"
#include "kvcache.h"
#include "params.h"

// Host side of an upload: pinned, refilled only once the device has read it, so that a caller's buffers are free when model_batch returns
// and the host may run ahead of the device.
typedef struct {
    int*         pinned;          // tokens, then targets
    DeviceEvent* read;            // recorded behind the copies
    bool         in_use;
} Staging;

// A micro-batch's forward and backward as one graph: of these sizes, and of these alone.
typedef struct {
    DeviceGraph* graph;           // NULL: not recorded
    int          B, T;
    float        scale;
} Recording;

typedef struct {
    ModelShape shape;
    ParamTable table;
    KeepLevel  level;
    bool       dense_moba;        // M layers attend to every block (--eval-attention dense); forward only
    AttnPath   attn_path;         // AUTO after model_plan
    int        max_B, max_T;      // planned for
    int        B, T;              // of the micro-batch at hand
    floatX*    matrices;          // compute copy of the parameters
    float*     vectors;
    float*     grads;             // NULL when FORWARD_ONLY
    Acts       acts;
    Arena      arena;
    KvCache    cache;             // for generation; room 0 unless kvcache_plan came between model_plan and model_allocate
    Staging    staging[2];        // taken in turn
    int        next_staging;
    bool       adding;            // the matrices' gradients hold micro-batches of this step: add to them, else set them
    Recording  recording[2];      // of a step's first micro-batch, which sets the gradients, and of the others, which add
    void*      gemm_workspace;
    struct MatmulPlans* plans;
    stream_t   stream;
    void     (*on_gradients)(void* argument, size_t from);   // NULL: none. In backward: all gradients of matrices at elements >= from are final
    void*      on_gradients_argument;
} Model;

#ifdef __cplusplus
extern "C" {
#endif

// NULL if this backend can run the shape, else a sentence that says what it has
const char* model_refusal(const ModelShape* shape, char* text, size_t size);

// Adds the model to its arena's plan; the optimizer may add to it too; nothing is allocated before model_allocate.
// The Model must stay where it is. Takes over shape->layer.
void model_plan(Model* m, ModelShape shape, int B, int T, KeepLevel level, size_t scratch_cap);
void model_allocate(Model* m);
void model_close(Model* m);
void model_unplan(Model* m);          // instead of model_close, where nothing was allocated: needs no device

// One micro-batch: B rows of T tokens from host memory, which is free again on return. targets may be NULL (sampling); -1 is not scored.
void model_batch(Model* m, const int* tokens, const int* targets, int B, int T);

// x[L] and its final norm
void model_forward(Model* m);
// adds the losses of the micro-batch to acts.total; model_total reads it (and waits)
void model_loss(Model* m);
// the same, and leaves dLoss/dx in acts.dx, where the loss of each token counts `scale`; the gradient of wte is set, or added
// to after the first micro-batch since model_zero; normf's is added
void model_loss_backward(Model* m, float scale);
// likewise all other gradients; wte's, which model_loss_backward left, is added to
void model_backward(Model* m);
// model_forward, model_loss_backward, model_backward: on a GPU recorded when first met after the rehearsal, then launched as one graph, which
// leaves less time between a thousand kernels.
void model_forward_backward(Model* m, float scale);
// Forward and backward of a made-up micro-batch of the planned size: every kernel is loaded then, and every product has its plan.
// Leaves gradients and total to be zeroed.
void model_rehearse(Model* m);

// The gradients count from here, and the total; a matrix's gradient is set by the next backward, not cleared now.
void   model_zero(Model* m);
double model_total(Model* m);
// the logits after row `row`'s token, (V) floats on the host
void   model_logits(Model* m, int row, float* logits);

// Generation, with the cache that was planned. model_prefill forgets what the cache held and reads `count` tokens in one pass (at most max_T and
// cache.room); model_step reads one more, as long as cache.length < cache.room. logits (V): those after the last token read.
void   model_prefill(Model* m, const int* tokens, int count, float* logits);
void   model_step(Model* m, int token, float* logits);

#ifdef __cplusplus
}
#endif
#endif

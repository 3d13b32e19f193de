// Level 5: training state <-> checkpoint. Records: master/NAME, m/NAME, v/NAME for every parameter tensor, "counters", "options",
// and from a GPU "gemm_plans" (matmul_plans_text).
#ifndef STATE_H
#define STATE_H

#include "checkpoint.h"
#include "optimizer.h"

typedef struct {
    int64_t step;            // completed, skipped ones included
    int64_t bad_steps;       // skipped in a row up to here
} Progress;

#ifdef __cplusplus
extern "C" {
#endif

// *bytes: what was written. On false nothing of it is visible and everything older is intact.
bool state_save(const Optimizer* opt, Model* m, const Progress* progress, const char* options, const char* checkpoints_dir,
                int64_t* bytes, Error* err);
bool state_load(Optimizer* opt, Model* m, Progress* progress, const Checkpoint* checkpoint, Error* err);
// the weights alone, into the model's compute copy: evaluation and sampling need no optimizer
bool state_load_weights(Model* m, const Checkpoint* checkpoint, Error* err);

#ifdef __cplusplus
}
#endif
#endif

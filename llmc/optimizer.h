// Level 4: AdamW on the flat arenas, with the global gradient norm in front of it.
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include "model.h"

typedef struct {
    float  *master, *m, *v;      // fp32, (table.elements), laid out as ParamTable says
    double* sumsq;
    void*   scratch;
    int64_t updates;             // applied so far: what bias correction counts; a skipped step does not
} Optimizer;

typedef struct { double lr, beta1, beta2, eps, decay, clip; } AdamWSettings;

#ifdef __cplusplus
extern "C" {
#endif

void   optimizer_plan(Optimizer* opt, Model* model);                    // adds to the model's memory plan
void   optimizer_init(Optimizer* opt, Model* model, uint64_t seed);     // fresh weights, zero moments
void   optimizer_publish(const Optimizer* opt, Model* model);           // master weights -> the model's compute copy

// 2-norm of all gradients, before clipping; waits for the device. Not finite: do not update.
double optimizer_grad_norm(const Optimizer* opt, Model* model);
// one AdamW update with gradients scaled by min(1, clip / (norm + 1e-6)); clip 0 is off
void   optimizer_update(Optimizer* opt, Model* model, const AdamWSettings* settings, double norm);

#ifdef __cplusplus
}
#endif
#endif

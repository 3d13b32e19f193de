// Level 4: AdamW on the flat arenas, with the global gradient norm in front of it.
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include "model.h"

typedef struct {
    float  *master, *m, *v;      // fp32, (table.elements), laid out as ParamTable says
    double* sumsq;               // of all gradients
    UpdateDecision* decision;    // on the device; its count of applied updates is what bias correction goes by
    void*   scratch;
    int64_t updates;             // that count as the host last heard of it
} Optimizer;

// max_norm, max_total: an update whose gradient norm or sum of losses is above is skipped, like one that is not finite; 0: no limit
typedef struct { double lr, beta1, beta2, eps, decay, clip, max_norm, max_total; } AdamWSettings;

#ifdef __cplusplus
extern "C" {
#endif

void   optimizer_plan(Optimizer* opt, Model* model);                    // adds to the model's memory plan
void   optimizer_init(Optimizer* opt, Model* model, uint64_t seed);     // fresh weights, zero moments
void   optimizer_set_updates(Optimizer* opt, Model* model, int64_t updates);
void   optimizer_publish(const Optimizer* opt, Model* model);           // master weights -> the model's compute copy

// The two halves of an update; nothing is waited for. Between them many ranks add up *opt->sumsq and *model->acts.total.
void   optimizer_norm(Optimizer* opt, Model* model);                                    // *sumsq = that of the gradients
void   optimizer_update(Optimizer* opt, Model* model, const AdamWSettings* settings);   // decides, then one AdamW update unless it is skipped

// Waits, and tells what the last update came to.
UpdateDecision optimizer_outcome(Optimizer* opt, Model* model);

#ifdef __cplusplus
}
#endif
#endif

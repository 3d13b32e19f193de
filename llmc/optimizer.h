// Level 4: AdamW on the flat arenas, with the global gradient norm in front of it. On several ranks each updates what its partition says;
// with a sharded one (ZeRO-1) it has the master weights and moments of that part alone, and the compute copies are gathered bucket by bucket.
#ifndef OPTIMIZER_H
#define OPTIMIZER_H

#include "comm.h"
#include "model.h"
#include "partition.h"

typedef struct {
    float  *master, *m, *v;      // fp32, (partition.local_elements), in the order of its spans
    double* sumsq;
    void*   scratch;
    int64_t updates;             // applied so far: what bias correction counts; a skipped step does not
    Partition partition;
    Comm*   comm;                // NULL: one rank
} Optimizer;

typedef struct { double lr, beta1, beta2, eps, decay, clip; } AdamWSettings;

#ifdef __cplusplus
extern "C" {
#endif

// Adds to the model's memory plan: of one rank; of this rank of several, for whose number the model's shape is padded. comm may follow later.
void   optimizer_plan(Optimizer* opt, Model* model);
void   optimizer_plan_part(Optimizer* opt, Model* model, int rank, int world, bool sharded);
void   optimizer_close(Optimizer* opt);
void   optimizer_init(Optimizer* opt, Model* model, uint64_t seed);     // fresh weights, zero moments
void   optimizer_publish(const Optimizer* opt, Model* model);           // master weights -> the model's compute copy, on all ranks

// (table.elements) host floats <-> this rank's part of master, m or v. Collecting is for all ranks at once, and writes over the gradients.
void   optimizer_distribute(const Optimizer* opt, Model* model, float* part, const float* host);
void   optimizer_collect(const Optimizer* opt, Model* model, float* host, const float* part);

// 2-norm of all gradients, of all ranks, before clipping; waits for the device. Not finite: do not update.
double optimizer_grad_norm(const Optimizer* opt, Model* model);
// one AdamW update with gradients scaled by min(1, clip / (norm + 1e-6)); clip 0 is off
void   optimizer_update(Optimizer* opt, Model* model, const AdamWSettings* settings, double norm);

#ifdef __cplusplus
}
#endif
#endif

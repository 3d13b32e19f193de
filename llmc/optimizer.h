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
    UpdateDecision* decision;    // on the device
    int64_t updates;             // applied so far, as last seen: what bias correction counts; a skipped step does not
    Partition partition;
    Comm*   comm;                // NULL: one rank
} Optimizer;

// max_norm, max_total: a step whose gradient norm or sum of losses is above is skipped, like one that is not finite; 0: no limit
typedef struct { double lr, beta1, beta2, eps, decay, clip, max_norm, max_total; } AdamWSettings;

#ifdef __cplusplus
extern "C" {
#endif

// Adds to the model's memory plan: of one rank; of this rank of several, for whose number the model's shape is padded. comm may follow later.
void   optimizer_plan(Optimizer* opt, Model* model);
void   optimizer_plan_part(Optimizer* opt, Model* model, int rank, int world, bool sharded);
void   optimizer_close(Optimizer* opt);
void   optimizer_init(Optimizer* opt, Model* model, uint64_t seed);     // fresh weights, zero moments
void   optimizer_set_updates(Optimizer* opt, Model* model, int64_t updates);
void   optimizer_publish(const Optimizer* opt, Model* model);           // master weights -> the model's compute copy, on all ranks

// The two halves of an update; nothing is waited for.
void   optimizer_norm(Optimizer* opt, Model* model);                                    // *sumsq, and the model's total: over all ranks
void   optimizer_update(Optimizer* opt, Model* model, const AdamWSettings* settings);   // decides, then one AdamW update unless it is skipped

// A hash of all that every rank must have alike, to the bit: the compute copy, and what is not divided among the ranks. Waits.
uint64_t optimizer_fingerprint(const Optimizer* opt, const Model* model);

#ifdef __cplusplus
}
#endif
#endif

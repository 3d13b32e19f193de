// Level 4: how many rows a micro-batch can have.
#ifndef FIT_H
#define FIT_H

#include "config.h"
#include "optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

// Plans the memory of a run at a recompute level, on one of `ranks` ranks; the trainer's own.
typedef void (*PlanRun)(Model* m, Optimizer* opt, const Config* cfg, int level, int rank, int ranks, bool sharded);

// Bytes of the plan with micro-batches of `micro_batch` rows.
size_t fit_plan_bytes(const Config* cfg, PlanRun plan, int micro_batch);

// The largest number of rows that divides `rows`, those of a step on one rank, and whose plan takes at most `room` bytes.
// False: not one row fits; the sentence says what it takes.
bool fit_micro_batch(const Config* cfg, PlanRun plan, int64_t rows, size_t room, int* micro_batch, Error* err);

#ifdef __cplusplus
}
#endif
#endif

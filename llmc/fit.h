// Level 4: how many rows a micro-batch can have.
#ifndef FIT_H
#define FIT_H

#include "optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes the plan of cfg's model and optimizer takes with micro-batches of `micro_batch` rows. False: cfg's pattern is bad.
bool fit_plan_bytes(const Config* cfg, int micro_batch, size_t* bytes, Error* err);

// The largest number of rows that divides `rows`, those of a step on one rank, and whose plan takes at most `room` bytes.
// False: not one row fits; the sentence says what it takes.
bool fit_micro_batch(const Config* cfg, int64_t rows, size_t room, int* micro_batch, Error* err);

#ifdef __cplusplus
}
#endif
#endif

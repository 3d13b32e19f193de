// Level 2: which rows a step sees, and a thread that reads them ahead of time.
//
// Order is a pure function of (seed, step): step s takes items s*batch_rows .. (s+1)*batch_rows - 1; item -> epoch = item / rows, and the
// row is the place (item mod rows) of that epoch's permutation. Nothing is saved, nothing depends on the number of ranks: micro-batch m
// of rank r is items (m*world + r)*micro_rows + j of its step.
// Unshuffled sets (validation) are read once in order: items past their end have inputs 0 and targets -1, which no loss counts.
#ifndef DATALOADER_H
#define DATALOADER_H

#include "shard.h"

typedef struct DataLoader DataLoader;

#ifdef __cplusplus
extern "C" {
#endif

// the row that an item is, of a set of `rows` rows; -1 past the end of an unshuffled set
int64_t loader_row_of_item(int64_t item, int64_t rows, uint64_t seed, bool shuffle);

// T is the set's row length; batch_rows is the global batch, a multiple of micro_rows * world. Starts at step 0. The set must outlive it.
DataLoader* loader_open(const ShardSet* set, int micro_rows, int64_t batch_rows, int rank, int world, uint64_t seed, bool shuffle);
void        loader_close(DataLoader* loader);

// the next batch is micro-batch 0 of `step`, counted from 0
void        loader_seek(DataLoader* loader, int64_t step);
// the next step, counted as 0 from here on, begins with this item: a run that changed its batch size goes on behind the last item it used
void        loader_seek_item(DataLoader* loader, int64_t item);

// *inputs, *targets: (micro_rows, T) each, pinned, valid until the next call on this loader. The micro-batches of a step follow each
// other, then those of the next step. On false nothing has moved on: *err says which shard and token is bad; calling again tries again.
bool        loader_next(DataLoader* loader, const int** inputs, const int** targets, Error* err);

#ifdef __cplusplus
}
#endif
#endif

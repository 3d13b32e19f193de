// Level 5: training state <-> checkpoint. Records: master/NAME, m/NAME, v/NAME for every parameter tensor, "counters", "detector", "options",
// and from a GPU "gemm_plans" (matmul_plans_text).
#ifndef STATE_H
#define STATE_H

#include "checkpoint.h"
#include "optimizer.h"
#include "outlier.h"
#include "ranks.h"

typedef struct {
    int64_t  step;           // completed, skipped ones included
    int64_t  updates;        // applied
    int64_t  bad_steps;      // skipped in a row up to here
    int64_t  rows;           // of training data used so far: with the batch size constant, step x rows a step
    int64_t  data_tokens;    // of the training set
    uint64_t data_print;     // shard_fingerprint of it
    Outliers loss, log_norm; // what --skip-z judges by; norms are judged by their logarithm, they scatter by factors
} Progress;

// What a rank saves or loads: `count` elements of each arena, at these addresses on its device; span[i] says which of the flat arenas' they are.
// What all ranks save covers [0, table.elements) once.
typedef struct {
    const Span* span;
    int    spans;
    size_t count;
    float *master, *m, *v;
} StateRange;

// The state between two steps, copied into host memory, to be written while training goes on.
typedef struct {
    const Model* model;
    StateRange   range;
    bool         staged;     // arena[] holds copies of all three; else arena[0] is filled from the device while it is written
    float*       arena[3];   // master, m, v: (range.count) each, pinned
    Progress     progress;
    char*        options;
    char*        plans;      // GEMM plans, or ""
} Snapshot;

#ifdef __cplusplus
extern "C" {
#endif

StateRange state_held(const Optimizer* opt);           // all that this rank has: what it loads
StateRange state_share(const Optimizer* opt);          // its share of a checkpoint: of what all ranks have the rank-th part, else all it has

// staged takes 12 bytes an element of pinned memory, else 4.
void snapshot_open(Snapshot* snapshot, const Model* m, StateRange range, bool staged);
void snapshot_close(Snapshot* snapshot);
size_t snapshot_bytes(const Snapshot* snapshot);                       // of tensors on disk, in all ranks' parts together
void snapshot_take(Snapshot* snapshot, const Progress* progress, const char* options);   // waits for the copy
// All of it into a part of a checkpoint; part 0 also has counters, detector and options. Only a staged one may be written beside training.
bool snapshot_write(const Snapshot* snapshot, CheckpointWriter* writer, bool is_part_0, Error* err);

// Before a device is touched.
bool state_read_progress(Progress* progress, const Checkpoint* checkpoint, Error* err);
// The arenas' range onto the device, from a checkpoint of any number of parts.
bool state_load_range(const StateRange* range, Model* m, const Checkpoint* checkpoint, Error* err);
// And all the rest, on every rank: the update count and the GEMM plans. The model's compute copy follows when all ranks have succeeded
// (optimizer_publish).
bool state_load(Optimizer* opt, Model* m, const Progress* progress, const Checkpoint* checkpoint, Error* err);
bool state_load_plans(Model* m, const Checkpoint* checkpoint, Error* err);
void state_share_plans(Model* m, Ranks* ranks);        // rank 0's GEMM plans become those of all
// the weights alone, into the model's compute copy: evaluation and sampling need no optimizer
bool state_load_weights(Model* m, const Checkpoint* checkpoint, Error* err);

#ifdef __cplusplus
}
#endif
#endif

// Level 4: the gradients' sum over ranks, bucket by bucket while backward still runs.
//
// Backward goes from the last layer to the first, and so the flat array of matrices is finished from its end: after each layer the buckets
// that are wholly finished are on their way. What is left at the end (the embedding, shared with the head, and the small vectors) follows.
#ifndef REDUCTION_H
#define REDUCTION_H

#include "comm.h"
#include "model.h"
#include "partition.h"

typedef struct {
    Model*           model;
    Comm*            comm;                 // NULL: one rank, nothing to do
    const Partition* partition;
    ReduceType       type;
    int              next;                 // matrix buckets from here up are on their way
    bool             measured;             // the error of bf16 has been
    float*           exact;                // device copy of a bucket, reduced in fp32 to measure it; NULL
} Reduction;

#ifdef __cplusplus
extern "C" {
#endif

void reduction_open(Reduction* r, Model* model, Comm* comm, const Partition* partition, ReduceType type);
// before the backward of a step's last micro-batch; after it reduction_end: model->grads is summed (of a sharded partition: this rank's parts)
// for what is queued on the model's stream from then on
void reduction_begin(Reduction* r);
void reduction_end(Reduction* r);
// relative 2-norm error of the first bucket that was reduced in bf16 (of a sharded one, of this rank's part), against fp32; -1: not measured.
// Once, at the first step, whose gradients it leaves as they would be without it; waits.
double reduction_bf16_error(Reduction* r);

#ifdef __cplusplus
}
#endif
#endif

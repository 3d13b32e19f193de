// Level 5: what a run would be, without running it: options, parameters, memory, arithmetic, and how it would go on many GPUs.
#ifndef DRYRUN_H
#define DRYRUN_H

#include "fit.h"

// A step on `gpus` GPUs, in milliseconds, by the model that dry_run prints.
typedef struct {
    double compute;            // forward, backward, update, alone on its GPU
    double slowed;             // how much longer it takes beside the reductions it hides
    double reduction;          // of the gradients; with --zero 1 the gathering of the weights too
    double waited;             // what of it no computation hides
} StepEstimate;

// What the estimate rests on: bytes that travel, how fast, and beside what.
typedef struct {
    double compute_ms, backward_ms;      // of a step; of its last micro-batch's backward, which hides what it can
    double body_bytes, tail_bytes;       // gradients that are reduced during it, and those that only its end finishes
    double gather_bytes;                 // weights gathered after the update (--zero 1), else 0
    int    buckets, host_gpus;
    double gpu_link, host_link;          // bytes per millisecond
} EstimateInput;

#ifdef __cplusplus
extern "C" {
#endif

StepEstimate estimate_step(const EstimateInput* in, int gpus);

int dry_run(const Config* cfg, PlanRun plan);                                  // the exit status

#ifdef __cplusplus
}
#endif
#endif

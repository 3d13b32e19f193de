// Level 5: optimizer steps that do not wait. The host puts a step into the stream, and reads what it came to while the next one runs.
#ifndef STEP_H
#define STEP_H

#include "dataloader.h"
#include "optimizer.h"
#include "reduction.h"

typedef struct {
    int64_t step;            // its number, counted from 1
    bool    applied;         // false: loss or norm was not finite, or above its limit; nothing was changed
    double  loss;            // mean over the step's targets
    double  norm;            // of the gradient, before clipping
    double  lr;
    double  ms;              // on the device: from the end of the step before it, or from its own start if the device was idle then
} StepOutcome;

// A step under way: where the device will say what it came to.
typedef struct {
    UpdateDecision* outcome;         // pinned
    DeviceEvent    *begun, *done;    // recorded in front of the step, and behind the copy into outcome
    int64_t step;
    double  lr;
} StepSlot;

enum { STEPS_AHEAD = 2 };

typedef struct {
    Model*      model;
    Optimizer*  opt;
    DataLoader* loader;
    Reduction*  reduction;           // of the gradients over ranks
    int         rows, T;             // of a micro-batch
    int64_t     batch_tokens;        // of a step
    StepSlot    slot[STEPS_AHEAD];   // step n in slot n % STEPS_AHEAD
    int         under_way;
    int64_t     newest;              // the step begun last
    DeviceEvent* begun;              // in front of the gradients that no update has taken yet
    double      loader_ms;           // what the host has spent waiting for the loader, in all
    double      steps_ms;            // sum of all steps' ms
} Stepper;

#ifdef __cplusplus
extern "C" {
#endif

double clock_ms(void);               // a clock that only goes on

Stepper stepper_open(Model* model, Optimizer* opt, DataLoader* loader, Reduction* reduction, int rows, int T, int64_t batch_tokens);
void    stepper_close(Stepper* s);

// Forward and backward of this rank's rows of a step, micro-batch by micro-batch; each target counts 1 / batch_tokens. During the last backward
// the reduction over ranks begins.
bool stepper_gradients(Stepper* s, Error* err);
// The rest of the reduction, and the update that belongs to them, as step number `step`. At most STEPS_AHEAD steps are under way at once.
void stepper_update(Stepper* s, int64_t step, const AdamWSettings* settings);
// Waits for the oldest step under way.
StepOutcome stepper_wait(Stepper* s);

#ifdef __cplusplus
}
#endif
#endif

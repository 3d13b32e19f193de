// Level 4: the learning rate, a pure function of the step.
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include <math.h>

#include "config.h"

// Learning rate of the step with index `step` (0 is the first). Linear warm-up reaches the peak at index warmup-1; then
//   cosine    half a cosine from the peak to a tenth of it at the last step
//   linear    a straight line between the same ends
//   wsd       the peak until `cooldown` steps remain, then a straight line to a tenth
//   constant  the peak
static inline double schedule_lr(const Config* cfg, int64_t step) {
    const double floor = 0.1;                                        // of the peak, where the schedule ends
    if (step < cfg->warmup) { return cfg->lr * (double)(step + 1) / cfg->warmup; }
    int64_t first = cfg->schedule == SCHEDULE_WSD ? cfg->steps - cfg->cooldown : cfg->warmup;
    if (first < cfg->warmup) { first = cfg->warmup; }
    int64_t span = cfg->steps - 1 - first;
    if (cfg->schedule == SCHEDULE_CONSTANT || step < first) { return cfg->lr; }
    double done = span > 0 ? (double)(step - first) / (double)span : 1;
    if (done > 1) { done = 1; }
    double left = cfg->schedule == SCHEDULE_COSINE ? 0.5 * (1 + cos(3.14159265358979323846 * done)) : 1 - done;
    return cfg->lr * (floor + (1 - floor) * left);
}

#endif

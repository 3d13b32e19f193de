// Level 0: is a value far above what came before? For --skip-z, which skips steps whose loss or gradient norm is.
//
// Judged is x > mean + z deviations of the last OUTLIER_WINDOW values, and nothing before the window is full. An outlier enters the window no
// higher than that limit, so that one spike does not blind the detector, and a lasting new level is accepted after some steps.
#ifndef OUTLIER_H
#define OUTLIER_H

#include "common.h"

enum { OUTLIER_WINDOW = 128, OUTLIER_STATE = OUTLIER_WINDOW + 1 };

typedef struct {
    int64_t seen;                        // values so far; value i is at i % OUTLIER_WINDOW
    double  value[OUTLIER_WINDOW];
} Outliers;

#ifdef __cplusplus
extern "C" {
#endif

// Above this the next value is an outlier; INFINITY: none is, because z is 0, the window fills, or all its values are the same.
double outliers_limit(const Outliers* outliers, double z);
// Takes x in, which was judged by `limit`.
void   outliers_add(Outliers* outliers, double x, double limit);

// for the checkpoint: OUTLIER_STATE numbers. False: they are no such state.
void outliers_put(const Outliers* outliers, double* state);
bool outliers_get(Outliers* outliers, const double* state);

#ifdef __cplusplus
}
#endif
#endif

#include "outlier.h"

#include <math.h>
#include <string.h>

double outliers_limit(const Outliers* outliers, double z) {
    double sum = 0, squares = 0;
    if (z <= 0 || outliers->seen < OUTLIER_WINDOW) { return INFINITY; }
    for (int i = 0; i < OUTLIER_WINDOW; i++) { sum += outliers->value[i]; }
    double mean = sum / OUTLIER_WINDOW;                // two passes: values of 10 that differ by 1e-6 keep their deviation
    for (int i = 0; i < OUTLIER_WINDOW; i++) { squares += (outliers->value[i] - mean) * (outliers->value[i] - mean); }
    return squares > 0 ? mean + z * sqrt(squares / (OUTLIER_WINDOW - 1)) : INFINITY;
}

void outliers_add(Outliers* outliers, double x, double limit) {
    outliers->value[outliers->seen++ % OUTLIER_WINDOW] = fmin(x, limit);
}

void outliers_put(const Outliers* outliers, double* state) {
    state[0] = (double)outliers->seen;
    memcpy(state + 1, outliers->value, sizeof outliers->value);
}

bool outliers_get(Outliers* outliers, const double* state) {
    if (!(state[0] >= 0 && state[0] < 9e15 && state[0] == floor(state[0]))) { return false; }
    for (int i = 1; i < OUTLIER_STATE; i++) {
        if (!isfinite(state[i])) { return false; }
    }
    outliers->seen = (int64_t)state[0];
    memcpy(outliers->value, state + 1, sizeof outliers->value);
    return true;
}

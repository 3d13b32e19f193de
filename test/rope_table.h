// The table of rope_forward and swa_backward: {cos, sin} of t * 10000^(-2i/D), and the same for turning the other way.
#ifndef ROPE_TABLE_H
#define ROPE_TABLE_H

#include <math.h>
#include <stdlib.h>

// direction: 1, or -1 for the angles' negatives
static inline float* rope_table(int T, int D, int direction) {
    float* table = (float*)malloc((size_t)T * D * sizeof(float));
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < D / 2; i++) {
            double angle = t * pow(10000.0, -2.0 * i / D);
            table[((size_t)t * (D / 2) + i) * 2]     = (float)cos(angle);
            table[((size_t)t * (D / 2) + i) * 2 + 1] = (float)(direction * sin(angle));
        }
    }
    return table;
}

#endif

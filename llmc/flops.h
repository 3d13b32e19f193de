// Level 3: floating-point operations of a training step, for MFU.
#ifndef FLOPS_H
#define FLOPS_H

#include "params.h"

// Mean number of keys a query of layer l reads in a row of T tokens, as executed (`dense`: as if it were full causal attention).
static inline double mean_keys(const ModelShape* s, int l, int T, bool dense) {
    const LayerSpec* spec = &s->layer[l];
    double keys = 0;
    if (dense || spec->kind != LAYER_M) {
        double w = dense || spec->window > T ? T : spec->window;
        return (w * (w + 1) / 2 + (T - w) * w) / T;
    }
    for (int start = 0; start < T; start += spec->block) {             // a block of queries at a time
        int n = T - start < spec->block ? T - start : spec->block, past = start / spec->block;
        int routed = past < spec->topk - 1 ? past : spec->topk - 1;
        keys += (double)n * ((double)routed * spec->block + (n + 1) / 2.0);
    }
    return keys / T;
}

// Forward + backward of one token: 6 * (weights in matrix products, head included) + 12 * C * keys for each layer's attention
static inline double flops_per_token(const ModelShape* s, int T, bool dense) {
    double C = s->C, weights = (double)s->Vp * C, attention = 0;
    for (int l = 0; l < s->L; l++) {
        weights += 4 * C * C + 3 * (double)s->F * C;
        attention += 12 * C * mean_keys(s, l, T, dense);
    }
    return 6 * weights + attention;
}

#endif

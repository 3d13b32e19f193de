// A small network for tests on the CPU, livelier than at initialisation: norm weights are not all 1, and attention is not nearly flat.
// The file that includes it says VOCAB first.
#ifndef TINY_NET_H
#define TINY_NET_H

#include "test.h"

#include "kvcache.h"
#include "optimizer.h"
#include "rng.h"

typedef struct {
    Model     m;
    Optimizer opt;
} Net;

static void enliven(Net* net, float factor) {
    for (int i = 0; i < net->m.table.count; i++) {
        const Tensor* t = &net->m.table.tensor[i];
        float* x = net->opt.master + t->offset;
        for (size_t j = 0; j < (size_t)t->rows * (size_t)t->cols; j++) {
            if (t->is_matrix)             { x[j] *= factor; }
            else if (t->init == INIT_ONE) { x[j] += 0.25f * (float)rng_normal(1, rng_stream(t->name), j); }
        }
    }
    optimizer_publish(&net->opt, &net->m);
}

// shape without its layers, which `pattern` gives; matrices are multiplied by `factor`; room: tokens in the cache of generation, 0: none
static Net* tiny_net_open(ModelShape shape, const char* pattern, int B, int T, int room, KeepLevel level, float factor) {
    Net* net = (Net*)xcalloc(1, sizeof *net);
    shape.layer = (LayerSpec*)xcalloc((size_t)shape.L, sizeof *shape.layer);
    Error err;
    CHECK(pattern_parse(shape.layer, shape.L, pattern, &err), "%s", err.text);
    model_plan(&net->m, shape, B, T, level, (size_t)1 << 30);
    optimizer_plan(&net->opt, &net->m);
    if (room > 0) { kvcache_plan(&net->m.cache, &net->m.arena, &net->m.shape, room); }
    model_allocate(&net->m);
    optimizer_init(&net->opt, &net->m, 5);
    enliven(net, factor);
    return net;
}

static void net_close(Net* net) {
    optimizer_close(&net->opt);
    model_close(&net->m);
    free(net);
}

static int* random_tokens(uint64_t seed, int n) {
    int* tokens = (int*)xmalloc((size_t)n * sizeof(int));
    for (int i = 0; i < n; i++) { tokens[i] = (int)(test_bits(&seed) % VOCAB); }
    return tokens;
}

#endif

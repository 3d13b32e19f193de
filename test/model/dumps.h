// What the programs here share: writing a dump in the checkpoint's format, a lively model from train_moba's options, reading dumps back.
#ifndef DUMPS_H
#define DUMPS_H

#include <math.h>
#include <string.h>

#include "checkpoint.h"
#include "config.h"
#include "device.h"
#include "optimizer.h"
#include "rng.h"

// ---- write ------------------------------------------------------------------------------------------------------------------

static inline void put_u64(CheckpointWriter* writer, const char* name, const uint64_t* values, size_t n) {
    Error err;
    int64_t shape[1] = {(int64_t)n};
    TRY(checkpoint_add(writer, name, CHECKPOINT_U64, 1, shape, values, &err));
}

static inline void put_floats(CheckpointWriter* writer, const char* name, const float* values, size_t rows, size_t columns) {
    Error err;
    int64_t shape[2] = {(int64_t)rows, (int64_t)columns};
    TRY(checkpoint_add(writer, name, CHECKPOINT_F32, 2, shape, values, &err));
}

// picked blocks, 16 bits on the device and 64 in a dump
static inline void put_picks(CheckpointWriter* writer, const char* name, const uint16_t* picks, size_t n) {
    uint64_t* wide = (uint64_t*)xmalloc(n * sizeof(uint64_t));
    for (size_t i = 0; i < n; i++) { wide[i] = picks[i]; }
    put_u64(writer, name, wide, n);
    free(wide);
}

// ---- a model ------------------------------------------------------------------------------------------------------------------

// OPTIONS --dry-run: no data is asked for
static inline Config config_of(int argc, char** argv) {
    char** options = (char**)xcalloc((size_t)argc + 2, sizeof(char*));
    for (int i = 0; i < argc; i++) { options[i] = argv[i]; }
    options[argc] = xstrdup("--dry-run");
    return config_parse(argc + 1, options);
}

// As initialised, norm weights are all 1, which hides a swapped pair of them, and attention is nearly flat, which leaves q and k hardly any
// gradient. Matrices four times larger give scores of standard deviation near 1.
static inline void enliven(const Optimizer* opt, Model* m, uint64_t seed) {
    size_t bytes = m->table.elements * sizeof(float);
    float* host = (float*)xmalloc(bytes);
    device_download(host, opt->master, bytes, m->stream);
    stream_sync(m->stream);
    for (int i = 0; i < m->table.count; i++) {
        const Tensor* t = &m->table.tensor[i];
        size_t n = (size_t)t->rows * (size_t)t->cols;
        for (size_t j = 0; j < n; j++) {
            if (t->is_matrix)             { host[t->offset + j] *= 4; }
            else if (t->init == INIT_ONE) { host[t->offset + j] += 0.25f * (float)rng_normal(seed, rng_stream(t->name), j); }
        }
    }
    device_upload(opt->master, host, bytes, m->stream);
    stream_sync(m->stream);
    optimizer_publish(opt, m);
    free(host);
}

// random ids: the inputs from stream 0, the targets from stream 1
static inline int* random_ids(uint64_t stream, size_t n, int vocab) {
    int* ids = (int*)xmalloc(n * sizeof(int));
    for (size_t i = 0; i < n; i++) { ids[i] = (int)(rng_bits(1, stream, i).a % (uint64_t)vocab); }
    return ids;
}

// ---- read and compare -----------------------------------------------------------------------------------------------------------

static inline float* read_floats(const Checkpoint* dump, const char* name, size_t* n) {
    Error err;
    const CheckpointRecord* record = checkpoint_find(dump, name);
    REQUIRE(record, "%s holds no %s", dump->path, name);
    size_t bytes = checkpoint_tensor_bytes(record);
    float* values = (float*)xmalloc(bytes);
    TRY(checkpoint_read(dump, name, CHECKPOINT_F32, values, bytes, &err));
    *n = checkpoint_tensor_elements(record);
    return values;
}

static inline uint16_t* read_picks(const Checkpoint* dump, const char* name, size_t* n) {
    Error err;
    const CheckpointRecord* record = checkpoint_find(dump, name);
    REQUIRE(record, "%s holds no %s", dump->path, name);
    *n = checkpoint_tensor_elements(record);
    uint64_t* wide = (uint64_t*)xmalloc(*n * sizeof(uint64_t));
    uint16_t* picks = (uint16_t*)xmalloc(*n * sizeof(uint16_t));
    TRY(checkpoint_read(dump, name, CHECKPOINT_U64, wide, *n * sizeof(uint64_t), &err));
    for (size_t i = 0; i < *n; i++) { picks[i] = (uint16_t)wide[i]; }
    free(wide);
    return picks;
}

// 2-norms
static inline double distance(const float* a, const float* b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]); }
    return sqrt(sum);
}

static inline double norm(const float* a, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += (double)a[i] * a[i]; }
    return sqrt(sum);
}

#endif

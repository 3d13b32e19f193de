#include "state.h"

#include "device.h"
#include "ops.h"

enum { COUNTER_STEP, COUNTER_UPDATES, COUNTER_BAD_STEPS, COUNTERS };

static bool save_arena(CheckpointWriter* writer, const char* kind, const float* device, const Model* m, float* host, int64_t* bytes, Error* err) {
    device_download(host, device, m->table.elements * sizeof(float), m->stream);
    stream_sync(m->stream);
    for (int i = 0; i < m->table.count; i++) {
        const Tensor* t = &m->table.tensor[i];
        if (t->rows == 0) { continue; }
        char name[CHECKPOINT_NAME];
        snprintf(name, sizeof name, "%s/%s", kind, t->name);
        int64_t shape[2] = {t->rows, t->cols};
        if (!checkpoint_add(writer, name, CHECKPOINT_F32, 2, shape, host + t->offset, err)) { return false; }
        *bytes += (int64_t)t->rows * t->cols * (int64_t)sizeof(float);
    }
    return true;
}

// Which algorithm multiplies shows in the last bits: a resumed run takes over the plans. The CPU has none, and no record.
static bool save_plans(CheckpointWriter* writer, const Model* m, Error* err) {
    size_t bytes = matmul_plans_text(NULL, 0, m->plans);
    if (bytes == 0) { return true; }
    char* text = (char*)xmalloc(bytes + 1);
    matmul_plans_text(text, bytes + 1, m->plans);
    bool ok = checkpoint_add_text(writer, "gemm_plans", text, err);
    free(text);
    return ok;
}

bool state_save(const Optimizer* opt, Model* m, const Progress* progress, const char* options, const char* checkpoints_dir,
                int64_t* bytes, Error* err) {
    CheckpointWriter* writer = checkpoint_begin(checkpoints_dir, progress->step, err);
    if (!writer) { return false; }
    float* host = (float*)xmalloc(m->table.elements * sizeof(float));
    uint64_t counters[COUNTERS] = {(uint64_t)progress->step, (uint64_t)opt->updates, (uint64_t)progress->bad_steps};
    int64_t counters_shape[1] = {COUNTERS};
    *bytes = 0;
    bool ok = checkpoint_add_text(writer, "options", options, err)
           && checkpoint_add(writer, "counters", CHECKPOINT_U64, 1, counters_shape, counters, err)
           && save_plans(writer, m, err)
           && save_arena(writer, "master", opt->master, m, host, bytes, err)
           && save_arena(writer, "m", opt->m, m, host, bytes, err)
           && save_arena(writer, "v", opt->v, m, host, bytes, err);
    free(host);
    if (!ok) {
        checkpoint_abort(writer);
        return false;
    }
    return checkpoint_commit(writer, err);
}

static bool load_arena(float* host, const char* kind, const Model* m, const Checkpoint* checkpoint, Error* err) {
    memset(host, 0, m->table.elements * sizeof(float));
    for (int i = 0; i < m->table.count; i++) {
        const Tensor* t = &m->table.tensor[i];
        if (t->rows == 0) { continue; }
        char name[CHECKPOINT_NAME];
        snprintf(name, sizeof name, "%s/%s", kind, t->name);
        if (!checkpoint_read(checkpoint, name, CHECKPOINT_F32, host + t->offset, (size_t)t->rows * (size_t)t->cols * sizeof(float), err)) { return false; }
    }
    return true;
}

static bool load_to_device(float* device, const char* kind, Model* m, float* host, const Checkpoint* checkpoint, Error* err) {
    if (!load_arena(host, kind, m, checkpoint, err)) { return false; }
    device_upload(device, host, m->table.elements * sizeof(float), m->stream);
    stream_sync(m->stream);
    return true;
}

static bool load_plans(Model* m, const Checkpoint* checkpoint, Error* err) {
    if (!checkpoint_find(checkpoint, "gemm_plans")) { return true; }
    char* text = checkpoint_read_text(checkpoint, "gemm_plans", err);
    if (!text) { return false; }
    matmul_plans_take(m->plans, text);
    free(text);
    return true;
}

bool state_load(Optimizer* opt, Model* m, Progress* progress, const Checkpoint* checkpoint, Error* err) {
    uint64_t counters[COUNTERS];
    if (!checkpoint_read(checkpoint, "counters", CHECKPOINT_U64, counters, sizeof counters, err)) { return false; }
    if (!load_plans(m, checkpoint, err)) { return false; }
    float* host = (float*)xmalloc(m->table.elements * sizeof(float));
    bool ok = load_to_device(opt->master, "master", m, host, checkpoint, err)
           && load_to_device(opt->m, "m", m, host, checkpoint, err)
           && load_to_device(opt->v, "v", m, host, checkpoint, err);
    free(host);
    if (!ok) { return false; }
    progress->step = (int64_t)counters[COUNTER_STEP];
    progress->bad_steps = (int64_t)counters[COUNTER_BAD_STEPS];
    optimizer_set_updates(opt, m, (int64_t)counters[COUNTER_UPDATES]);
    optimizer_publish(opt, m);
    return true;
}

bool state_load_weights(Model* m, const Checkpoint* checkpoint, Error* err) {
    Optimizer weights = {0};
    float* host = (float*)xmalloc(m->table.elements * sizeof(float));
    weights.master = (float*)device_malloc(m->table.elements * sizeof(float));
    bool ok = load_to_device(weights.master, "master", m, host, checkpoint, err);
    if (ok) { optimizer_publish(&weights, m); }
    stream_sync(m->stream);
    device_free(weights.master);
    free(host);
    return ok;
}

#include "state.h"

#include "device.h"
#include "ops.h"

enum { COUNTER_STEP, COUNTER_UPDATES, COUNTER_BAD_STEPS, COUNTER_ROWS, COUNTER_DATA_TOKENS, COUNTER_DATA_PRINT, COUNTERS };
static const char* const ARENA_NAME[3] = { "master", "m", "v" };
static const int64_t COUNTERS_SHAPE[1] = { COUNTERS }, DETECTOR_SHAPE[2] = { 2, OUTLIER_STATE };

// elements [first, first + count) of the tensor are the rank's own from `local` on
typedef struct { uint64_t first, count; size_t local; } Part;

static Part overlap(const Tensor* t, const Span* span) {
    size_t elements = (size_t)t->rows * (size_t)t->cols;
    size_t from = max_size(t->offset, span->flat), to = min_size(t->offset + elements, span->flat + span->count);
    Part part = { 0, 0, 0 };
    if (from < to) { part.first = from - t->offset; part.count = to - from; part.local = span->local + (from - span->flat); }
    return part;
}

static void record_name(char* name, const char* kind, const Tensor* t) { snprintf(name, CHECKPOINT_NAME, "%s/%s", kind, t->name); }

StateRange state_held(const Optimizer* opt) {
    const Partition* p = &opt->partition;
    StateRange range = { p->span, p->spans, p->local_elements, opt->master, opt->m, opt->v };
    return range;
}

StateRange state_share(const Optimizer* opt) {
    const Partition* p = &opt->partition;
    StateRange range = { &p->share, 1, p->share.count, opt->master + p->share.flat, opt->m + p->share.flat, opt->v + p->share.flat };
    return p->sharded ? state_held(opt) : range;
}

// ---- to a checkpoint -------------------------------------------------------------------------------------------------
void snapshot_open(Snapshot* snapshot, const Model* m, StateRange range, bool staged) {
    memset(snapshot, 0, sizeof *snapshot);
    snapshot->model = m;
    snapshot->range = range;
    snapshot->staged = staged;
    for (int i = 0; i < (staged ? 3 : 1); i++) { snapshot->arena[i] = (float*)pinned_malloc(range.count * sizeof(float)); }
}

void snapshot_close(Snapshot* snapshot) {
    for (int i = 0; i < 3; i++) { pinned_free(snapshot->arena[i]); }
    free(snapshot->options);
    free(snapshot->plans);
}

size_t snapshot_bytes(const Snapshot* snapshot) { return 3 * snapshot->model->table.parameters * sizeof(float); }

static const float* device_arena(const StateRange* range, int i) { return i == 0 ? range->master : i == 1 ? range->m : range->v; }

void snapshot_take(Snapshot* snapshot, const Progress* progress, const char* options) {
    stream_t stream = snapshot->model->stream;
    for (int i = 0; snapshot->staged && i < 3; i++) {
        device_download(snapshot->arena[i], device_arena(&snapshot->range, i), snapshot->range.count * sizeof(float), stream);
    }
    stream_sync(stream);
    snapshot->progress = *progress;
    free(snapshot->options);
    free(snapshot->plans);
    snapshot->options = xstrdup(options);
    size_t room = matmul_plans_text(NULL, 0, snapshot->model->plans) + 1;      // which algorithm multiplies shows in the last bits
    snapshot->plans = (char*)xcalloc(room, 1);
    matmul_plans_text(snapshot->plans, room, snapshot->model->plans);
}

static bool write_arena(const Snapshot* snapshot, int i, CheckpointWriter* writer, Error* err) {
    const ParamTable* table = &snapshot->model->table;
    const float* host = snapshot->arena[snapshot->staged ? i : 0];
    if (!snapshot->staged) {
        device_download(snapshot->arena[0], device_arena(&snapshot->range, i), snapshot->range.count * sizeof(float), snapshot->model->stream);
        stream_sync(snapshot->model->stream);
    }
    for (int k = 0; k < table->count; k++) {
        const Tensor* t = &table->tensor[k];
        char name[CHECKPOINT_NAME];
        int64_t shape[2] = { t->rows, t->cols };
        record_name(name, ARENA_NAME[i], t);
        for (int s = 0; s < snapshot->range.spans; s++) {
            Part part = overlap(t, &snapshot->range.span[s]);
            if (part.count == 0) { continue; }
            if (!checkpoint_add_slice(writer, name, CHECKPOINT_F32, 2, shape, part.first, part.count, host + part.local, err)) { return false; }
        }
    }
    return true;
}

bool snapshot_write(const Snapshot* snapshot, CheckpointWriter* writer, bool is_part_0, Error* err) {
    const Progress* progress = &snapshot->progress;
    uint64_t counters[COUNTERS] = { (uint64_t)progress->step, (uint64_t)progress->updates, (uint64_t)progress->bad_steps, (uint64_t)progress->rows,
                                    (uint64_t)progress->data_tokens, progress->data_print };
    double detector[2 * OUTLIER_STATE];
    outliers_put(&progress->loss, detector);
    outliers_put(&progress->log_norm, detector + OUTLIER_STATE);
    bool ok = !is_part_0 || (checkpoint_add_text(writer, "options", snapshot->options, err)
                          && checkpoint_add(writer, "counters", CHECKPOINT_U64, 1, COUNTERS_SHAPE, counters, err)
                          && checkpoint_add(writer, "detector", CHECKPOINT_F64, 2, DETECTOR_SHAPE, detector, err)
                          && (!snapshot->plans[0] || checkpoint_add_text(writer, "gemm_plans", snapshot->plans, err)));
    for (int i = 0; ok && i < 3; i++) { ok = write_arena(snapshot, i, writer, err); }
    return ok;
}

// ---- from a checkpoint -----------------------------------------------------------------------------------------------
// The range's elements of one arena through host memory of range->count. What lies between tensors is zero.
static bool load_arena(float* device, const char* kind, const StateRange* range, float* host, Model* m, const Checkpoint* checkpoint, Error* err) {
    memset(host, 0, range->count * sizeof(float));
    for (int i = 0; i < m->table.count; i++) {
        const Tensor* t = &m->table.tensor[i];
        if (t->rows == 0) { continue; }
        char name[CHECKPOINT_NAME];
        record_name(name, kind, t);
        const CheckpointRecord* record = checkpoint_find(checkpoint, name);
        if (record && (record->ndim != 2 || record->shape[0] != (uint64_t)t->rows || record->shape[1] != (uint64_t)t->cols)) {
            return error_set(err, EXIT_DATA, "checkpoint %s: '%s' is not %d x %d, as the model's is", checkpoint->path, name, t->rows, t->cols);
        }
        for (int s = 0; s < range->spans; s++) {
            Part part = overlap(t, &range->span[s]);
            if (part.count && !checkpoint_read_range(checkpoint, name, CHECKPOINT_F32, part.first, part.count, host + part.local, err)) { return false; }
        }
    }
    device_upload(device, host, range->count * sizeof(float), m->stream);
    stream_sync(m->stream);
    return true;
}

bool state_load_range(const StateRange* range, Model* m, const Checkpoint* checkpoint, Error* err) {
    float* host = (float*)xmalloc(range->count * sizeof(float));
    bool ok = load_arena(range->master, ARENA_NAME[0], range, host, m, checkpoint, err)
           && load_arena(range->m, ARENA_NAME[1], range, host, m, checkpoint, err)
           && load_arena(range->v, ARENA_NAME[2], range, host, m, checkpoint, err);
    free(host);
    return ok;
}

bool state_read_progress(Progress* progress, const Checkpoint* checkpoint, Error* err) {
    uint64_t c[COUNTERS];
    double detector[2 * OUTLIER_STATE];
    if (!checkpoint_read(checkpoint, "counters", CHECKPOINT_U64, c, sizeof c, err)) { return false; }
    if (!checkpoint_read(checkpoint, "detector", CHECKPOINT_F64, detector, sizeof detector, err)) { return false; }
    bool sound = c[COUNTER_STEP] == (uint64_t)checkpoint->step && c[COUNTER_UPDATES] <= c[COUNTER_STEP] && c[COUNTER_BAD_STEPS] <= c[COUNTER_STEP] &&
                 c[COUNTER_ROWS] <= (uint64_t)1 << 60 && c[COUNTER_DATA_TOKENS] <= INT64_MAX &&
                 outliers_get(&progress->loss, detector) && outliers_get(&progress->log_norm, detector + OUTLIER_STATE);
    if (!sound) { return error_set(err, EXIT_DATA, "checkpoint %s: its counters contradict each other", checkpoint->path); }
    progress->step = (int64_t)c[COUNTER_STEP];
    progress->updates = (int64_t)c[COUNTER_UPDATES];
    progress->bad_steps = (int64_t)c[COUNTER_BAD_STEPS];
    progress->rows = (int64_t)c[COUNTER_ROWS];
    progress->data_tokens = (int64_t)c[COUNTER_DATA_TOKENS];
    progress->data_print = c[COUNTER_DATA_PRINT];
    return true;
}

bool state_load_plans(Model* m, const Checkpoint* checkpoint, Error* err) {
    if (!checkpoint_find(checkpoint, "gemm_plans")) { return true; }           // a CPU's has none
    char* text = checkpoint_read_text(checkpoint, "gemm_plans", err);
    if (!text) { return false; }
    matmul_plans_take(m->plans, text);
    free(text);
    return true;
}

void state_share_plans(Model* m, Ranks* ranks) {
    uint64_t room = matmul_plans_text(NULL, 0, m->plans) + 1;
    ranks_broadcast(ranks, &room, sizeof room, "the exchange of GEMM plans");
    char* text = (char*)xcalloc(room, 1);
    if (ranks->rank == 0) { matmul_plans_text(text, room, m->plans); }
    ranks_broadcast(ranks, text, room, "the exchange of GEMM plans");
    if (ranks->rank > 0) { matmul_plans_take(m->plans, text); }
    free(text);
}

bool state_load(Optimizer* opt, Model* m, const Progress* progress, const Checkpoint* checkpoint, Error* err) {
    StateRange range = state_held(opt);
    if (!state_load_plans(m, checkpoint, err) || !state_load_range(&range, m, checkpoint, err)) { return false; }
    optimizer_set_updates(opt, m, progress->updates);
    return true;
}

bool state_load_weights(Model* m, const Checkpoint* checkpoint, Error* err) {
    Optimizer weights = {0};
    size_t bytes = m->table.elements * sizeof(float);
    float* host = (float*)xmalloc(bytes);
    weights.partition = partition_make(&m->table, 0, 1, false, 0);
    weights.master = (float*)device_malloc(bytes);
    StateRange range = state_held(&weights);
    bool ok = load_arena(weights.master, ARENA_NAME[0], &range, host, m, checkpoint, err);
    if (ok) { optimizer_publish(&weights, m); }
    stream_sync(m->stream);
    device_free(weights.master);
    optimizer_close(&weights);
    free(host);
    return ok;
}

#include "optimizer.h"

#include "ops.h"

void optimizer_plan(Optimizer* opt, Model* model) { optimizer_plan_part(opt, model, 0, 1, false); }

void optimizer_plan_part(Optimizer* opt, Model* model, int rank, int world, bool sharded) {
    memset(opt, 0, sizeof *opt);
    opt->partition = partition_make(&model->table, rank, world, sharded, 0);
    size_t bytes = opt->partition.local_elements * sizeof(float);
    arena_add(&model->arena, MEM_PARAMETERS, (void**)&opt->master, bytes);
    arena_add(&model->arena, MEM_OPTIMIZER, (void**)&opt->m, bytes);
    arena_add(&model->arena, MEM_OPTIMIZER, (void**)&opt->v, bytes);
    arena_add(&model->arena, MEM_WORKSPACE, (void**)&opt->sumsq, sizeof(double));
    arena_add(&model->arena, MEM_WORKSPACE, (void**)&opt->decision, sizeof *opt->decision);
    arena_add(&model->arena, MEM_WORKSPACE, &opt->scratch, gradnorm_scratch(model->table.elements));
}

void optimizer_close(Optimizer* opt) { partition_free(&opt->partition); }

// (table.elements) host floats -> this rank's own
static void distribute(const Optimizer* opt, Model* model, float* part, const float* host) {
    for (int i = 0; i < opt->partition.spans; i++) {
        const Span* s = &opt->partition.span[i];
        device_upload(part + s->local, host + s->flat, s->count * sizeof(float), model->stream);
    }
    stream_sync(model->stream);
}

void optimizer_init(Optimizer* opt, Model* model, uint64_t seed) {
    float* host = (float*)xmalloc(model->table.elements * sizeof(float));
    params_init(host, &model->table, &model->shape, seed);
    distribute(opt, model, opt->master, host);
    device_zero(opt->m, opt->partition.local_elements * sizeof(float), model->stream);
    device_zero(opt->v, opt->partition.local_elements * sizeof(float), model->stream);
    stream_sync(model->stream);
    free(host);
    optimizer_set_updates(opt, model, 0);
    optimizer_publish(opt, model);
}

void optimizer_set_updates(Optimizer* opt, Model* model, int64_t updates) {
    UpdateDecision start;
    memset(&start, 0, sizeof start);
    start.updates = opt->updates = updates;
    device_upload(opt->decision, &start, sizeof start, model->stream);
    stream_sync(model->stream);
}

// ---- spans: what lies together both in the flat arrays and among the rank's own ---------------------------------------------------

static bool    is_matrix(const Optimizer* opt, const Span* s)                   { return s->flat < opt->partition.matrix_elements; }
static floatX* matrices_at(const Optimizer* opt, const Model* m, const Span* s) { return is_matrix(opt, s) ? m->matrices + s->flat : NULL; }
static float*  vectors_at(const Optimizer* opt, const Model* m, const Span* s)  {
    return is_matrix(opt, s) ? NULL : m->vectors + (s->flat - opt->partition.matrix_elements);
}

// the compute copy of a bucket of which each rank has its part
static void gather_weights(const Optimizer* opt, Model* m, const Span* s) {
    const Partition* p = &opt->partition;
    if (!p->sharded) { return; }
    size_t first = p->bucket[s->bucket].first;
    if (is_matrix(opt, s)) { comm_gather(opt->comm, m->matrices + first, s->count * sizeof(floatX), m->stream); }
    else                   { comm_gather(opt->comm, m->vectors + (first - p->matrix_elements), s->count * sizeof(float), m->stream); }
}

void optimizer_publish(const Optimizer* opt, Model* model) {
    for (int i = 0; i < opt->partition.spans; i++) {
        const Span* s = &opt->partition.span[i];
        adamw_copy(matrices_at(opt, model, s), vectors_at(opt, model, s), opt->master + s->local, s->count, model->stream);
        gather_weights(opt, model, s);
    }
    if (opt->partition.sharded) { comm_join(opt->comm, model->stream); }
}

void optimizer_norm(Optimizer* opt, Model* model) {
    const Partition* p = &opt->partition;
    device_zero(opt->sumsq, sizeof(double), model->stream);
    if (!p->sharded) { gradnorm_sumsq(opt->sumsq, model->grads, model->table.elements, opt->scratch, model->stream); }
    for (int i = 0; p->sharded && i < p->spans; i++) {
        gradnorm_sumsq(opt->sumsq, model->grads + p->span[i].flat, p->span[i].count, opt->scratch, model->stream);
    }
    if (p->sharded) { comm_sum(opt->comm, opt->sumsq, 1, model->stream); }
    comm_sum(opt->comm, model->acts.total, 1, model->stream);
}

void optimizer_update(Optimizer* opt, Model* model, const AdamWSettings* s) {
    float lr = (float)s->lr, beta1 = (float)s->beta1, beta2 = (float)s->beta2, eps = (float)s->eps;
    adamw_decide(opt->decision, opt->sumsq, model->acts.total, s->beta1, s->beta2, s->clip, s->max_norm, s->max_total, model->stream);
    for (int i = 0; i < opt->partition.spans; i++) {
        const Span* span = &opt->partition.span[i];
        float decay = is_matrix(opt, span) ? (float)s->decay : 0;
        adamw_update(opt->master + span->local, opt->m + span->local, opt->v + span->local, matrices_at(opt, model, span), vectors_at(opt, model, span),
                     model->grads + span->flat, span->count, lr, beta1, beta2, eps, decay, opt->decision, model->stream);
        gather_weights(opt, model, span);
    }
    if (opt->partition.sharded) { comm_join(opt->comm, model->stream); }
}

uint64_t optimizer_fingerprint(const Optimizer* opt, const Model* model) {
    const ParamTable* t = &model->table;
    size_t all = t->elements * sizeof(float), vectors = (t->elements - t->matrix_elements) * sizeof(float);
    stream_t stream = model->stream;
    uint64_t hash = comm_hash(model->matrices, t->matrix_elements * sizeof(floatX), stream) + 3 * comm_hash(model->vectors, vectors, stream);
    if (opt->partition.sharded) { return hash; }
    return hash + 5 * comm_hash(opt->master, all, stream) + 7 * comm_hash(opt->m, all, stream) + 11 * comm_hash(opt->v, all, stream);
}

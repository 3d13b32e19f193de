#include "optimizer.h"

#include "device.h"
#include "ops.h"

void optimizer_plan(Optimizer* opt, Model* model) {
    memset(opt, 0, sizeof *opt);
    size_t bytes = model->table.elements * sizeof(float);
    arena_add(&model->arena, MEM_PARAMETERS, (void**)&opt->master, bytes);
    arena_add(&model->arena, MEM_OPTIMIZER, (void**)&opt->m, bytes);
    arena_add(&model->arena, MEM_OPTIMIZER, (void**)&opt->v, bytes);
    arena_add(&model->arena, MEM_WORKSPACE, (void**)&opt->sumsq, sizeof(double));
    arena_add(&model->arena, MEM_WORKSPACE, (void**)&opt->decision, sizeof *opt->decision);
    arena_add(&model->arena, MEM_WORKSPACE, &opt->scratch, gradnorm_scratch(model->table.elements));
}

void optimizer_init(Optimizer* opt, Model* model, uint64_t seed) {
    size_t bytes = model->table.elements * sizeof(float);
    float* host = (float*)xmalloc(bytes);
    params_init(host, &model->table, &model->shape, seed);
    device_upload(opt->master, host, bytes, model->stream);
    device_zero(opt->m, bytes, model->stream);
    device_zero(opt->v, bytes, model->stream);
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

void optimizer_publish(const Optimizer* opt, Model* model) {
    size_t matrices = model->table.matrix_elements, vectors = model->table.elements - matrices;
    adamw_copy(model->matrices, NULL, opt->master, matrices, model->stream);
    adamw_copy(NULL, model->vectors, opt->master + matrices, vectors, model->stream);
}

void optimizer_norm(Optimizer* opt, Model* model) {
    gradnorm_sumsq(opt->sumsq, model->grads, model->table.elements, opt->scratch, model->stream);
}

void optimizer_update(Optimizer* opt, Model* model, const AdamWSettings* s) {
    size_t matrices = model->table.matrix_elements, vectors = model->table.elements - matrices;
    float lr = (float)s->lr, beta1 = (float)s->beta1, beta2 = (float)s->beta2, eps = (float)s->eps;
    adamw_decide(opt->decision, opt->sumsq, model->acts.total, s->beta1, s->beta2, s->clip, s->max_norm, s->max_total, model->stream);
    adamw_update(opt->master, opt->m, opt->v, model->matrices, NULL, model->grads, matrices, lr, beta1, beta2, eps, (float)s->decay,
                 opt->decision, model->stream);
    adamw_update(opt->master + matrices, opt->m + matrices, opt->v + matrices, NULL, model->vectors, model->grads + matrices, vectors,
                 lr, beta1, beta2, eps, 0.0f, opt->decision, model->stream);
}

UpdateDecision optimizer_outcome(Optimizer* opt, Model* model) {
    UpdateDecision outcome;
    device_download(&outcome, opt->decision, sizeof outcome, model->stream);
    stream_sync(model->stream);
    opt->updates = outcome.updates;
    return outcome;
}

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
    opt->updates = 0;
    optimizer_publish(opt, model);
}

void optimizer_publish(const Optimizer* opt, Model* model) {
    size_t matrices = model->table.matrix_elements, vectors = model->table.elements - matrices;
    adamw_copy(model->matrices, NULL, opt->master, matrices, model->stream);
    adamw_copy(NULL, model->vectors, opt->master + matrices, vectors, model->stream);
}

double optimizer_grad_norm(const Optimizer* opt, Model* model) {
    double sumsq;
    gradnorm_sumsq(opt->sumsq, model->grads, model->table.elements, opt->scratch, model->stream);
    device_download(&sumsq, opt->sumsq, sizeof sumsq, model->stream);
    stream_sync(model->stream);
    return sqrt(sumsq);
}

void optimizer_update(Optimizer* opt, Model* model, const AdamWSettings* s, double norm) {
    opt->updates++;
    double scale = s->clip > 0 ? fmin(1, s->clip / (norm + 1e-6)) : 1;
    float c1 = (float)(1 - pow(s->beta1, (double)opt->updates)), c2 = (float)(1 - pow(s->beta2, (double)opt->updates));
    size_t matrices = model->table.matrix_elements, vectors = model->table.elements - matrices;
    adamw_update(opt->master, opt->m, opt->v, model->matrices, NULL, model->grads, matrices,
                 (float)s->lr, (float)s->beta1, (float)s->beta2, (float)s->eps, (float)s->decay, c1, c2, (float)scale, model->stream);
    adamw_update(opt->master + matrices, opt->m + matrices, opt->v + matrices, NULL, model->vectors, model->grads + matrices, vectors,
                 (float)s->lr, (float)s->beta1, (float)s->beta2, (float)s->eps, 0.0f, c1, c2, (float)scale, model->stream);
}

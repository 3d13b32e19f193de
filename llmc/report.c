#include "report.h"

#include "flops.h"
#include "pattern.h"

void report_device(const Device* device) {
    printf("device      %s, %d %s, %.1f GiB", device->name, device->cores, device->is_gpu ? "multiprocessors" : "threads",
           (double)device->memory_bytes / (1 << 30));
    if (device->peak_flops > 0) { printf(", %.0f TFLOP/s dense bf16 peak", device->peak_flops / 1e12); }
    printf("\n");
}

void report_model(const Model* m) {
    const ModelShape* s = &m->shape;
    char* pattern = pattern_text(s->layer, s->L);
    printf("model       %d layers %s, C %d, %d heads of %d, MLP %d, vocabulary %d (padded %d), kconv %d: %zu parameters (%.1fM)\n",
           s->L, pattern, s->C, s->H, s->D, s->F, s->V, s->Vp, s->W, m->table.parameters, (double)m->table.parameters / 1e6);
    free(pattern);
}

static void report_field(const Model* m, const char* field, int first, int stride, int count, bool is_matrix) {
    size_t elements = 0;
    const Tensor* shown = NULL;
    int present = 0;
    for (int i = 0; i < count; i++) {
        const Tensor* t = &m->table.tensor[first + i * stride];
        if (t->rows == 0) { continue; }
        shown = t;
        present++;
        elements += (size_t)t->rows * (size_t)t->cols;
    }
    if (shown) {
        printf("  %-8s %4d x (%6d, %6d)  %12zu  %s\n", field, present, shown->rows, shown->cols, elements, is_matrix ? "bf16 copy, decayed" : "fp32, not decayed");
    }
}

void report_parameters(const Model* m) {
    enum { VECTOR, MATRIX };
    printf("parameters  (master weights and both moments in fp32)\n");
#define REPORT_MODEL(field, type, ...) report_field(m, #field, MODEL_##field, 1, 1, type == MATRIX);
    MODEL_PARAMS(REPORT_MODEL)
#define REPORT_LAYER(field, type, ...) report_field(m, #field, MODEL_FIELDS + LAYER_##field, LAYER_FIELDS, m->shape.L, type == MATRIX);
    LAYER_PARAMS(REPORT_LAYER)
}

void report_flops(const Config* cfg, const Model* m) {
    double executed = flops_per_token(&m->shape, cfg->seq_len, false), dense = flops_per_token(&m->shape, cfg->seq_len, true);
    double batch = (double)cfg->total_batch;
    printf("FLOPs       %.4g a token forward + backward as executed (dense-equivalent %.4g), %.4g a step, %.4g the run\n",
           executed, dense, executed * batch, executed * batch * cfg->steps);
    printf("tokens      %lld a step in %lld micro-batches of %d x %d, %lld in %d steps\n", (long long)cfg->total_batch,
           (long long)(cfg->total_batch / ((int64_t)cfg->micro_batch * cfg->seq_len)), cfg->micro_batch, cfg->seq_len,
           (long long)cfg->total_batch * cfg->steps, cfg->steps);
}

void report_communication(CommTimes t) {
    if (t.steps == 0 || t.busy_ms <= 0) { return; }
    double steps = (double)t.steps, hidden = fmax(0, 1 - t.waited_ms / t.busy_ms);
    printf("communication  %.2f ms a step, of which training waited for %.2f ms: %.1f %% are hidden\n", t.busy_ms / steps, t.waited_ms / steps, 100 * hidden);
}

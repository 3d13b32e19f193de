#include "ops.h"

void adamw_copy(floatX* copy_x, float* copy_f, const float* master, size_t n, stream_t stream) {
    (void)stream;
    #pragma omp parallel for
    for (size_t i = 0; i < n; i++) {
        if (copy_x) { copy_x[i] = ROUND(master[i]); }
        if (copy_f) { copy_f[i] = master[i]; }
    }
}

void adamw_decide(UpdateDecision* d, const double* sumsq, const double* total, double beta1, double beta2, double clip,
                  double max_norm, double max_total, stream_t stream) {
    (void)stream;
    d->norm = sqrt(*sumsq);
    d->total = *total;
    d->apply = isfinite(d->norm) && isfinite(d->total) && (max_norm <= 0 || d->norm <= max_norm) && (max_total <= 0 || d->total <= max_total);
    d->updates += d->apply;
    d->c1 = (float)(1 - pow(beta1, (double)d->updates));
    d->c2 = (float)(1 - pow(beta2, (double)d->updates));
    d->grad_scale = clip > 0 ? (float)fmin(1, clip / (d->norm + 1e-6)) : 1;
}

void adamw_update(float* master, float* m, float* v, floatX* copy_x, float* copy_f, const float* grad, size_t n,
                  float lr, float beta1, float beta2, float eps, float decay, const UpdateDecision* d, stream_t stream) {
    if (!d->apply) { return; }
    double b1 = beta1, b2 = beta2;
    #pragma omp parallel for
    for (size_t i = 0; i < n; i++) {
        double g = (double)grad[i] * d->grad_scale;
        m[i] = b1 * m[i] + (1 - b1) * g;
        v[i] = b2 * v[i] + (1 - b2) * g * g;
        double step = (m[i] / d->c1) / (sqrt(v[i] / d->c2) + eps) + (double)decay * master[i];
        master[i] -= lr * step;
    }
    adamw_copy(copy_x, copy_f, master, n, stream);
}

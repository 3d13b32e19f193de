#include "ops.h"

void adamw_copy(floatX* copy_x, float* copy_f, const float* master, size_t n, stream_t stream) {
    (void)stream;
    #pragma omp parallel for
    for (size_t i = 0; i < n; i++) {
        if (copy_x) { copy_x[i] = ROUND(master[i]); }
        if (copy_f) { copy_f[i] = master[i]; }
    }
}

void adamw_update(float* master, float* m, float* v, floatX* copy_x, float* copy_f, const float* grad, size_t n,
                  float lr, float beta1, float beta2, float eps, float decay, float c1, float c2, float grad_scale, stream_t stream) {
    double b1 = beta1, b2 = beta2;
    #pragma omp parallel for
    for (size_t i = 0; i < n; i++) {
        double g = (double)grad[i] * grad_scale;
        m[i] = b1 * m[i] + (1 - b1) * g;
        v[i] = b2 * v[i] + (1 - b2) * g * g;
        double step = (m[i] / c1) / (sqrt(v[i] / c2) + eps) + (double)decay * master[i];
        master[i] -= lr * step;
    }
    adamw_copy(copy_x, copy_f, master, n, stream);
}

#include "ops.h"

static void normalise_row(floatX* out, float* rstd, const floatX* x, const float* weight, int C, float eps) {
    double sumsq = 0;
    #pragma omp simd reduction(+:sumsq)
    for (int c = 0; c < C; c++) { sumsq += (double)x[c] * x[c]; }
    double r = 1.0 / sqrt(sumsq / C + eps);
    *rstd = r;
    for (int c = 0; c < C; c++) { out[c] = ROUND(x[c] * r * weight[c]); }
}

void rmsnorm_forward(floatX* out, float* rstd, const floatX* inp, const float* weight, int N, int C, float eps, stream_t stream) {
    (void)stream;
    #pragma omp parallel for
    for (int i = 0; i < N; i++) {
        normalise_row(out + (size_t)i * C, rstd + i, inp + (size_t)i * C, weight, C, eps);
    }
}

size_t rmsnorm_backward_scratch(int N, int C) {
    (void)N; (void)C;
    return 0;
}

static void backward_row(floatX* dinp, const floatX* dout, const floatX* inp, const float* weight, double rstd, int C) {
    double mean = 0;                                                    // of g * inp, g = dout * weight
    #pragma omp simd reduction(+:mean)
    for (int c = 0; c < C; c++) { mean += (double)dout[c] * weight[c] * inp[c]; }
    mean /= C;
    for (int c = 0; c < C; c++) {
        double g = (double)dout[c] * weight[c];
        dinp[c] = ROUND(dinp[c] + rstd * (g - inp[c] * rstd * rstd * mean));
    }
}

void rmsnorm_backward(floatX* dinp, float* dweight, const floatX* dout, const floatX* inp, const float* weight, const float* rstd,
                      int N, int C, void* scratch, stream_t stream) {
    (void)scratch; (void)stream;
    #pragma omp parallel for
    for (int i = 0; i < N; i++) {
        size_t row = (size_t)i * C;
        backward_row(dinp + row, dout + row, inp + row, weight, rstd[i], C);
    }
    #pragma omp parallel for
    for (int c = 0; c < C; c += 8) {
        double sum[8] = {0};
        for (int i = 0; i < N; i++) {
            size_t at = (size_t)i * C + c;
            for (int j = 0; j < 8; j++) { sum[j] += (double)dout[at + j] * inp[at + j] * rstd[i]; }
        }
        for (int j = 0; j < 8; j++) { dweight[c + j] += sum[j]; }
    }
}

size_t matmul_rmsnorm_backward_scratch(int N, int C) { return rmsnorm_backward_scratch(N, C); }

void matmul_rmsnorm_backward(floatX* dinp, float* dweight, floatX* dnorm, const floatX* dout, const floatX* product_weight, const floatX* inp,
                             const float* weight, const float* rstd, const float* sums, int parts, int N, int C, int OC, void* scratch,
                             struct MatmulPlans* plans, stream_t stream) {
    (void)sums; (void)parts;
    matmul_backward_input(dnorm, dout, product_weight, N, C, OC, plans, stream);
    rmsnorm_backward(dinp, dweight, dnorm, inp, weight, rstd, N, C, scratch, stream);
}

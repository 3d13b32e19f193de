#include "cuda_common.cuh"
#include "ops.h"

typedef struct { float lr, beta1, beta2, eps, decay; } AdamwRates;

enum { THREADS = 256 };

__device__ inline void update_element(float* master, float* m, float* v, float grad, AdamwRates r, UpdateDecision d) {
    float g = grad * d.grad_scale;
    *m = r.beta1 * *m + (1 - r.beta1) * g;
    *v = r.beta2 * *v + (1 - r.beta2) * g * g;
    *master -= r.lr * ((*m / d.c1) / (sqrtf(*v / d.c2) + r.eps) + r.decay * *master);
}

__device__ inline void copy_element(floatX* copy_x, float* copy_f, float master, size_t i) {
    if (copy_x) { copy_x[i] = __float2bfloat16(master); }
    if (copy_f) { copy_f[i] = master; }
}

__device__ inline void copy_four(floatX* copy_x, float* copy_f, float4 w, size_t four) {
    struct alignas(8) Pack4 { floatX x[4]; };
    Pack4 rounded = {{__float2bfloat16(w.x), __float2bfloat16(w.y), __float2bfloat16(w.z), __float2bfloat16(w.w)}};
    if (copy_x) { reinterpret_cast<Pack4*>(copy_x)[four] = rounded; }
    if (copy_f) { reinterpret_cast<float4*>(copy_f)[four] = w; }
}

// one thread
__global__ void adamw_decide_kernel(UpdateDecision* decision, const double* sumsq, const double* total, double beta1, double beta2, double clip,
                                    double max_norm, double max_total) {
    UpdateDecision d = *decision;
    d.norm = sqrt(*sumsq);
    d.total = *total;
    d.apply = isfinite(d.norm) && isfinite(d.total) && (max_norm <= 0 || d.norm <= max_norm) && (max_total <= 0 || d.total <= max_total);
    d.updates += d.apply;
    d.c1 = (float)(1 - pow(beta1, (double)d.updates));
    d.c2 = (float)(1 - pow(beta2, (double)d.updates));
    d.grad_scale = clip > 0 ? (float)fmin(1.0, clip / (d.norm + 1e-6)) : 1.0f;
    *decision = d;
}

// a thread owns 4 consecutive elements; the last n % 4 go one each to the first threads behind them
__global__ void adamw_update_kernel(float* master, float* m, float* v, floatX* copy_x, float* copy_f, const float* grad, size_t n, AdamwRates r,
                                    const UpdateDecision* decision) {
    UpdateDecision d = *decision;
    if (!d.apply) { return; }
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, fours = n / 4, tail = fours * 4 + (i - fours);
    if (i < fours) {
        float4 w = reinterpret_cast<float4*>(master)[i], m4 = reinterpret_cast<float4*>(m)[i], v4 = reinterpret_cast<float4*>(v)[i];
        float4 g = reinterpret_cast<const float4*>(grad)[i];
        update_element(&w.x, &m4.x, &v4.x, g.x, r, d);
        update_element(&w.y, &m4.y, &v4.y, g.y, r, d);
        update_element(&w.z, &m4.z, &v4.z, g.z, r, d);
        update_element(&w.w, &m4.w, &v4.w, g.w, r, d);
        reinterpret_cast<float4*>(master)[i] = w;
        reinterpret_cast<float4*>(m)[i] = m4;
        reinterpret_cast<float4*>(v)[i] = v4;
        copy_four(copy_x, copy_f, w, i);
    } else if (tail < n) {
        update_element(&master[tail], &m[tail], &v[tail], grad[tail], r, d);
        copy_element(copy_x, copy_f, master[tail], tail);
    }
}

// the same split
__global__ void adamw_copy_kernel(floatX* copy_x, float* copy_f, const float* master, size_t n) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, fours = n / 4, tail = fours * 4 + (i - fours);
    if (i < fours) {
        copy_four(copy_x, copy_f, reinterpret_cast<const float4*>(master)[i], i);
    } else if (tail < n) {
        copy_element(copy_x, copy_f, master[tail], tail);
    }
}

static unsigned blocks_for(size_t n) { return (unsigned)((n / 4 + n % 4 + THREADS - 1) / THREADS); }

extern "C" void adamw_decide(UpdateDecision* decision, const double* sumsq, const double* total, double beta1, double beta2, double clip,
                             double max_norm, double max_total, stream_t stream) {
    adamw_decide_kernel<<<1, 1, 0, stream>>>(decision, sumsq, total, beta1, beta2, clip, max_norm, max_total);
    LAUNCH_CHECK();
}

extern "C" void adamw_update(float* master, float* m, float* v, floatX* copy_x, float* copy_f, const float* grad, size_t n, float lr, float beta1,
                             float beta2, float eps, float decay, const UpdateDecision* decision, stream_t stream) {
    if (n == 0) { return; }
    AdamwRates rates = {lr, beta1, beta2, eps, decay};
    adamw_update_kernel<<<blocks_for(n), THREADS, 0, stream>>>(master, m, v, copy_x, copy_f, grad, n, rates, decision);
    LAUNCH_CHECK();
}

extern "C" void adamw_copy(floatX* copy_x, float* copy_f, const float* master, size_t n, stream_t stream) {
    if (n == 0) { return; }
    adamw_copy_kernel<<<blocks_for(n), THREADS, 0, stream>>>(copy_x, copy_f, master, n);
    LAUNCH_CHECK();
}

#include "ops.h"

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

void swiglu_forward(floatX* out, const floatX* gate_up, int N, int F, stream_t stream) {
    (void)stream;
    #pragma omp parallel for
    for (int i = 0; i < N; i++) {
        const floatX* gate = gate_up + (size_t)i * 2 * F;
        const floatX* up = gate + F;
        for (int f = 0; f < F; f++) { out[(size_t)i * F + f] = ROUND(gate[f] * sigmoid(gate[f]) * up[f]); }
    }
}

void swiglu_backward(floatX* dgate_up, const floatX* dout, const floatX* gate_up, int N, int F, stream_t stream) {
    (void)stream;
    #pragma omp parallel for
    for (int i = 0; i < N; i++) {
        size_t row = (size_t)i * 2 * F;
        for (int f = 0; f < F; f++) {
            double g = gate_up[row + f], u = gate_up[row + F + f], d = dout[(size_t)i * F + f];
            double s = sigmoid(g);
            dgate_up[row + f]     = ROUND(d * u * s * (1 + g * (1 - s)));
            dgate_up[row + F + f] = ROUND(d * g * s);
        }
    }
}

void matmul_swiglu_forward(floatX* out, floatX* gate_up, const floatX* inp, const floatX* weight, int N, int C, int F,
                           struct MatmulPlans* plans, stream_t stream) {
    matmul_forward(gate_up, inp, weight, N, C, 2 * F, plans, stream);
    swiglu_forward(out, gate_up, N, F, stream);
}

int matmul_swiglu_sums(int F) { (void)F; return 0; }

int matmul_swiglu_backward(floatX* dgate_up, float* sums, floatX* dproduct, const floatX* dout, const floatX* weight, const floatX* gate_up,
                           int N, int F, int OC, struct MatmulPlans* plans, stream_t stream) {
    (void)sums;
    matmul_backward_input(dproduct, dout, weight, N, F, OC, plans, stream);
    swiglu_backward(dgate_up, dproduct, gate_up, N, F, stream);
    return 0;
}

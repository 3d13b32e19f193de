// The products of llmc/matmul.cu without cuBLASLt: plain loops over device memory, sums in fp32 in order, rounded to bf16 once.
#include "emu.h"
#include "ops.h"

extern "C" size_t matmul_workspace(void) { return 256; }
static size_t products;        // since matmul_open, in place of plans
extern "C" struct MatmulPlans* matmul_open(void*, size_t) { products = 0; return nullptr; }
extern "C" size_t matmul_plans_count(const struct MatmulPlans*) { return products; }
extern "C" void matmul_close(struct MatmulPlans*) {}
extern "C" void matmul_measure(struct MatmulPlans*, int) {}

static float number(floatX x) { return bf16_to_float(x.bits); }
static float number(float x)  { return x; }
static void set(floatX* to, float x) { to->bits = float_to_bf16(x); }
static void set(float* to, float x)  { *to = x; }

// out[i, j] = add[i, j] + sum over k of a[i*ai + k*ak] * b[j*bj + k*bk]
template <class Out>
static void multiply(Out* out, const floatX* a, size_t ai, size_t ak, const floatX* b, size_t bj, size_t bk, const Out* add, int rows, int columns, int inner) {
    products++;
    emu_device_memory_open();
    for (size_t i = 0; i < (size_t)rows; i++) {
        for (size_t j = 0; j < (size_t)columns; j++) {
            float sum = 0;
            for (size_t k = 0; k < (size_t)inner; k++) { sum += number(a[i * ai + k * ak]) * number(b[j * bj + k * bk]); }
            if (add) { sum += number(add[i * columns + j]); }
            set(&out[i * columns + j], sum);
        }
    }
    emu_device_memory_close();
}

extern "C" void matmul_forward(floatX* out, const floatX* inp, const floatX* weight, int N, int C, int OC, struct MatmulPlans*, stream_t) {
    multiply(out, inp, C, 1, weight, C, 1, (const floatX*)nullptr, N, OC, C);
}

extern "C" void matmul_forward_add(floatX* out, const floatX* inp, const floatX* weight, const floatX* add, int N, int C, int OC, struct MatmulPlans*, stream_t) {
    multiply(out, inp, C, 1, weight, C, 1, add, N, OC, C);
}

extern "C" void matmul_backward_input(floatX* dinp, const floatX* dout, const floatX* weight, int N, int C, int OC, struct MatmulPlans*, stream_t) {
    multiply(dinp, dout, OC, 1, weight, 1, C, (const floatX*)nullptr, N, C, OC);
}

extern "C" void matmul_backward_weight(float* dweight, const floatX* dout, const floatX* inp, int N, int C, int OC, int add, struct MatmulPlans*, stream_t) {
    multiply(dweight, dout, 1, OC, inp, 1, C, add ? dweight : (const float*)nullptr, OC, C, N);
}

#include "cuda_common.cuh"
#include "ops.h"

enum { MAX_THREADS = 512 };

// __expf is off by about |g| ulp of fp32, far below bf16 wherever the result counts; g = -100 gives 1 / inf = 0
__device__ inline float sigmoid(float g) { return 1.0f / (1.0f + __expf(-g)); }

// one block per row, a thread owns 8 columns at a time
__global__ void swiglu_forward_kernel(floatX* out, const floatX* gate_up, int F) {
    const floatX* gate = gate_up + (size_t)blockIdx.x * 2 * F;
    const floatX* up = gate + F;
    for (int f = threadIdx.x * 8; f < F; f += blockDim.x * 8) {
        Pack8 g = load8(gate + f), u = load8(up + f), o;
        for (int j = 0; j < 8; j++) {
            float gj = __bfloat162float(g.x[j]);
            o.x[j] = __float2bfloat16(gj * sigmoid(gj) * __bfloat162float(u.x[j]));
        }
        store8(out + (size_t)blockIdx.x * F + f, o);
    }
}

// the same split; dgate_up may be gate_up: a thread reads its columns before it writes them
__global__ void swiglu_backward_kernel(floatX* dgate_up, const floatX* dout, const floatX* gate_up, int F) {
    size_t row = (size_t)blockIdx.x * 2 * F;
    for (int f = threadIdx.x * 8; f < F; f += blockDim.x * 8) {
        Pack8 g = load8(gate_up + row + f), u = load8(gate_up + row + F + f), d = load8(dout + (size_t)blockIdx.x * F + f);
        for (int j = 0; j < 8; j++) {
            float gj = __bfloat162float(g.x[j]), uj = __bfloat162float(u.x[j]), dj = __bfloat162float(d.x[j]);
            float s = sigmoid(gj);
            g.x[j] = __float2bfloat16(dj * uj * s * (1 + gj * (1 - s)));
            u.x[j] = __float2bfloat16(dj * gj * s);
        }
        store8(dgate_up + row + f, g);
        store8(dgate_up + row + F + f, u);
    }
}

static int threads_for(int F) {
    REQUIRE(F % 8 == 0, "swiglu: F=%d is not a multiple of 8 (16-byte loads)", F);
    return min_int(MAX_THREADS, (int)round_up(F / 8, WARP));
}

extern "C" void swiglu_forward(floatX* out, const floatX* gate_up, int N, int F, stream_t stream) {
    swiglu_forward_kernel<<<N, threads_for(F), 0, stream>>>(out, gate_up, F);
    LAUNCH_CHECK();
}

extern "C" void swiglu_backward(floatX* dgate_up, const floatX* dout, const floatX* gate_up, int N, int F, stream_t stream) {
    swiglu_backward_kernel<<<N, threads_for(F), 0, stream>>>(dgate_up, dout, gate_up, F);
    LAUNCH_CHECK();
}

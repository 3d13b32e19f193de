#include "swiglu_hopper.cuh"

enum { MAX_THREADS = 512 };

// one block per row, a thread owns 8 columns at a time
__global__ void swiglu_forward_kernel(floatX* out, const floatX* gate_up, int F) {
    const floatX* gate = gate_up + (size_t)blockIdx.x * 2 * F;
    const floatX* up = gate + F;
    for (int f = threadIdx.x * 8; f < F; f += blockDim.x * 8) {
        Pack8 g = load8(gate + f), u = load8(up + f), o;
        for (int j = 0; j < 8; j++) {
            o.x[j] = __float2bfloat16(swiglu(__bfloat162float(g.x[j]), __bfloat162float(u.x[j])));
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
            SwigluGradient gradient = swiglu_gradient(__bfloat162float(d.x[j]), __bfloat162float(g.x[j]), __bfloat162float(u.x[j]));
            g.x[j] = __float2bfloat16(gradient.gate);
            u.x[j] = __float2bfloat16(gradient.up);
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

extern "C" void matmul_swiglu_forward(floatX* out, floatX* gate_up, const floatX* inp, const floatX* weight, int N, int C, int F,
                                      struct MatmulPlans* plans, stream_t stream) {
    REQUIRE(C % 8 == 0 && F % 8 == 0, "matmul_swiglu_forward: C=%d or F=%d is not a multiple of 8 (16-byte rows)", C, F);
    if (product_serves<SwigluForward>(N, F)) { hopper_swiglu_forward(out, gate_up, inp, weight, N, C, F, stream); return; }
    matmul_forward(gate_up, inp, weight, N, C, 2 * F, plans, stream);
    swiglu_forward(out, gate_up, N, F, stream);
}

extern "C" int matmul_swiglu_sums(int F) { return ceil_div(F, SwigluBackward::WIDTH); }

extern "C" int matmul_swiglu_backward(floatX* dgate_up, float* sums, floatX* dproduct, const floatX* dout, const floatX* weight, const floatX* gate_up,
                                      int N, int F, int OC, struct MatmulPlans* plans, stream_t stream) {
    REQUIRE(F % 8 == 0 && OC % 8 == 0, "matmul_swiglu_backward: F=%d or OC=%d is not a multiple of 8 (16-byte rows)", F, OC);
    if (product_serves<SwigluBackward>(N, F)) {
        hopper_swiglu_backward(dgate_up, sums, dout, weight, gate_up, N, F, OC, stream);
        return matmul_swiglu_sums(F);
    }
    matmul_backward_input(dproduct, dout, weight, N, F, OC, plans, stream);
    swiglu_backward(dgate_up, dproduct, gate_up, N, F, stream);
    return 0;
}

// SwiGLU of one element, the same wherever it is computed: in a pass of its own or behind a product (swiglu.cu, swiglu_hopper.cuh).
#ifndef SWIGLU_MATH_CUH
#define SWIGLU_MATH_CUH

#include "attn_ptx.cuh"

// Relative error: a few ulp of fp32, about |g| of them for large |g|, far below bf16's. g = -200 gives 1 / inf = 0. Fewer instructions than
// 1.0f / (1.0f + __expf(-g)): behind a product few warps do it.
__device__ inline float sigmoid(float g)             { return reciprocal_approx(1.0f + exp2_approx(-1.4426950408889634f * g)); }
__device__ inline float swiglu(float gate, float up) { return gate * sigmoid(gate) * up; }

typedef struct { float gate, up; } SwigluGradient;

__device__ inline SwigluGradient swiglu_gradient(float dout, float gate, float up) {
    float s = sigmoid(gate);
    SwigluGradient g = {dout * up * s * (1 + gate * (1 - s)), dout * gate * s};
    return g;
}

#endif

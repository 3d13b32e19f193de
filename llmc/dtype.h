// Level 0: the types that ops speak. One source, four builds:
//   CUDA                   floatX = bf16; host C code only carries pointers to it
//   -DLLMC_CPU             floatX = float: the trainer without a GPU, and the kernels' reference
//   -DLLMC_CPU -DLLMC_ROUND   the same, but every value a GPU would store as bf16 is rounded to bf16: derives tolerances
//   -DLLMC_CPU -DLLMC_F64     everything in double: finite differences become sharp
#ifndef DTYPE_H
#define DTYPE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct CUstream_st* stream_t;   // a CUDA stream; always NULL on the CPU

static inline float bf16_to_float(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

// round to nearest even; NaN stays NaN
static inline uint16_t float_to_bf16(float value) {
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if ((wide & 0x7fffffffu) > 0x7f800000u) { return (uint16_t)((wide >> 16) | 0x40u); }
    return (uint16_t)((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16);
}

#if !defined(LLMC_CPU)
#ifdef __CUDACC__
#include <cuda_bf16.h>
typedef __nv_bfloat16 floatX;
#else
typedef struct { uint16_t bits; } floatX;
static inline float floatx_to_float(floatX x) { return bf16_to_float(x.bits); }
#endif
#else
#ifdef LLMC_F64
#define float double
#endif
typedef float floatX;
static inline float floatx_to_float(floatX x) { return x; }
#endif

// ROUND(x): where a GPU stores bf16, and where its tensor cores read P and dS (the CPU reference says it at each such place).
#ifdef LLMC_ROUND
#define ROUND(x) bf16_to_float(float_to_bf16((float)(x)))
#else
#define ROUND(x) ((float)(x))
#endif

// Shape of an attention: q, k, v, out are (B, T, H, D), element (b,t,h,d) at ((size_t)b*T + t) * ld + h*D + d,
// each with its own row stride ("leading dimension"), so that q and v may lie inside the (B*T, 3*H*D) output of the QKV product.
// A gradient has the row stride of its tensor.
typedef struct {
    int B, T, H, D;
    int ldq, ldk, ldv, ldo;   // in elements, multiples of 8, >= H*D
    int path;                 // AttnPath: which of the GPU's kernels
} AttnShape;

// AUTO: the Hopper kernels (wgmma, TMA) on compute capability 9.0, the portable ones (mma.sync) elsewhere. The words of --attn-path, in order.
typedef enum { ATTN_AUTO, ATTN_HOPPER, ATTN_PORTABLE } AttnPath;

// Where each query's routed keys are (chosen by moba_topk, listed by moba_index). n = ceil(T/block) blocks, slots = topk - 1 routed slots a query.
typedef struct {
    const uint16_t* sel;      // (B, H, T, slots)  picked past blocks, ascending; MOBA_NONE in unused slots, which come last
    const int*      offset;   // (B, H, n + 1)     block j's list is list[offset[j]] .. list[offset[j+1]-1] of its (b, h)
    const int*      list;     // (B, H, T*slots)   entries t * MOBA_MAX_TOPK + slot, ascending within a block
} MobaRoute;

// What the device decided about an update (adamw_decide): adamw_update reads it there, the host a step later for its log.
typedef struct {
    int64_t updates;          // applied so far, this one included if it is
    double  norm, total;      // gradient norm before clipping, sum of the step's losses
    float   grad_scale;       // of clipping
    float   c1, c2;           // bias corrections 1 - beta^updates
    int     apply;            // 0: the update is skipped and changes nothing
} UpdateDecision;

enum { MOBA_MAX_TOPK = 32, MOBA_NONE = 0xFFFF };

#endif

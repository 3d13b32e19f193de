// Stand-in for the bf16 types and their functions.
#ifndef EMU_CUDA_BF16_H
#define EMU_CUDA_BF16_H

#include "cuda_runtime.h"

static inline uint16_t emu_bf16_bits(float x) {                // round to nearest even
    uint32_t wide = __float_as_uint(x);
    if ((wide & 0x7fffffffu) > 0x7f800000u) { return 0x7fff; }  // the device's one NaN
    return (uint16_t)((wide + 0x7fffu + (wide >> 16 & 1u)) >> 16);
}

struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : bits(emu_bf16_bits(x)) {}
    __nv_bfloat16(double x) : bits(emu_bf16_bits((float)x)) {}
    __nv_bfloat16(int x) : bits(emu_bf16_bits((float)x)) {}
    operator float() const { return __uint_as_float((uint32_t)bits << 16); }
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 x_, __nv_bfloat16 y_) : x(x_), y(y_) {}
};
struct __nv_bfloat16_raw { uint16_t x; };
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline __nv_bfloat16 operator+(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat16((float)a + (float)b); }
static inline __nv_bfloat16 operator-(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat16((float)a - (float)b); }
static inline __nv_bfloat16 operator*(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat16((float)a * (float)b); }
static inline __nv_bfloat16 operator/(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat16((float)a / (float)b); }

static inline __nv_bfloat16 __float2bfloat16(float x)              { return __nv_bfloat16(x); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x)           { return __nv_bfloat16(x); }
static inline float __bfloat162float(__nv_bfloat16 x)              { return (float)x; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return __nv_bfloat162(__nv_bfloat16(x), __nv_bfloat16(y)); }
static inline __nv_bfloat162 __float22bfloat162_rn(float2 x)       { return __floats2bfloat162_rn(x.x, x.y); }
static inline __nv_bfloat162 __float2bfloat162_rn(float x)         { return __floats2bfloat162_rn(x, x); }
static inline float2 __bfloat1622float2(__nv_bfloat162 x)          { return make_float2((float)x.x, (float)x.y); }
static inline float __low2float(__nv_bfloat162 x)                  { return (float)x.x; }
static inline float __high2float(__nv_bfloat162 x)                 { return (float)x.y; }
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 x)       { return x.x; }
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 x)      { return x.y; }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return __nv_bfloat162(x, y); }
static inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return __nv_bfloat162(x, x); }
static inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return __nv_bfloat162(x, y); }
static inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 x)       { return x.bits; }
static inline int16_t __bfloat16_as_short(__nv_bfloat16 x)         { return (int16_t)x.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t bits)    { __nv_bfloat16 x; x.bits = bits; return x; }
static inline __nv_bfloat16 __hadd(__nv_bfloat16 a, __nv_bfloat16 b) { return a + b; }
static inline __nv_bfloat16 __hmul(__nv_bfloat16 a, __nv_bfloat16 b) { return a * b; }
static inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return __nv_bfloat162(a.x + b.x, a.y + b.y); }
static inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return __nv_bfloat162(a.x * b.x, a.y * b.y); }
static inline bool __hisnan(__nv_bfloat16 x)                       { return (x.bits & 0x7fff) > 0x7f80; }

#endif

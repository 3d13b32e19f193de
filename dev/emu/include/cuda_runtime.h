// Stand-in for the CUDA runtime and the device functions that our kernels use. What is missing fails to compile: add it here.
#ifndef EMU_CUDA_RUNTIME_H
#define EMU_CUDA_RUNTIME_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../emu.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define CUDART_INF_F INFINITY

// ---- vectors ------------------------------------------------------------------------------------------------------------
#define EMU_VECTORS(T, name, align2, align4) \
    struct name##1 { T x; }; \
    struct alignas(align2) name##2 { T x, y; }; \
    struct alignas(align4) name##4 { T x, y, z, w; }; \
    static inline name##1 make_##name##1(T x) { return name##1{x}; } \
    static inline name##2 make_##name##2(T x, T y) { return name##2{x, y}; } \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return name##4{x, y, z, w}; }
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(unsigned, uint, 8, 16)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(signed char, char, 2, 4)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(double, double, 16, 16)
EMU_VECTORS(long long, longlong, 16, 16)
EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
struct float3 { float x, y, z; };
struct int3 { int x, y, z; };
static inline float3 make_float3(float x, float y, float z) { return float3{x, y, z}; }
static inline int3 make_int3(int x, int y, int z) { return int3{x, y, z}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return uint3{x, y, z}; }

// ---- arithmetic -----------------------------------------------------------------------------------------------------------
#define EMU_MINMAX(T, A, B) \
    static inline T min(A a, B b) { return (T)a < (T)b ? (T)a : (T)b; } \
    static inline T max(A a, B b) { return (T)a > (T)b ? (T)a : (T)b; }
EMU_MINMAX(int, int, int) EMU_MINMAX(unsigned, unsigned, unsigned) EMU_MINMAX(unsigned, int, unsigned) EMU_MINMAX(unsigned, unsigned, int)
EMU_MINMAX(long, long, long) EMU_MINMAX(unsigned long, unsigned long, unsigned long)
EMU_MINMAX(unsigned long, long, unsigned long) EMU_MINMAX(unsigned long, unsigned long, long)
EMU_MINMAX(long long, long long, long long) EMU_MINMAX(unsigned long long, unsigned long long, unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// the C library declares these names for itself
#define __expf   emu_expf
#define __exp10f emu_exp10f
#define __logf   emu_logf
#define __log2f  emu_log2f
#define __log10f emu_log10f
#define __sinf   emu_sinf
#define __cosf   emu_cosf
#define __powf   emu_powf
static inline float rsqrtf(float x)                       { return (float)(1.0 / sqrt((double)x)); }
static inline float cospif(float x)                       { return (float)cos(3.141592653589793 * (double)x); }
static inline double rsqrt(double x)                      { return 1.0 / sqrt(x); }
static inline float emu_expf(float x)                       { return expf(x); }
static inline float emu_exp10f(float x)                     { return powf(10.0f, x); }
static inline float emu_logf(float x)                       { return logf(x); }
static inline float emu_log2f(float x)                      { return log2f(x); }
static inline float emu_log10f(float x)                     { return log10f(x); }
static inline float emu_sinf(float x)                       { return sinf(x); }
static inline float emu_cosf(float x)                       { return cosf(x); }
static inline float emu_powf(float x, float y)              { return powf(x, y); }
static inline float __fdividef(float x, float y)          { return x / y; }
static inline float __fdiv_rn(float x, float y)           { return x / y; }
static inline float __frcp_rn(float x)                    { return 1.0f / x; }
static inline float __fsqrt_rn(float x)                   { return sqrtf(x); }
static inline float __frsqrt_rn(float x)                  { return rsqrtf(x); }
static inline float __fmaf_rn(float x, float y, float z)  { return fmaf(x, y, z); }
__attribute__((noinline)) static float emu_rounded(float x) { return x; }      // keeps a product out of an fma
static inline float __fmul_rn(float x, float y)           { return emu_rounded(x * y); }
static inline float __fadd_rn(float x, float y)           { return emu_rounded(x) + emu_rounded(y); }
static inline float __fsub_rn(float x, float y)           { return emu_rounded(x) - emu_rounded(y); }
static inline float __saturatef(float x)                  { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }

template <class To, class From> static inline To emu_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "bit cast");
    To to;
    memcpy(&to, &x, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned x)           { return emu_bits<float>(x); }
static inline float __int_as_float(int x)                 { return emu_bits<float>(x); }
static inline unsigned __float_as_uint(float x)           { return emu_bits<unsigned>(x); }
static inline int __float_as_int(float x)                 { return emu_bits<int>(x); }
static inline double __longlong_as_double(long long x)    { return emu_bits<double>(x); }
static inline long long __double_as_longlong(double x)    { return emu_bits<long long>(x); }
static inline int __float2int_rn(float x)                 { return (int)nearbyintf(x); }
static inline int __float2int_rz(float x)                 { return (int)x; }
static inline int __float2int_rd(float x)                 { return (int)floorf(x); }
static inline int __float2int_ru(float x)                 { return (int)ceilf(x); }
static inline float __int2float_rn(int x)                 { return (float)x; }
static inline float __uint2float_rn(unsigned x)           { return (float)x; }

static inline int __popc(unsigned x)                      { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x)          { return __builtin_popcountll(x); }
static inline int __ffs(int x)                            { return __builtin_ffs(x); }
static inline int __ffsll(long long x)                    { return __builtin_ffsll(x); }
static inline int __clz(int x)                            { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x)                    { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline unsigned __brev(unsigned x)                 { unsigned r = 0; for (int i = 0; i < 32; i++) { r |= (x >> i & 1u) << (31 - i); } return r; }
static inline int __vimax3_s32(int a, int b, int c)          { int ab = a > b ? a : b; return ab > c ? ab : c; }
static inline unsigned __umulhi(unsigned x, unsigned y)   { return (unsigned)((uint64_t)x * y >> 32); }
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) { return (unsigned long long)((unsigned __int128)x * y >> 64); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
    uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) { r |= (unsigned)(bytes >> (8 * (s >> (4 * i) & 7u)) & 0xffu) << (8 * i); }
    return r;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) { return (unsigned)((((uint64_t)high << 32 | low) << (n & 31)) >> 32); }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) { return (unsigned)(((uint64_t)high << 32 | low) >> (n & 31)); }

// ---- memory ---------------------------------------------------------------------------------------------------------------
template <class T> static inline T __ldg(const T* p)              { return *p; }
template <class T> static inline T __ldcs(const T* p)             { return *p; }
template <class T> static inline T __ldcg(const T* p)             { return *p; }
template <class T> static inline T __ldca(const T* p)             { return *p; }
template <class T> static inline T __ldlu(const T* p)             { return *p; }
template <class T> static inline T __ldcv(const T* p)             { return *p; }
template <class T> struct EmuSame { typedef T type; };
template <class T> static inline void __stcs(T* p, typename EmuSame<T>::type x) { *p = x; }
template <class T> static inline void __stcg(T* p, typename EmuSame<T>::type x) { *p = x; }
template <class T> static inline void __stwb(T* p, typename EmuSame<T>::type x) { *p = x; }
template <class T> static inline void __stwt(T* p, typename EmuSame<T>::type x) { *p = x; }
static inline void __threadfence()        {}
static inline void __threadfence_block()  {}
static inline void __threadfence_system() {}
static inline size_t __cvta_generic_to_shared(const void* p, EMU_HERE) { return emu_shared_address(p, file, line); }
static inline size_t __cvta_generic_to_global(const void* p)      { return (size_t)p; }
static inline void __trap()                                       { emu_error("__trap()"); }
static inline void __nanosleep(unsigned, EMU_HERE)                { emu_spin("__nanosleep", file, line); }
static inline void __prefetch_global_l2(const void*)              {}
long long clock64();

// PTX moves bits between registers of one size, whatever their types here.
template <class To, class From> static inline void emu_set(To& to, From from) {
    if constexpr (sizeof(To) == sizeof(From)) { memcpy((void*)&to, (const void*)&from, sizeof to); }
    else { to = (To)from; }
}
static inline void* emu_aligned(void* p, size_t bytes, const char* file, int line) {
    if ((uintptr_t)p % bytes) { emu_error("a load or store of %zu bytes at %p: misaligned address  [%s:%d]", bytes, p, file, line); }
    return p;
}

// Integers and fp64 only: a float atomic makes the result depend on the order, so kernels here have none.
#define EMU_NO_RACE __attribute__((no_sanitize("thread")))
template <class T, class F> EMU_NO_RACE static inline T emu_atomic(T* p, F f) {
    emu_touch_atomically(p, sizeof *p);
    T old = *p;
    *p = f(old);
    return old;
}
#define EMU_ATOMIC(T) \
    static inline T atomicAdd(T* p, T x)  { return emu_atomic(p, [=](T o) { return (T)(o + x); }); } \
    static inline T atomicSub(T* p, T x)  { return emu_atomic(p, [=](T o) { return (T)(o - x); }); } \
    static inline T atomicMin(T* p, T x)  { return emu_atomic(p, [=](T o) { return o < x ? o : x; }); } \
    static inline T atomicMax(T* p, T x)  { return emu_atomic(p, [=](T o) { return o > x ? o : x; }); } \
    static inline T atomicAnd(T* p, T x)  { return emu_atomic(p, [=](T o) { return (T)(o & x); }); } \
    static inline T atomicOr(T* p, T x)   { return emu_atomic(p, [=](T o) { return (T)(o | x); }); } \
    static inline T atomicXor(T* p, T x)  { return emu_atomic(p, [=](T o) { return (T)(o ^ x); }); } \
    static inline T atomicExch(T* p, T x) { return emu_atomic(p, [=](T) { return x; }); } \
    static inline T atomicCAS(T* p, T expected, T x) { return emu_atomic(p, [=](T o) { return o == expected ? x : o; }); }
EMU_ATOMIC(int) EMU_ATOMIC(unsigned) EMU_ATOMIC(unsigned long long)
static inline unsigned atomicInc(unsigned* p, unsigned x) { return emu_atomic(p, [=](unsigned o) { return o >= x ? 0u : o + 1; }); }
static inline unsigned atomicDec(unsigned* p, unsigned x) { return emu_atomic(p, [=](unsigned o) { return o == 0 || o > x ? x : o - 1; }); }

// ---- collectives ------------------------------------------------------------------------------------------------------------
static inline void __syncthreads(EMU_HERE)                        { emu_barrier(EMU_SYNC, 0, file, line); }
static inline int __syncthreads_count(int predicate, EMU_HERE)    { return emu_barrier(EMU_COUNT, predicate, file, line); }
static inline int __syncthreads_and(int predicate, EMU_HERE)      { return emu_barrier(EMU_AND, predicate, file, line); }
static inline int __syncthreads_or(int predicate, EMU_HERE)       { return emu_barrier(EMU_OR, predicate, file, line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_HERE) {
    emu_meet("__syncwarp", [](void**, unsigned) {}, mask, nullptr, false, file, line);
}
static inline unsigned __activemask() { return emu_living_lanes(); }

// A lane whose source is not among the lanes of the mask gets all ones (undefined on the device).
template <class T> T emu_shuffle(const char* what, unsigned mask, T value, int source, const char* file, int line) {
    struct Lane { T value, result; int source; } mine = {value, value, source};
    emu_meet(what, [](void** lane, unsigned m) {
        for (int i = 0; i < 32; i++) {
            if (!(m >> i & 1)) { continue; }
            Lane* to = (Lane*)lane[i];
            if (m >> to->source & 1) { to->result = ((Lane*)lane[to->source])->value; }
            else { memset((void*)&to->result, 0xff, sizeof(T)); }
        }
    }, mask, &mine, false, file, line);
    return mine.result;
}
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMU_HERE) {
    return emu_shuffle("__shfl_sync", mask, value, (emu_lane() & ~(width - 1)) | (source & (width - 1)), file, line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMU_HERE) {
    int lane = emu_lane(), source = lane ^ bits;
    return emu_shuffle("__shfl_xor_sync", mask, value, source / width > lane / width ? lane : source, file, line);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_HERE) {
    int lane = emu_lane(), source = lane - (int)delta;
    return emu_shuffle("__shfl_up_sync", mask, value, source < (lane & ~(width - 1)) ? lane : source, file, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_HERE) {
    int lane = emu_lane(), source = lane + (int)delta;
    return emu_shuffle("__shfl_down_sync", mask, value, source > (lane | (width - 1)) ? lane : source, file, line);
}

// Every lane gets fold(values of the mask's lanes).
template <class T, class F> T emu_reduce(const char* what, unsigned mask, T value, const char* file, int line) {
    T mine = value;
    emu_meet(what, [](void** lane, unsigned m) {
        T total = *(T*)lane[__builtin_ctz(m)];
        for (int i = __builtin_ctz(m) + 1; i < 32; i++) { if (m >> i & 1) { total = F::fold(total, *(T*)lane[i]); } }
        for (int i = 0; i < 32; i++) { if (m >> i & 1) { *(T*)lane[i] = total; } }
    }, mask, &mine, false, file, line);
    return mine;
}
#define EMU_REDUCE(name, T, expression) \
    struct EmuFold##name##T { static T fold(T a, T b) { return expression; } }; \
    static inline T __reduce_##name##_sync(unsigned mask, T x, EMU_HERE) { \
        return emu_reduce<T, EmuFold##name##T>("__reduce_" #name "_sync", mask, x, file, line); }
EMU_REDUCE(add, int, a + b) EMU_REDUCE(min, int, a < b ? a : b) EMU_REDUCE(max, int, a > b ? a : b)
EMU_REDUCE(add, unsigned, a + b) EMU_REDUCE(min, unsigned, a < b ? a : b) EMU_REDUCE(max, unsigned, a > b ? a : b)
EMU_REDUCE(and, unsigned, a & b) EMU_REDUCE(or, unsigned, a | b) EMU_REDUCE(xor, unsigned, a ^ b)
static inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_HERE) {
    return emu_reduce<unsigned, EmuFoldorunsigned>("__ballot_sync", mask, predicate ? 1u << emu_lane() : 0u, file, line);
}
static inline int __any_sync(unsigned mask, int predicate, EMU_HERE) {
    return (int)emu_reduce<unsigned, EmuFoldorunsigned>("__any_sync", mask, predicate != 0, file, line);
}
static inline int __all_sync(unsigned mask, int predicate, EMU_HERE) {
    return (int)emu_reduce<unsigned, EmuFoldandunsigned>("__all_sync", mask, predicate != 0, file, line);
}
template <class T> unsigned __match_any_sync(unsigned mask, T value, EMU_HERE) {
    struct Lane { T value; unsigned same; } mine = {value, 0};
    emu_meet("__match_any_sync", [](void** lane, unsigned m) {
        for (unsigned left = m; left; left &= ~((Lane*)lane[__builtin_ctz(left)])->same) {
            Lane* first = (Lane*)lane[__builtin_ctz(left)];
            for (int i = __builtin_ctz(left); i < 32; i++) { if ((m >> i & 1) && ((Lane*)lane[i])->value == first->value) { first->same |= 1u << i; } }
            for (int i = __builtin_ctz(left); i < 32; i++) { if (first->same >> i & 1) { ((Lane*)lane[i])->same = first->same; } }
        }
    }, mask, &mine, false, file, line);
    return mine.same;
}

// ---- the host's runtime (runtime.cpp) ---------------------------------------------------------------------------------------
typedef struct CUstream_st* cudaStream_t;
typedef struct EmuEvent* cudaEvent_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorNotReady = 600, cudaErrorNotSupported = 801 };
typedef cudaError_t cudaError;
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlock = 8, cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMemoryClockRate = 36,
                      cudaDevAttrGlobalMemoryBusWidth = 37, cudaDevAttrL2CacheSize = 38,
                      cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2,
       cudaHostAllocDefault = 0, cudaSharedmemCarveoutMaxShared = 100 };
struct cudaDeviceProp {
    char name[256];
    struct { char bytes[16]; } uuid;
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
    int major, minor, multiProcessorCount, l2CacheSize, warpSize, maxThreadsPerBlock, maxThreadsPerMultiProcessor, regsPerBlock;
    int clockRate, memoryClockRate, memoryBusWidth, pciBusID, pciDeviceID;
};
struct cudaFuncAttributes { size_t sharedSizeBytes, localSizeBytes; int maxThreadsPerBlock, numRegs, maxDynamicSharedSizeBytes; };

const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDevice(int* index);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDeviceReset();
cudaError_t cudaMemGetInfo(size_t* available, size_t* total);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t emu_malloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t emu_host_malloc(void** memory, size_t bytes);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemset(void* memory, int value, size_t bytes);
cudaError_t emu_set_attribute(const void* function, cudaFuncAttribute attribute, int value);
cudaError_t emu_get_attributes(cudaFuncAttributes* attributes, const void* function);
cudaError_t emu_occupancy(int* blocks, int threads, size_t shared_bytes);

template <class T> cudaError_t cudaMalloc(T** memory, size_t bytes)                     { return emu_malloc((void**)memory, bytes); }
template <class T> cudaError_t cudaMallocAsync(T** memory, size_t bytes, cudaStream_t)  { return emu_malloc((void**)memory, bytes); }
static inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t)                     { return cudaFree(memory); }
template <class T> cudaError_t cudaMallocHost(T** memory, size_t bytes)                 { return emu_host_malloc((void**)memory, bytes); }
template <class T> cudaError_t cudaHostAlloc(T** memory, size_t bytes, unsigned)        { return emu_host_malloc((void**)memory, bytes); }
static inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t = nullptr) {
    return cudaMemcpy(to, from, bytes, kind);
}
static inline cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind);
static inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                                            cudaMemcpyKind kind, cudaStream_t = nullptr) {
    return cudaMemcpy2D(to, to_pitch, from, from_pitch, width, height, kind);
}
static inline cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind) {
    cudaError_t status = cudaSuccess;
    for (size_t row = 0; row < height && status == cudaSuccess; row++) {
        status = cudaMemcpy((char*)to + row * to_pitch, (const char*)from + row * from_pitch, width, kind);
    }
    return status;
}
static inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t = nullptr) { return cudaMemset(memory, value, bytes); }
// ---- launches with attributes (which are ignored, except for clusters) ---------------------------------------------------------
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4, cudaLaunchAttributeProgrammaticStreamSerialization = 6, cudaLaunchAttributePriority = 8,
                             cudaLaunchAttributeCooperative = 2 };
union cudaLaunchAttributeValue { struct { unsigned x, y, z; } clusterDim; int cooperative, programmaticStreamSerializationAllowed, priority; };
struct cudaLaunchAttribute { cudaLaunchAttributeID id; cudaLaunchAttributeValue val; };
struct cudaLaunchConfig_t { dim3 gridDim, blockDim; size_t dynamicSmemBytes; cudaStream_t stream; cudaLaunchAttribute* attrs; unsigned numAttrs; };
template <class... P, class... A> cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
    dim3 cluster(0, 0, 0);
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const cudaLaunchAttribute& a = config->attrs[i];
        if (a.id == cudaLaunchAttributeClusterDimension) { cluster = dim3(a.val.clusterDim.x, a.val.clusterDim.y, a.val.clusterDim.z); }
    }
    emu_launch("a kernel of cudaLaunchKernelEx", (const void*)kernel, __FILE__, __LINE__, [&]() EMU_NO_RACE { kernel(arguments...); }, config->gridDim, config->blockDim,
               config->dynamicSmemBytes, config->stream, cluster);
    return cudaSuccess;
}

// ---- the driver's functions (cuda.h) ------------------------------------------------------------------------------------------
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1, cudaDriverEntryPointVersionNotSufficent = 2 };
enum { cudaEnableDefault = 0 };
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version, unsigned long long flags, cudaDriverEntryPointQueryResult* found = nullptr);
static inline cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long flags, cudaDriverEntryPointQueryResult* found = nullptr) {
    return cudaGetDriverEntryPointByVersion(name, function, 12000, flags, found);
}

template <class S> cudaError_t cudaMemcpyToSymbol(S& symbol, const void* from, size_t bytes, size_t offset = 0, cudaMemcpyKind = cudaMemcpyHostToDevice) {
    memcpy((char*)&symbol + offset, from, bytes);
    return cudaSuccess;
}
template <class S> cudaError_t cudaMemcpyToSymbolAsync(S& symbol, const void* from, size_t bytes, size_t offset, cudaMemcpyKind, cudaStream_t) {
    return cudaMemcpyToSymbol(symbol, from, bytes, offset);
}
template <class F> cudaError_t cudaFuncSetAttribute(F* function, cudaFuncAttribute attribute, int value) {
    return emu_set_attribute((const void*)function, attribute, value);
}
template <class F> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, F* function) {
    return emu_get_attributes(attributes, (const void*)function);
}
template <class F> cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F*, int threads, size_t shared_bytes) {
    return emu_occupancy(blocks, threads, shared_bytes);
}

#endif

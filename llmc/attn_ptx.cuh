// The instructions that attention needs and CUDA C++ has no word for, on sm_80 and up: tensor-core products, fragment loads, asynchronous
// copies. PTX ISA 8, chapter 9.7: mma.m16n8k16, ldmatrix, cp.async.
//
// Fragments of mma.m16n8k16, for lane = 4*g + c (g in 0..7, c in 0..3); a register holds two bf16, the lower index in the low half:
//   A (16 x 16)  a[0] (g, 2c)   a[1] (g+8, 2c)   a[2] (g, 2c+8)   a[3] (g+8, 2c+8)      and the column after each
//   B (16 x 8)   b[0] (2c, g)   b[1] (2c+8, g)                                          and the row after each
//   C (16 x 8)   c[0] (g, 2c)   c[1] (g, 2c+1)   c[2] (g+8, 2c)   c[3] (g+8, 2c+1)      fp32
#ifndef ATTN_PTX_CUH
#define ATTN_PTX_CUH

#include <stdint.h>
#include "cuda_common.cuh"

// c += a b
__device__ inline void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t shared_address(const void* shared) { return (uint32_t)__cvta_generic_to_shared(shared); }

// Four 8 x 8 matrices of bf16: lane 8*i + r gives the address of row r of matrix i (16 bytes, in shared memory);
// out[i] is this lane's pair (g, 2c), (g, 2c+1) of matrix i.
__device__ inline void ldmatrix_x4(uint32_t (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(shared_address(row)) : "memory");
}

// The same of the transposed matrices: out[i] is the pair (2c, g), (2c+1, g) of matrix i.
__device__ inline void ldmatrix_x4_trans(uint32_t (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(shared_address(row)) : "memory");
}

// What L2 is to do with lines, for the copies and stores below: keep them longer than others, or let them go first.
__device__ inline uint64_t l2_keep() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
__device__ inline uint64_t l2_pass() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// Copies 16 bytes (4 bytes) to shared memory behind the thread's back, or writes zeros if not live; `from` is not read then.
__device__ inline void cp_async_16(void* shared, const void* from, bool live) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(shared_address(shared)), "l"(from), "r"(live ? 16 : 0) : "memory");
}
__device__ inline void cp_async_16(void* shared, const void* from, bool live, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;"
                 :: "r"(shared_address(shared)), "l"(from), "r"(live ? 16 : 0), "l"(policy) : "memory");
}
__device__ inline void cp_async_4(void* shared, const void* from, bool live) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"(shared_address(shared)), "l"(from), "r"(live ? 4 : 0) : "memory");
}

// Closes the group of copies this thread began since the last commit.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's newest groups are unfinished; others' copies need a __syncthreads() after it.
template <int PENDING> __device__ inline void cp_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory"); }

// 16 bytes, 4 bytes to global memory
__device__ inline void store_16(void* to, uint4 x) {
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" :: "l"(__cvta_generic_to_global(to)), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

__device__ inline void store_16(void* to, uint4 x, uint64_t policy) {
    asm volatile("st.global.L2::cache_hint.v4.u32 [%0], {%1,%2,%3,%4}, %5;"
                 :: "l"(__cvta_generic_to_global(to)), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "l"(policy) : "memory");
}
__device__ inline void store_4(void* to, float x, uint64_t policy) {
    asm volatile("st.global.L2::cache_hint.f32 [%0], %1, %2;" :: "l"(__cvta_generic_to_global(to)), "f"(x), "l"(policy) : "memory");
}

// 2^x to about 2 ulp, 2^-inf = 0; exp2f would add steps for results below 2^-126
__device__ inline float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log2(x) to about 2^-22, of normal x
__device__ inline float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1/x to about 1 ulp, where x and it are normal
__device__ inline float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// two floats rounded to bf16, `low` in the low half
__device__ inline uint32_t pack_bf16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

#endif

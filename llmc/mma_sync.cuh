// Tensor cores, the portable way (sm_80 and up): one warp, one instruction.
#ifndef MMA_SYNC_CUH
#define MMA_SYNC_CUH

#include <stdint.h>

// d += a b, a (16 x 16) row-major, b (16 x 8) column-major, bf16 pairs in 32-bit registers, d (16 x 8) fp32.
// Lane 4g + i holds: a rows g and g+8 at k = 2i, 2i+1 and 2i+8, 2i+9; b column g at the same k; d rows g and g+8 at columns 2i, 2i+1.
__device__ inline void mma_16x8x16(float d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#endif

// Tiles in shared memory as wgmma and TMA want them, their products, and tensor maps. Beside attn_tile.cuh, whose tiles ldmatrix reads.
//
// A tile of ROWS x D bf16 is D/64 panels of ROWS x 64: rows of 128 bytes, in which chunk c (16 bytes) of row r lies where chunk c^(r%8)
// would ("128-byte swizzle"). A panel starts at a multiple of 1024 bytes; 8 rows make 1024 bytes.
#ifndef HOPPER_TILE_CUH
#define HOPPER_TILE_CUH

#include <cuda.h>
#include "attn_tile.cuh"
#include "hopper_ptx.cuh"

enum { WARPGROUP = 4 * WARP, PANEL = 64 };

// ---- the device -----------------------------------------------------------------------------------------------------
static inline int device_attribute(cudaDeviceAttr attribute) {
    int device, value;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
    return value;
}

// Do these kernels serve a call with this path?
static inline bool hopper_chosen(int path, const char* op) {
    int major = device_attribute(cudaDevAttrComputeCapabilityMajor);
    REQUIRE(path != ATTN_HOPPER || major == 9, "%s: the Hopper kernels need compute capability 9.0, the device has %d.x", op, major);
    return path != ATTN_PORTABLE && major == 9;
}

// ---- tensor maps ----------------------------------------------------------------------------------------------------
// The map of a (B, T, columns) tensor with row stride ld, for boxes of `rows` x 64 columns, swizzled; rows from T on are zeros.
// The function that makes it is the driver's; asked for by name, so that nothing links to the driver.
static inline CUtensorMap rows_map(const floatX* x, int B, int T, int columns, int ld, int rows) {
    typedef CUresult (*Encode)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                               const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                               CUtensorMapFloatOOBfill);
    void* encode = NULL;
    cudaDriverEntryPointQueryResult found;
    CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found));
    REQUIRE(found == cudaDriverEntryPointSuccess, "the CUDA driver has no cuTensorMapEncodeTiled (12.0 and newer have)");
    CUtensorMap map;
    cuuint64_t sizes[3] = {(cuuint64_t)columns, (cuuint64_t)T, (cuuint64_t)B};
    cuuint64_t strides[2] = {(cuuint64_t)ld * sizeof(floatX), (cuuint64_t)T * ld * sizeof(floatX)};
    cuuint32_t box[3] = {PANEL, (cuuint32_t)rows, 1}, steps[3] = {1, 1, 1};
    CUresult status = ((Encode)encode)(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void*)x, sizes, strides, box, steps,
                                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    REQUIRE(status == CUDA_SUCCESS, "no tensor map for B=%d T=%d columns=%d stride=%d: CUDA error %d", B, T, columns, ld, (int)status);
    return map;
}

// tile row r = row first + r of head `head` (b*H + h); one thread calls it, the barrier expects ROWS * D * 2 bytes
template <int D, int ROWS>
__device__ inline void tma_load_rows(floatX* tile, const CUtensorMap* map, const AttnShape& s, int head, int first, uint64_t* barrier) {
    #pragma unroll
    for (int panel = 0; panel < D / PANEL; panel++) {
        tma_load(tile + panel * ROWS * PANEL, map, head % s.H * D + panel * PANEL, first, head / s.H, barrier);
    }
}

// ---- places in a tile -----------------------------------------------------------------------------------------------
// element index of chunk `chunk` (8 elements) of a row
template <int ROWS> __device__ inline int panel_at(int row, int chunk) {
    return chunk / 8 * ROWS * PANEL + row * PANEL + (((chunk ^ row) & 7) << 3);
}

// Rows first .. first + ROWS - 1 of a matrix to a tile by cp.async, zeros from row `end` on; all THREADS_ threads of the CTA call it.
// For rows that hardly another CTA reads: they need not stay in L2.
template <int D, int ROWS, int THREADS_>
__device__ inline void load_rows(floatX* tile, const floatX* matrix, int ld, int first, int end) {
    const int CHUNKS = D / 8, STEP = THREADS_ / CHUNKS;
    static_assert(STEP % 8 == 0, "the rows of a thread have one swizzle");
    int chunk = threadIdx.x % CHUNKS, first_row = threadIdx.x / CHUNKS, at = panel_at<ROWS>(first_row, chunk);
    #pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        int row = first + first_row + i * STEP;
        bool live = row < end;
        cp_async_16(tile + at + i * STEP * PANEL, matrix + (size_t)(live ? row : 0) * ld + 8 * chunk, live, l2_pass());
    }
}

// A descriptor says where an operand of wgmma lies: start address, two strides and the swizzle, in units of 16 bytes. PTX ISA 8,
// "matrix descriptor". `stride` parts groups of 8 rows, `leading` parts panels where the operand's 64+ columns are its M or N.
__device__ inline uint64_t descriptor(const floatX* start, int leading_bytes) {
    const uint64_t SWIZZLE_128 = (uint64_t)1 << 62, STRIDE = (uint64_t)(1024 >> 4) << 32;
    return SWIZZLE_128 | STRIDE | (uint64_t)(leading_bytes >> 4) << 16 | (shared_address(start) & 0x3ffff) >> 4;
}

// The same, `bytes` further: the start is in the low word, and one addition to it is all that a product of a loop costs.
__device__ inline uint64_t descriptor_at(uint64_t tile, int bytes) {
    return (tile & 0xffffffff00000000) | ((uint32_t)tile + (uint32_t)(bytes >> 4));
}

// Operand whose rows are M or N: 16 columns, the k-th of them, from row `row` on (TRANS 0).
template <int ROWS> __device__ inline uint64_t rows_operand(const floatX* tile, int row, int k) {
    return descriptor_at(descriptor(tile, 16), (k / 4 * ROWS * PANEL + row * PANEL + k % 4 * 16) * (int)sizeof(floatX));
}
// Operand whose columns are M or N: rows row .. row + 15, all columns (TRANS 1).
template <int ROWS> __device__ inline uint64_t columns_operand(const floatX* tile, int row) {
    return descriptor_at(descriptor(tile, ROWS * PANEL * (int)sizeof(floatX)), row * PANEL * (int)sizeof(floatX));
}

// ---- products of a warpgroup, issued and committed; the caller waits --------------------------------------------------
// s (64 x 2*COUNT) = A B^T over D: A = rows a_row .. of a tile of A_ROWS, B = rows b_row .. of a tile of B_ROWS
template <int D, int A_ROWS, int B_ROWS, int COUNT>
__device__ inline void product_abt(float (&s)[COUNT], const floatX* a, int a_row, const floatX* b, int b_row) {
    wgmma_fence();
    #pragma unroll
    for (int k = 0; k < D / 16; k++) { wgmma<0, 0>(s, rows_operand<A_ROWS>(a, a_row, k), rows_operand<B_ROWS>(b, b_row, k), k > 0); }
    wgmma_commit();
}

// acc (64 x D) = P B + (add ? acc : 0): P (64 x 16*STEPS) in registers, B = rows b_row .. b_row + 16*STEPS - 1 of a tile
template <int B_ROWS, int STEPS, int COUNT>
__device__ inline void product_ab(float (&acc)[COUNT], const uint32_t (&p)[STEPS][4], const floatX* b, int b_row, bool add) {
    wgmma_fence();
    #pragma unroll
    for (int k = 0; k < STEPS; k++) { wgmma<1>(acc, p[k], columns_operand<B_ROWS>(b, b_row + 16 * k), add || k > 0); }
    wgmma_commit();
}

// s (64 x 64) = A^T B over ROWS, A and B panels of ROWS rows
template <int ROWS>
__device__ inline void product_atb(float (&s)[32], const floatX* a, const floatX* b) {
    wgmma_fence();
    #pragma unroll
    for (int k = 0; k < ROWS / 16; k++) { wgmma<1, 1>(s, columns_operand<ROWS>(a, 16 * k), columns_operand<ROWS>(b, 16 * k), k > 0); }
    wgmma_commit();
}

// accumulators rounded to bf16 become a left operand
template <int COUNT>
__device__ inline void round_operand(uint32_t (&p)[COUNT / 8][4], const float (&s)[COUNT]) {
    #pragma unroll
    for (int i = 0; i < COUNT / 2; i++) { p[i / 4][i % 4] = pack_bf16(s[2 * i], s[2 * i + 1]); }
}

// A left operand that a product in flight reads passes through this behind the wait for it: until then its registers are not used otherwise.
template <int STEPS> __device__ inline void operand_ready(uint32_t (&p)[STEPS][4]) {
    #pragma unroll
    for (int i = 0; i < 4 * STEPS; i++) { asm volatile("" : "+r"(p[i / 4][i % 4]) :: "memory"); }
}

// The thread's number, hidden from the compiler: what is derived from it is computed where it is used, not kept in registers all along.
__device__ inline int thread_here() {
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));
    return thread;
}

// the warpgroup's left operand (64 x 64) to rows row .. row + 63 of a panel of ROWS rows
template <int ROWS>
__device__ inline void store_operand(floatX* panel, int row, const uint32_t (&p)[4][4]) {
    int thread = thread_here();
    int lane = thread % WARP, at = panel_at<ROWS>(row + thread / WARP % 4 * 16 + lane % 16, lane / 16);
    #pragma unroll
    for (int k = 0; k < 4; k++) { stmatrix_x4(panel + (at ^ 16 * k), p[k]); }           // chunk lane/16 + 2k
}

#endif

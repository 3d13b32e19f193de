// Hopper's instructions, for selftest_hopper.cu and selftest_cluster.cu.
#include "selftest.h"

#include <cuda.h>

__device__ inline uint32_t shared_at(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// ---- wgmma ------------------------------------------------------------------------------------------------------------
#define TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D8(i) D4(i), D4(i + 4)
#define D16(i) D8(i), D8(i + 8)
#define D32(i) D16(i), D16(i + 16)
#define D64(i) D32(i), D32(i + 32)

template <int N, int TA, int TB, int SIGN> struct Wgmma;
#define WGMMA(N, LIST, OUTS, s0, s1, s2, s3, s4, s5, s6, s7, s8) \
    template <int TA, int TB, int SIGN> struct Wgmma<N, TA, TB, SIGN> { \
        static __device__ inline void shared(float* d, uint64_t a, uint64_t b, int keep) { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #s2 ", 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, %" #s0 ", %" #s1 ", p, %" #s3 ", 1, %" #s4 ", %" #s5 ";\n}\n" \
                         : OUTS : "l"(a), "l"(b), "r"(keep), "n"(SIGN), "n"(TA), "n"(TB)); \
        } \
        static __device__ inline void registers(float* d, const uint32_t* a, uint64_t b, int keep) { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #s5 ", 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" LIST "}, {%" #s0 ",%" #s1 ",%" #s2 ",%" #s3 "}, %" #s4 ", p, %" #s6 ", 1, %" #s7 ";\n}\n" \
                         : OUTS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(SIGN), "n"(TB)); \
        } \
    };
#define TENS_TO(...) __VA_ARGS__
WGMMA(8, "%0,%1,%2,%3", D4(0), 4, 5, 6, 7, 8, 9, 10, 11, 12)
WGMMA(16, "%0,%1,%2,%3,%4,%5,%6,%7", D8(0), 8, 9, 10, 11, 12, 13, 14, 15, 16)
WGMMA(32, TEN() "%10,%11,%12,%13,%14,%15", D16(0), 16, 17, 18, 19, 20, 21, 22, 23, 24)
WGMMA(64, TEN() TEN(1) TEN(2) "%30,%31", D32(0), 32, 33, 34, 35, 36, 37, 38, 39, 40)
WGMMA(96, TEN() TEN(1) TEN(2) TEN(3) "%40,%41,%42,%43,%44,%45,%46,%47", TENS_TO(D32(0), D16(32)), 48, 49, 50, 51, 52, 53, 54, 55, 56)
WGMMA(128, TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60,%61,%62,%63", D64(0), 64, 65, 66, 67, 68, 69, 70, 71, 72)
WGMMA(192, TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) "%90,%91,%92,%93,%94,%95", TENS_TO(D64(0), D32(64)), 96, 97, 98, 99, 100, 101, 102, 103, 104)
WGMMA(256, TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11) "%120,%121,%122,%123,%124,%125,%126,%127",
      TENS_TO(D64(0), D64(64)), 128, 129, 130, 131, 132, 133, 134, 135, 136)

__device__ inline void wgmma_fence()  { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ inline void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory"); }
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A matrix of (rows, 64) bf16 in shared memory, in one of the canonical layouts
enum Swizzle { NONE = 0, SW128 = 1, SW64 = 2, SW32 = 3 };
enum { DEPTH = 64 };

// byte of element (r, k), as Hopper's tutorials draw it: tiles of whole swizzle atoms
__host__ __device__ inline int place(Swizzle s, bool mn_major, int rows, int r, int k) {
    int outer = mn_major ? k : r, inner = mn_major ? r : k, lines = mn_major ? DEPTH : rows;
    if (s == NONE) { return inner / 8 * lines * 16 + outer * 16 + inner % 8 * 2; }            // columns of 8 elements
    int width = s == SW128 ? 64 : s == SW64 ? 32 : 16;                                        // elements in a line of the atom
    int line = outer, chunk = inner % width / 8;
    int change = s == SW128 ? line % 8 : s == SW64 ? line / 2 % 4 : line / 4 % 2;
    return inner / width * lines * width * 2 + line * width * 2 + (chunk ^ change) * 16 + inner % 8 * 2;
}

// descriptor of the 16 values of k from `step` on
__device__ inline uint64_t describe(uint32_t base, Swizzle s, bool mn_major, int rows, int step) {
    int lines = mn_major ? DEPTH : rows, line = s == NONE ? 16 : s == SW128 ? 128 : s == SW64 ? 64 : 32, tile = lines * line;
    uint32_t leading, stride, start = base;
    if (s == NONE) { stride = mn_major ? tile : 128; leading = mn_major ? 128 : tile; start += mn_major ? step * 256 : step * 2 * tile; }
    else if (mn_major) { leading = tile; stride = 8 * line; start += step * 16 * line; }
    else { leading = 1; stride = 8 * line; start += step * 32 / line * tile + step * 32 % line; }
    return (uint64_t)((start & 0x3ffff) >> 4) | (uint64_t)(leading >> 4) << 16 | (uint64_t)(stride >> 4) << 32 | (uint64_t)s << 62;
}

// ---- mbarrier, TMA ----------------------------------------------------------------------------------------------------
__device__ inline void mbarrier_init(uint64_t* b, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_at(b)), "r"(count) : "memory"); }
__device__ inline void mbarrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void mbarrier_expect(uint64_t* b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_at(b)), "r"(bytes) : "memory");
}
__device__ inline void mbarrier_arrive(uint64_t* b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_at(b)) : "memory"); }
__device__ inline void mbarrier_wait(uint64_t* b, int parity) {
    asm volatile("{\n.reg .pred P1;\nLAB_WAIT:\nmbarrier.try_wait.parity.shared::cta.b64 P1, [%0], %1;\n@P1 bra DONE;\nbra LAB_WAIT;\nDONE:\n}"
                 :: "r"(shared_at(b)), "r"(parity) : "memory");
}
__device__ inline bool mbarrier_test(uint64_t* b, int parity) {
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }" : "=r"(done) : "r"(shared_at(b)), "r"(parity) : "memory");
    return done != 0;
}
__device__ inline void tma_load(void* to, const CUtensorMap* map, int x, int y, uint64_t* b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 :: "r"(shared_at(to)), "l"(map), "r"(shared_at(b)), "r"(x), "r"(y) : "memory");
}
__device__ inline void tma_store(const CUtensorMap* map, int x, int y, const void* from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" :: "l"(map), "r"(shared_at(from)), "r"(x), "r"(y) : "memory");
}
__device__ inline void bulk_load(void* to, const void* from, int bytes, uint64_t* b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(shared_at(to)), "l"(from), "r"(bytes), "r"(shared_at(b)) : "memory");
}
__device__ inline void bulk_store(void* to, const void* from, int bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" :: "l"(to), "r"(shared_at(from)), "r"(bytes) : "memory");
}
__device__ inline void bulk_commit_and_wait() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
__device__ inline bool elected() {
    uint32_t yes;
    asm volatile("{\n.reg .pred P;\nelect.sync _|P, %1;\nselp.u32 %0, 1, 0, P;\n}" : "=r"(yes) : "r"(0xffffffffu));
    return yes != 0;
}

static CUtensorMap map_of(void* start, int rows, int columns, int box_rows, int box_columns, CUtensorMapSwizzle swizzle) {
    PFN_cuTensorMapEncodeTiled_v12000 encode = NULL;
    cudaDriverEntryPointQueryResult found;
    CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void**)&encode, 12000, cudaEnableDefault, &found));
    CUtensorMap map;
    cuuint64_t size[2] = {(cuuint64_t)columns, (cuuint64_t)rows}, stride[1] = {(cuuint64_t)columns * 2};
    cuuint32_t box[2] = {(cuuint32_t)box_columns, (cuuint32_t)box_rows}, ones[2] = {1, 1};
    CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, start, size, stride, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS) { fprintf(stderr, "no tensor map\n"); abort(); }
    return map;
}

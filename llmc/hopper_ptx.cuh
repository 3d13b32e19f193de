// The instructions of Hopper (sm_90a) that kernels need: products of a warpgroup (wgmma), tile copies (TMA), the barriers in
// shared memory they complete on, and the fence between the two ways to shared memory. PTX ISA 8, chapters 9.7.9, 9.7.13, 9.7.15.
//
// A warpgroup is 4 warps, the first one's index a multiple of 4. Its product D (64 x N) has rows 16w .. 16w+15 in warp w; in a warp, lane
// 4g + c holds of an accumulator d[N/2]: d[4n], d[4n+1] = row g, columns 8n + 2c and the next; d[4n+2], d[4n+3] = row g+8 of the same.
// So the left operand in registers of columns 16k .. 16k+15 is made of d[8k .. 8k+7] in pairs.
//
// wgmma and TMA see shared memory through another proxy than loads, stores and cp.async do: who wrote with those calls fence_proxy_async
// before the barrier behind which a product or a TMA store reads.
#ifndef HOPPER_PTX_CUH
#define HOPPER_PTX_CUH

#include <stdint.h>
#include "attn_ptx.cuh"

// Kernels that use this file have bodies for sm_90a only; the sm_80 pass over the same source compiles them empty, nobody launches those.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER_CODE 1
#endif

// ---- products -------------------------------------------------------------------------------------------------------
// Order: wgmma_fence, any number of wgmma, wgmma_commit; the accumulators (and left operands in registers) stay untouched until wgmma_wait.
__device__ inline void wgmma_fence()  { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most PENDING of the newest groups are unfinished. The accumulators of a finished group pass through wgmma_ready before
// their first use, which holds the compiler from moving that use before the wait.
template <int PENDING> __device__ inline void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory"); }
template <int COUNT> __device__ inline void wgmma_ready(float (&d)[COUNT]) {
    #pragma unroll
    for (int i = 0; i < COUNT; i++) { asm volatile("" : "+f"(d[i]) :: "memory"); }
}

// the operand lists of 16, 32, 64 and 128 accumulators: their names in the text, and the registers
#define NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_32 NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64 NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
                          ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_128 NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
                           ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
                           ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
                           ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SUMS_FROM(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SUMS_16 SUMS_FROM(0), SUMS_FROM(8)
#define SUMS_32 SUMS_16, SUMS_FROM(16), SUMS_FROM(24)
#define SUMS_64 SUMS_32, SUMS_FROM(32), SUMS_FROM(40), SUMS_FROM(48), SUMS_FROM(56)
#define SUMS_128 SUMS_64, SUMS_FROM(64), SUMS_FROM(72), SUMS_FROM(80), SUMS_FROM(88), SUMS_FROM(96), SUMS_FROM(104), SUMS_FROM(112), SUMS_FROM(120)

// d = a b + (add ? d : 0) over 16 columns of a = rows of b. Operands in shared memory are named by descriptors (hopper_tile.cuh); one whose
// 16 run along its rows has TRANS 0, one whose 16 are its rows has TRANS 1. N = 32, 64, 128 or 256 is twice the accumulators' length.
template <int TRANS_A, int TRANS_B>
__device__ inline void wgmma(float (&d)[32], uint64_t a, uint64_t b, bool add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 NAMES_32 "}, "
                 "%32, %33, p, 1, 1, %35, %36; }"
                 : SUMS_32
                 : "l"(a), "l"(b), "r"((int)add), "n"(TRANS_A), "n"(TRANS_B) : "memory");
}

template <int TRANS_A, int TRANS_B>
__device__ inline void wgmma(float (&d)[64], uint64_t a, uint64_t b, bool add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 NAMES_64 "}, "
                 "%64, %65, p, 1, 1, %67, %68; }"
                 : SUMS_64
                 : "l"(a), "l"(b), "r"((int)add), "n"(TRANS_A), "n"(TRANS_B) : "memory");
}

template <int TRANS_A, int TRANS_B>
__device__ inline void wgmma(float (&d)[128], uint64_t a, uint64_t b, bool add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 NAMES_128 "}, "
                 "%128, %129, p, 1, 1, %131, %132; }"
                 : SUMS_128
                 : "l"(a), "l"(b), "r"((int)add), "n"(TRANS_A), "n"(TRANS_B) : "memory");
}

template <int TRANS_B>
__device__ inline void wgmma(float (&d)[16], const uint32_t (&a)[4], uint64_t b, bool add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %21, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 NAMES_16 "}, "
                 "{%16, %17, %18, %19}, %20, p, 1, 1, %22; }"
                 : SUMS_16
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(TRANS_B) : "memory");
}

template <int TRANS_B>
__device__ inline void wgmma(float (&d)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 NAMES_32 "}, "
                 "{%32, %33, %34, %35}, %36, p, 1, 1, %38; }"
                 : SUMS_32
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(TRANS_B) : "memory");
}

template <int TRANS_B>
__device__ inline void wgmma(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool add) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 NAMES_64 "}, "
                 "{%64, %65, %66, %67}, %68, p, 1, 1, %70; }"
                 : SUMS_64
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(TRANS_B) : "memory");
}
#undef NAMES_16
#undef NAMES_32
#undef NAMES_64
#undef NAMES_128
#undef SUMS_FROM
#undef SUMS_16
#undef SUMS_32
#undef SUMS_64
#undef SUMS_128

// ---- barriers in shared memory --------------------------------------------------------------------------------------
// A barrier completes a phase when `count` arrivals and all expected bytes have come; its first phase has parity 0.
// Waiting for parity 1 of a fresh barrier returns at once: who waits for a place to be free begins with that.
__device__ inline void mbarrier_init(uint64_t* barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(barrier)), "r"(count) : "memory");
}
// after the inits, before the barriers' first use by TMA
__device__ inline void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(barrier)) : "memory");
}
// arrives, and makes the phase wait for `bytes` of TMA copies too
__device__ inline void mbarrier_arrive_expect(uint64_t* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_address(barrier)), "r"(bytes) : "memory");
}

// Has the phase of this parity completed? At once, and after waiting a while.
__device__ inline bool mbarrier_test(uint64_t* barrier, int parity) {
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    return done;
}
__device__ inline bool mbarrier_try(uint64_t* barrier, int parity) {
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    return done;
}
__device__ inline void mbarrier_wait(uint64_t* barrier, int parity) {
    while (!mbarrier_try(barrier, parity)) { }
}

// Arrives at the same barrier of the cluster's CTA `rank`. Publishes nothing that was written with ordinary stores: release.cluster would, with
// a fence of the whole device each time.
__device__ inline void mbarrier_arrive_at(uint64_t* barrier, int rank) {
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there]; }"
                 :: "r"(shared_address(barrier)), "r"(rank) : "memory");
}

// ---- copies ---------------------------------------------------------------------------------------------------------
// This thread's earlier writes to shared memory become visible to wgmma and TMA.
__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The box at (column, row, matrix) of a 3-dimensional tensor map to shared memory; its bytes count on the barrier. One thread calls it.
__device__ inline void tma_load(void* shared, const void* map, int column, int row, int matrix, uint64_t* barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
                 :: "r"(shared_address(shared)), "l"(map), "r"(column), "r"(row), "r"(matrix), "r"(shared_address(barrier)) : "memory");
}

// The same to the same place in every CTA of the cluster whose bit is set in `ranks`, counted on the barrier of each.
__device__ inline void tma_load_to(int ranks, void* shared, const void* map, int column, int row, int matrix, uint64_t* barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;"
                 :: "r"(shared_address(shared)), "l"(map), "r"(column), "r"(row), "r"(matrix), "r"(shared_address(barrier)), "h"((uint16_t)ranks)
                 : "memory");
}

// bytes that follow each other to shared memory, counted on the barrier; both 16-byte aligned. One thread calls it.
__device__ inline void bulk_load(void* shared, const void* from, int bytes, uint64_t* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(shared_address(shared)), "l"(from), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}

// The other way: bytes from shared memory to device memory, or added to the floats there. Sums are fp32, each element's addition is one; who
// wants them in an order waits for the one before (bulk_wait, then a flag). Both 16-byte aligned. One thread calls these and the waits.
__device__ inline void bulk_store(void* to, const void* shared, int bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" :: "l"(to), "r"(shared_address(shared)), "r"(bytes) : "memory");
}
__device__ inline void bulk_add(float* to, const float* shared, int bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;"
                 :: "l"(to), "r"(shared_address(shared)), "r"(bytes) : "memory");
}
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// All of this thread's: shared memory has been read; device memory has been written.
__device__ inline void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ inline void bulk_wait()      { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// ---- between CTAs: a flag in device memory, behind which other writes are seen ----------------------------------------------
__device__ inline int load_acquire(const int* flag) {
    int x;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(flag) : "memory");
    return x;
}
__device__ inline void store_release(int* flag, int x) { asm volatile("st.release.gpu.global.s32 [%0], %1;" :: "l"(flag), "r"(x) : "memory"); }
// Between what this thread has read or written in device memory itself, and its bulk copies there.
__device__ inline void fence_proxy_async_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

// ---- between the warps of a CTA -------------------------------------------------------------------------------------------
// Meets the other threads that call it with this id (1 to 15), `threads` of them.
__device__ inline void named_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory"); }

// All warps of a warpgroup call it: each of their threads gives registers back, or takes more.
template <int COUNT> __device__ inline void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COUNT)); }
template <int COUNT> __device__ inline void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COUNT)); }

// ---- clusters: CTAs that run at the same time and reach each other's shared memory ------------------------------------------
__device__ inline int cluster_rank() {
    int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// All threads of all CTAs of the cluster meet; what they wrote to shared memory before is seen after.
__device__ inline void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// ---- registers to shared memory -------------------------------------------------------------------------------------
// Four 8 x 8 matrices of bf16, the inverse of ldmatrix_x4: this lane's pair (g, 2c), (g, 2c+1) of matrix i is in[i];
// lane 8*i + r gives the address of row r of matrix i.
__device__ inline void stmatrix_x4(void* row, const uint32_t (&in)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};"
                 :: "r"(shared_address(row)), "r"(in[0]), "r"(in[1]), "r"(in[2]), "r"(in[3]) : "memory");
}

#endif

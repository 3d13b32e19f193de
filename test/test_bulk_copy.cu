// Bulk copies (cp.async.bulk) into a place that is read and reused, in the two ways our Hopper kernels know: the next copy begins
//   after_a_barrier   when all threads have met at __syncthreads()
//   in_a_ring         when a second mbarrier says that each warp's lanes have read (llmc/swa_hopper.cuh)
// It is also the minimal reproduction of what compute-sanitizer's racecheck says of such copies: sanitize_gpu.sh runs it under racecheck, and
// its report, if there is one, is about memory that is evidently waited for. dev/emu/run --race bulk_copy finds nothing.
#include "test.h"
#ifndef LLMC_CPU
#include "ref.h"
#include "cuda_common.cuh"
#include "hopper_tile.cuh"

enum { READERS = 128, ROUNDS = 8, ROW_BYTES = READERS * (int)sizeof(float) };

// sum[i] = sum over rounds of rows[round][i + 1]
template <bool RING>
__global__ void sum_rows_kernel(float* sum, const float* rows) {
#ifdef HOPPER_CODE
    __shared__ __align__(16) float row[READERS];
    __shared__ uint64_t full, empty;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_init(&empty, READERS / WARP);
        mbarrier_init_fence();
    }
    __syncthreads();
    float mine = 0;
    for (int round = 0; round < ROUNDS; round++) {
        if (threadIdx.x == 0) {
            if (RING && round > 0) { mbarrier_wait(&empty, (round - 1) % 2); }
            mbarrier_arrive_expect(&full, ROW_BYTES);
            bulk_load(row, rows + round * READERS, ROW_BYTES, &full);
        }
        __syncwarp();
        mbarrier_wait(&full, round % 2);
        mine += row[(threadIdx.x + 1) % READERS];
        if (RING) {
            __syncwarp();
            if (threadIdx.x % WARP == 0) { mbarrier_arrive(&empty); }
        } else {
            __syncthreads();
        }
    }
    sum[threadIdx.x] = mine;
#endif
}

static void sums_check(bool ring) {
    if (device_open(0).capability != 90) { return; }                    // there are no such copies in the portable kernels
    float rows[ROUNDS * READERS];
    for (int i = 0; i < ROUNDS * READERS; i++) { rows[i] = (float)(i * 7 % 1000); }
    float *d_rows = (float*)device_from(rows, sizeof rows), *d_sum = (float*)device_poisoned(READERS * sizeof(float));
    if (ring) { sum_rows_kernel<true><<<1, READERS, 0, 0>>>(d_sum, d_rows); }
    else      { sum_rows_kernel<false><<<1, READERS, 0, 0>>>(d_sum, d_rows); }
    LAUNCH_CHECK();
    float* sum = (float*)host_from(d_sum, READERS * sizeof(float));
    for (int i = 0; i < READERS; i++) {
        float expected = 0;
        for (int round = 0; round < ROUNDS; round++) { expected += rows[round * READERS + (i + 1) % READERS]; }
        CHECK_NEAR(sum[i], expected, 0);
    }
    free(sum);
    device_free(d_rows);
    device_free(d_sum);
}

GPU_TEST(bulk_copy_reused_after_a_barrier) { sums_check(false); }
GPU_TEST(bulk_copy_reused_in_a_ring)       { sums_check(true); }
#endif

TEST_MAIN()

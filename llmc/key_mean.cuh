// Mean keys of a block, for thread blocks of (WARP, KEY_RUNS) threads that own one key block: each warp adds up a run of its keys in ascending
// order, then the runs' sums are added in ascending order. moba_centroid and kconv_centroid_forward both sum this way, so they give the same bits.
#ifndef KEY_MEAN_CUH
#define KEY_MEAN_CUH

#include "cuda_common.cuh"

enum { KEY_RUNS = 8 };        // of a key block, whatever its length: a constant, so that sums do not depend on the device

typedef struct { int from, end; } KeyRun;

// The keys of this warp in block j; of a short last block the late runs are short or empty.
__device__ inline KeyRun key_run(int j, int block, int T) {
    int length = (block + KEY_RUNS - 1) / KEY_RUNS, from = j * block + (int)threadIdx.y * length;
    KeyRun run = {from, min(from + length, min((j + 1) * block, T))};
    return run;
}

// From the sums of all threads, E channels each (lane i: channels first + i*E ..): mean[h*stride + d] for channel h*D + d, of those below C.
template<int E>
__device__ inline void store_key_mean(float* mean, const float sum[E], int first, int C, int D, size_t stride, int keys) {
    __shared__ float partial[KEY_RUNS][E][WARP + WARP / E];       // the padding spreads the reads below over all banks
    int thread = threadIdx.y * WARP + threadIdx.x, channel = first + thread;
    for (int e = 0; e < E; e++) { partial[threadIdx.y][e][threadIdx.x] = sum[e]; }
    __syncthreads();
    if (thread >= WARP * E || channel >= C) { return; }
    float total = 0.0f;
    for (int r = 0; r < KEY_RUNS; r++) { total += partial[r][thread % E][thread / E]; }
    mean[channel / D * stride + channel % D] = total / keys;
}

#endif

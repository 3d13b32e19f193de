// Key-major: who comes to a block, and how a query's parts become its output. Shared by steps 3 and 4.
// Each query has TOPK slots in scratch: one per picked block, in the order of its picks, and the last one for its own block.
#ifndef KEY_MAJOR_CUH
#define KEY_MAJOR_CUH

#include "ladder.h"

enum { SPLIT = 4 };                                                      // CTAs that share a block's queries

__device__ inline size_t slot_at(const Problem& p, int head, int t, int slot) { return ((size_t)head * p.T + t) * TOPK + slot; }

// The queries of block j as entries t * MOBA_MAX_TOPK + slot: first its list, then its own queries.
struct Callers { const int* list; int routed, count, own_first; };

__device__ inline Callers callers_of(const Problem& p, int head, int j) {
    const int* offset = p.route.offset + (size_t)head * (p.blocks + 1);
    int routed = offset[j + 1] - offset[j], own = min((int)BLOCK, p.T - j * BLOCK);
    return {p.route.list + (size_t)head * p.T * SLOTS + offset[j], routed, routed + own, j * BLOCK};
}

__device__ inline int entry_of(const Callers& callers, int i) {
    return i < callers.routed ? callers.list[i] : (callers.own_first + i - callers.routed) * MOBA_MAX_TOPK + SLOTS;
}

__device__ inline float to_float(float x)  { return x; }
__device__ inline float to_float(floatX x) { return __bfloat162float(x); }

// out = the mean of the normalised parts, weighted by exp(lse).   one warp per query, lane l has dims 2l, 2l + 1; grid (queries / 4, heads)
template <typename Partial>
__global__ static void merge_kernel(Problem p, const Partial* partial, const float* lse) {
    int t = blockIdx.x * blockDim.y + threadIdx.y, head = blockIdx.y, lane = threadIdx.x;
    if (t >= p.T) { return; }
    const uint16_t* picks = picks_of(p.route.sel, p, head, t);
    float top = -INFINITY, sum = 0, x = 0, y = 0;
    for (int slot = 0; slot < TOPK; slot++) {
        if (slot == SLOTS || picks[slot] != MOBA_NONE) { top = fmaxf(top, lse[slot_at(p, head, t, slot)]); }
    }
    for (int slot = 0; slot < TOPK; slot++) {
        if (slot < SLOTS && picks[slot] == MOBA_NONE) { continue; }
        const Partial* part = partial + slot_at(p, head, t, slot) * D + 2 * lane;
        float weight = __expf(lse[slot_at(p, head, t, slot)] - top);
        sum += weight;
        x += weight * to_float(part[0]);
        y += weight * to_float(part[1]);
    }
    floatX* out = p.out + row_at(p, head, t) + 2 * lane;
    out[0] = __float2bfloat16(x / sum);
    out[1] = __float2bfloat16(y / sum);
}

template <typename Partial>
static void merge(const Problem* p, const Partial* partial, const float* lse) {
    dim3 grid(ceil_div(p->T, 4), p->heads), block(WARP, 4);
    merge_kernel<Partial><<<grid, block, 0, 0>>>(*p, partial, lse);
    LAUNCH_CHECK();
}

#endif

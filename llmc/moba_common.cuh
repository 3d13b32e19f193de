// What the portable and the Hopper kernels of MoBA attention share: the problem, and where its lists and slots are.
#ifndef MOBA_COMMON_CUH
#define MOBA_COMMON_CUH

#include "attn_tile.cuh"

// What every kernel reads. Heads head0 .. head0 + gridDim.y - 1 are this launch's; scratch is indexed from head0.
struct Moba {
    const floatX *q, *k, *v;
    MobaRoute route;
    AttnShape shape;
    int block, blocks, slots, head0;
    float scale;                                   // 1/sqrt(D)
};

// ---- lists ------------------------------------------------------------------------------------------------------------
__device__ inline const int* head_offset(const Moba& m, int head)   { return m.route.offset + (size_t)head * (m.blocks + 1); }
__device__ inline const int* head_list(const Moba& m, int head)     { return m.route.list + (size_t)head * m.shape.T * m.slots; }
__device__ inline const uint16_t* query_sel(const Moba& m, int head, int t) {
    return m.route.sel + ((size_t)head * m.shape.T + t) * m.slots;
}
// the slots of this launch's heads are (heads, T, slots)
__device__ inline size_t slot_at(const Moba& m, int head, int t) { return ((size_t)(head - m.head0) * m.shape.T + t) * m.slots; }

// Work items without a table: block j's chunks are the items from offset[j] / chunk + spread * j on. With spread 1 that is room for
// every chunk of every list (ceil(length / chunk) never exceeds what the floors leave, plus one), with spread 0 for all but the first.
// Returns the last block whose items start at or before `item`; the warp probes 32 places at a time.
__device__ inline int find_block(const int* offset, int blocks, int item, int chunk, int spread) {
    int low = 0, high = blocks, lane = threadIdx.x % WARP;
    while (high - low > 1) {
        int step = (high - low + WARP - 1) / WARP, probe = low + lane * step;
        bool before = probe < high && offset[probe] / chunk + spread * probe <= item;
        low += step * (__popc(__ballot_sync(0xffffffffu, before)) - 1);
        high = min(high, low + step);
    }
    return low;
}

// ---- slots -----------------------------------------------------------------------------------------------------------
// A query's slots are read SLOTS at a time, the last one again where there are no more: loads without conditions do not wait for one another.
enum { SLOTS = 4 };

// how many slots of a query are in use; they come first
__device__ inline int used_slots(const uint16_t* sel, int slots) {
    int used = 0;
    for (int first = 0; first < slots; first += 2 * SLOTS) {
        #pragma unroll
        for (int s = first; s < first + 2 * SLOTS; s++) {
            bool picked = sel[min(s, slots - 1)] != MOBA_NONE;
            used += picked & (s < slots);
        }
    }
    return used;
}

#endif

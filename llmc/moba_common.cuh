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

#endif

// What the attention tests share: routing made by the test itself (random blocks, one block that everybody picks, fewer than allowed),
// its lists, and normals for inputs. In the common subset of C11 and C++17.
#ifndef ATTN_CASE_H
#define ATTN_CASE_H

#include "test.h"

// SINK: every query that can picks block 0, and random others.  LOW: the first blocks, so that later lists are empty.
// SPARSE: some queries pick fewer blocks than they may, or none.
typedef enum { PICK_RANDOM, PICK_SINK, PICK_LOW, PICK_SPARSE } PickKind;

typedef struct {
    int B, H, T, block, topk, blocks, slots;
    uint16_t* sel;
    int *offset, *list;
} PickedRoute;

static inline size_t picked_sel_count(const PickedRoute* r)    { return (size_t)r->B * r->H * r->T * r->slots; }
static inline size_t picked_offset_count(const PickedRoute* r) { return (size_t)r->B * r->H * (r->blocks + 1); }

// distinct past blocks of query t, ascending: walk the blocks in order and keep each with probability (picks left / blocks left)
static inline void pick_blocks(uint16_t* sel, int slots, int past, PickKind kind, uint64_t* seed) {
    int wanted = past < slots ? past : slots, chosen = 0;
    if (kind == PICK_SPARSE) { wanted = (int)(test_bits(seed) % (uint64_t)(wanted + 1)); }
    for (int j = 0; j < past && chosen < wanted; j++) {
        bool sure = kind == PICK_LOW || (kind == PICK_SINK && j == 0);
        if (sure || test_bits(seed) % (uint64_t)(past - j) < (uint64_t)(wanted - chosen)) { sel[chosen++] = (uint16_t)j; }
    }
    for (; chosen < slots; chosen++) { sel[chosen] = MOBA_NONE; }
}

// block -> entries t * MOBA_MAX_TOPK + slot of one head, ascending
static inline void list_head(int* offset, int* list, const uint16_t* sel, int T, int blocks, int slots) {
    int used = 0;
    for (int j = 0; j < blocks; j++) {
        offset[j] = used;
        for (int t = 0; t < T; t++) {
            for (int s = 0; s < slots; s++) {
                if (sel[(size_t)t * slots + s] == j) { list[used++] = t * MOBA_MAX_TOPK + s; }
            }
        }
    }
    offset[blocks] = used;
}

static inline PickedRoute picked_route(int B, int H, int T, int block, int topk, PickKind kind, uint64_t seed) {
    PickedRoute r;
    r.B = B; r.H = H; r.T = T; r.block = block; r.topk = topk;
    r.blocks = (T + block - 1) / block;
    r.slots = topk - 1;
    r.sel = (uint16_t*)malloc(picked_sel_count(&r) * sizeof(uint16_t) + 16);
    r.list = (int*)malloc(picked_sel_count(&r) * sizeof(int) + 16);
    r.offset = (int*)malloc(picked_offset_count(&r) * sizeof(int));
    for (int head = 0; head < B * H; head++) {
        uint16_t* sel = r.sel + (size_t)head * T * r.slots;
        for (int t = 0; t < T; t++) { pick_blocks(sel + (size_t)t * r.slots, r.slots, t / block, kind, &seed); }
        list_head(r.offset + (size_t)head * (r.blocks + 1), r.list + (size_t)head * T * r.slots, sel, T, r.blocks, r.slots);
    }
    return r;
}

static inline MobaRoute picked_view(const PickedRoute* r) {
    MobaRoute route;
    route.sel = r->sel; route.offset = r->offset; route.list = r->list;
    return route;
}

static inline void picked_free(PickedRoute* r) { free(r->sel); free(r->offset); free(r->list); }

static inline float* attn_normals(size_t n, uint64_t seed) {
    float* x = (float*)malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) { x[i] = (float)test_normal(&seed); }
    return x;
}

// q and v inside rows of a (B*T, 3*H*D) product, k beside it: the layout of a layer with a key convolution
static inline AttnShape attn_shape(int B, int T, int H, int D) {
    AttnShape s;
    s.B = B; s.T = T; s.H = H; s.D = D;
    s.ldq = s.ldv = 3 * H * D;
    s.ldk = s.ldo = H * D;
    s.path = ATTN_AUTO;
    return s;
}

static inline const char* attn_path_name(int path) {              // an AttnPath
    return path == ATTN_HOPPER ? "hopper" : path == ATTN_PORTABLE ? "portable" : "auto";
}

#endif

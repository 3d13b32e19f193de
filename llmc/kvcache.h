// Level 3: what generation keeps of the tokens before: keys and values of every layer, so that a new token costs one row and not the whole
// sequence. S layers keep their window, M layers everything and the mean key of each complete block, D layers everything.
#ifndef KVCACHE_H
#define KVCACHE_H

#include "arena.h"
#include "params.h"

// The rows (C wide) of the newest tokens, oldest first, without a gap. When there is no room for another the last `keep` move to the front.
typedef struct {
    floatX* row;
    int room, keep;        // in rows; a layer that sees everything has keep == room
    int first;             // the token of row 0
} TokenRows;

typedef struct {
    TokenRows k, v;        // as attention reads them: k turned by RoPE on S layers, k' where there is a key convolution
    TokenRows raw;         // k before its convolution, the newest W - 1 at least; no rows without one
    float* centroid;       // (n, H, D) block by block, of the complete blocks; M layers
} LayerCache;

typedef enum { CACHE_IDLE, CACHE_FILL, CACHE_STEP } CacheUse;

typedef struct {
    int         room;      // tokens there is room for; 0: no cache was planned
    int         length;    // tokens in it
    CacheUse    use;       // what the forward pass at hand does with it
    int         filling;   // CACHE_FILL: tokens of this pass that count; padding may follow them
    LayerCache* layer;     // (L)
    uint16_t*   sel;       // (H, topk-1) blocks that the newest token picked, of the last M layer walked
    floatX*     convolved; // (W, C) k' of the newest tokens
    void*       scratch;
} KvCache;

#ifdef __cplusplus
extern "C" {
#endif

// Adds a cache for `room` tokens to the plan. The KvCache must stay where it is.
void kvcache_plan(KvCache* cache, Arena* arena, const ModelShape* s, int room);
void kvcache_free(KvCache* cache);

// Layer l of a pass over a whole sequence, from its token 0: keeps its first `filling` rows of k as attention reads it (row stride ldk), and of
// v and the unconvolved k in qkv (rows of 3C).
void kvcache_fill(KvCache* cache, const ModelShape* s, int l, const floatX* k, int ldk, const floatX* qkv, stream_t stream);

// Layer l of a pass over one token, number `length`: its qkv row joins the cache (q and k are turned in place on S layers), out (C) is its
// attention. taps, rope: as kconv_forward and rope_forward take them. dense: M layers attend to every block.
void kvcache_step(KvCache* cache, const ModelShape* s, int l, floatX* out, floatX* qkv, const float* taps, const float* rope, bool dense,
                  stream_t stream);

#ifdef __cplusplus
}
#endif
#endif

#include "kvcache.h"

#include "device.h"
#include "ops.h"

enum { RAW_ROOM = 64 };       // rows of keys before their convolution: the newest W - 1 move to the front once in this many tokens

static bool is_sliding(const ModelShape* s, int l) { return s->layer[l].kind == LAYER_S; }
static int  slots_of(const ModelShape* s, int l)   { return is_moba(s, l) ? s->layer[l].topk - 1 : 0; }

// ---- plan -------------------------------------------------------------------------------------------------------------------

static void plan_rows(TokenRows* rows, Arena* arena, int room, int keep, int width) {
    rows->room = room;
    rows->keep = keep;
    arena_add(arena, MEM_WORKSPACE, (void**)&rows->row, (size_t)room * width * sizeof(floatX));
}

// A window w keeps w - 1 rows in 2w: what moves never overlaps where it goes.
static void plan_layer(LayerCache* layer, Arena* arena, const ModelShape* s, int l, int room) {
    bool slides = is_sliding(s, l) && s->layer[l].window < room / 2;
    int rows = slides ? 2 * s->layer[l].window : room, keep = slides ? s->layer[l].window - 1 : room;
    plan_rows(&layer->k, arena, rows, keep, s->C);
    plan_rows(&layer->v, arena, rows, keep, s->C);
    if (kconv_taps(s, l)) { plan_rows(&layer->raw, arena, RAW_ROOM, s->W - 1, s->C); }
    if (is_moba(s, l)) {
        size_t blocks = (size_t)(room / s->layer[l].block);
        arena_add(arena, MEM_WORKSPACE, (void**)&layer->centroid, blocks * s->C * sizeof(float));
    }
}

void kvcache_plan(KvCache* cache, Arena* arena, const ModelShape* s, int room) {
    size_t scratch = 256;
    int slots = 0;
    cache->room = room;
    cache->layer = (LayerCache*)xcalloc((size_t)s->L, sizeof *cache->layer);
    for (int l = 0; l < s->L; l++) {
        plan_layer(&cache->layer[l], arena, s, l, room);
        slots = max_int(slots, slots_of(s, l));
        scratch = max_size(scratch, attn_step_forward_scratch(s->H, s->D, room, slots_of(s, l)));
        if (is_moba(s, l)) { scratch = max_size(scratch, attn_step_topk_scratch(s->H, room / s->layer[l].block)); }
    }
    arena_add(arena, MEM_WORKSPACE, (void**)&cache->sel, (size_t)s->H * slots * sizeof(uint16_t));
    arena_add(arena, MEM_WORKSPACE, (void**)&cache->convolved, (size_t)s->W * s->C * sizeof(floatX));
    arena_add(arena, MEM_WORKSPACE, &cache->scratch, scratch);
}

void kvcache_free(KvCache* cache) { free(cache->layer); }

// ---- rows -------------------------------------------------------------------------------------------------------------------

static floatX* row_of(const TokenRows* rows, int token, int C) { return rows->row + (size_t)(token - rows->first) * C; }

// the last rows of tokens 0 .. count-1, as many as are kept
static void fill_rows(TokenRows* rows, const floatX* from, int ld, int count, int C, stream_t stream) {
    int kept = min_int(count, rows->keep);
    rows->first = count - kept;
    device_copy_rows(rows->row, (size_t)C * sizeof(floatX), from + (size_t)rows->first * ld, (size_t)ld * sizeof(floatX),
                     (size_t)C * sizeof(floatX), (size_t)kept, stream);
}

static void append_row(TokenRows* rows, const floatX* from, int token, int C, stream_t stream) {
    if (token - rows->first == rows->room) {
        floatX* kept = row_of(rows, token - rows->keep, C);
        device_copy(rows->row, kept, (size_t)rows->keep * C * sizeof(floatX), stream);
        rows->first = token - rows->keep;
    }
    device_copy(row_of(rows, token, C), from, (size_t)C * sizeof(floatX), stream);
}

// Mean keys of the complete blocks [from, to): to moba_centroid each block is a sequence of its own, which puts them block by block.
static void add_centroids(LayerCache* layer, const ModelShape* s, int l, int from, int to, stream_t stream) {
    int block = s->layer[l].block, C = s->C;
    enum { AT_ONCE = 65535 };                    // the kernel's limit on sequences
    for (int j = from; j < to; j += AT_ONCE) {
        AttnShape blocks = {min_int(to - j, AT_ONCE), block, s->H, s->D, C, C, C, C, ATTN_AUTO};
        moba_centroid(layer->centroid + (size_t)j * C, layer->k.row + (size_t)j * block * C, blocks, block, stream);
    }
}

void kvcache_fill(KvCache* cache, const ModelShape* s, int l, const floatX* k, int ldk, const floatX* qkv, stream_t stream) {
    LayerCache* layer = &cache->layer[l];
    const int count = cache->filling, C = s->C;
    fill_rows(&layer->k, k, ldk, count, C, stream);
    fill_rows(&layer->v, qkv + 2 * C, 3 * C, count, C, stream);
    if (kconv_taps(s, l)) { fill_rows(&layer->raw, qkv + C, 3 * C, count, C, stream); }
    if (is_moba(s, l))    { add_centroids(layer, s, l, 0, count / s->layer[l].block, stream); }
}

// ---- one token --------------------------------------------------------------------------------------------------------------

// k' of token t from the newest rows of k, its own among them
static const floatX* convolve(KvCache* cache, LayerCache* layer, const ModelShape* s, const floatX* k, const float* taps, int t,
                              stream_t stream) {
    append_row(&layer->raw, k, t, s->C, stream);
    int rows = min_int(s->W, t + 1);
    kconv_forward(cache->convolved, row_of(&layer->raw, t + 1 - rows, s->C), taps, 1, rows, s->C, s->W, s->C, stream);
    return cache->convolved + (size_t)(rows - 1) * s->C;
}

static int first_key(const LayerSpec* spec, int t, bool dense) {
    switch (spec->kind) {
        case LAYER_S: return max_int(0, t - spec->window + 1);
        case LAYER_M: return dense ? 0 : t / spec->block * spec->block;
        default:      return 0;
    }
}

void kvcache_step(KvCache* cache, const ModelShape* s, int l, floatX* out, floatX* qkv, const float* taps, const float* rope, bool dense,
                  stream_t stream) {
    const LayerSpec* spec = &s->layer[l];
    LayerCache* layer = &cache->layer[l];
    const int t = cache->length, C = s->C, slots = dense ? 0 : slots_of(s, l), block = is_moba(s, l) ? spec->block : 1;
    const floatX *k = qkv + C, *v = qkv + 2 * C;
    if (is_sliding(s, l)) { rope_forward(qkv, rope + (size_t)t * s->D, 1, 1, 2 * s->H, s->D, 3 * C, stream); }     // the table from t on
    if (kconv_taps(s, l)) { k = convolve(cache, layer, s, k, taps, t, stream); }
    append_row(&layer->k, k, t, C, stream);
    append_row(&layer->v, v, t, C, stream);
    if (slots) { attn_step_topk(cache->sel, qkv, layer->centroid, s->H, s->D, t / block, spec->topk, cache->scratch, stream); }
    int from = first_key(spec, t, dense) - layer->k.first, to = t + 1 - layer->k.first;
    attn_step_forward(out, qkv, layer->k.row, layer->v.row, cache->sel, s->H, s->D, from, to, block, slots, cache->scratch, stream);
    if (is_moba(s, l) && (t + 1) % block == 0) { add_centroids(layer, s, l, t / block, t / block + 1, stream); }
}

#include "acts.h"

#include "ops.h"

// A chunk's widest tensor stays under these, in bf16: 8192 rows of GPT-2's vocabulary are 786 MiB, 16384 rows of the 1B's gate_up 512 MiB.
static const size_t LOGIT_BYTES = (size_t)896 << 20, GATE_UP_BYTES = (size_t)512 << 20;
enum { MOST_CHUNK_ROWS = 65536 };     // products gain nothing from more

int kprime_width(const ModelShape* s, int l)  { return kconv_taps(s, l) ? s->C : 0; }
int routed_slots(const ModelShape* s, int l)  { return is_moba(s, l) ? s->H * (s->layer[l].topk - 1) : 0; }

// ---- the residual stream: which x[l] exist at a level ------------------------------------------------------------------

static bool x_kept(int l, KeepLevel level) {
    if (level == FORWARD_ONLY)    { return l < 2; }              // two buffers, taken in turn
    if (level == RECOMPUTE_PAIR)  { return l % 2 == 0 || l == 1; }   // x[1] serves every odd layer
    return true;
}

static int x_home(int l, KeepLevel level) {
    if (level == FORWARD_ONLY)    { return l % 2; }
    if (level == RECOMPUTE_PAIR)  { return l % 2 ? 1 : l; }
    return l;
}

// ---- chunks of rows: as few as fit, of equal size but for rounding up to 128 --------------------------------------------

static int chunk_rows(size_t N, int width, size_t most_bytes) {
    size_t fit = max_size(most_bytes / ((size_t)width * sizeof(floatX)) / 128 * 128, 128), most = min_size(fit, MOST_CHUNK_ROWS);
    size_t chunks = (N + most - 1) / most;
    return (int)min_size(N, round_up((N + chunks - 1) / chunks, 128));
}

// ---- scratch: the most any single op asks for -----------------------------------------------------------------------------

static AttnShape widest_shape(const ModelShape* s, int B, int T) {
    AttnShape shape = {B, T, s->H, s->D, 3 * s->C, 3 * s->C, 3 * s->C, s->C, ATTN_AUTO};
    return shape;
}

static size_t scratch_need(const ModelShape* s, int B, int T, int mlp_rows, KeepLevel level, size_t cap) {
    AttnShape shape = widest_shape(s, B, T);
    bool backward = level != FORWARD_ONLY;
    int N = B * T;
    size_t need = 256;
    if (backward) {
        need = max_size(need, embedding_backward_scratch(N, s->C, s->V));
        need = max_size(need, rmsnorm_backward_scratch(N, s->C));
        need = max_size(need, matmul_rmsnorm_backward_scratch(mlp_rows, s->C));
    }
    for (int l = 0; l < s->L; l++) {
        if (backward && !is_moba(s, l)) { need = max_size(need, swa_backward_scratch(shape, s->layer[l].window)); }
        if (!is_moba(s, l)) { continue; }
        int block = s->layer[l].block, topk = s->layer[l].topk;
        need = max_size(need, moba_topk_scratch(shape, block, topk));
        need = max_size(need, moba_index_scratch(B, s->H, T, block, topk));
        need = max_size(need, moba_attn_forward_scratch(shape, block, topk, cap));
        if (backward) { need = max_size(need, moba_attn_backward_scratch(shape, block, topk, cap)); }
        if (backward && s->W) { need = max_size(need, kconv_backward_scratch(B, T, s->C, s->W)); }
    }
    return need;
}

// ---- plan ---------------------------------------------------------------------------------------------------------------------

static void plan_layers(Acts* acts, Arena* arena, const ModelShape* s, size_t N, KeepLevel level) {
    enum { ALL, CHUNK };
    for (int l = 0; l < s->L; l++) {
        LayerActs* a = &acts->layer[l];
        // unkept tensors: layer 0 holds the shared buffer, as wide as the widest layer wants (acts_share points the others at it)
#define PLAN_ACT(field, type, width, below, rows) \
        if ((int)level < (int)below) { arena_add(arena, MEM_ACTIVATIONS, (void**)&a->field, N * (size_t)(width) * sizeof(type)); } \
        else if (l == 0) { \
            size_t widest = 0; \
            for (int i = 0; i < s->L; i++) { int l = i; (void)l; widest = max_size(widest, (size_t)(width)); } \
            arena_add(arena, MEM_ACTIVATIONS, (void**)&a->field, ((rows) == CHUNK ? (size_t)acts->mlp_rows : N) * widest * sizeof(type)); \
        }
        LAYER_ACTS(PLAN_ACT)
    }
}

static void plan_routing(Acts* acts, Arena* arena, const ModelShape* s, int B, int T) {
    size_t centroids = 0, heads = (size_t)B * s->H;
    for (int l = 0; l < s->L; l++) {
        if (!is_moba(s, l)) { continue; }
        size_t n = (size_t)ceil_div(T, s->layer[l].block);
        centroids = max_size(centroids, heads * n * s->D);
        arena_add(arena, MEM_WORKSPACE, (void**)&acts->route_offset[l], heads * (n + 1) * sizeof(int));
    }
    arena_add(arena, MEM_WORKSPACE, (void**)&acts->centroid, centroids * sizeof(float));
}

void acts_plan(Acts* acts, Arena* arena, const ModelShape* s, int B, int T, KeepLevel level, size_t scratch_cap) {
    memset(acts, 0, sizeof *acts);
    size_t N = (size_t)B * T, NC = N * s->C * sizeof(floatX);
    bool backward = level != FORWARD_ONLY;
    acts->mlp_rows = chunk_rows(N, 2 * s->F, GATE_UP_BYTES);
    acts->logit_rows = chunk_rows(N, s->Vp, LOGIT_BYTES);
    acts->x = (floatX**)xcalloc((size_t)s->L + 1, sizeof(floatX*));
    acts->layer = (LayerActs*)xcalloc((size_t)s->L, sizeof(LayerActs));
    acts->route_offset = (int**)xcalloc((size_t)s->L, sizeof(int*));
    for (int l = 0; l <= s->L; l++) {
        if (x_kept(l, level)) { arena_add(arena, MEM_ACTIVATIONS, (void**)&acts->x[l], NC); }
    }
    plan_layers(acts, arena, s, N, level);
    arena_add(arena, MEM_ACTIVATIONS, (void**)&acts->normf, NC);
    arena_add(arena, MEM_ACTIVATIONS, (void**)&acts->rstdf, N * sizeof(float));
    if (backward) {
        arena_add(arena, MEM_WORKSPACE, (void**)&acts->dx, NC);
        arena_add(arena, MEM_WORKSPACE, (void**)&acts->dy, NC);
        arena_add(arena, MEM_WORKSPACE, (void**)&acts->dqkv, 3 * NC);
        arena_add(arena, MEM_WORKSPACE, (void**)&acts->dkprime, s->W ? NC : 0);
        arena_add(arena, MEM_WORKSPACE, (void**)&acts->row_sums, (size_t)acts->mlp_rows * matmul_swiglu_sums(s->F) * sizeof(float));
    }
    arena_add(arena, MEM_WORKSPACE, (void**)&acts->logits, (size_t)acts->logit_rows * s->Vp * sizeof(floatX));
    arena_add(arena, MEM_WORKSPACE, (void**)&acts->losses, N * sizeof(float));
    arena_add(arena, MEM_WORKSPACE, (void**)&acts->total, sizeof(double));
    arena_add(arena, MEM_WORKSPACE, (void**)&acts->tokens, 2 * N * sizeof(int));
    arena_add(arena, MEM_WORKSPACE, (void**)&acts->rope, (size_t)T * s->D * sizeof(float));
    plan_routing(acts, arena, s, B, T);
    acts->scratch_bytes = scratch_need(s, B, T, acts->mlp_rows, level, scratch_cap);
    arena_add(arena, MEM_WORKSPACE, &acts->scratch, acts->scratch_bytes);
}

void acts_share(Acts* acts, const ModelShape* s, KeepLevel level) {
    for (int l = 0; l <= s->L; l++) { acts->x[l] = acts->x[x_home(l, level)]; }
    for (int l = 1; l < s->L; l++) {
#define SHARE_ACT(field, type, width, below, rows) if ((int)level >= (int)below) { acts->layer[l].field = acts->layer[0].field; }
        LAYER_ACTS(SHARE_ACT)
    }
}

void acts_free(Acts* acts) {
    free(acts->x);
    free(acts->layer);
    free(acts->route_offset);
}

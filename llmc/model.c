// The network, in the order it is computed. Forward: embed, then per layer an attention half and an MLP half, each ending where the
// product with the last matrix joins the residual stream; then logits and loss in chunks of rows. Backward is the mirror image; what the
// recompute level did not keep is redone by the very functions forward used, on the same shapes, so that every level gives the same bits.
#include "model.h"

#include "ops.h"

static const float EPS = 1e-6f;

static int rows(const Model* m)                              { return m->B * m->T; }
static LayerParams params_of(const Model* m, int l)          { return layer_params(&m->table, m->matrices, m->vectors, l); }
static LayerGrads  grads_of(const Model* m, int l)           { return layer_grads(&m->table, m->grads, l); }
static ModelParams model_params_of(const Model* m)           { return model_params(&m->table, m->matrices, m->vectors); }
static ModelGrads  model_grads_of(const Model* m)            { return model_grads(&m->table, m->grads); }
static size_t at(int row, int width)                         { return (size_t)row * (size_t)width; }

// ---- attention half -----------------------------------------------------------------------------------------------------

// q, k, v as the attention of layer l reads them, and their strides: q and v lie in qkv, k too unless a key convolution made k'
typedef struct { floatX *q, *k, *v; AttnShape shape; } Attention;

static Attention attention_of(const Model* m, int l, floatX* qkv, floatX* kprime) {
    const ModelShape* s = &m->shape;
    bool convolved = kconv_taps(s, l) > 0;
    Attention a = {qkv, convolved ? kprime : qkv + s->C, qkv + 2 * s->C,
                   {m->B, m->T, s->H, s->D, 3 * s->C, convolved ? s->C : 3 * s->C, 3 * s->C, s->C, m->attn_path}};
    return a;
}

static MobaRoute route_of(const Model* m, int l) {
    MobaRoute route = {m->acts.layer[l].sel, m->acts.route_offset[l], m->acts.layer[l].list};
    return route;
}

// block -> (query, slot) lists from the layer's picked blocks; in backward again where all layers share one list
static void index_routes(Model* m, int l) {
    const LayerSpec* spec = &m->shape.layer[l];
    moba_index(m->acts.route_offset[l], m->acts.layer[l].list, m->acts.layer[l].sel, m->B, m->shape.H, m->T, spec->block, spec->topk,
               m->acts.scratch, m->stream);
}

static void moba_forward(Model* m, int l) {
    const ModelShape* s = &m->shape;
    const LayerSpec* spec = &s->layer[l];
    LayerActs a = m->acts.layer[l];
    Attention attn = attention_of(m, l, a.qkv, a.kprime);
    const float* taps = params_of(m, l).kconv;
    int C = s->C;
    if (m->dense_moba) {
        if (s->W) { kconv_forward(a.kprime, a.qkv + C, taps, m->B, m->T, C, s->W, 3 * C, m->stream); }
        swa_forward(a.att, a.lse, attn.q, attn.k, attn.v, attn.shape, m->T, m->stream);
        return;
    }
    if (s->W) { kconv_centroid_forward(a.kprime, m->acts.centroid, a.qkv + C, taps, m->B, m->T, s->H, s->D, s->W, 3 * C, spec->block, m->stream); }
    else      { moba_centroid(m->acts.centroid, attn.k, attn.shape, spec->block, m->stream); }
    moba_topk(a.sel, attn.q, m->acts.centroid, attn.shape, spec->block, spec->topk, m->acts.scratch, m->stream);
    index_routes(m, l);
    moba_attn_forward(a.att, a.lse, attn.q, attn.k, attn.v, route_of(m, l), attn.shape, spec->block, spec->topk,
                      m->acts.scratch, m->acts.scratch_bytes, m->stream);
}

// in generation: the keys and values of this pass join the cache
static void remember(Model* m, int l) {
    LayerActs a = m->acts.layer[l];
    Attention attn = attention_of(m, l, a.qkv, a.kprime);
    kvcache_fill(&m->cache, &m->shape, l, attn.k, attn.shape.ldk, a.qkv, m->stream);
}

// norm1, x -> x2
static void attention_forward(Model* m, int l) {
    const ModelShape* s = &m->shape;
    LayerParams w = params_of(m, l);
    LayerActs a = m->acts.layer[l];
    int N = rows(m), C = s->C;
    bool step = m->cache.use == CACHE_STEP, turned = s->layer[l].kind == LAYER_S && !step;      // q and k by RoPE; kvcache_step turns by itself
    if (turned) { matmul_rope_forward(a.qkv, a.norm1, w.wqkv, m->acts.rope, N, m->T, 2 * s->H, s->D, C, 3 * C, m->plans, m->stream); }
    else        { matmul_forward(a.qkv, a.norm1, w.wqkv, N, C, 3 * C, m->plans, m->stream); }
    if (step) {
        kvcache_step(&m->cache, s, l, a.att, a.qkv, w.kconv, m->acts.rope, m->dense_moba, m->stream);
    } else if (s->layer[l].kind == LAYER_M) {
        moba_forward(m, l);
    } else {
        Attention attn = attention_of(m, l, a.qkv, NULL);
        swa_forward(a.att, a.lse, attn.q, attn.k, attn.v, attn.shape, s->layer[l].window, m->stream);
    }
    if (m->cache.use == CACHE_FILL) { remember(m, l); }
    matmul_forward_add(a.x2, a.att, w.wo, m->acts.x[l], N, C, C, m->plans, m->stream);
}

// Of layer l all from wo on (not norm1, wqkv, kconv), and of the layers behind it all gradients are final: their reduction may begin. That is said
// in front of an attention's backward, whose blocks are many and short; a product keeps every SM to its end, and one that NCCL has taken costs it
// a wave (dev/LOG.md, where the gain was not to be told from the scatter of that machine).
static void say_final(const Model* m, int l) {
    if (m->on_gradients) { m->on_gradients(m->on_gradients_argument, m->table.tensor[MODEL_FIELDS + l * LAYER_FIELDS + LAYER_wo].offset); }
}

// dx of x2 -> dx of x[l], and the gradients of wo, kconv, norm1, wqkv
static void attention_backward(Model* m, int l) {
    const ModelShape* s = &m->shape;
    const LayerSpec* spec = &s->layer[l];
    Acts* acts = &m->acts;
    LayerParams w = params_of(m, l);
    LayerGrads g = grads_of(m, l);
    LayerActs a = acts->layer[l];
    Attention attn = attention_of(m, l, a.qkv, a.kprime), grad = attention_of(m, l, acts->dqkv, acts->dkprime);
    int N = rows(m), C = s->C;
    matmul_backward_input(acts->dy, acts->dx, w.wo, N, C, C, m->plans, m->stream);
    matmul_backward_weight(g.wo, acts->dx, a.att, N, C, C, m->adding, m->plans, m->stream);
    say_final(m, l);
    if (spec->kind == LAYER_M) {
        if (KEPT(qkv, m->level) && !KEPT(list, m->level)) { index_routes(m, l); }       // else forward, or its repetition just now, left it
        moba_attn_backward(grad.q, grad.k, grad.v, acts->dy, a.att, a.lse, attn.q, attn.k, attn.v, route_of(m, l), attn.shape,
                           spec->block, spec->topk, acts->scratch, acts->scratch_bytes, m->stream);
        if (s->W) { kconv_backward(acts->dqkv + C, g.kconv, grad.k, a.qkv + C, w.kconv, m->B, m->T, C, s->W, 3 * C, acts->scratch, m->stream); }
    } else {
        swa_backward(grad.q, grad.k, grad.v, acts->dy, a.att, a.lse, attn.q, attn.k, attn.v, spec->kind == LAYER_S ? acts->rope : NULL, attn.shape,
                     spec->window, acts->scratch, m->stream);
    }
    matmul_backward_input(acts->dy, acts->dqkv, w.wqkv, N, C, 3 * C, m->plans, m->stream);
    rmsnorm_backward(acts->dx, g.norm1, acts->dy, acts->x[l], w.norm1, a.rstd1, N, C, acts->scratch, m->stream);
    matmul_backward_weight(g.wqkv, acts->dqkv, a.norm1, N, C, 3 * C, m->adding, m->plans, m->stream);
}

// ---- MLP half, in chunks of rows ------------------------------------------------------------------------------------------

// The rows [row, row + n) of what the MLP half touches. Unkept tensors hold one chunk, so they are not moved along.
typedef struct { int row, n; LayerActs a; } Chunk;

static Chunk chunk_of(const Model* m, int l, int row) {
    const ModelShape* s = &m->shape;
    Chunk c = {row, min_int(m->acts.mlp_rows, rows(m) - row), m->acts.layer[l]};
#define ADVANCE(field, width) if (KEPT(field, m->level)) { c.a.field += at(row, width); }
    ADVANCE(norm2, s->C)
    ADVANCE(rstd2, 1)
    ADVANCE(gate_up, 2 * s->F)
    ADVANCE(product, s->F)
    return c;
}

static void norm2_forward(Model* m, int l, Chunk c) {
    rmsnorm_forward(c.a.norm2, c.a.rstd2, c.a.x2 + at(c.row, m->shape.C), params_of(m, l).norm2, c.n, m->shape.C, EPS, m->stream);
}

// norm2 -> gate_up and product
static void gated_forward(Model* m, int l, Chunk c) {
    matmul_swiglu_forward(c.a.product, c.a.gate_up, c.a.norm2, params_of(m, l).w13, c.n, m->shape.C, m->shape.F, m->plans, m->stream);
}

// of x[l+1]: the next layer's first norm, or the final one
static void next_norm_forward(Model* m, int l, Chunk c) {
    Acts* acts = &m->acts;
    int C = m->shape.C;
    size_t first = at(c.row, C);
    bool last = l + 1 == m->shape.L;
    floatX* norm = last ? acts->normf : acts->layer[l + 1].norm1;
    float*  rstd = last ? acts->rstdf : acts->layer[l + 1].rstd1;
    const float* weight = last ? model_params_of(m).normf : params_of(m, l + 1).norm1;
    rmsnorm_forward(norm + first, rstd + c.row, acts->x[l + 1] + first, weight, c.n, C, EPS, m->stream);
}

// x2 -> x[l+1] and its norm
static void mlp_forward(Model* m, int l) {
    int C = m->shape.C, F = m->shape.F;
    for (int row = 0; row < rows(m); row += m->acts.mlp_rows) {
        Chunk c = chunk_of(m, l, row);
        norm2_forward(m, l, c);
        gated_forward(m, l, c);
        matmul_forward_add(m->acts.x[l + 1] + at(row, C), c.a.product, params_of(m, l).w2, c.a.x2 + at(row, C), c.n, F, C, m->plans, m->stream);
        next_norm_forward(m, l, c);
    }
}

static void mlp_redo(Model* m, int l, Chunk c) {
    if (!KEPT(norm2, m->level))        { norm2_forward(m, l, c); }
    if (!KEPT(gate_up, m->level))      { gated_forward(m, l, c); }
    else if (!KEPT(product, m->level)) { swiglu_forward(c.a.product, c.a.gate_up, c.n, m->shape.F, m->stream); }
}

// dx of x[l+1] -> dx of x2, and the gradients of w2, w13, norm2
static void mlp_backward(Model* m, int l) {
    Acts* acts = &m->acts;
    LayerParams w = params_of(m, l);
    LayerGrads g = grads_of(m, l);
    int C = m->shape.C, F = m->shape.F;
    for (int row = 0; row < rows(m); row += m->acts.mlp_rows) {
        Chunk c = chunk_of(m, l, row);
        bool adding = m->adding || row > 0;
        floatX *dx = acts->dx + at(row, C), *dnorm2 = acts->dy + at(row, C);
        floatX *dgate_up = c.a.gate_up, *dproduct = c.a.product;        // in their places: forward's are not read any more then
        mlp_redo(m, l, c);
        matmul_backward_weight(g.w2, dx, c.a.product, c.n, F, C, adding, m->plans, m->stream);
        int parts = matmul_swiglu_backward(dgate_up, acts->row_sums, dproduct, dx, w.w2, c.a.gate_up, c.n, F, C, m->plans, m->stream);
        matmul_rmsnorm_backward(dx, g.norm2, dnorm2, dgate_up, w.w13, c.a.x2 + at(row, C), w.norm2, c.a.rstd2, acts->row_sums, parts, c.n, C, 2 * F,
                                acts->scratch, m->plans, m->stream);
        matmul_backward_weight(g.w13, dgate_up, c.a.norm2, c.n, C, 2 * F, adding, m->plans, m->stream);
    }
}

// ---- the whole --------------------------------------------------------------------------------------------------------------

void model_forward(Model* m) {
    Acts* acts = &m->acts;
    int N = rows(m), C = m->shape.C;
    embedding_forward(acts->x[0], model_params_of(m).wte, acts->tokens, N, C, m->stream);
    rmsnorm_forward(acts->layer[0].norm1, acts->layer[0].rstd1, acts->x[0], params_of(m, 0).norm1, N, C, EPS, m->stream);
    for (int l = 0; l < m->shape.L; l++) {
        attention_forward(m, l);
        mlp_forward(m, l);
    }
}

static void redo_norm1(Model* m, int l) {
    LayerActs a = m->acts.layer[l];
    rmsnorm_forward(a.norm1, a.rstd1, m->acts.x[l], params_of(m, l).norm1, rows(m), m->shape.C, EPS, m->stream);
}

// Brings back what backward of layer l reads: at RECOMPUTE_PAIR x[l] of an odd layer too, from the layer before, whose MLP half ends with l's norm1
static void layer_redo(Model* m, int l) {
    if (m->level == RECOMPUTE_PAIR && l % 2 == 1) {
        redo_norm1(m, l - 1);
        attention_forward(m, l - 1);
        mlp_forward(m, l - 1);
    } else if (!KEPT(norm1, m->level)) {
        redo_norm1(m, l);
    }
    if (!KEPT(qkv, m->level)) { attention_forward(m, l); }
}

void model_backward(Model* m) {
    Acts* acts = &m->acts;
    int N = rows(m), C = m->shape.C;
    for (int l = m->shape.L - 1; l >= 0; l--) {
        layer_redo(m, l);
        mlp_backward(m, l);
        attention_backward(m, l);
    }
    embedding_backward(model_grads_of(m).wte, acts->dx, acts->tokens, N, C, m->shape.V, acts->scratch, m->stream);
    m->adding = true;
}

// ---- loss: logits in chunks of rows, never all at once ------------------------------------------------------------------------

static void logits_forward(Model* m, int row, int n) {
    const ModelShape* s = &m->shape;
    matmul_forward(m->acts.logits, m->acts.normf + at(row, s->C), model_params_of(m).wte, n, s->C, s->Vp, m->plans, m->stream);
}

void model_loss(Model* m) {
    Acts* acts = &m->acts;
    int N = rows(m);
    for (int row = 0; row < N; row += acts->logit_rows) {
        int n = min_int(acts->logit_rows, N - row);
        logits_forward(m, row, n);
        crossentropy_forward(acts->losses + row, acts->logits, acts->targets + row, n, m->shape.V, m->shape.Vp, m->stream);
    }
    crossentropy_total(acts->total, acts->losses, N, m->stream);
}

void model_loss_backward(Model* m, float scale) {
    const ModelShape* s = &m->shape;
    Acts* acts = &m->acts;
    ModelParams w = model_params_of(m);
    ModelGrads g = model_grads_of(m);
    int N = rows(m), C = s->C;
    for (int row = 0; row < N; row += acts->logit_rows) {
        int n = min_int(acts->logit_rows, N - row);
        logits_forward(m, row, n);
        crossentropy_forward_backward(acts->losses + row, acts->logits, acts->targets + row, scale, n, s->V, s->Vp, m->stream);
        matmul_backward_input(acts->dy + at(row, C), acts->logits, w.wte, n, C, s->Vp, m->plans, m->stream);
        matmul_backward_weight(g.wte, acts->logits, acts->normf + at(row, C), n, C, s->Vp, m->adding || row > 0, m->plans, m->stream);
    }
    crossentropy_total(acts->total, acts->losses, N, m->stream);
    device_zero(acts->dx, at(N, C) * sizeof(floatX), m->stream);
    rmsnorm_backward(acts->dx, g.normf, acts->dy, acts->x[s->L], w.normf, acts->rstdf, N, C, acts->scratch, m->stream);
}

void model_logits(Model* m, int row, float* logits) {
    floatX* host = (floatX*)xmalloc((size_t)m->shape.V * sizeof(floatX));
    logits_forward(m, row, 1);
    device_download(host, m->acts.logits, (size_t)m->shape.V * sizeof(floatX), m->stream);
    stream_sync(m->stream);
    for (int v = 0; v < m->shape.V; v++) { logits[v] = floatx_to_float(host[v]); }
    free(host);
}

void model_zero(Model* m) {
    size_t matrices = m->table.matrix_elements, vectors = m->table.elements - matrices;
    if (m->grads) { device_zero(m->grads + matrices, vectors * sizeof(float), m->stream); }
    m->adding = false;
    device_zero(m->acts.total, sizeof(double), m->stream);
}

double model_total(Model* m) {
    double total;
    device_download(&total, m->acts.total, sizeof total, m->stream);
    stream_sync(m->stream);
    return total;
}

void model_batch(Model* m, const int* tokens, const int* targets, int B, int T) {
    REQUIRE(B <= m->max_B && T <= m->max_T, "batch of %d x %d tokens, memory is planned for %d x %d", B, T, m->max_B, m->max_T);
    m->B = B;
    m->T = T;
    size_t n = (size_t)B * T;
    Staging* staging = &m->staging[m->next_staging];
    m->next_staging ^= 1;
    if (staging->in_use) { event_wait(staging->read); }
    memcpy(staging->pinned, tokens, n * sizeof(int));
    if (targets) { memcpy(staging->pinned + n, targets, n * sizeof(int)); }
    m->acts.targets = m->acts.tokens + n;
    device_upload(m->acts.tokens, staging->pinned, (targets ? 2 * n : n) * sizeof(int), m->stream);
    event_record(staging->read, m->stream);
    staging->in_use = true;
}

static void forward_backward(Model* m, float scale) {
    model_forward(m);
    model_loss_backward(m, scale);
    model_backward(m);
}

void model_forward_backward(Model* m, float scale) {
    Recording* r = &m->recording[m->adding];
    if (m->on_gradients) {                                   // what it sends meanwhile is no part of this stream
        forward_backward(m, scale);
        return;
    }
    if (!r->graph || r->B != m->B || r->T != m->T || r->scale != scale) {
        graph_close(r->graph);
        r->graph = NULL;
        bool recorded = graph_begin(m->stream);
        forward_backward(m, scale);
        if (!recorded) { return; }
        *r = (Recording){graph_end(m->stream), m->B, m->T, scale};
    }
    graph_launch(r->graph, m->stream);
    m->adding = true;
}

void model_rehearse(Model* m) {
    int n = m->max_B * m->max_T;
    int* tokens = (int*)xmalloc((size_t)n * sizeof(int));
    for (int i = 0; i < n; i++) { tokens[i] = (int)((int64_t)i * 7919 % m->shape.V); }
    model_zero(m);
    model_batch(m, tokens, tokens, m->max_B, m->max_T);
    forward_backward(m, 1.0f / (float)n);
    stream_sync(m->stream);
    free(tokens);
}

// ---- generation -------------------------------------------------------------------------------------------------------------------

// Padding behind the prompt, which nothing before it sees, keeps the number of matrix shapes small.
void model_prefill(Model* m, const int* tokens, int count, float* logits) {
    enum { LENGTHS = 128 };
    REQUIRE(count >= 1 && count <= m->max_T && count <= m->cache.room, "%d tokens to read, there is room for %d in a row and %d in the cache",
            count, m->max_T, m->cache.room);
    int T = count == 1 ? 1 : min_int((int)round_up((size_t)count, LENGTHS), m->max_T);
    int* padded = (int*)xcalloc((size_t)T, sizeof *padded);
    memcpy(padded, tokens, (size_t)count * sizeof *padded);
    model_batch(m, padded, NULL, 1, T);
    m->cache.use = CACHE_FILL;
    m->cache.filling = count;
    model_forward(m);
    m->cache.use = CACHE_IDLE;
    m->cache.length = count;
    model_logits(m, count - 1, logits);
    free(padded);
}

void model_step(Model* m, int token, float* logits) {
    REQUIRE(m->cache.length < m->cache.room && m->cache.length < m->max_T, "the cache is full: %d tokens", m->cache.length);
    model_batch(m, &token, NULL, 1, 1);
    m->cache.use = CACHE_STEP;
    model_forward(m);
    m->cache.use = CACHE_IDLE;
    m->cache.length++;
    model_logits(m, 0, logits);
}

// ---- open and close -------------------------------------------------------------------------------------------------------------

const char* model_refusal(const ModelShape* s, char* text, size_t size) {
    const char* has = swa_refusal(s->D);
    if (has) {
        snprintf(text, size, "head dim %d (channels / heads) has no attention kernel here; there is %s", s->D, has);
        return text;
    }
    for (int l = 0; l < s->L; l++) {
        has = is_moba(s, l) ? moba_attn_refusal(s->D, s->layer[l].block, s->layer[l].topk) : NULL;
        if (has) {
            snprintf(text, size, "--pattern: M%d:%d with head dim %d has no attention kernel here; there is %s",
                     s->layer[l].block, s->layer[l].topk, s->D, has);
            return text;
        }
    }
    return NULL;
}

void model_plan(Model* m, ModelShape shape, int B, int T, KeepLevel level, size_t scratch_cap) {
    memset(m, 0, sizeof *m);
    m->shape = shape;
    m->table = param_table(&m->shape);
    m->level = level;
    m->max_B = B;
    m->max_T = T;
    size_t matrices = m->table.matrix_elements, vectors = m->table.elements - matrices;
    arena_add(&m->arena, MEM_PARAMETERS, (void**)&m->matrices, matrices * sizeof(floatX));
    arena_add(&m->arena, MEM_PARAMETERS, (void**)&m->vectors, vectors * sizeof(float));
    if (level != FORWARD_ONLY) { arena_add(&m->arena, MEM_GRADIENTS, (void**)&m->grads, m->table.elements * sizeof(float)); }
    arena_add(&m->arena, MEM_WORKSPACE, &m->gemm_workspace, matmul_workspace());
    acts_plan(&m->acts, &m->arena, &m->shape, B, T, level, scratch_cap);
}

// {cos, sin} of t * theta^(-2i/D), angles in fp64
static void upload_rope(Model* m) {
    int T = m->max_T, half = m->shape.D / 2;
    float* table = (float*)xmalloc((size_t)T * half * 2 * sizeof(float));
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < half; i++) {
            double angle = t * pow(m->shape.theta, -(double)i / half);
            table[((size_t)t * half + i) * 2]     = (float)cos(angle);
            table[((size_t)t * half + i) * 2 + 1] = (float)sin(angle);
        }
    }
    device_upload(m->acts.rope, table, (size_t)T * half * 2 * sizeof(float), m->stream);
    stream_sync(m->stream);
    free(table);
}

void model_allocate(Model* m) {
    m->stream = stream_open();
    arena_allocate(&m->arena);
    m->plans = matmul_open(m->gemm_workspace, matmul_workspace());
    if (m->grads) { device_zero(m->grads, m->table.elements * sizeof(float), m->stream); }      // the padding between tensors stays so
    for (int i = 0; i < 2; i++) {
        m->staging[i].pinned = (int*)pinned_malloc((size_t)m->max_B * m->max_T * 2 * sizeof(int));
        m->staging[i].read = event_open();
    }
    acts_share(&m->acts, &m->shape, m->level);
    upload_rope(m);
}

void model_unplan(Model* m) {
    arena_free(&m->arena);
    acts_free(&m->acts);
    kvcache_free(&m->cache);
    param_table_free(&m->table);
    free(m->shape.layer);
}

void model_close(Model* m) {
    for (int i = 0; i < 2; i++) {
        pinned_free(m->staging[i].pinned);
        event_close(m->staging[i].read);
    }
    for (int i = 0; i < 2; i++) { graph_close(m->recording[i].graph); }
    matmul_close(m->plans);
    model_unplan(m);
    stream_close(m->stream);
}

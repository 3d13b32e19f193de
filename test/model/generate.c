// What a model just initialised and enlivened says of a row of random tokens: in one pass, and through the cache of generation.
//
//   generate OUT [--routing DUMP | --dense] OPTIONS...      options as of train_moba; one row of seq-len tokens; --dense: M layers attend to all
//
// OUT/step_00000001, in the checkpoint's format, then holds the logits (rows, V) fp32 of all tokens in one pass, "logits/whole", and for each
// PROMPT of PROMPTS "logits/from_PROMPT": those of its last token, read in one pass, and of each token after it, read one by one.
// Beside them, of the i-th M layer that picks, "sel/i/whole" and "sel/i/from_PROMPT" (u64: (H, T, slots), the blocks each token picked) and, from
// the CPU builds, "scores/i" (H*T, blocks), by which the one pass picked. With --routing every token of every pass gets the blocks it got in the
// one pass of another dump, so that logits are compared on the same routing; what is written are this program's own picks all the same.
// The linker puts wrappers that do this in the place of moba_topk and attn_step_topk.
#include "dumps.h"
#include "model.h"

static const int PROMPTS[] = {1, 31, 64, 65, 200};
enum { MAX_LAYERS = 16 };

static int         tokens_in_row;
static int         position;                  // of the first token of the pass at hand
static int         layer;                     // M layers that picked in it
static int         slots_of[MAX_LAYERS];
static uint16_t*   picks_of[MAX_LAYERS];      // (H, T, slots) own ones
static uint16_t*   routed[MAX_LAYERS];        // (H, T, slots) of --routing
static float*      scores_of[MAX_LAYERS];     // (H, T, blocks) of the one pass; CPU builds
static int         blocks_of[MAX_LAYERS];
static Checkpoint* routing;                   // NULL: own picks count

void __real_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch, stream_t stream);
void __wrap_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch, stream_t stream);
void __real_attn_step_topk(uint16_t* sel, const floatX* q, const float* centroid, int H, int D, int past, int topk, void* scratch, stream_t stream);
void __wrap_attn_step_topk(uint16_t* sel, const floatX* q, const float* centroid, int H, int D, int past, int topk, void* scratch, stream_t stream);

static void layer_open(int l, int H, int slots) {
    char name[CHECKPOINT_NAME];
    size_t n = (size_t)H * tokens_in_row * slots, found = n;
    REQUIRE(l < MAX_LAYERS, "more than %d layers pick blocks", MAX_LAYERS);
    snprintf(name, sizeof name, "sel/%d/whole", l);
    slots_of[l] = slots;
    picks_of[l] = (uint16_t*)xcalloc(n, sizeof(uint16_t));
    if (routing) { routed[l] = read_picks(routing, name, &found); }
    REQUIRE(found == n, "--routing: %s has %zu picks, here are %zu", name, found, n);
}

// sel: (H, rows, slots) of the tokens from `position` on. Keeps them, and puts those of --routing in their place.
static void reroute(uint16_t* sel, int H, int rows, int slots, stream_t stream) {
    size_t n = (size_t)H * rows * slots, row_bytes = (size_t)rows * slots * sizeof(uint16_t);
    int l = layer++;
    if (!picks_of[l]) { layer_open(l, H, slots); }
    uint16_t* host = (uint16_t*)xmalloc(n * sizeof(uint16_t));
    device_download(host, sel, n * sizeof(uint16_t), stream);
    stream_sync(stream);
    for (int h = 0; h < H; h++) {
        size_t at = ((size_t)h * tokens_in_row + position) * slots;
        memcpy(picks_of[l] + at, host + (size_t)h * rows * slots, row_bytes);
        if (routing) { memcpy(host + (size_t)h * rows * slots, routed[l] + at, row_bytes); }
    }
    device_upload(sel, host, n * sizeof(uint16_t), stream);
    stream_sync(stream);
    free(host);
}

#ifdef LLMC_CPU
// (H, T, blocks) of the past blocks, 0 of the others, which nobody may pick; sums in fp64
static float* scores_from(const float* q, const float* centroid, AttnShape s, int block) {
    int blocks = (s.T + block - 1) / block;
    float* scores = (float*)xcalloc((size_t)s.H * s.T * blocks, sizeof(float));
    for (int h = 0; h < s.H; h++) for (int t = 0; t < s.T; t++) for (int j = 0; j < t / block; j++) {
        double sum = 0;
        for (int d = 0; d < s.D; d++) { sum += (double)q[(size_t)t * s.ldq + h * s.D + d] * centroid[((size_t)h * blocks + j) * s.D + d]; }
        scores[((size_t)h * s.T + t) * blocks + j] = (float)sum;
    }
    return scores;
}
#endif

void __wrap_moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch, stream_t stream) {
    __real_moba_topk(sel, q, centroid, shape, block, topk, scratch, stream);
    if (topk == 1) { return; }
#ifdef LLMC_CPU
    if (!scores_of[layer]) {                                     // the one pass comes first
        scores_of[layer] = scores_from(q, centroid, shape, block);
        blocks_of[layer] = (shape.T + block - 1) / block;
    }
#endif
    reroute(sel, shape.H, shape.T, topk - 1, stream);
}

void __wrap_attn_step_topk(uint16_t* sel, const floatX* q, const float* centroid, int H, int D, int past, int topk, void* scratch, stream_t stream) {
    __real_attn_step_topk(sel, q, centroid, H, D, past, topk, scratch, stream);
    reroute(sel, H, 1, topk - 1, stream);
}

static void put_all(CheckpointWriter* writer, const Model* m, const char* pass, const float* logits, int rows) {
    char name[CHECKPOINT_NAME];
    snprintf(name, sizeof name, "logits/%s", pass);
    put_floats(writer, name, logits, (size_t)rows, (size_t)m->shape.V);
    for (int l = 0; l < MAX_LAYERS && picks_of[l]; l++) {
        snprintf(name, sizeof name, "sel/%d/%s", l, pass);
        put_picks(writer, name, picks_of[l], (size_t)m->shape.H * tokens_in_row * slots_of[l]);
    }
}

static void whole_pass(CheckpointWriter* writer, Model* m, const int* tokens, float* logits) {
    char name[CHECKPOINT_NAME];
    int T = tokens_in_row, V = m->shape.V;
    position = layer = 0;
    model_batch(m, tokens, NULL, 1, T);
    model_forward(m);
    for (int t = 0; t < T; t++) { model_logits(m, t, logits + (size_t)t * V); }
    put_all(writer, m, "whole", logits, T);
    for (int l = 0; l < MAX_LAYERS && scores_of[l]; l++) {
        snprintf(name, sizeof name, "scores/%d", l);
        put_floats(writer, name, scores_of[l], (size_t)m->shape.H * T, (size_t)blocks_of[l]);
    }
}

static void cached_passes(CheckpointWriter* writer, Model* m, const int* tokens, int prompt, float* logits) {
    char name[CHECKPOINT_NAME];
    position = layer = 0;
    model_prefill(m, tokens, prompt, logits);
    for (int t = prompt; t < tokens_in_row; t++) {
        position = t;
        layer = 0;
        model_step(m, tokens[t], logits + (size_t)(t - prompt + 1) * m->shape.V);
    }
    snprintf(name, sizeof name, "from_%d", prompt);
    put_all(writer, m, name, logits, tokens_in_row - prompt + 1);
}

int main(int argc, char** argv) {
    Error err;
    if (argc < 2) { FAIL(EXIT_USAGE, "usage: generate OUT [--routing DUMP | --dense] OPTIONS..."); }
    int skip = argc > 3 && strcmp(argv[2], "--routing") == 0 ? 3 : 1;
    if (skip == 3) {
        routing = checkpoint_open(argv[3], &err);
        TRY(routing);
    }
    bool dense = argc > 2 && strcmp(argv[2], "--dense") == 0;
    if (dense) { skip = 2; }
    Config cfg = config_of(argc - skip, argv + skip);
    ModelShape shape;
    TRY(shape_from_config(&shape, &cfg, &err));
    tokens_in_row = cfg.seq_len;
    device_open(0);
    Model m;
    Optimizer opt;
    model_plan(&m, shape, 1, cfg.seq_len, FORWARD_ONLY, (size_t)cfg.scratch << 20);
    m.attn_path = (AttnPath)cfg.attn_path;
    m.dense_moba = dense;
    optimizer_plan(&opt, &m);
    kvcache_plan(&m.cache, &m.arena, &m.shape, cfg.seq_len);
    model_allocate(&m);
    optimizer_init(&opt, &m, (uint64_t)cfg.seed);
    enliven(&opt, &m, (uint64_t)cfg.seed);
    int* tokens = random_ids(0, (size_t)cfg.seq_len, cfg.vocab);
    float* logits = (float*)xmalloc((size_t)cfg.seq_len * (size_t)m.shape.V * sizeof(float));
    CheckpointWriter* writer = checkpoint_begin(argv[1], 1, &err);
    TRY(writer);
    TRY(checkpoint_add_text(writer, "options", config_to_json(&cfg), &err));
    whole_pass(writer, &m, tokens, logits);
    for (size_t i = 0; i < sizeof PROMPTS / sizeof *PROMPTS; i++) { cached_passes(writer, &m, tokens, PROMPTS[i], logits); }
    TRY(checkpoint_commit(writer, &err));
    return 0;
}

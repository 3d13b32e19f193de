#include "trained.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "checkpoint.h"
#include "dataloader.h"
#include "device.h"
#include "eval.h"
#include "evalfile.h"
#include "resume.h"
#include "state.h"

// ---- what options name, for training too ------------------------------------------------------------------------------------

ModelShape shape_of(const Config* cfg) {
    Error err;
    ModelShape s;
    TRY(shape_from_config(&s, cfg, &err));
    char text[256];
    if (model_refusal(&s, text, sizeof text)) { FAIL(EXIT_USAGE, "%s", text); }
    return s;
}

ShardSet* open_shards(const Config* cfg, const char* pattern) {
    Error err;
    ShardSet* set = shard_open(pattern, cfg->seq_len, cfg->vocab, &err);
    TRY(set);
    return set;
}

// The tokenizer, if it can be the model's: the embedding's rows are its tokens, rounded up to 128. With another a prompt would be noise.
Tokenizer* open_tokenizer(const Config* cfg) {
    Error err;
    Tokenizer* tokenizer = tokenizer_open(cfg->tokenizer, &err);
    TRY(tokenizer);
    int tokens = tokenizer_vocab_size(tokenizer);
    if (tokens > cfg->vocab || round_up((size_t)tokens, 128) != round_up((size_t)cfg->vocab, 128)) {
        FAIL(EXIT_USAGE, "--tokenizer %s has %d tokens, the model's vocabulary %d; give the tokenizer the model was trained with",
             cfg->tokenizer, tokens, cfg->vocab);
    }
    return tokenizer;
}

AttnPath attn_path_of(const Config* cfg, const Device* device) {
    if (cfg->attn_path == ATTN_HOPPER && device->capability / 10 != 9) {
        FAIL(EXIT_USAGE, "--attn-path: hopper needs a GPU of compute capability 9.0, and here is %s; auto takes what runs", device->name);
    }
    return (AttnPath)cfg->attn_path;
}

SampleSettings sample_settings(const Config* cfg, uint64_t stream) {
    SampleSettings s = {cfg->sample_tokens, cfg->temperature, cfg->top_k, cfg->top_p, (uint64_t)cfg->seed, stream};
    return s;
}

// Room in the plan for what sampling remembers: a prompt of so many bytes, end-of-text before it, and the tokens to come.
void plan_sampling(Model* m, const Config* cfg, size_t prompt_bytes) {
    size_t tokens = 1 + prompt_bytes + (size_t)cfg->sample_tokens;
    kvcache_plan(&m->cache, &m->arena, &m->shape, (int)min_size(tokens, (size_t)m->max_T));
}

// ---- a trained run ------------------------------------------------------------------------------------------------------------

// The checkpoint that --resume and --out name. What describes the model and was not given comes from it.
static Checkpoint* adopt_checkpoint(Config* cfg) {
    Error err;
    char* checkpoints_dir = xformat("%s/checkpoints", cfg->out);
    Checkpoint* checkpoint = resume_open(cfg, checkpoints_dir);
    if (!checkpoint) { FAIL(EXIT_NO_INPUT, "%s holds no checkpoint; give the run's --out, or --resume with a checkpoint's directory", checkpoints_dir); }
    Config saved = resume_config(checkpoint);
    TRY(config_adopt(cfg, &saved, &err));
    config_close(&saved);
    free(checkpoints_dir);
    return checkpoint;
}

// Its weights, in a model planned for B rows of T tokens.
static void open_trained(Model* m, const Config* cfg, const Checkpoint* checkpoint, int B, int T) {
    Error err;
    ModelShape shape = shape_of(cfg);
    Device device = device_open(0);
    AttnPath path = attn_path_of(cfg, &device);
    model_plan(m, shape, B, T, FORWARD_ONLY, (size_t)cfg->scratch << 20);
    if (cfg->prompt[0]) { plan_sampling(m, cfg, strlen(cfg->prompt)); }
    model_allocate(m);
    TRY(state_load_weights(m, checkpoint, &err));
    m->dense_moba = cfg->eval_attention == EVAL_DENSE;
    m->attn_path = path;
}

static void evaluate_loss(Model* m, const Config* cfg, ShardSet* set) {
    Error err;
    err.code = 0;
    DataLoader* loader = loader_open(set, cfg->micro_batch, cfg->micro_batch, 0, 1, 0, false);
    double loss = eval_loss(m, loader, cfg->micro_batch, cfg->seq_len, cfg->eval_batches, NULL, &err);
    TRY(err.code == 0);
    printf("validation loss   %.6f  (perplexity %.4f, %s)\n", loss, exp(loss), cfg->val_data);
    loader_close(loader);
    shard_close(set);
}

static FILE* open_scores(const Config* cfg) {
    FILE* out = fopen(cfg->eval_out, "w");
    if (!out) { FAIL(EXIT_NO_OUTPUT, "--eval-out %s cannot be written: %s", cfg->eval_out, strerror(errno)); }
    return out;
}

// Each shard of --eval-data has a model planned for it: rows of its own length.
static void evaluate_files(const Config* cfg, const Checkpoint* checkpoint, EvalFile* files, int count) {
    FILE* scores = cfg->eval_out[0] ? open_scores(cfg) : NULL;
    for (int i = 0; i < count; i++) {
        Model m;
        int B, T;
        evalfile_plan(&files[i], cfg, &B, &T);
        open_trained(&m, cfg, checkpoint, B, T);
        evalfile_run(&files[i], &m, cfg, scores);
        model_close(&m);
    }
    if (scores && (ferror(scores) || fclose(scores) != 0)) { FAIL(EXIT_IO, "--eval-out %s: %s", cfg->eval_out, strerror(errno)); }
    evalfiles_close(files, count);
}

int trained_evaluate(Config* cfg) {
    Error err;
    EvalFile* files = NULL;
    ShardSet* valid = NULL;
    int count = 0;
    Checkpoint* checkpoint = adopt_checkpoint(cfg);
    if (cfg->eval_data[0]) { TRY(files = evalfiles_open(cfg, &count, &err)); }
    if (cfg->val_data[0])  { valid = open_shards(cfg, cfg->val_data); }
    printf("checkpoint  %s\n", checkpoint->path);
    if (files) { evaluate_files(cfg, checkpoint, files, count); }
    if (valid) {
        Model m;
        open_trained(&m, cfg, checkpoint, cfg->micro_batch, cfg->seq_len);
        evaluate_loss(&m, cfg, valid);
        model_close(&m);
    }
    checkpoint_close(checkpoint);
    return 0;
}

int trained_complete(Config* cfg) {
    Model m;
    Checkpoint* checkpoint = adopt_checkpoint(cfg);
    Tokenizer* tokenizer = open_tokenizer(cfg);
    open_trained(&m, cfg, checkpoint, 1, max_int(cfg->seq_len, cfg->eval_context));
    printf("checkpoint  %s\n", checkpoint->path);
    checkpoint_close(checkpoint);
    SampleSettings settings = sample_settings(cfg, 0);
    SampleTimes times = sample_text(&m, tokenizer, cfg->prompt, &settings, stdout);
    fprintf(stderr, "%d tokens after a prompt of %d (context %d): prompt %.3f s, then %.2f ms a token\n", times.tokens, times.prompt_tokens,
            sample_context(&m), times.prompt_ms / 1e3, times.ms / max_int(times.tokens - 1, 1));
    tokenizer_close(tokenizer);
    model_close(&m);
    return 0;
}

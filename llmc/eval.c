#include "eval.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// scored of all ranks; adds up the model's total too
static int64_t total_of_ranks(Model* m, const Ranks* ranks, int64_t scored) {
    int64_t *all = (int64_t*)xmalloc((size_t)ranks->world * sizeof *all), sum = 0;
    comm_sum(ranks->comm, m->acts.total, 1, m->stream);
    comm_exchange(ranks->comm, &scored, all, sizeof scored, "the count of scored tokens");
    for (int i = 0; i < ranks->world; i++) { sum += all[i]; }
    free(all);
    return sum;
}

double eval_loss(Model* m, DataLoader* loader, int micro_rows, int T, int batches, const Ranks* ranks, Error* err) {
    int64_t scored = 0;
    if (ranks) { batches = ceil_div(batches - ranks->rank, ranks->world); }
    loader_seek(loader, 0);
    model_zero(m);
    for (int i = 0; i < batches; i++) {
        const int *inputs, *targets;
        int64_t before = scored;
        if (!loader_next(loader, &inputs, &targets, err)) { return NAN; }
        for (int64_t t = 0; t < (int64_t)micro_rows * T; t++) { scored += targets[t] >= 0; }
        if (scored == before) { break; }                       // past the end of the set
        model_batch(m, inputs, targets, micro_rows, T);
        model_forward(m);
        model_loss(m);
    }
    if (ranks) { scored = total_of_ranks(m, ranks, scored); }
    return model_total(m) / (double)scored;
}

// ---- perplexity -------------------------------------------------------------------------------------------------------------

// Inputs are the tokens from `begin` on; the tokens in [from, end) are scored.
typedef struct { int64_t begin, from, end; } Window;

// Past `end` inputs are zeros, which causality keeps out of every scored token's sight.
static int fill_window(int* inputs, int* targets, const int* tokens, Window w, int context) {
    int scored = 0;
    for (int i = 0; i < context; i++) {
        int64_t at = w.begin + i, next = at + 1;
        bool score = next >= w.from && next < w.end;
        inputs[i] = at < w.end ? tokens[at] : 0;
        targets[i] = score ? tokens[next] : -1;
        scored += score;
    }
    return scored;
}

static Perplexity score_windows(Model* m, const int* tokens, const Window* windows, int64_t count, int context) {
    Perplexity result = {0, 0, context, 0};
    int B = m->max_B;
    int* inputs  = (int*)xmalloc((size_t)B * context * sizeof(int));
    int* targets = (int*)xmalloc((size_t)B * context * sizeof(int));
    model_zero(m);
    for (int64_t done = 0; done < count; ) {
        int rows = 0;
        for (; rows < B && done < count; rows++, done++) {
            result.scored += fill_window(inputs + (size_t)rows * context, targets + (size_t)rows * context, tokens, windows[done], context);
        }
        model_batch(m, inputs, targets, rows, context);
        model_forward(m);
        model_loss(m);
    }
    result.nll = model_total(m);
    free(inputs);
    free(targets);
    return result;
}

Perplexity eval_stream(Model* m, const int* tokens, int64_t count, int context, int stride) {
    Window* windows = (Window*)xmalloc((size_t)(count / stride + 1) * sizeof(Window));
    int64_t n = 0, begin = 0, scored_to = 0;
    for (; scored_to < count; begin += stride) {
        Window w = {begin, scored_to > begin ? scored_to : begin + 1, begin + context < count ? begin + context : count};
        windows[n++] = w;
        scored_to = w.end;
    }
    Perplexity result = score_windows(m, tokens, windows, n, context);
    result.stride = stride;
    free(windows);
    return result;
}

Perplexity eval_documents(Model* m, const int* tokens, int64_t count, const int64_t* documents, int document_count, int context) {
    Window* windows = (Window*)xmalloc((size_t)(count / context + document_count + 1) * sizeof(Window));
    int64_t n = 0;
    for (int d = 0; d < document_count; d++) {
        int64_t start = documents[d], stop = d + 1 < document_count ? documents[d + 1] : count;
        for (int64_t from = start + 1; from < stop; from += context) {
            int64_t end = from + context < stop ? from + context : stop;
            Window w = {from == start + 1 ? start : end - 1 - context, from, end};
            windows[n++] = w;
        }
    }
    Perplexity result = score_windows(m, tokens, windows, n, context);
    free(windows);
    return result;
}

void perplexity_print(const Perplexity* p, const TextInfo* info) {
    printf("token perplexity  %.4f\n", exp(p->nll / (double)p->scored));
    printf("word perplexity   %.4f  (%lld words of the raw text)\n", exp(p->nll / (double)info->words), (long long)info->words);
    printf("bits per byte     %.5f  (%lld bytes of the raw text)\n", p->nll / log(2.0) / (double)info->bytes, (long long)info->bytes);
    printf("loss per token    %.6f\n", p->nll / (double)p->scored);
    printf("tokens scored     %lld\n", (long long)p->scored);
    if (p->stride) { printf("context, stride   %d, %d\n", p->context, p->stride); }
    else           { printf("context, windows  %d, rolling over each of %d documents\n", p->context, info->document_count); }
    printf("join              %s\n", info->join);
}

// ---- sidecar ----------------------------------------------------------------------------------------------------------------

enum { SIDECAR_MAX_BYTES = 64 << 20 };

static char* sidecar_path(const char* shard_path) {
    size_t length = strlen(shard_path);
    bool has_bin = length > 4 && strcmp(shard_path + length - 4, ".bin") == 0;
    return xformat("%.*s.json", (int)(has_bin ? length - 4 : length), shard_path);
}

// NULL and *err unless it is a regular file.
static FILE* open_sidecar_file(const char* path, Error* err) {
    struct stat info;
    int file = open_to_read(path);
    if (file < 0) {
        error_set(err, EXIT_NO_INPUT, "evaluation sidecar %s: %s (the tools in data/ write it beside the shard)", path, strerror(errno));
        return NULL;
    }
    if (fstat(file, &info) == 0 && S_ISREG(info.st_mode)) { return fdopen(file, "rb"); }
    close(file);
    error_set(err, EXIT_DATA, "evaluation sidecar %s: a %s, expected a file with a JSON object", path, S_ISDIR(info.st_mode) ? "directory" : "pipe or device");
    return NULL;
}

static char* read_small_file(const char* path, size_t* bytes, Error* err) {
    FILE* file = open_sidecar_file(path, err);
    if (!file) { return NULL; }
    char* text = (char*)xmalloc(SIDECAR_MAX_BYTES);
    *bytes = fread(text, 1, SIDECAR_MAX_BYTES, file);
    fclose(file);
    return text;
}

// Ids mean something only to the tokenizer that made them; a model of another vocabulary would score noise.
static bool right_vocabulary(const Sidecar* sidecar, int vocab, Error* err) {
    JsonValue value;
    int64_t made_with;
    if (!json_member(sidecar->json, "vocab", &value)) { return true; }
    bool same = json_get_int(value, &made_with) && made_with > 0 && made_with <= vocab &&
                round_up((size_t)made_with, 128) == round_up((size_t)vocab, 128);
    return same || error_set(err, EXIT_DATA, "evaluation sidecar %s: made with a tokenizer of %.*s tokens, the model's vocabulary is %d; "
                             "prepare it with the model's own tokenizer", sidecar->path, (int)(value.end - value.at), value.at, vocab);
}

bool sidecar_open(Sidecar* sidecar, const char* shard_path, int vocab, Error* err) {
    memset(sidecar, 0, sizeof *sidecar);
    sidecar->path = sidecar_path(shard_path);
    size_t bytes = 0;
    sidecar->text = read_small_file(sidecar->path, &bytes, err);
    if (!sidecar->text) { return false; }
    if (!json_parse(&sidecar->json, sidecar->text, bytes, NULL) || json_kind(sidecar->json) != '{') {
        return error_set(err, EXIT_DATA, "evaluation sidecar %s: not a JSON object (cut copy?)", sidecar->path);
    }
    return right_vocabulary(sidecar, vocab, err);
}

void sidecar_close(Sidecar* sidecar) {
    free(sidecar->path);
    free(sidecar->text);
    memset(sidecar, 0, sizeof *sidecar);
}

static bool read_documents(TextInfo* info, const Sidecar* sidecar, int64_t tokens, Error* err) {
    JsonValue list, value;
    bool good = json_member(sidecar->json, "documents", &list) && json_kind(list) == '[';
    for (size_t place = 0; good && json_next(list, &place, NULL, &value); info->document_count++) {}
    info->documents = (int64_t*)xcalloc((size_t)info->document_count + 1, sizeof(int64_t));
    int64_t least = 0;
    int d = 0;
    for (size_t place = 0; good && json_next(list, &place, NULL, &value); d++) {
        good = json_get_int(value, &info->documents[d]) && info->documents[d] >= least && info->documents[d] < tokens && (d || info->documents[d] == 0);
        least = info->documents[d] + 1;
    }
    return (good && d) || error_set(err, EXIT_DATA, "evaluation sidecar %s: \"documents\" are not ascending token offsets from 0 to below %lld",
                                    sidecar->path, (long long)tokens);
}

bool text_info(TextInfo* info, const Sidecar* sidecar, int64_t tokens, Error* err) {
    memset(info, 0, sizeof *info);
    JsonValue bytes, words, join;
    if (!(json_member(sidecar->json, "bytes", &bytes) && json_get_int(bytes, &info->bytes) && info->bytes > 0 &&
          json_member(sidecar->json, "words", &words) && json_get_int(words, &info->words) && info->words > 0 &&
          json_member(sidecar->json, "join", &join) && (info->join = json_get_text(join)))) {
        return error_set(err, EXIT_DATA, "evaluation sidecar %s: expected positive \"bytes\" and \"words\" and a text \"join\"", sidecar->path);
    }
    if (strcmp(info->join, "eot") != 0 && strcmp(info->join, "hf") != 0 && strcmp(info->join, JOIN_DOCUMENTS) != 0) {
        return error_set(err, EXIT_DATA, "evaluation sidecar %s: \"join\" is '%.40s', none of eot, hf and " JOIN_DOCUMENTS " (data/README.md)",
                         sidecar->path, info->join);
    }
    JsonValue made;
    int64_t promised;
    if (json_member(sidecar->json, "tokens", &made) && !(json_get_int(made, &promised) && promised == tokens)) {
        return error_set(err, EXIT_DATA, "evaluation sidecar %s: it is of %.*s tokens, the shard has %lld (of another shard, or mixed-up copies?)",
                         sidecar->path, (int)(made.end - made.at), made.at, (long long)tokens);
    }
    return strcmp(info->join, JOIN_DOCUMENTS) != 0 || read_documents(info, sidecar, tokens, err);
}

void text_info_close(TextInfo* info) {
    free(info->join);
    free(info->documents);
    memset(info, 0, sizeof *info);
}

#include "eval.h"

#include <errno.h>
#include <string.h>

#include "json.h"

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

// Row of a window that begins at token `begin`: inputs, and targets for the tokens in [from, end); everything else is not scored.
// Past the end of the stream inputs are zeros, which causality keeps out of every scored token's sight.
static int fill_window(int* inputs, int* targets, const int* tokens, int64_t begin, int64_t from, int64_t end, int64_t count, int context) {
    int scored = 0;
    for (int i = 0; i < context; i++) {
        int64_t at = begin + i, next = at + 1;
        bool score = next >= from && next < end;
        inputs[i] = at < count ? tokens[at] : 0;
        targets[i] = score ? tokens[next] : -1;
        scored += score;
    }
    return scored;
}

Perplexity eval_perplexity(Model* m, const int* tokens, int64_t count, int context, int stride) {
    Perplexity result = {0, 0, context, stride};
    int B = m->max_B;
    int* inputs  = (int*)xmalloc((size_t)B * context * sizeof(int));
    int* targets = (int*)xmalloc((size_t)B * context * sizeof(int));
    model_zero(m);
    int64_t begin = 0, scored_to = 0, end = 0;
    while (end < count) {
        int rows = 0;
        for (; rows < B && end < count; rows++, begin += stride) {
            end = begin + context < count ? begin + context : count;
            result.scored += fill_window(inputs + (size_t)rows * context, targets + (size_t)rows * context, tokens,
                                         begin, scored_to > begin ? scored_to : begin + 1, end, count, context);
            scored_to = end;
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

// ---- sidecar ----------------------------------------------------------------------------------------------------------------

enum { SIDECAR_MAX_BYTES = 64 << 20 };

static char* sidecar_path(const char* shard_path) {
    size_t length = strlen(shard_path);
    bool has_bin = length > 4 && strcmp(shard_path + length - 4, ".bin") == 0;
    return xformat("%.*s.json", (int)(has_bin ? length - 4 : length), shard_path);
}

static char* read_small_file(const char* path, size_t* bytes, Error* err) {
    FILE* file = fopen(path, "rb");
    if (!file) {
        error_set(err, EXIT_NO_INPUT, "evaluation sidecar %s: %s (data/wikitext2.py and data/bytes write it beside the shard)", path, strerror(errno));
        return NULL;
    }
    char* text = (char*)xmalloc(SIDECAR_MAX_BYTES);
    *bytes = fread(text, 1, SIDECAR_MAX_BYTES, file);
    fclose(file);
    return text;
}

bool sidecar_open(Sidecar* sidecar, const char* shard_path, Error* err) {
    memset(sidecar, 0, sizeof *sidecar);
    char* path = sidecar_path(shard_path);
    size_t bytes = 0;
    char* text = read_small_file(path, &bytes, err);
    bool ok = text != NULL;
    JsonValue whole, bytes_value, words_value, join_value;
    if (ok && !json_parse(&whole, text, bytes, NULL)) { ok = error_set(err, EXIT_DATA, "evaluation sidecar %s: not a JSON object", path); }
    if (ok && !(json_member(whole, "bytes", &bytes_value) && json_get_int(bytes_value, &sidecar->bytes) && sidecar->bytes > 0 &&
                json_member(whole, "words", &words_value) && json_get_int(words_value, &sidecar->words) && sidecar->words > 0 &&
                json_member(whole, "join", &join_value) && (sidecar->join = json_get_text(join_value)))) {
        ok = error_set(err, EXIT_DATA, "evaluation sidecar %s: expected positive \"bytes\" and \"words\" and a text \"join\"", path);
    }
    free(text);
    free(path);
    return ok;
}

void sidecar_close(Sidecar* sidecar) {
    free(sidecar->join);
    sidecar->join = NULL;
}

void perplexity_print(const Perplexity* p, const Sidecar* sidecar) {
    printf("token perplexity  %.4f\n", exp(p->nll / (double)p->scored));
    printf("word perplexity   %.4f  (%lld words of the raw text)\n", exp(p->nll / (double)sidecar->words), (long long)sidecar->words);
    printf("bits per byte     %.5f  (%lld bytes of the raw text)\n", p->nll / log(2.0) / (double)sidecar->bytes, (long long)sidecar->bytes);
    printf("loss per token    %.6f\n", p->nll / (double)p->scored);
    printf("tokens scored     %lld\n", (long long)p->scored);
    printf("context, stride   %d, %d\n", p->context, p->stride);
    printf("join              %s\n", sidecar->join);
}

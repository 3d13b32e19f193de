#include "sample.h"

#include "rng.h"

typedef struct { float logit; int token; } Candidate;

// likeliest first, the lower token among equals
static int by_logit(const void* a, const void* b) {
    const Candidate *x = (const Candidate*)a, *y = (const Candidate*)b;
    if (x->logit != y->logit) { return x->logit < y->logit ? 1 : -1; }
    return x->token < y->token ? -1 : 1;
}

int sample_token(float* logits, int V, const SampleSettings* s, double u) {
    Candidate* list = (Candidate*)xmalloc((size_t)V * sizeof(Candidate));
    for (int v = 0; v < V; v++) { list[v].logit = logits[v]; list[v].token = v; }
    qsort(list, (size_t)V, sizeof(Candidate), by_logit);
    int count = s->top_k > 0 ? min_int(s->top_k, V) : V, chosen = 0;
    if (s->temperature > 0) {
        double total = 0, kept = 0, drawn = 0;
        for (int i = 0; i < count; i++) { total += exp((list[i].logit - list[0].logit) / s->temperature); }
        int nucleus = 0;
        while (nucleus < count && (nucleus == 0 || kept < s->top_p * total)) { kept += exp((list[nucleus++].logit - list[0].logit) / s->temperature); }
        for (chosen = 0; chosen < nucleus - 1; chosen++) {
            drawn += exp((list[chosen].logit - list[0].logit) / s->temperature);
            if (drawn > u * kept) { break; }
        }
    }
    int token = list[chosen].token;
    free(list);
    return token;
}

// the last max_T tokens of `ids` go through the network; *logits are those after the last one
static void next_logits(Model* m, const int* ids, int count, float* logits) {
    int T = min_int(count, m->max_T);
    model_batch(m, ids + (count - T), NULL, 1, T);
    model_forward(m);
    model_logits(m, T - 1, logits);
}

void sample_text(Model* m, const Tokenizer* tokenizer, const char* prompt, const SampleSettings* s, FILE* out) {
    size_t length = strlen(prompt);
    int* ids = (int*)xmalloc((1 + length + (size_t)s->tokens) * sizeof(int));
    float* logits = (float*)xmalloc((size_t)m->shape.V * sizeof(float));
    ids[0] = tokenizer_eot(tokenizer);
    int count = 1 + (int)tokenizer_encode(tokenizer, ids + 1, prompt, length);
    fwrite(prompt, 1, length, out);
    for (int i = 0; i < s->tokens; i++) {
        next_logits(m, ids, count, logits);
        int token = sample_token(logits, m->shape.V, s, rng_uniform(s->seed, s->stream, (uint64_t)i));
        if (token == tokenizer_eot(tokenizer)) { break; }
        size_t bytes;
        const char* text = tokenizer_decode(tokenizer, token, &bytes);
        fwrite(text, 1, bytes, out);
        fflush(out);
        ids[count++] = token;
    }
    fputc('\n', out);
    free(logits);
    free(ids);
}

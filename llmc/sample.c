#include "sample.h"

#include <time.h>

#include "rng.h"

// ---- one token from its logits ----------------------------------------------------------------------------------------------

typedef struct { float logit; int token; } Candidate;

// The candidates, likeliest first, the lower token among equals. Only as many are put in order as a draw looks at:
// list[0 .. left-1] is a heap, and the i-th of the order, once taken, stands at list[V-1-i].
typedef struct {
    Candidate* list;
    int V, left;
    double top, temperature;
} Ranking;

static bool comes_before(Candidate a, Candidate b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; }

static void sift_down(Candidate* heap, int count, int i) {
    for (int child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && comes_before(heap[child + 1], heap[child])) { child++; }
        if (!comes_before(heap[child], heap[i])) { return; }
        Candidate swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
    }
}

static Candidate ranked(Ranking* r, int i) {
    while (r->V - r->left <= i) {
        Candidate best = r->list[0];
        r->list[0] = r->list[--r->left];
        r->list[r->left] = best;
        sift_down(r->list, r->left, 0);
    }
    return r->list[r->V - 1 - i];
}

static Ranking rank(const float* logits, int V, double temperature) {
    Ranking r = {(Candidate*)xmalloc((size_t)V * sizeof(Candidate)), V, V, 0, temperature};
    for (int v = 0; v < V; v++) { r.list[v].logit = logits[v]; r.list[v].token = v; }
    for (int i = V / 2 - 1; i >= 0; i--) { sift_down(r.list, V, i); }
    r.top = r.list[0].logit;
    return r;
}

static double weight(const Ranking* r, Candidate c) { return exp((c.logit - r->top) / r->temperature); }

// of the first `count` in order
static double total_weight(Ranking* r, int count) {
    double total = 0;
    if (count == r->V) { for (int i = 0; i < count; i++) { total += weight(r, r->list[i]); } }
    else               { for (int i = 0; i < count; i++) { total += weight(r, ranked(r, i)); } }
    return total;
}

int sample_token(const float* logits, int V, const SampleSettings* s, double u) {
    Ranking r = rank(logits, V, s->temperature);
    int count = s->top_k > 0 ? min_int(s->top_k, V) : V, chosen = 0;
    if (s->temperature > 0) {
        double kept = total_weight(&r, count), drawn = 0;
        if (s->top_p < 1) {                                  // the fewest that hold this share
            double share = s->top_p * kept;
            int nucleus = 0;
            for (kept = 0; nucleus < count && (nucleus == 0 || kept < share); nucleus++) { kept += weight(&r, ranked(&r, nucleus)); }
            count = nucleus;
        }
        for (chosen = 0; chosen < count - 1; chosen++) {
            drawn += weight(&r, ranked(&r, chosen));
            if (drawn > u * kept) { break; }
        }
    }
    int token = ranked(&r, chosen).token;
    free(r.list);
    return token;
}

// ---- text ---------------------------------------------------------------------------------------------------------------------

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

int sample_context(const Model* m) { return min_int(m->max_T, m->cache.room); }

// *logits are those after ids[count-1]. The tokens before it are in the cache already, unless this is the first call, or the context is full:
// then its last half is read anew.
static void next_logits(Model* m, const int* ids, int count, bool first, float* logits) {
    int room = sample_context(m), reread = first ? min_int(count, room) : max_int(room / 2, 1);
    if (first || m->cache.length == room) { model_prefill(m, ids + (count - reread), reread, logits); }
    else                                  { model_step(m, ids[count - 1], logits); }
}

SampleTimes sample_text(Model* m, const Tokenizer* tokenizer, const char* prompt, const SampleSettings* s, FILE* out) {
    SampleTimes times = {0, 0, 0, 0};
    size_t length = strlen(prompt);
    int* ids = (int*)xmalloc((1 + length + (size_t)s->tokens) * sizeof(int));
    float* logits = (float*)xmalloc((size_t)m->shape.V * sizeof(float));
    ids[0] = tokenizer_eot(tokenizer);
    int count = 1 + (int)tokenizer_encode(tokenizer, ids + 1, prompt, length);
    times.prompt_tokens = count;
    fwrite(prompt, 1, length, out);
    double start = now_ms();
    for (int i = 0; i < s->tokens; i++) {
        next_logits(m, ids, count, i == 0, logits);
        if (i == 0) { times.prompt_ms = now_ms() - start; start = now_ms(); }
        int token = sample_token(logits, m->shape.V, s, rng_uniform(s->seed, s->stream, (uint64_t)i));
        times.tokens++;
        if (token == tokenizer_eot(tokenizer)) { break; }
        size_t bytes;
        const char* text = tokenizer_decode(tokenizer, token, &bytes);
        fwrite(text, 1, bytes, out);
        fflush(out);
        ids[count++] = token;
    }
    times.ms = now_ms() - start;
    fputc('\n', out);
    fflush(out);
    free(logits);
    free(ids);
    return times;
}

// Generation with a cache must say what the whole-sequence forward says: at any length of prompt, in any layer, with the same picked blocks, here
// to fp32 rounding. (What bf16 does to either of them is another matter, and near-ties of the routing a third: test_model.sh holds both ways
// through a backend against the reference, on the reference's routing.)
enum { VOCAB = 257, CHANNELS = 128, HEADS = 2 };         // bytes and end-of-text

#include "tiny_net.h"

#include "sample.h"

static Net* net_open(const char* pattern, int kconv, int layers, int T, int room, KeepLevel level) {
    ModelShape s = {.L = layers, .C = CHANNELS, .H = HEADS, .D = CHANNELS / HEADS, .F = 128, .V = VOCAB, .Vp = 384, .W = kconv, .theta = 10000};
    return tiny_net_open(s, pattern, 1, T, room, level, 4);
}

static int last_moba_layer(const Model* m) {
    int l = m->shape.L - 1;
    while (l >= 0 && !(is_moba(&m->shape, l) && m->shape.layer[l].topk > 1)) { l--; }
    return l;
}

// What the whole-sequence forward says of a row of T tokens: logits (T, V), and the blocks picked in the last MoBA layer, (H, T, slots).
typedef struct { float* logits; uint16_t* sel; int T, slots; } Whole;

static Whole whole_open(Model* m, const int* tokens, int T) {
    int l = last_moba_layer(m);
    Whole w = {(float*)xmalloc((size_t)T * VOCAB * sizeof(float)), NULL, T, l < 0 || m->dense_moba ? 0 : m->shape.layer[l].topk - 1};
    model_batch(m, tokens, NULL, 1, T);
    model_forward(m);
    for (int t = 0; t < T; t++) { model_logits(m, t, w.logits + (size_t)t * VOCAB); }
    if (w.slots) {
        size_t bytes = (size_t)HEADS * T * w.slots * sizeof(uint16_t);
        w.sel = (uint16_t*)xmalloc(bytes);
        device_download(w.sel, m->acts.layer[l].sel, bytes, m->stream);
        stream_sync(m->stream);
    }
    return w;
}
static void whole_close(Whole* w) { free(w->logits); free(w->sel); }

// picks of the newest token, number t, that differ from the whole sequence's
static int other_picks(Model* m, const Whole* w, int t) {
    uint16_t sel[HEADS * MOBA_MAX_TOPK];
    int others = 0;
    if (!w->slots) { return 0; }
    device_download(sel, m->cache.sel, (size_t)HEADS * w->slots * sizeof(uint16_t), m->stream);
    stream_sync(m->stream);
    for (int h = 0; h < HEADS; h++) {
        others += memcmp(sel + h * w->slots, w->sel + ((size_t)h * w->T + t) * w->slots, (size_t)w->slots * sizeof(uint16_t)) != 0;
    }
    return others;
}

static double distance(const float* a, const float* b) {
    double difference = 0, size = 0;
    for (int v = 0; v < VOCAB; v++) { difference += pow((double)a[v] - b[v], 2); size += pow((double)b[v], 2); }
    return sqrt(difference / size);
}

// Relative 2-norm by which two computations of the same logits may differ: thirty times what four layers of fp32 stores give.
static const double BUDGET = 1e-5;

// Prompts of several lengths, then token by token to the end: every logit, every picked block.
static void check_cached(const char* pattern, int kconv, int layers, bool dense) {
    enum { T = 300 };
    static const int prompts[] = {1, 31, 64, 65, 200};
    Net* net = net_open(pattern, kconv, layers, T, T, FORWARD_ONLY);
    Model* m = &net->m;
    m->dense_moba = dense;
    int* tokens = random_tokens(11, T);
    Whole whole = whole_open(m, tokens, T);
    float logits[VOCAB];
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        for (int t = prompts[i] - 1; t < T; t++) {
            if (t == prompts[i] - 1) { model_prefill(m, tokens, prompts[i], logits); }
            else {
                model_step(m, tokens[t], logits);
                CHECK(other_picks(m, &whole, t) == 0, "%s, kconv %d: prompt of %d, token %d picked other blocks", pattern, kconv, prompts[i], t);
            }
            double off = distance(logits, whole.logits + (size_t)t * VOCAB);
            CHECK(off <= BUDGET, "%s, kconv %d: prompt of %d, token %d: logits are off by %.3g of their size, budget %.3g", pattern, kconv,
                  prompts[i], t, off, BUDGET);
        }
    }
    whole_close(&whole);
    free(tokens);
    net_close(net);
}

TEST(generate_cached_is_uncached_window)      { check_cached("S32", 0, 2, false); check_cached("S1", 0, 2, false); check_cached("S1000", 0, 2, false); }
TEST(generate_cached_is_uncached_dense)       { check_cached("D", 0, 2, false); }
TEST(generate_cached_is_uncached_moba)        { check_cached("M32:3", 0, 2, false); check_cached("M24:1", 0, 1, false); check_cached("M8:32", 0, 1, false); }
TEST(generate_cached_is_uncached_kconv)       { check_cached("M32:3", 3, 2, false); check_cached("M16:4", 5, 2, false); }
TEST(generate_cached_is_uncached_hybrid)      { check_cached("S32,M32:3,D,M16:2", 3, 4, false); }
TEST(generate_cached_is_uncached_dense_moba)  { check_cached("S32,M32:3", 3, 2, true); }

// A training model samples too, whatever it keeps; and its gradients are not touched.
TEST(generate_within_a_training_model) {
    enum { T = 70 };
    int* tokens = random_tokens(12, T);
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_PAIR; level++) {
        Net* net = net_open("S16,M16:3", 3, 3, T, T, (KeepLevel)level);
        Whole whole = whole_open(&net->m, tokens, T);
        float logits[VOCAB];
        model_zero(&net->m);
        model_prefill(&net->m, tokens, 20, logits);
        for (int t = 20; t < T; t++) {
            model_step(&net->m, tokens[t], logits);
            CHECK_NEAR(distance(logits, whole.logits + (size_t)t * VOCAB), 0, 1e-5);
        }
        for (size_t i = 0; i < net->m.table.elements; i++) { CHECK(net->m.grads[i] == 0, "gradient %zu is not zero", i); }
        whole_close(&whole);
        net_close(net);
    }
    free(tokens);
}

// ---- text ---------------------------------------------------------------------------------------------------------------------

// The likeliest token after each prefix by whole-sequence passes, its context cut as sample_text cuts it: at most `room` tokens, and half of that
// when it was full. Ends before end-of-text. ids has room for count + tokens.
static int greedy_by_hand(Model* m, int* ids, int count, int tokens, int room) {
    float logits[VOCAB];
    int context = count < room ? count : room;
    for (int i = 0; i < tokens; i++, count++, context++) {
        if (context > room) { context = room > 1 ? room / 2 : 1; }
        model_batch(m, ids + (count - context), NULL, 1, context);
        model_forward(m);
        model_logits(m, context - 1, logits);
        ids[count] = 0;
        for (int v = 1; v < VOCAB; v++) { if (logits[v] > logits[ids[count]]) { ids[count] = v; } }
        if (ids[count] == VOCAB - 1) { break; }
    }
    return count;
}

static void check_text(const char* prompt, int T, int room, int tokens) {
    Error err;
    Net* net = net_open("S16,M16:3", 3, 2, T, room, FORWARD_ONLY);
    Tokenizer* tokenizer = tokenizer_open("byte", &err);
    CHECK(tokenizer, "%s", err.text);
    int length = (int)strlen(prompt), *ids = (int*)xmalloc((size_t)(1 + length + tokens) * sizeof(int));
    ids[0] = VOCAB - 1;
    for (int i = 0; i < length; i++) { ids[1 + i] = (unsigned char)prompt[i]; }
    int count = greedy_by_hand(&net->m, ids, 1 + length, tokens, room < T ? room : T);

    char* text = NULL;
    size_t bytes = 0;
    FILE* out = open_memstream(&text, &bytes);
    SampleSettings greedy = {tokens, 0, 0, 1, 1, 1};
    SampleTimes times = sample_text(&net->m, tokenizer, prompt, &greedy, out);
    fclose(out);
    CHECK_EQ(times.prompt_tokens, 1 + length);
    CHECK_EQ(bytes, count);                                              // the prompt, the bytes drawn, a line end; no end-of-text
    for (int i = 1; i < count; i++) { CHECK((unsigned char)text[i - 1] == ids[i], "byte %d is %d, expected %d", i, (unsigned char)text[i - 1], ids[i]); }
    free(text);
    free(ids);
    tokenizer_close(tokenizer);
    net_close(net);
}

TEST(generate_text_is_the_whole_forwards)   { check_text("a prompt of some length, to begin with", 200, 200, 100); check_text("", 100, 100, 60); }
TEST(generate_text_beyond_the_context)      { check_text("longer than the context, from the first token on", 24, 24, 80); check_text("ab", 40, 24, 80); }
TEST(generate_text_in_a_context_of_one)     { check_text("abc", 1, 1, 5); }

// ---- a token from its logits: against a full sort ---------------------------------------------------------------------------------

typedef struct { float logit; int token; } Pair;
static int pair_order(const void* a, const void* b) {
    const Pair *x = (const Pair*)a, *y = (const Pair*)b;
    if (x->logit != y->logit) { return x->logit < y->logit ? 1 : -1; }
    return x->token - y->token;
}

static int sample_by_sorting(const float* logits, int V, const SampleSettings* s, double u) {
    Pair list[512];
    double p[512], total = 0, kept = 0, drawn = 0;
    for (int v = 0; v < V; v++) { list[v].logit = logits[v]; list[v].token = v; }
    qsort(list, (size_t)V, sizeof *list, pair_order);
    int count = s->top_k > 0 && s->top_k < V ? s->top_k : V, nucleus = 0;
    if (s->temperature == 0) { return list[0].token; }
    for (int i = 0; i < count; i++) { total += p[i] = exp((list[i].logit - list[0].logit) / s->temperature); }
    do { kept += p[nucleus++]; } while (nucleus < count && kept < s->top_p * total);
    for (int i = 0; i < nucleus; i++) {
        drawn += p[i];
        if (drawn > u * kept) { return list[i].token; }
    }
    return list[nucleus - 1].token;
}

TEST(generate_draws_are_those_of_a_full_sort) {
    static const double temperatures[] = {0, 0.3, 1, 5}, top_ps[] = {1, 0.9, 0.3, 0};
    static const int top_ks[] = {0, 1, 7, 1000};
    uint64_t seed = 3;
    for (int round = 0; round < 20; round++) {
        int V = 1 + (int)(test_bits(&seed) % 400);
        float* logits = test_normals((size_t)V, (uint64_t)round, 2);
        for (int v = 0; v < V; v += 5) { logits[v] = logits[0]; }                 // ties
        for (int c = 0; c < 64; c++) {
            SampleSettings s = {1, temperatures[c % 4], top_ks[c / 4 % 4], top_ps[c / 16], 1, 1};
            for (int i = 0; i < 8; i++) {
                double u = test_uniform(&seed);
                CHECK_EQ(sample_token(logits, V, &s, u), sample_by_sorting(logits, V, &s, u));
            }
        }
        free(logits);
    }
}

// 20000 draws from four tokens: each within four standard deviations of its share
TEST(generate_draws_follow_the_probabilities) {
    enum { DRAWS = 20000 };
    float logits[4] = {0, 1, 2, -1};
    SampleSettings s = {1, 1, 0, 1, 1, 1};
    int counts[4] = {0};
    double total = 0;
    for (int v = 0; v < 4; v++) { total += exp(logits[v]); }
    for (int i = 0; i < DRAWS; i++) { counts[sample_token(logits, 4, &s, rng_uniform(9, 9, (uint64_t)i))]++; }
    for (int v = 0; v < 4; v++) {
        double p = exp(logits[v]) / total;
        CHECK_NEAR(counts[v], DRAWS * p, 4 * sqrt(DRAWS * p * (1 - p)));
    }
}

TEST_MAIN()

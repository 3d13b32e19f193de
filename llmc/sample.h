// Level 5: text from a model.
#ifndef SAMPLE_H
#define SAMPLE_H

#include "model.h"
#include "tokenizer.h"

typedef struct {
    int    tokens;           // how many to draw
    double temperature;      // 0: greedy
    int    top_k;            // 0: all
    double top_p;            // 1: all
    uint64_t seed, stream;   // the draw of token i is a pure function of (seed, stream, i)
} SampleSettings;

typedef struct {
    int    prompt_tokens, tokens;      // read at first, end-of-text in front included; drawn
    double prompt_ms, ms;              // until the first logits; from there to the end
} SampleTimes;

#ifdef __cplusplus
extern "C" {
#endif

// Draws a token from logits (V); u in [0, 1) is the random number.
int sample_token(const float* logits, int V, const SampleSettings* settings, double u);

// Continues `prompt` (an end-of-text stands before it), writing the bytes to `out` as they come, until the tokenizer's end-of-text.
// The model needs a cache (kvcache_plan). Its context is the smaller of max_T and the cache's room: of a longer prompt the last tokens count,
// and when it is full the last half of it is read anew.
SampleTimes sample_text(Model* m, const Tokenizer* tokenizer, const char* prompt, const SampleSettings* settings, FILE* out);
int sample_context(const Model* m);

#ifdef __cplusplus
}
#endif
#endif

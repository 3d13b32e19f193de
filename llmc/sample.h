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

#ifdef __cplusplus
extern "C" {
#endif

// Draws a token from logits (V), which it reorders and overwrites; u in [0, 1) is the random number.
int sample_token(float* logits, int V, const SampleSettings* settings, double u);

// Continues `prompt` (an end-of-text stands before it), writing the bytes to `out` as they come, until the tokenizer's end-of-text.
// The context is the last max_T tokens.
void sample_text(Model* m, const Tokenizer* tokenizer, const char* prompt, const SampleSettings* settings, FILE* out);

#ifdef __cplusplus
}
#endif
#endif

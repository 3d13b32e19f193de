// Level 5: measuring a model: mean loss over a loader, perplexity of one stream of tokens.
#ifndef EVAL_H
#define EVAL_H

#include "dataloader.h"
#include "model.h"
#include "ranks.h"

typedef struct {
    double  nll;               // sum over scored tokens, nats
    int64_t scored;
    int     context, stride;
} Perplexity;

// What a shard's sidecar NAME.json says of the text the tokens came from; words and bytes come from nowhere else.
typedef struct {
    int64_t bytes, words;      // of the raw text
    char*   join;              // how its parts were joined before tokenising
} Sidecar;

#ifdef __cplusplus
extern "C" {
#endif

// Mean loss over the first `batches` micro-batches of an unshuffled loader; a smaller set is used whole. NAN and *err if data is bad.
double eval_loss(Model* m, DataLoader* loader, int micro_rows, int T, int batches, const Ranks* ranks, Error* err);

// Sliding windows of `context` tokens that move on by `stride` (Hugging Face's recipe): each window scores the tokens that no earlier
// window scored, a token's first predecessor in the window at the latest; the very first token of the stream is not scored.
// The model must be planned for context tokens a row; windows are batched by its planned rows.
Perplexity eval_perplexity(Model* m, const int* tokens, int64_t count, int context, int stride);

bool sidecar_open(Sidecar* sidecar, const char* shard_path, Error* err);   // reads NAME.json beside NAME.bin
void sidecar_close(Sidecar* sidecar);
void perplexity_print(const Perplexity* p, const Sidecar* sidecar);        // every figure a comparison needs

#ifdef __cplusplus
}
#endif
#endif

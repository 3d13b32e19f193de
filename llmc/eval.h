// Level 5: measuring a model: mean loss over a loader, perplexity of a text, and what the sidecar of an evaluation shard says.
#ifndef EVAL_H
#define EVAL_H

#include "dataloader.h"
#include "json.h"
#include "model.h"
#include "ranks.h"

typedef struct {
    double  nll;               // sum over scored tokens, nats
    int64_t scored;
    int     context, stride;   // stride 0: rolling windows, document by document
} Perplexity;

// NAME.json beside the evaluation shard NAME.bin: what the tokens stand for comes from nowhere else.
typedef struct {
    char*     path;
    char*     text;            // the file, which the values point into
    JsonValue json;
} Sidecar;

// What a sidecar says of a text.
typedef struct {
    int64_t  bytes, words;     // of the raw text
    char*    join;             // how its parts were joined before tokenising; JOIN_DOCUMENTS asks for protocol B
    int64_t* documents;        // where a document's end-of-text stands, ascending, the first 0; only with JOIN_DOCUMENTS
    int      document_count;
} TextInfo;

#define JOIN_DOCUMENTS "documents"

#ifdef __cplusplus
extern "C" {
#endif

// Mean loss over the first `batches` micro-batches of an unshuffled loader; a smaller set is used whole. NAN and *err if data is bad.
double eval_loss(Model* m, DataLoader* loader, int micro_rows, int T, int batches, const Ranks* ranks, Error* err);

// Protocol A, Hugging Face's recipe: sliding windows of `context` tokens that move on by `stride`; each window scores the tokens that no
// earlier window scored, a token's first predecessor in the window at the latest; the very first token of the stream is not scored.
// The model must be planned for context tokens a row; windows are batched by its planned rows.
Perplexity eval_stream(Model* m, const int* tokens, int64_t count, int context, int stride);

// Protocol B, lm-evaluation-harness' rolling windows: each document begins with an end-of-text that is not scored, and is cut into
// runs of `context` tokens to score; each run is seen with as many tokens before its last one as the context holds, end-of-text only in the first.
Perplexity eval_documents(Model* m, const int* tokens, int64_t count, const int64_t* documents, int document_count, int context);

// Reads NAME.json beside NAME.bin. If it names the size of the tokenizer's vocabulary, that must be the model's (`vocab`, both rounded up to 128).
bool sidecar_open(Sidecar* sidecar, const char* shard_path, int vocab, Error* err);
void sidecar_close(Sidecar* sidecar);

bool text_info(TextInfo* info, const Sidecar* sidecar, int64_t tokens, Error* err);      // tokens: how many the shard has
void text_info_close(TextInfo* info);
void perplexity_print(const Perplexity* p, const TextInfo* info);                        // every figure a comparison needs

#ifdef __cplusplus
}
#endif
#endif

// Level 5: tasks that compare log-likelihoods of continuations: multiple choice, last words, needles in a haystack. data/eval_tasks.py and
// data/needle.py tokenise them; a task is a token shard and its sidecar (data/README.md).
#ifndef TASK_H
#define TASK_H

#include "eval.h"

// choices: an item has several continuations, one of them right    word: one continuation, which greedy decoding must give
// needle:  the same, in a haystack of `length` tokens at `depth` percent
typedef enum { TASK_CHOICES, TASK_WORD, TASK_NEEDLE } TaskKind;

// A context and its continuation: `tokens` tokens of the shard from `first` on, of which the last `scored` are the continuation.
typedef struct { int64_t first; int item, tokens, scored, characters; } Request;
typedef struct { int first, count, gold, length, depth; } Item;            // its requests are [first, first + count)
typedef struct { double loglik; bool greedy; } Score;                      // greedy: no token is likelier than the continuation's, all along

typedef struct {
    TaskKind kind;
    char*    name;
    int      items, requests, longest;       // longest: tokens of the longest request
    Item*    item;
    Request* request;
} Task;

typedef struct { double mean, error; } Estimate;                           // error: standard error of the mean

#ifdef __cplusplus
extern "C" {
#endif

bool task_is(const Sidecar* sidecar);                                      // else the shard is a text
// Checks the sidecar against a shard of `tokens` tokens; keeps the first `limit` items (0: all).
bool task_open(Task* task, const Sidecar* sidecar, int64_t tokens, int limit, Error* err);
void task_close(Task* task);

// Can a row of `context` tokens hold every continuation, and every haystack whole? Else the sentence says what to give.
bool task_fits(const Task* task, int context, Error* err);
// What the model is to be planned for so that a pass has at most `budget` tokens, a row at most `context`.
void task_plan(const Task* task, int context, int64_t budget, int* B, int* T);
// A score for each request. One longer than context + 1 loses tokens on the left, as in lm-evaluation-harness. No more rows of T than planned.
Score* task_score(Model* m, const Task* task, const int* tokens, int context);

// Did item i come out right? normalized: log-likelihoods divided by the continuations' characters. Among equals the first choice counts.
bool     task_right(const Task* task, const Score* scores, int i, bool normalized);
Estimate task_accuracy(const Task* task, const Score* scores, bool normalized);
Estimate task_perplexity(const Task* task, const Score* scores);           // of TASK_WORD: exp(-mean log-likelihood of a continuation)
void     task_print(const Task* task, const Score* scores);
void     task_write(FILE* out, const Task* task, const Score* scores, const char* shard_path);   // one JSON line a request

#ifdef __cplusplus
}
#endif
#endif

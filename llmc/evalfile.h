// Level 5: --eval-data. Each shard it names is a text to take the perplexity of, or a task; its sidecar says which.
#ifndef EVALFILE_H
#define EVALFILE_H

#include "config.h"
#include "task.h"

typedef struct {
    char*    path;
    int*     tokens;
    int64_t  count;
    bool     is_task;
    TextInfo text;             // of a text
    Task     task;             // of a task
} EvalFile;

#ifdef __cplusplus
extern "C" {
#endif

// Every shard and sidecar, read and checked. NULL and *err if anything is wrong.
EvalFile* evalfiles_open(const Config* cfg, int* count, Error* err);
void      evalfiles_close(EvalFile* files, int count);

// What the model is to be planned for: B rows of T tokens, no more tokens than --micro-batch rows of --eval-context
void      evalfile_plan(const EvalFile* file, const Config* cfg, int* B, int* T);
// Scores and prints; a task's scores also go to `out`, one line each, unless that is NULL.
void      evalfile_run(const EvalFile* file, Model* m, const Config* cfg, FILE* out);

#ifdef __cplusplus
}
#endif
#endif

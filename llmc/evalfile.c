#include "evalfile.h"

#include <string.h>

static bool interpret(EvalFile* file, const Config* cfg, Error* err) {
    Sidecar sidecar;
    bool good = sidecar_open(&sidecar, file->path, cfg->vocab, err);
    if (good) {
        file->is_task = task_is(&sidecar);
        good = file->is_task ? task_open(&file->task, &sidecar, file->count, cfg->eval_items, err) && task_fits(&file->task, cfg->eval_context, err)
                             : text_info(&file->text, &sidecar, file->count, err);
    }
    sidecar_close(&sidecar);
    return good;
}

EvalFile* evalfiles_open(const Config* cfg, int* count, Error* err) {
    ShardSet* set = shard_open(cfg->eval_data, 1, cfg->vocab, err);
    if (!set) { return NULL; }
    EvalFile* files = (EvalFile*)xcalloc((size_t)set->count, sizeof(EvalFile));
    bool good = true;
    *count = set->count;
    for (int i = 0; good && i < set->count; i++) {
        files[i].path = xstrdup(set->shards[i].path);
        files[i].tokens = shard_read_all(set, i, &files[i].count, err);
        good = files[i].tokens && interpret(&files[i], cfg, err);
    }
    shard_close(set);
    if (good) { return files; }
    evalfiles_close(files, *count);
    return NULL;
}

void evalfiles_close(EvalFile* files, int count) {
    for (int i = 0; i < count; i++) {
        free(files[i].path);
        free(files[i].tokens);
        text_info_close(&files[i].text);
        task_close(&files[i].task);
    }
    free(files);
}

void evalfile_plan(const EvalFile* file, const Config* cfg, int* B, int* T) {
    *B = cfg->micro_batch;
    *T = cfg->eval_context;
    if (file->is_task) { task_plan(&file->task, cfg->eval_context, (int64_t)cfg->micro_batch * cfg->eval_context, B, T); }
}

static void run_text(const EvalFile* file, Model* m, const Config* cfg) {
    const TextInfo* info = &file->text;
    Perplexity p = info->documents ? eval_documents(m, file->tokens, file->count, info->documents, info->document_count, cfg->eval_context)
                                   : eval_stream(m, file->tokens, file->count, cfg->eval_context, cfg->eval_stride);
    perplexity_print(&p, info);
}

void evalfile_run(const EvalFile* file, Model* m, const Config* cfg, FILE* out) {
    printf("shard             %s\n", file->path);
    printf("attention         %s\n", m->dense_moba ? "dense" : "sparse, as trained");
    if (file->is_task) {
        Score* scores = task_score(m, &file->task, file->tokens, cfg->eval_context);
        task_print(&file->task, scores);
        if (out) { task_write(out, &file->task, scores, file->path); }
        free(scores);
    } else {
        run_text(file, m, cfg);
    }
    fflush(stdout);
}

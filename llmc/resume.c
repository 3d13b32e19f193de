#include "resume.h"

#include <string.h>

Checkpoint* resume_open(const Config* cfg, const char* checkpoints_dir) {
    Error err;
    memset(&err, 0, sizeof err);
    if (strcmp(cfg->resume, "none") == 0) { return NULL; }
    if (strcmp(cfg->resume, "auto") != 0) {
        Checkpoint* checkpoint = checkpoint_open(cfg->resume, &err);
        TRY(checkpoint);
        return checkpoint;
    }
    char* passed_over = NULL;
    Checkpoint* checkpoint = checkpoint_open_newest(checkpoints_dir, &passed_over, &err);
    if (passed_over) { fprintf(stderr, "warning: %s\n", passed_over); }
    if (passed_over && checkpoint) { fprintf(stderr, "warning: resuming from %s instead\n", checkpoint->path); }
    free(passed_over);
    TRY(checkpoint || err.code == 0);
    return checkpoint;
}

void resume_refuse_to_overwrite(const Config* cfg, const char* checkpoints_dir, int64_t from_step) {
    int64_t* steps = NULL;
    int count = checkpoint_steps(checkpoints_dir, &steps);
    if (strcmp(cfg->resume, "auto") != 0 && count > 0 && steps[count - 1] > from_step) {
        FAIL(EXIT_USAGE, "--resume %s: %s already holds step %lld; give another --out, or remove what is there", cfg->resume, checkpoints_dir,
             (long long)steps[count - 1]);
    }
    free(steps);
}

Config resume_config(const Checkpoint* checkpoint) {
    Error err;
    Config saved;
    char* options = checkpoint_read_text(checkpoint, "options", &err);
    TRY(options);
    TRY(config_from_json(&saved, options, strlen(options), &err));
    free(options);
    return saved;
}

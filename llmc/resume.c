#include "resume.h"

#include <string.h>
#include <sys/stat.h>

// A run, or its folder of checkpoints, in a checkpoint's place: says so.
static void refuse_a_run(const char* path) {
    struct stat info;
    int64_t* steps = NULL;
    char* inner = xformat("%s/checkpoints", path);
    bool is_run = stat(inner, &info) == 0 && S_ISDIR(info.st_mode);
    int count = checkpoint_steps(is_run ? inner : path, &steps);
    if (count > 0) {
        char* newest = checkpoint_path(is_run ? inner : path, steps[count - 1]);
        FAIL(EXIT_NO_INPUT, "--resume %s: it is %s, not a checkpoint; give one of them, such as %s, or the run as --out with --resume auto", path,
             is_run ? "a run, with checkpoints" : "a folder of checkpoints", newest);
    }
    if (is_run) { FAIL(EXIT_NO_INPUT, "--resume %s: it is a run without checkpoints; expected a checkpoint's directory, step_N", path); }
    free(steps);
    free(inner);
}

Checkpoint* resume_open(const Config* cfg, const char* checkpoints_dir) {
    Error err;
    memset(&err, 0, sizeof err);
    if (strcmp(cfg->resume, "none") == 0) { return NULL; }
    if (strcmp(cfg->resume, "auto") != 0) {
        refuse_a_run(cfg->resume);
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

// Level 5: which checkpoint a run goes on from. What is wrong ends the program with a sentence.
#ifndef RESUME_H
#define RESUME_H

#include "checkpoint.h"
#include "config.h"

#ifdef __cplusplus
extern "C" {
#endif

// The checkpoint --resume asks for, whole and verified; NULL if it is 'none', or 'auto' and there is none.
Checkpoint* resume_open(const Config* cfg, const char* checkpoints_dir);
// Starting over, or from an older step, would cut the log of what came after; that takes another directory.
void        resume_refuse_to_overwrite(const Config* cfg, const char* checkpoints_dir, int64_t from_step);
// The options it was saved with; the caller's to close.
Config      resume_config(const Checkpoint* checkpoint);

#ifdef __cplusplus
}
#endif
#endif

// Level 5: one line for people (stdout), one for programs (log.jsonl), with the same numbers.
//
// One thread at a time. A line of log.jsonl is written with one write(2). While it cannot be (disk full) lines wait in memory, in order, and a warning is printed.
#ifndef LOGGER_H
#define LOGGER_H

#include "common.h"

typedef struct {
    int     step;          // completed updates, from 1
    double  loss;          // mean over the step's targets
    double  norm;          // gradient norm before clipping
    double  lr;
    double  ms;            // wall time of the step
    double  tok_s;
    double  mfu;           // 0..1; 0: no peak known, no column on the console
    int64_t tokens;        // consumed since step 0, this one included
    double  mem_mib;       // in use on the device
} StepStats;

typedef struct {
    int64_t     step;          // resumed from; 0: from the start
    const char* options;       // config_to_json
    const char* device;
    const char* commit;
    const char* data;          // the training set in words
    int64_t     data_tokens;
    int64_t     params;
} StartRecord;

typedef struct {
    int         step;
    int         status;        // exit status
    const char* why;           // "finished", "stopped by SIGTERM", "finished, but not saved"
    double      seconds;       // of this process
    double      loss;          // of the last step
    int64_t     tokens;
} EndRecord;

typedef struct Logger Logger;

#ifdef __cplusplus
extern "C" {
#endif

// Opens run_dir/log.jsonl. What records of steps beyond resume_step there are is cut off, a half-written last line too.
// Console lines: every log_every steps, and the last of total_steps. NULL on error.
Logger* logger_open(const char* run_dir, int64_t resume_step, int total_steps, int log_every, Error* err);
// Waits for nothing: false if lines could not be written in the end (they are lost then).
bool logger_close(Logger* logger, Error* err);
// Writes what waits and syncs the file. Before a checkpoint is made visible: then no saved step is missing from the log.
bool logger_sync(Logger* logger, Error* err);

void log_start(Logger* logger, const StartRecord* start);              // no console line: the header is the program's
void log_step(Logger* logger, const StepStats* stats);
void log_skip(Logger* logger, int step, const char* why);              // in place of the step's record
void log_eval(Logger* logger, int step, const char* set, double loss); // ppl = exp(loss)
void log_save(Logger* logger, int step, const char* path, int64_t bytes, double ms, double pause_ms);   // pause: what training waited
void log_end(Logger* logger, const EndRecord* end);

// Bytes of a log up to the first record of a step beyond resume_step, or up to an unfinished last line. -1: cannot be read.
int64_t log_bytes_to_keep(FILE* file, int64_t resume_step);
// The console line of a step, without newline; bar: with the progress bar.
void log_step_text(char* text, size_t room, const StepStats* stats, int total_steps, double ms_left, bool bar);

#ifdef __cplusplus
}
#endif
#endif

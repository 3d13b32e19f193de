#include "logger.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "json.h"

enum { MAX_WAITING = 64 << 20 };       // bytes of lines that wait for a disk with room; a week of steps

struct Logger {
    char*  path;
    int    file;
    off_t  whole;              // the file's size: whole lines only
    char*  waiting;            // lines not yet in the file
    size_t waiting_bytes, waiting_room;
    bool   warned;             // that lines wait
    int    total_steps, log_every;
    bool   terminal;
    int    steps_seen;
    double smooth_ms;          // of a step, for the ETA
};

// ---- log.jsonl -------------------------------------------------------------------------------------------------------
int64_t log_bytes_to_keep(FILE* file, int64_t resume_step) {
    char* line = NULL;
    size_t room = 0;
    int64_t keep = 0;
    for (ssize_t length; (length = getline(&line, &room, file)) > 0; keep += length) {
        JsonValue record, value;
        int64_t step;
        if (line[length - 1] != '\n') { break; }
        bool beyond = json_parse(&record, line, (size_t)length, NULL) && json_member(record, "step", &value) &&
                      json_get_int(value, &step) && step > resume_step;
        if (beyond) { break; }
    }
    free(line);
    return ferror(file) ? -1 : keep;
}

static bool open_file(Logger* logger, int64_t resume_step, Error* err) {
    logger->file = open(logger->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (logger->file < 0) { return error_set(err, EXIT_NO_OUTPUT, "%s cannot be opened: %s", logger->path, strerror(errno)); }
    FILE* reader = fopen(logger->path, "r");
    logger->whole = reader ? log_bytes_to_keep(reader, resume_step) : -1;
    int why = errno;
    if (reader) { fclose(reader); }
    if (logger->whole < 0) { return error_set(err, EXIT_IO, "%s cannot be read: %s", logger->path, strerror(why)); }
    return ftruncate(logger->file, logger->whole) == 0 ||
           error_set(err, EXIT_IO, "%s cannot be cut to step %" PRId64 ": %s", logger->path, resume_step, strerror(errno));
}

Logger* logger_open(const char* run_dir, int64_t resume_step, int total_steps, int log_every, Error* err) {
    Logger* logger = (Logger*)xcalloc(1, sizeof *logger);
    logger->path = xformat("%s/log.jsonl", run_dir);
    logger->total_steps = total_steps;
    logger->log_every = log_every;
    logger->terminal = isatty(STDOUT_FILENO);
    if (open_file(logger, resume_step, err)) { return logger; }
    logger_close(logger, NULL);
    return NULL;
}

// Writes all that waits with one write(2). What went in only partly is taken back, so that the file has whole lines.
static bool write_waiting(Logger* logger) {
    if (logger->waiting_bytes == 0) { return true; }
    ssize_t wrote = write(logger->file, logger->waiting, logger->waiting_bytes);
    int why = errno;
    if (wrote == (ssize_t)logger->waiting_bytes) {
        logger->whole += wrote;
        logger->waiting_bytes = 0;
        if (logger->warned) { fprintf(stderr, "%s: the lines that waited are written\n", logger->path); }
        logger->warned = false;
        return true;
    }
    if (wrote > 0 && ftruncate(logger->file, logger->whole) != 0) { why = errno; }
    errno = wrote >= 0 ? ENOSPC : why;
    return false;
}

// Takes the text of one record (and frees it).
static void write_record(Logger* logger, char* text) {
    size_t length = strlen(text), needed = logger->waiting_bytes + length + 1;
    if (needed > logger->waiting_room) {
        logger->waiting_room = needed * 2;
        logger->waiting = (char*)realloc(logger->waiting, logger->waiting_room);
        REQUIRE(logger->waiting, "out of host memory: %zu bytes asked for", logger->waiting_room);
    }
    memcpy(logger->waiting + logger->waiting_bytes, text, length);
    logger->waiting[needed - 1] = '\n';
    logger->waiting_bytes = needed;
    free(text);
    if (write_waiting(logger)) { return; }
    if (logger->waiting_bytes > MAX_WAITING) {
        FAIL(EXIT_IO, "%s cannot be written for too long: %s; %d MiB of lines wait", logger->path, strerror(errno), MAX_WAITING >> 20);
    }
    if (!logger->warned) { fprintf(stderr, "warning: %s cannot be written: %s; lines wait in memory\n", logger->path, strerror(errno)); }
    logger->warned = true;
}

bool logger_sync(Logger* logger, Error* err) {
    bool good = write_waiting(logger) && fsync(logger->file) == 0;
    return good || error_set(err, EXIT_IO, "%s cannot be written: %s", logger->path, strerror(errno));
}

bool logger_close(Logger* logger, Error* err) {
    bool good = logger->file < 0 || logger_sync(logger, err);
    if (logger->file >= 0) { close(logger->file); }
    free(logger->path);
    free(logger->waiting);
    free(logger);
    return good;
}

static Json record_begin(const char* kind) {
    Json json = json_begin();
    json_put_text(&json, "kind", kind);
    return json;
}

// ---- the console -----------------------------------------------------------------------------------------------------
static void duration_text(char* text, size_t room, double ms) {
    double seconds = ms / 1000;
    if (!(seconds < 1e9))        { snprintf(text, room, "?"); }
    else if (seconds < 100)      { snprintf(text, room, "%.0fs", seconds); }
    else if (seconds < 6000)     { snprintf(text, room, "%.0fm%02.0fs", floor(seconds / 60), floor(fmod(seconds, 60))); }
    else if (seconds < 48 * 3600.0) { snprintf(text, room, "%.0fh%02.0fm", floor(seconds / 3600), floor(fmod(seconds, 3600) / 60)); }
    else                         { snprintf(text, room, "%.0fd%02.0fh", floor(seconds / 86400), floor(fmod(seconds, 86400) / 3600)); }
}

static void rate_text(char* text, size_t room, double tok_s) {
    if (tok_s < 10e3)      { snprintf(text, room, "%.0f", tok_s); }
    else if (tok_s < 10e6) { snprintf(text, room, "%.0fk", tok_s / 1e3); }
    else                   { snprintf(text, room, "%.1fM", tok_s / 1e6); }
}

void log_step_text(char* text, size_t room, const StepStats* s, int total_steps, double ms_left, bool bar) {
    enum { BAR = 12 };
    char marks[BAR + 4] = "", mfu[24] = "", rate[32], left[32];
    if (bar) {
        int done = (int)((double)BAR * s->step / max_int(total_steps, 1));
        for (int i = 0; i < BAR; i++) { marks[i] = i < done ? '#' : '-'; }
        memcpy(marks + BAR, " | ", 4);
    }
    if (s->mfu > 0) { snprintf(mfu, sizeof mfu, "MFU %.0f%% | ", 100 * s->mfu); }
    rate_text(rate, sizeof rate, s->tok_s);
    duration_text(left, sizeof left, ms_left);
    snprintf(text, room, "step %5d/%d | %sloss %.4f | norm %.3f | lr %.2e | %.*f ms | %s tok/s | %sETA %s",
             s->step, total_steps, marks, s->loss, s->norm, s->lr, s->ms < 10 ? 1 : 0, s->ms, rate, mfu, left);
}

// Console lines are for people: one that cannot be written (closed pipe) is no reason to stop.
__attribute__((format(printf, 1, 2)))
static void say(const char* format, ...) {
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fflush(stdout);
}

// ---- records ---------------------------------------------------------------------------------------------------------
void log_start(Logger* logger, const StartRecord* start) {
    char now_text[32];
    time_t now = time(NULL);
    strftime(now_text, sizeof now_text, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    Json json = record_begin("start");
    json_put_int(&json, "step", start->step);
    json_put_text(&json, "time", now_text);
    json_put_text(&json, "commit", start->commit);
    json_put_text(&json, "device", start->device);
    json_put_text(&json, "data", start->data);
    json_put_int(&json, "data_tokens", start->data_tokens);
    json_put_int(&json, "params", start->params);
    json_put_raw(&json, "options", start->options);
    write_record(logger, json_end(&json));
}

void log_step(Logger* logger, const StepStats* s) {
    Json json = record_begin("step");
    json_put_int(&json, "step", s->step);
    json_put_real(&json, "loss", s->loss);
    json_put_real(&json, "norm", s->norm);
    json_put_real(&json, "lr", s->lr);
    json_put_real(&json, "ms", s->ms);
    json_put_real(&json, "tok_s", s->tok_s);
    json_put_real(&json, "mfu", s->mfu);
    json_put_int(&json, "tokens", s->tokens);
    json_put_real(&json, "mem_mib", s->mem_mib);
    write_record(logger, json_end(&json));
    // a mean at first, without the slow first step; then the last twenty steps or so
    int counted = logger->steps_seen++;
    double weight = counted <= 1 ? 1 : counted < 20 ? 1.0 / counted : 0.05;
    logger->smooth_ms += weight * (s->ms - logger->smooth_ms);
    if (s->step % logger->log_every == 0 || s->step == logger->total_steps) {
        char text[256];
        log_step_text(text, sizeof text, s, logger->total_steps, logger->smooth_ms * (logger->total_steps - s->step), logger->terminal);
        say("%s\n", text);
    }
}

void log_skip(Logger* logger, int step, const char* why) {
    Json json = record_begin("skip");
    json_put_int(&json, "step", step);
    json_put_text(&json, "why", why);
    write_record(logger, json_end(&json));
    say("step %5d/%d | skipped: %s\n", step, logger->total_steps, why);
}

void log_eval(Logger* logger, int step, const char* set, double loss) {
    Json json = record_begin("eval");
    json_put_int(&json, "step", step);
    json_put_text(&json, "set", set);
    json_put_real(&json, "loss", loss);
    json_put_real(&json, "ppl", exp(loss));
    write_record(logger, json_end(&json));
    say("eval %5d/%d | %s loss %.4f | ppl %.2f\n", step, logger->total_steps, set, loss, exp(loss));
}

void log_save(Logger* logger, int step, const char* path, int64_t bytes, double ms, double pause_ms) {
    Json json = record_begin("save");
    json_put_int(&json, "step", step);
    json_put_text(&json, "path", path);
    json_put_int(&json, "bytes", bytes);
    json_put_real(&json, "ms", ms);
    json_put_real(&json, "pause_ms", pause_ms);
    write_record(logger, json_end(&json));
    say("save %5d/%d | %s | %.1f MiB in %.0f ms | training paused %.0f ms\n", step, logger->total_steps, path, (double)bytes / 1048576, ms, pause_ms);
}

void log_end(Logger* logger, const EndRecord* end) {
    Json json = record_begin("end");
    json_put_int(&json, "step", end->step);
    json_put_int(&json, "status", end->status);
    json_put_text(&json, "why", end->why);
    json_put_real(&json, "seconds", end->seconds);
    json_put_real(&json, "loss", end->loss);
    json_put_int(&json, "tokens", end->tokens);
    write_record(logger, json_end(&json));
    char spent[32];
    duration_text(spent, sizeof spent, 1000 * end->seconds);
    say("%s at step %d/%d after %s | loss %.4f\n", end->why, end->step, logger->total_steps, spent, end->loss);
}

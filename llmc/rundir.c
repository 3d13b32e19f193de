#include "rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "json.h"

enum { LOCK_TEXT = 1024 };

// Who holds a lock, or held it; empty host: nobody says.
typedef struct { char host[256], started[32]; int64_t pid; } Holder;

static bool is_directory(const char* path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool make_directories(const char* path, Error* err) {
    char* part = xstrdup(path);
    bool good = true;
    for (char* slash = part; good && slash; ) {
        slash = strchr(slash + 1, '/');
        if (slash) { *slash = 0; }
        good = mkdir(part, 0777) == 0;
        int why = errno;                               // to look at what is there instead sets another
        good = good || is_directory(part);
        if (!good) { error_set(err, EXIT_NO_OUTPUT, "--out: directory %s cannot be created: %s", part, strerror(why)); }
        if (slash) { *slash = '/'; }
    }
    free(part);
    return good;
}

// ---- the lock --------------------------------------------------------------------------------------------------------
static void copy_member(JsonValue object, const char* key, char* out, size_t room) {
    JsonValue value;
    char* text = json_member(object, key, &value) ? json_get_text(value) : NULL;
    snprintf(out, room, "%s", text ? text : "");
    free(text);
}

static Holder read_holder(int lock) {
    Holder holder = {0};
    char text[LOCK_TEXT];
    ssize_t got = pread(lock, text, sizeof text, 0);
    JsonValue object, pid;
    if (got <= 0 || !json_parse(&object, text, (size_t)got, NULL)) { return holder; }
    copy_member(object, "host", holder.host, sizeof holder.host);
    copy_member(object, "started", holder.started, sizeof holder.started);
    if (!json_member(object, "pid", &pid) || !json_get_int(pid, &holder.pid)) { holder.pid = 0; }
    return holder;
}

static bool write_holder(int lock, const char* host, Error* err) {
    char started[32];
    time_t now = time(NULL);
    strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    Json json = json_begin();
    json_put_text(&json, "host", host);
    json_put_int(&json, "pid", getpid());
    json_put_text(&json, "started", started);
    char* text = json_end(&json);
    ssize_t length = (ssize_t)strlen(text);
    bool good = ftruncate(lock, 0) == 0 && pwrite(lock, text, (size_t)length, 0) == length;
    int why = errno;
    free(text);
    return good || error_set(err, EXIT_IO, "the lock cannot be written: %s", strerror(why));
}

static bool is_alive(int64_t pid) { return pid > 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM); }

static bool refuse(const char* path, const Holder* holder, const char* what_next, Error* err) {
    return error_set(err, EXIT_NO_OUTPUT, "--out: %s is in use by a run on host %s, pid %" PRId64 ", started %s; %s", path,
                     holder->host[0] ? holder->host : "(not named)", holder->pid, holder->started[0] ? holder->started : "(not said)", what_next);
}

static bool take_lock_file(RunDir* dir, bool take_lock, Error* err) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    bool locked = flock(dir->lock, LOCK_EX | LOCK_NB) == 0;
    bool supported = locked || errno == EWOULDBLOCK;
    Holder holder = read_holder(dir->lock);
    bool elsewhere = holder.host[0] && strcmp(holder.host, host) != 0;
    if (!locked && supported) { return refuse(dir->path, &holder, "give another --out, or stop that run", err); }
    if (!locked && !elsewhere && holder.host[0] && is_alive(holder.pid)) {       // no flock on this file system: the text must do
        return refuse(dir->path, &holder, "give another --out, or stop that run", err);
    }
    if (elsewhere && !take_lock) {
        return refuse(dir->path, &holder, "if it is certain that it no longer runs there, add --take-lock", err);
    }
    return write_holder(dir->lock, host, err);
}

void rundir_follow(RunDir* dir, const char* path) { *dir = (RunDir){ xstrdup(path), xformat("%s/checkpoints", path), -1 }; }

bool rundir_open(RunDir* dir, const char* path, bool take_lock, Error* err) {
    rundir_follow(dir, path);
    bool good = make_directories(path, err) && make_directories(dir->checkpoints, err);
    if (good) {
        char* file = xformat("%s/lock", path);
        dir->lock = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (dir->lock < 0) { good = error_set(err, EXIT_NO_OUTPUT, "--out: %s cannot be opened: %s", file, strerror(errno)); }
        free(file);
    }
    good = good && take_lock_file(dir, take_lock, err);
    if (good && access(dir->checkpoints, W_OK | X_OK) != 0) {
        good = error_set(err, EXIT_NO_OUTPUT, "--out: %s cannot be written to: %s", dir->checkpoints, strerror(errno));
    }
    if (good) { return true; }
    if (dir->lock >= 0) { close(dir->lock); }          // the text stays: it is the holder's
    dir->lock = -1;
    rundir_close(dir);
    return false;
}

void rundir_close(RunDir* dir) {
    if (dir->lock >= 0) {
        int emptied = ftruncate(dir->lock, 0);         // a text that stays only costs a --take-lock on another host
        (void)emptied;
        close(dir->lock);
    }
    free(dir->path);
    free(dir->checkpoints);
    *dir = (RunDir){ NULL, NULL, -1 };
}

// ---- shared or not ---------------------------------------------------------------------------------------------------
// A directory, since no cache of a network file system delays that; of a name that the next save clears away if it stays (checkpoint.c).
static char* mark_path(const RunDir* dir, uint64_t id) { return xformat("%s/.tmp-shared_%016" PRIx64, dir->checkpoints, id); }

bool rundir_mark(const RunDir* dir, uint64_t id, Error* err) {
    char* path = mark_path(dir, id);
    bool good = mkdir(path, 0777) == 0 || error_set(err, EXIT_NO_OUTPUT, "--out: %s cannot be created: %s", path, strerror(errno));
    free(path);
    return good;
}

bool rundir_sees_mark(const RunDir* dir, uint64_t id, Error* err) {
    char* path = mark_path(dir, id);
    bool good = access(path, W_OK | X_OK) == 0
             || error_set(err, EXIT_NO_OUTPUT, "--out: what rank 0 puts into %.200s is not there to be written to on this rank (%s); give a directory that all hosts share",
                          dir->checkpoints, strerror(errno));
    free(path);
    return good;
}

void rundir_unmark(const RunDir* dir, uint64_t id) {
    char* path = mark_path(dir, id);
    rmdir(path);
    free(path);
}

// ---- small files -----------------------------------------------------------------------------------------------------
static bool write_file(const char* path, const char* text) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    ssize_t length = (ssize_t)strlen(text);
    if (file < 0) { return false; }
    errno = ENOSPC;                                    // a short write sets none
    bool good = write(file, text, (size_t)length) == length && fsync(file) == 0;
    int why = errno;
    if (close(file) != 0) { return false; }
    errno = why;
    return good;
}

bool rundir_write(const RunDir* dir, const char* name, const char* text, Error* err) {
    char *final = xformat("%s/%s", dir->path, name), *temporary = xformat("%s/.%s.tmp", dir->path, name);
    bool good = write_file(temporary, text) && rename(temporary, final) == 0;
    if (!good) {
        error_set(err, EXIT_IO, "%s cannot be written: %s", final, strerror(errno));
        unlink(temporary);
    }
    free(final);
    free(temporary);
    return good;
}

// Level 5: the run directory and its lock.
//
// DIR/lock is held with flock for the life of the process: the kernel frees it however the process ends. Its text (host, pid, start) is for
// the message, and for file systems whose flock does not reach other hosts: a text left by another host needs --take-lock.
#ifndef RUNDIR_H
#define RUNDIR_H

#include "common.h"

typedef struct {
    char* path;            // DIR
    char* checkpoints;     // DIR/checkpoints
    int   lock;            // file descriptor of DIR/lock
} RunDir;

#ifdef __cplusplus
extern "C" {
#endif

// Creates DIR (with parents) and DIR/checkpoints, takes the lock. Error 73: cannot be created, or another run has it; 74: cannot be written.
bool rundir_open(RunDir* dir, const char* path, bool take_lock, Error* err);
// the names alone, for a rank beside the one that holds the lock
void rundir_follow(RunDir* dir, const char* path);
void rundir_close(RunDir* dir);        // empties the lock's text and lets go

// Is DIR one directory for several processes? One makes a mark in DIR/checkpoints, under a name never used before, and the others look for it,
// where they must be able to write. Error 73.
bool rundir_mark(const RunDir* dir, uint64_t id, Error* err);
bool rundir_sees_mark(const RunDir* dir, uint64_t id, Error* err);
void rundir_unmark(const RunDir* dir, uint64_t id);

// DIR/name, whole or not at all: temporary, fsync, rename.
bool rundir_write(const RunDir* dir, const char* name, const char* text, Error* err);

#ifdef __cplusplus
}
#endif
#endif

// Level 1: the watchdog, a thread of each rank beside the training thread. Nothing waits for ever:
//   a rank that dies         closes its connection, at once seen by rank 0, which tells all
//   a rank that fails        says so before it ends, after its own sentence
//   a rank that is stopped   gives no sign of life for half of --timeout
//   a rank that is stuck     gives them, but lets the others wait in a collective for nearly --timeout, in which nobody says that it is at work
// Each survivor then says which rank, on which host, in which step and collective, and exits 71 from the watchdog's thread: nothing is saved.
// After a failure, whose reason has been said, only one does.
// It speaks over the star of meet.h, not over MPI or NCCL, which may be what hangs.
#ifndef WATCH_H
#define WATCH_H

#include "meet.h"

typedef struct Watch Watch;

enum { HOST_NAME = 64 };

#ifdef __cplusplus
extern "C" {
#endif

// Takes the star over. hosts: (world) names, copied.
Watch* watch_open(Star* star, const char (*hosts)[HOST_NAME], double timeout);
void   watch_close(Watch* watch);
// when a deadline passes detail(argument) may name more exactly, or else return NULL, what this rank waits for; until the next call (NULL: none)
void   watch_detail(Watch* watch, const char* (*detail)(void* argument), void* argument);

// What this rank is about to wait for, and that it no longer does. Of any one thread at a time; NULL watch: nothing.
void   watch_begin(Watch* watch, int64_t step, const char* what);
void   watch_end(Watch* watch);
// this rank does work that others may wait for: while somebody does, waiting is not held against anybody
void   watch_at_work(Watch* watch);
// from here on connections that close are no loss: the run ends
void   watch_ending(Watch* watch);

#ifdef __cplusplus
}
#endif
#endif

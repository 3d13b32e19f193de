// Level 1: how the processes of a run find each other: a star of TCP connections, every rank to rank 0.
//
//   tcp    rank 0 listens at HOST:PORT, the others call there
//   file   rank 0 listens where it can and writes its addresses into a file that all see
//   mpi    rank 0 listens where it can and MPI broadcasts its addresses
// The star carries what is said once (host names, GPUs, NCCL's unique id); afterwards the watchdog has it (watch.h).
#ifndef MEET_H
#define MEET_H

#include "common.h"

typedef struct {
    int  rank, world;
    int* socket;           // (world) rank 0: a connection to each other rank; elsewhere only socket[0] is one; -1: none
    double timeout;        // seconds an exchange may take since somebody was last at work
    double told;           // when this rank last said that it is
} Star;

typedef enum { MEET_TCP, MEET_FILE, MEET_MPI } MeetKind;

#ifdef __cplusplus
extern "C" {
#endif

// Meets within timeout seconds; `where` is HOST:PORT, a file's path, or NULL for MPI. False after that long, or when two processes claim one
// rank or another number of ranks: the sentence says who was missing. MPI_Init is called here, by whoever calls this.
bool star_open(Star* star, MeetKind kind, const char* where, int rank, int world, double timeout, Error* err);
// everybody gives `bytes` bytes and gets those of all, by rank
bool star_exchange(Star* star, const void* mine, void* all, size_t bytes, Error* err);
bool star_broadcast(Star* star, void* data, size_t bytes, Error* err);      // from rank 0
// This rank is at work and will come: who waits in an exchange or a broadcast goes on waiting.
void star_at_work(Star* star);
void star_close(Star* star);

// mpi.c: what of MPI every program needs. Without MPI at build time mpi_refusal() is a sentence, else NULL.
const char* mpi_refusal(void);
void mpi_start(int* rank, int* world);
void mpi_broadcast(void* data, size_t bytes);          // from rank 0
void mpi_finish(void);                                 // does nothing where MPI was not started

#ifdef __cplusplus
}
#endif
#endif

// Level 2: collectives between the ranks of a run. llmc/comm.cu over NCCL, llmc/cpu/comm.c over MPI; a NULL Comm is a run of one rank.
//
// All ranks make the same calls in the same order. Reductions and gathers run on a stream of their own (on the CPU: a thread), behind what is
// queued on `after` at the time of the call, and in the order of the calls; comm_join makes a stream wait for them. Sums are in an order that
// depends on the number of ranks alone, so that a run repeats to the bit. Each call has a deadline: the watchdog knows its name.
#ifndef COMM_H
#define COMM_H

#include "device.h"
#include "watch.h"

typedef struct Comm Comm;
typedef enum { REDUCE_FP32, REDUCE_BF16 } ReduceType;      // what travels; the words of --reduce, in order
enum { COMM_ID = 128 };                                    // bytes of what rank 0 makes and all open with

// Milliseconds since the start: of reductions and gathers, and of those that the training stream waited for. Steps that were measured.
typedef struct { double busy_ms, waited_ms; int64_t steps; } CommTimes;

#ifdef __cplusplus
extern "C" {
#endif

// NULL if this program can run `world` ranks that met by MPI or not, else a sentence
const char* comm_refusal(bool met_by_mpi);
void  comm_make_id(char id[COMM_ID]);                      // rank 0
Comm* comm_open(int rank, int world, const char id[COMM_ID], Watch* watch);
void  comm_close(Comm* comm);

// the step that the following calls belong to; until comm_step_end the device may be waited for, which has a deadline too
void  comm_step(Comm* comm, int64_t step);
void  comm_step_wait(Comm* comm);                          // the deadline begins anew: a step ended while the next is under way
void  comm_step_end(Comm* comm);

// data: (count) fp32 becomes the sum over ranks; with scatter only elements [rank * count / world, ...) do, the others are lost.
// count is a multiple of world * 16. REDUCE_BF16: each rank's part is rounded to bf16 before it is summed, the sum too.
void  comm_reduce(Comm* comm, float* data, size_t count, bool scatter, ReduceType type, stream_t after);
// data: (world, part_bytes), of which each rank has its own part, becomes whole
void  comm_gather(Comm* comm, void* data, size_t part_bytes, stream_t after);
void  comm_join(Comm* comm, stream_t stream);

// device[0..n) becomes the sum over ranks, in the order of `stream` itself
void  comm_sum(Comm* comm, double* device, int n, stream_t stream);

// Host memory, and waits: every rank's bytes, by rank. `what` names it to the watchdog.
void  comm_exchange(Comm* comm, const void* mine, void* all, size_t bytes, const char* what);
void  comm_broadcast(Comm* comm, void* data, size_t bytes, const char* what);      // from rank 0
void  comm_barrier(Comm* comm, const char* what);

// Does any rank say yes? Asked at one time, answered at a later one without waiting for what was queued in between.
void  comm_ask(Comm* comm, bool yes);
bool  comm_answer(Comm* comm);

// 64 bits that differ if the bytes do (but for chance); bytes is a multiple of 4. Waits.
uint64_t comm_hash(const void* device, size_t bytes, stream_t stream);

CommTimes   comm_times(const Comm* comm);
const char* comm_pending(Comm* comm);                      // the collective the device is at, for the watchdog; NULL: none is known

// CPU only: as if each collective took ms + bytes / mb_s longer (0: unlimited), for tests of overlap and deadlines
void  comm_slow_link(Comm* comm, double ms, double mb_s);

#ifdef __cplusplus
}
#endif
#endif

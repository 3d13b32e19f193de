// Level 0: what a launcher says in the environment.
#ifndef LAUNCH_H
#define LAUNCH_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Rank and number of processes by the environment of mpirun (Open MPI, MPICH) or, if slurm, of srun. False: it names none.
bool launch_environment(bool slurm, int* rank, int* world);

// Ends a process that fails before the ranks can meet, most likely all alike: rank 0 says it. mpirun ends everybody as soon as one has ended, which
// must not be one that said nothing: the others wait so many seconds, and who is alive then has a fault of its own and says it. (srun ends nobody:
// there the others end without a word.)
enum { LAUNCH_PATIENCE = 5 };
__attribute__((noreturn)) void launch_fail(const Error* err);

#ifdef __cplusplus
}
#endif
#endif

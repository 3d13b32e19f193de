// Level 0: what a launcher says in the environment.
#ifndef LAUNCH_H
#define LAUNCH_H

#include "common.h"

#ifdef __cplusplus
extern "C" {
#endif

// Rank and number of processes by the environment of mpirun (Open MPI, MPICH) or, if slurm, of srun. False: it names none.
bool launch_environment(bool slurm, int* rank, int* world);

#ifdef __cplusplus
}
#endif
#endif

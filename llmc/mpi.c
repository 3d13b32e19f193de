// MPI to meet (both programs); as a transport it is llmc/cpu/comm.c. Without it at build time every use is refused with a sentence.
#include "meet.h"

#ifdef HAS_MPI
#include <mpi.h>

const char* mpi_refusal(void) { return NULL; }

// SERIALIZED: the main thread here, later the communication thread alone
void mpi_start(int* rank, int* world) {
    int provided = 0;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided);
    if (provided < MPI_THREAD_SERIALIZED) { FAIL(EXIT_INTERNAL, "this MPI lets only one thread call it; the trainer communicates from a thread of its own"); }
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, world);
}

void mpi_broadcast(void* data, size_t bytes) { MPI_Bcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD); }

void mpi_finish(void) {
    int started = 0;
    MPI_Initialized(&started);
    if (started) { MPI_Finalize(); }
}
#else
const char* mpi_refusal(void) { return "this program was built without MPI (no mpicc then); install openmpi-bin and libopenmpi-dev and run make again"; }
void mpi_start(int* rank, int* world)              { *rank = 0; *world = 1; FAIL(EXIT_USAGE, "--init mpi: %s", mpi_refusal()); }
void mpi_broadcast(void* data, size_t bytes)       { (void)data; (void)bytes; }
void mpi_finish(void)                              { }
#endif

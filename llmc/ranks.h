// Level 4: the processes of a run as one: they meet, agree on what is wrong, share out the GPUs, and end together.
#ifndef RANKS_H
#define RANKS_H

#include "comm.h"
#include "config.h"

typedef struct {
    int    rank, world, local_rank;        // local: among those on this host
    double timeout;
    Star   star;                           // until ranks_connect; then the watchdog's
    Watch* watch;
    Comm*  comm;                           // NULL: one rank
    char (*host)[HOST_NAME];               // (world)
} Ranks;

#ifdef __cplusplus
extern "C" {
#endif

// Meets; a run of one rank meets nobody. Of all ranks only 0 has a stdout from here on. Ends the process with a sentence when that fails.
Ranks ranks_open(const Config* cfg);
// The GPU for this rank, of `count` on this host.
int   ranks_gpu(const Ranks* ranks, int count);
// Prints which rank has which GPU of which host; refuses a GPU that two ranks have. From here on there is a watchdog, and comm.
void  ranks_connect(Ranks* ranks, const Device* device);
void  ranks_close(Ranks* ranks);           // waits for all

// From here to the next ranks_agree a FAIL of one rank is what that rank answers there, so that all end with one sentence, and as long as one rank
// goes on reading the others wait: a slow disk is no lost rank (nor is one that goes on writing a checkpoint, later). No collective in between.
void  ranks_together(Ranks* ranks);
// Every rank says whether it is well (NULL or err->code 0) ; if one is not, the first that is not says why, and all end with its status.
// Before ranks_connect it goes over the star, afterwards over comm.
void  ranks_agree(Ranks* ranks, const Error* err, const char* what);

bool  ranks_all(void* ranks, bool mine);   // does every rank say true?
// All ranks call it after something has failed on one or more of them (err->code set): rank 0 says it once, and of which ranks.
void  ranks_warn(Ranks* ranks, const Error* err, const char* what);
size_t ranks_least(Ranks* ranks, size_t mine);      // over all ranks
void  ranks_broadcast(Ranks* ranks, void* data, size_t bytes, const char* what);    // from rank 0

// All ranks must have the same 64 bits. If not the sentence names those that differ from most, and all end: status 70, nothing is saved.
void  ranks_check_equal(Ranks* ranks, uint64_t hash, const char* what, int64_t step);

#ifdef __cplusplus
}
#endif
#endif

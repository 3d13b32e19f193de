// Level 5: saves while training goes on. The state is copied into host memory, which is all that training waits for; a thread writes and
// syncs it, makes it visible and removes old checkpoints.
//
// With several ranks every rank writes its part in a thread of its own. That all have finished is found out by asking, in the main threads
// (a collective in a second thread would have to be ordered against training's own): 1, 2, 4, 8, ... polls after the start, the same on all ranks.
//
// Staging takes three fp32 copies of what the rank saves (4.3 GB for the 340M preset, one rank) in pinned host memory. Where half of
// the available memory is less, or the run saves only at its end, the state is written straight from the device and training waits for all of it.
#ifndef SAVER_H
#define SAVER_H

#include "state.h"

typedef struct Saver Saver;

// Who saves together. One process: {0, 1, 0, NULL, NULL}.
typedef struct {
    int      part, parts;                      // this rank of all
    uint64_t save_id;                          // the same on all ranks (checkpoint_new_id of rank 0)
    bool   (*all)(void* context, bool mine);   // collective: does every rank say true?
    void*    context;
} SaverRanks;

typedef struct {
    int64_t step;
    bool    ok;
    Error   error;               // why not (code 0: for another rank's reason); or with ok, code != 0: why a power cut may undo it, or why old checkpoints could not be removed
                                 // (of several ranks 0 warns of the latter later)
    int64_t bytes;               // of the checkpoint's tensors, in all ranks' parts together
    double  ms;                  // from start to visible
} SaveReport;

#ifdef __cplusplus
extern "C" {
#endif

Saver* saver_open(const char* checkpoints_dir, const Model* m, StateRange range, SaverRanks ranks, int keep, int64_t keep_major, bool often);
void   saver_close(Saver* saver);              // waits for the thread; may be NULL
bool   saver_is_staged(const Saver* saver);
size_t saver_host_bytes(const Saver* saver);
void   saver_know(Saver* saver, int64_t step); // this checkpoint is whole: it was resumed from

// Starts a save of the state as it is; none may be under way.
void saver_start(Saver* saver, const Progress* progress, const char* options);
// True: the save under way has ended, and *report says how. With wait it has ended for certain. False: none is under way, or it goes on.
// Every rank calls it after every step, with wait or without as the others do.
bool saver_poll(Saver* saver, bool wait, SaveReport* report);
bool saver_busy(const Saver* saver);

#ifdef __cplusplus
}
#endif
#endif

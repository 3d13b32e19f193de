#include "saver.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

struct Saver {
    char*       checkpoints_dir;
    SaverRanks  ranks;
    int         keep;
    int64_t     keep_major;
    Snapshot    snapshot;
    CheckpointsKnown known;        // the thread's while one runs

    bool        busy;              // a save is under way: started, its report not yet collected
    bool        joinable;          // a thread of this saver runs or has run
    pthread_t   thread;
    atomic_bool done;              // the thread has nothing more to do
    int         polls, next_ask;   // since the start; the poll at which the ranks ask each other again
    double      started;           // ms
    SaveReport  report;            // the thread's until done
};

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

// bytes of memory that can be had without swapping; 0 where the system does not say
static size_t available_memory(void) {
    size_t kib = 0;
    char line[128];
    FILE* file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "MemAvailable: %zu kB", &kib) != 1) { }
    if (file) { fclose(file); }
    return kib * 1024;
}

static bool alone(const Saver* saver)           { return saver->ranks.parts == 1; }
static bool all(const Saver* saver, bool mine)  { return alone(saver) ? mine : saver->ranks.all(saver->ranks.context, mine); }

Saver* saver_open(const char* checkpoints_dir, const Model* m, StateRange range, SaverRanks ranks, int keep, int64_t keep_major, bool often) {
    Saver* saver = (Saver*)xcalloc(1, sizeof *saver);
    saver->checkpoints_dir = xstrdup(checkpoints_dir);
    saver->ranks = ranks;
    saver->keep = keep;
    saver->keep_major = keep_major;
    size_t copies = 3 * range.count * sizeof(float) * (size_t)min_int(ranks.parts, 8);       // of the ranks that may share this host's memory
    snapshot_open(&saver->snapshot, m, range, often && copies <= available_memory() / 2);
    return saver;
}

static void join(Saver* saver) {
    if (saver->joinable) { pthread_join(saver->thread, NULL); }
    saver->joinable = false;
}

void saver_close(Saver* saver) {
    if (!saver) { return; }
    join(saver);
    snapshot_close(&saver->snapshot);
    free(saver->known.step);
    free(saver->checkpoints_dir);
    free(saver);
}

bool   saver_is_staged(const Saver* saver)       { return saver->snapshot.staged; }
size_t saver_host_bytes(const Saver* saver)      { return (saver->snapshot.staged ? 3 : 1) * saver->snapshot.range.count * sizeof(float); }
void   saver_know(Saver* saver, int64_t step)    { checkpoint_know(&saver->known, step); }
bool   saver_busy(const Saver* saver)            { return saver->busy; }

// ---- in the thread ---------------------------------------------------------------------------------------------------
static bool write_part(Saver* saver, Error* err) {
    const SaverRanks* r = &saver->ranks;
    CheckpointWriter* writer = checkpoint_begin_part(saver->checkpoints_dir, saver->report.step, r->part, r->parts, r->save_id, err);
    if (!writer) { return false; }
    if (!snapshot_write(&saver->snapshot, writer, r->part == 0, err)) {
        checkpoint_abort(writer);
        return false;
    }
    return checkpoint_finish(writer, err);
}

static void prune(Saver* saver) {
    checkpoint_know(&saver->known, saver->report.step);
    checkpoint_prune(saver->checkpoints_dir, saver->report.step, saver->keep, saver->keep_major, &saver->known, &saver->report.error);
}

// Old checkpoints go only for one that a power cut cannot undo.
static bool removes(const SaveReport* report) { return report->ok && report->error.code == 0; }

static void* write_main(void* argument) {
    Saver* saver = (Saver*)argument;
    SaveReport* report = &saver->report;
    report->ok = write_part(saver, &report->error);
    if (alone(saver)) {
        report->ok = report->ok && checkpoint_publish(saver->checkpoints_dir, report->step, &report->error);
        report->ms = now_ms() - saver->started;
        if (removes(report)) { prune(saver); }
    }
    atomic_store(&saver->done, true);
    return NULL;
}

// The save has been reported by now: what goes wrong is said here.
static void* prune_main(void* argument) {
    Saver* saver = (Saver*)argument;
    prune(saver);
    if (saver->report.error.code) { fprintf(stderr, "warning: %s\n", saver->report.error.text); }
    return NULL;
}

static void start_thread(Saver* saver, void* (*main)(void*)) {
    sigset_t every, before;                      // signals are the main thread's
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    int failed = pthread_create(&saver->thread, NULL, main, saver);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    saver->joinable = !failed;
    if (failed) { main(saver); }                 // no thread to be had: training waits
}

// ---- in the main thread ----------------------------------------------------------------------------------------------
void saver_start(Saver* saver, const Progress* progress, const char* options) {
    REQUIRE(!saver->busy, "a save starts while that of step %lld is under way", (long long)saver->report.step);
    saver->started = now_ms();
    join(saver);                                 // old checkpoints may still be on their way out
    memset(&saver->report, 0, sizeof saver->report);
    SaveReport* report = &saver->report;
    report->step = progress->step;
    report->bytes = (int64_t)snapshot_bytes(&saver->snapshot);
    saver->busy = true;
    saver->polls = 0;
    saver->next_ask = 1;
    bool ready = saver->ranks.part != 0 || checkpoint_prepare(saver->checkpoints_dir, progress->step, &report->error);
    if (!all(saver, ready)) {                    // the directory cannot be made: nothing was written, and poll says so
        atomic_store(&saver->done, true);
        return;
    }
    snapshot_take(&saver->snapshot, progress, options);
    atomic_store(&saver->done, false);
    if (saver->snapshot.staged) { start_thread(saver, write_main); }
    else                        { write_main(saver); }
}

// All parts are finished, or one has failed: makes them visible, or removes them.
static void conclude(Saver* saver) {
    SaveReport* report = &saver->report;
    bool good = all(saver, report->ok), first = saver->ranks.part == 0;
    if (good && first) { good = checkpoint_publish(saver->checkpoints_dir, report->step, &report->error); }
    if (!good && first) { checkpoint_discard(saver->checkpoints_dir, report->step); }
    good = all(saver, good);
    report->ok = good;
    report->ms = now_ms() - saver->started;
}

bool saver_poll(Saver* saver, bool wait, SaveReport* report) {
    if (!saver->busy) { return false; }
    if (!wait) {
        saver->polls++;
        if (!alone(saver) && saver->polls < saver->next_ask) { return false; }
        saver->next_ask = 2 * saver->polls;
        if (!all(saver, atomic_load(&saver->done))) { return false; }
    }
    join(saver);
    if (!alone(saver)) { conclude(saver); }
    *report = saver->report;
    saver->busy = false;
    if (removes(report) && !alone(saver) && saver->ranks.part == 0) { start_thread(saver, prune_main); }
    return true;
}

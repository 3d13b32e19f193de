#include "dataloader.h"

#include "device.h"
#include "rng.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

// A micro-batch in memory. While the trainer uses one slot the thread fills the other.
typedef struct {
    int*  inputs;              // (micro_rows, T), pinned
    int*  targets;             // (micro_rows, T), pinned
    bool  ok;
    Error error;               // if not ok
} Slot;

struct DataLoader {
    const ShardSet* set;
    int      micro_rows, rank, world;
    int64_t  batch_rows;
    uint64_t seed;
    bool     shuffle;
    int64_t  origin;           // item that step 0 begins with
    int64_t  next;             // micro-batch of this rank that loader_next returns next, counted from step 0 on
    int      slot;             // where it is or will be read to
    bool     requested;        // it has been asked of the thread

    // shared with the thread, under the lock
    pthread_t       thread;
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    bool     busy, quit;       // busy: job and job_slot are the thread's
    int64_t  job;
    int      job_slot;
    Slot     slots[2];
    int*     row;              // (T+1) the thread's own
};

int64_t loader_row_of_item(int64_t item, int64_t rows, uint64_t seed, bool shuffle) {
    if (!shuffle) { return item < rows ? item : -1; }
    return shuffled_index(item % rows, rows, shuffle_key(seed, (uint64_t)(item / rows)));
}

// ---- the thread -------------------------------------------------------------------------------------------------------

static int64_t micro_batches_a_step(const DataLoader* d) { return d->batch_rows / ((int64_t)d->micro_rows * d->world); }

// reads the rank's micro-batch `micro` (counted from step 0 on) into a slot
static void read_micro_batch(DataLoader* d, Slot* slot, int64_t micro) {
    const size_t T = (size_t)d->set->row_tokens;
    int64_t step = micro / micro_batches_a_step(d), m = micro % micro_batches_a_step(d);
    slot->ok = true;
    for (int j = 0; j < d->micro_rows && slot->ok; j++) {
        int64_t item = d->origin + step * d->batch_rows + (m * d->world + d->rank) * d->micro_rows + j;
        int64_t row = loader_row_of_item(item, d->set->rows, d->seed, d->shuffle);
        int* inputs = slot->inputs + (size_t)j * T;
        int* targets = slot->targets + (size_t)j * T;
        if (row < 0) {
            memset(inputs, 0, T * sizeof(int));
            memset(targets, -1, T * sizeof(int));            // all bits set: -1
            continue;
        }
        slot->ok = shard_read_row(d->set, row, d->row, &slot->error);
        memcpy(inputs, d->row, T * sizeof(int));
        memcpy(targets, d->row + 1, T * sizeof(int));
    }
}

static void* reader_main(void* argument) {
    DataLoader* d = (DataLoader*)argument;
    pthread_mutex_lock(&d->lock);
    while (!d->quit) {
        if (!d->busy) { pthread_cond_wait(&d->changed, &d->lock); continue; }
        pthread_mutex_unlock(&d->lock);
        read_micro_batch(d, &d->slots[d->job_slot], d->job);
        pthread_mutex_lock(&d->lock);
        d->busy = false;
        pthread_cond_broadcast(&d->changed);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

// asks the idle thread for micro-batch `next` in `slot`
static void request(DataLoader* d) {
    pthread_mutex_lock(&d->lock);
    d->job = d->next;
    d->job_slot = d->slot;
    d->busy = true;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
    d->requested = true;
}

static void wait_until_idle(DataLoader* d) {
    pthread_mutex_lock(&d->lock);
    while (d->busy) { pthread_cond_wait(&d->changed, &d->lock); }
    pthread_mutex_unlock(&d->lock);
    d->requested = false;
}

// ---- the caller's side ------------------------------------------------------------------------------------------------

DataLoader* loader_open(const ShardSet* set, int micro_rows, int64_t batch_rows, int rank, int world, uint64_t seed, bool shuffle) {
    REQUIRE(micro_rows > 0 && world > 0 && rank >= 0 && rank < world, "loader: %d rows a micro-batch, rank %d of %d", micro_rows, rank, world);
    REQUIRE(batch_rows > 0 && batch_rows % ((int64_t)micro_rows * world) == 0, "loader: a batch of %lld rows is not a multiple of %d rows x %d ranks",
            (long long)batch_rows, micro_rows, world);
    DataLoader* d = (DataLoader*)xcalloc(1, sizeof(DataLoader));
    d->set = set;
    d->micro_rows = micro_rows;
    d->batch_rows = batch_rows;
    d->rank = rank;
    d->world = world;
    d->seed = seed;
    d->shuffle = shuffle;
    size_t bytes = (size_t)micro_rows * set->row_tokens * sizeof(int);
    for (int i = 0; i < 2; i++) {
        d->slots[i].inputs = (int*)pinned_malloc(bytes);
        d->slots[i].targets = (int*)pinned_malloc(bytes);
    }
    d->row = (int*)xcalloc((size_t)set->row_tokens + 1, sizeof(int));
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    sigset_t all, before;                        // signals are the main thread's: the reader starts with all of them blocked
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&d->thread, NULL, reader_main, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) { FAIL(EXIT_INTERNAL, "the data reader's thread cannot be started: %s", strerror(failed)); }
    return d;
}

void loader_close(DataLoader* d) {
    if (!d) { return; }
    pthread_mutex_lock(&d->lock);
    d->quit = true;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    for (int i = 0; i < 2; i++) {
        pinned_free(d->slots[i].inputs);
        pinned_free(d->slots[i].targets);
    }
    free(d->row);
    free(d);
}

void loader_seek(DataLoader* d, int64_t step) {
    REQUIRE(step >= 0, "loader: step %lld asked for", (long long)step);
    wait_until_idle(d);                          // what was read ahead is dropped
    d->origin = 0;
    d->next = step * micro_batches_a_step(d);
}

void loader_seek_item(DataLoader* d, int64_t item) {
    REQUIRE(item >= 0, "loader: item %lld asked for", (long long)item);
    loader_seek(d, 0);
    d->origin = item;
}

bool loader_next(DataLoader* d, const int** inputs, const int** targets, Error* err) {
    if (!d->requested) { request(d); }
    wait_until_idle(d);
    Slot* ready = &d->slots[d->slot];
    if (!ready->ok) {
        if (err) { *err = ready->error; }
        return false;
    }
    *inputs = ready->inputs;
    *targets = ready->targets;
    d->slot ^= 1;
    d->next++;
    request(d);
    return true;
}

// Collectives over MPI. One thread, the only one that calls MPI, works through a queue: it is to the training thread what a second stream is
// on a GPU. Reductions are all-to-all, a sum in the order of ranks, all-gather: bit for bit the same with and without scatter.
#include "comm.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { QUEUE = 256, WHAT = 40 };
typedef enum { JOB_REDUCE, JOB_GATHER, JOB_SUM, JOB_EXCHANGE, JOB_BROADCAST, JOB_ASK } JobKind;

typedef struct {
    JobKind     kind;
    void*       data;
    const void* mine;          // JOB_EXCHANGE
    size_t      count;         // elements, or bytes of a part
    bool        scatter;
    ReduceType  type;
    int64_t     step;
    char        what[WHAT];
} Job;

struct Comm {
    int       rank, world;
    Watch*    watch;
    int64_t   step;
    int       reductions, gathers;     // of this step, for names
    float*    received;                // (world, part) of a reduction
    uint16_t *packed, *packed_received;
    size_t    received_floats;
    double    link_ms, link_mb_s;
    int       vote;
    int64_t   vote_ticket;
    CommTimes times;
    pthread_t thread;
    pthread_mutex_t lock;              // of what follows
    pthread_cond_t  changed;
    Job       queue[QUEUE];
    int64_t   submitted, done;
    double    busy_ms;
    bool      quit;
};

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void sleep_ms(double ms) {
    struct timespec t = {(time_t)(ms / 1e3), (long)((ms - 1e3 * (double)(time_t)(ms / 1e3)) * 1e6)};
    if (ms > 0) { nanosleep(&t, NULL); }
}

// ---- what is used of MPI -------------------------------------------------------------------------------------------------------------
#ifdef HAS_MPI
#include <mpi.h>
static void all_to_all(const void* from, void* to, size_t part_bytes) {
    MPI_Alltoall(from, (int)part_bytes, MPI_BYTE, to, (int)part_bytes, MPI_BYTE, MPI_COMM_WORLD);
}
static void all_gather(const void* from, void* to, size_t part_bytes) {
    MPI_Allgather(from, (int)part_bytes, MPI_BYTE, to, (int)part_bytes, MPI_BYTE, MPI_COMM_WORLD);
}
static void all_gather_in_place(void* data, size_t part_bytes) {
    MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, (int)part_bytes, MPI_BYTE, MPI_COMM_WORLD);
}
static void broadcast(void* data, size_t bytes) { MPI_Bcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD); }
static void maximum(int* value)                 { MPI_Allreduce(MPI_IN_PLACE, value, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD); }
#else                                           // comm_refusal keeps everybody from getting here
static void all_to_all(const void* from, void* to, size_t part_bytes) { memcpy(to, from, part_bytes); }
static void all_gather(const void* from, void* to, size_t part_bytes) { memcpy(to, from, part_bytes); }
static void all_gather_in_place(void* data, size_t part_bytes)        { (void)data; (void)part_bytes; }
static void broadcast(void* data, size_t bytes)                       { (void)data; (void)bytes; }
static void maximum(int* value)                                       { (void)value; }
#endif

// ---- the communication thread --------------------------------------------------------------------------------------------------

static void make_room(Comm* c, size_t floats) {
    if (floats <= c->received_floats) { return; }
    free(c->received);
    free(c->packed);
    free(c->packed_received);
    c->received = (float*)xmalloc(floats * sizeof(float));
    c->packed = (uint16_t*)xmalloc(floats * sizeof(uint16_t));
    c->packed_received = (uint16_t*)xmalloc(floats * sizeof(uint16_t));
    c->received_floats = floats;
}

static void run_reduce(Comm* c, const Job* job) {
    float* data = (float*)job->data;
    size_t part = job->count / (size_t)c->world;
    float* own = data + part * (size_t)c->rank;
    make_room(c, job->count);
    if (job->type == REDUCE_BF16) {
        for (size_t i = 0; i < job->count; i++) { c->packed[i] = float_to_bf16(data[i]); }
        all_to_all(c->packed, c->packed_received, part * sizeof(uint16_t));
        for (size_t i = 0; i < job->count; i++) { c->received[i] = bf16_to_float(c->packed_received[i]); }
    } else {
        all_to_all(data, c->received, part * sizeof(float));
    }
    for (size_t i = 0; i < part; i++) {
        float sum = 0;
        for (int r = 0; r < c->world; r++) { sum += c->received[part * (size_t)r + i]; }
        own[i] = job->type == REDUCE_BF16 ? bf16_to_float(float_to_bf16(sum)) : sum;
    }
    if (!job->scatter) { all_gather_in_place(data, part * sizeof(float)); }
}

// every rank adds all contributions in the order of ranks
static void run_sum(Comm* c, const Job* job) {
    double* all = (double*)xmalloc(job->count * (size_t)c->world * sizeof(double));
    double* data = (double*)job->data;
    all_gather(data, all, job->count * sizeof(double));
    for (size_t i = 0; i < job->count; i++) {
        data[i] = 0;
        for (int r = 0; r < c->world; r++) { data[i] += all[job->count * (size_t)r + i]; }
    }
    free(all);
}

static size_t job_bytes(const Job* job) {
    size_t width = job->kind == JOB_REDUCE ? (job->type == REDUCE_BF16 ? 2 : 4) : job->kind == JOB_SUM ? 8 : 1;
    return job->count * width;
}

static void run_job(Comm* c, const Job* job) {
    watch_begin(c->watch, job->step, job->what);
    sleep_ms(c->link_ms + (c->link_mb_s > 0 ? (double)job_bytes(job) / (c->link_mb_s * 1e3) : 0));
    switch (job->kind) {
        case JOB_REDUCE:    run_reduce(c, job); break;
        case JOB_GATHER:    all_gather_in_place(job->data, job->count); break;
        case JOB_SUM:       run_sum(c, job); break;
        case JOB_EXCHANGE:  all_gather(job->mine, job->data, job->count); break;
        case JOB_BROADCAST: broadcast(job->data, job->count); break;
        case JOB_ASK:       maximum((int*)job->data); break;
    }
    watch_end(c->watch);
}

static void* comm_main(void* argument) {
    Comm* c = (Comm*)argument;
    pthread_mutex_lock(&c->lock);
    while (!c->quit || c->done < c->submitted) {
        if (c->done == c->submitted) { pthread_cond_wait(&c->changed, &c->lock); continue; }
        Job job = c->queue[c->done % QUEUE];
        pthread_mutex_unlock(&c->lock);
        double start = now_ms();
        run_job(c, &job);
        double ms = job.kind == JOB_REDUCE || job.kind == JOB_GATHER ? now_ms() - start : 0;
        pthread_mutex_lock(&c->lock);
        c->busy_ms += ms;
        c->done++;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

// ---- the training thread's side ---------------------------------------------------------------------------------------------------

static int64_t submit(Comm* c, Job job) {
    job.step = c->step;
    pthread_mutex_lock(&c->lock);
    while (c->submitted - c->done == QUEUE) { pthread_cond_wait(&c->changed, &c->lock); }
    c->queue[c->submitted % QUEUE] = job;
    int64_t ticket = ++c->submitted;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return ticket;
}

static void wait_for(Comm* c, int64_t ticket) {
    pthread_mutex_lock(&c->lock);
    while (c->done < ticket) { pthread_cond_wait(&c->changed, &c->lock); }
    c->times.busy_ms = c->busy_ms;
    pthread_mutex_unlock(&c->lock);
}

const char* comm_refusal(bool met_by_mpi) {
    return met_by_mpi ? mpi_refusal() : "the CPU program's ranks talk over MPI alone: start them with mpirun (--init mpi); tcp and file are for GPUs";
}

void comm_make_id(char id[COMM_ID]) { memset(id, 0, COMM_ID); }

Comm* comm_open(int rank, int world, const char id[COMM_ID], Watch* watch) {
    (void)id;
    Comm* c = (Comm*)xcalloc(1, sizeof *c);
    c->rank = rank;
    c->world = world;
    c->watch = watch;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    sigset_t all, before;                        // signals are the main thread's
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&c->thread, NULL, comm_main, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) { FAIL(EXIT_INTERNAL, "the communication thread cannot be started: %s", strerror(failed)); }
    return c;
}

void comm_close(Comm* c) {
    if (!c) { return; }
    pthread_mutex_lock(&c->lock);
    c->quit = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c->received);
    free(c->packed);
    free(c->packed_received);
    free(c);
}

void comm_step(Comm* c, int64_t step) {
    if (!c) { return; }
    c->step = step;
    c->reductions = c->gathers = 0;
    c->times.steps++;
}

void comm_step_wait(Comm* c) { (void)c; }          // the communication thread tells the watchdog what is waited for
void comm_step_end(Comm* c)  { (void)c; }

void comm_reduce(Comm* c, float* data, size_t count, bool scatter, ReduceType type, stream_t after) {
    (void)after;
    if (!c) { return; }
    REQUIRE(count % ((size_t)c->world * 16) == 0 && count / (size_t)c->world <= INT32_MAX / sizeof(float), "a reduction of %zu elements on %d ranks", count, c->world);
    Job job = {.kind = JOB_REDUCE, .data = data, .count = count, .scatter = scatter, .type = type};
    snprintf(job.what, WHAT, "reduction %d of the gradients", ++c->reductions);
    submit(c, job);
}

void comm_gather(Comm* c, void* data, size_t part_bytes, stream_t after) {
    (void)after;
    if (!c) { return; }
    Job job = {.kind = JOB_GATHER, .data = data, .count = part_bytes};
    snprintf(job.what, WHAT, "gathering %d of the weights", ++c->gathers);
    submit(c, job);
}

void comm_join(Comm* c, stream_t stream) {
    (void)stream;
    if (!c) { return; }
    double start = now_ms();
    wait_for(c, c->submitted);
    c->times.waited_ms += now_ms() - start;
}

void comm_sum(Comm* c, double* device, int n, stream_t stream) {
    (void)stream;
    if (!c) { return; }
    Job job = {.kind = JOB_SUM, .data = device, .count = (size_t)n, .what = "the sum of losses and norms"};
    wait_for(c, submit(c, job));
}

void comm_exchange(Comm* c, const void* mine, void* all, size_t bytes, const char* what) {
    if (!c) { memcpy(all, mine, bytes); return; }
    Job job = {.kind = JOB_EXCHANGE, .data = all, .mine = mine, .count = bytes};
    snprintf(job.what, WHAT, "%s", what);
    wait_for(c, submit(c, job));
}

void comm_broadcast(Comm* c, void* data, size_t bytes, const char* what) {
    if (!c) { return; }
    Job job = {.kind = JOB_BROADCAST, .data = data, .count = bytes};
    snprintf(job.what, WHAT, "%s", what);
    wait_for(c, submit(c, job));
}

void comm_barrier(Comm* c, const char* what) {
    if (!c) { return; }
    char mine = 0, *all = (char*)xmalloc((size_t)c->world);
    comm_exchange(c, &mine, all, 1, what);
    free(all);
}

void comm_ask(Comm* c, bool yes) {
    if (!c) { return; }
    c->vote = yes;
    Job job = {.kind = JOB_ASK, .data = &c->vote, .count = 1, .what = "the question whether to stop"};
    c->vote_ticket = submit(c, job);
}

bool comm_answer(Comm* c) {
    if (!c || c->vote_ticket == 0) { return false; }
    wait_for(c, c->vote_ticket);
    return c->vote != 0;
}

CommTimes comm_times(const Comm* c) {
    CommTimes none = {0, 0, 0};
    return c ? c->times : none;
}

void comm_slow_link(Comm* c, double ms, double mb_s) {
    c->link_ms = ms;
    c->link_mb_s = mb_s;
}

const char* comm_pending(Comm* c) { (void)c; return NULL; }        // the communication thread has told the watchdog

uint64_t comm_hash(const void* device, size_t bytes, stream_t stream) {
    (void)stream;
    uint64_t hash = 0;
    for (size_t i = 0; i < bytes / 4; i++) {
        uint32_t word;
        memcpy(&word, (const char*)device + 4 * i, sizeof word);
        uint64_t z = word + (i + 1) * 0x9e3779b97f4a7c15ull;          // splitmix64 of word and place; the sum does not ask for an order
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        hash += z ^ (z >> 31);
    }
    return hash;
}

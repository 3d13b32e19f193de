#include "ranks.h"
#include "launch.h"

#include <string.h>
#include <unistd.h>

// ---- agreement ---------------------------------------------------------------------------------------------------------------

static void exchange(Ranks* r, const void* mine, void* all, size_t bytes, const char* what) {
    Error err;
    if (r->comm || r->world == 1) { comm_exchange(r->comm, mine, all, bytes, what); return; }
    if (!star_exchange(&r->star, mine, all, bytes, &err)) { FAIL(err.code, "%s (in %s)", err.text, what); }
}

static void wait_for_all(Ranks* r) {
    if (r->comm || r->world == 1) { comm_barrier(r->comm, "the end after an error"); return; }
    char here = 1, *all = (char*)xmalloc((size_t)r->world);
    Error lost;
    star_exchange(&r->star, &here, all, 1, &lost);             // whoever is lost now: all end anyway
    free(all);
}

// All ranks are here and end with the same status; one speaks, whose error this is.
__attribute__((noreturn))
static void end_together(Ranks* r, int speaker, int code, const Error* err) {
    watch_ending(r->watch);
    if (r->rank == speaker) {
        fflush(stdout);
        if (r->world > 1) { fprintf(stderr, "error: rank %d (%s): %s\n", speaker, r->host[speaker], err->text); }
        else              { fprintf(stderr, "error: %s\n", err->text); }
    }
    wait_for_all(r);                                           // the sentence is out before a launcher ends the others
    mpi_finish();
    exit(code);
}

static void answer(void* ranks, const Error* err) { ranks_agree((Ranks*)ranks, err, "an error at the start"); }

static void at_work(void* ranks) {
    Ranks* r = (Ranks*)ranks;
    if (r->watch) { watch_at_work(r->watch); } else { star_at_work(&r->star); }
}

void ranks_together(Ranks* r) {
    fail_listen(answer, r);
    if (r->world > 1 && !r->watch) { work_listen(at_work, r); }
}

void ranks_agree(Ranks* r, const Error* err, const char* what) {
    fail_listen(NULL, NULL);
    if (!r->watch) { work_listen(NULL, NULL); }
    int mine = err ? err->code : 0, *all = (int*)xcalloc((size_t)r->world, sizeof mine);
    exchange(r, &mine, all, sizeof mine, what);
    for (int i = 0; i < r->world; i++) {
        if (all[i]) { end_together(r, i, all[i], err); }
    }
    free(all);
}

bool ranks_all(void* ranks, bool mine) {
    Ranks* r = (Ranks*)ranks;
    char yes = mine, *all = (char*)xmalloc((size_t)r->world);
    exchange(r, &yes, all, 1, "the question whether all could save");
    bool every = true;
    for (int i = 0; i < r->world; i++) { every = every && all[i]; }
    free(all);
    return every;
}

void ranks_warn(Ranks* r, const Error* err, const char* what) {
    Error* all = (Error*)xcalloc((size_t)r->world, sizeof *all);
    exchange(r, err, all, sizeof *err, "the exchange of warnings");
    char list[256] = "";
    size_t used = 0;
    int first = -1;
    for (int i = 0; i < r->world; i++) {
        if (!all[i].code) { continue; }
        if (first < 0) { first = i; continue; }
        if (used + 100 < sizeof list) { used += (size_t)snprintf(list + used, sizeof list - used, "%s%d (%s)", used ? ", " : "; the same for rank ", i, r->host[i]); }
    }
    if (r->rank == 0 && r->world == 1)  { fprintf(stderr, "warning: %s: %s\n", what, err->text); }
    else if (r->rank == 0 && first >= 0) { fprintf(stderr, "warning: %s: rank %d (%s): %s%s\n", what, first, r->host[first], all[first].text, list); }
    free(all);
}

size_t ranks_least(Ranks* r, size_t mine) {
    size_t *all = (size_t*)xmalloc((size_t)r->world * sizeof *all), least = mine;
    exchange(r, &mine, all, sizeof mine, "the exchange of free memory");
    for (int i = 0; i < r->world; i++) { least = min_size(least, all[i]); }
    free(all);
    return least;
}

void ranks_broadcast(Ranks* r, void* data, size_t bytes, const char* what) {
    if (r->comm || r->world == 1) { comm_broadcast(r->comm, data, bytes, what); return; }
    Error err;
    if (!star_broadcast(&r->star, data, bytes, &err)) { FAIL(err.code, "%s (in %s)", err.text, what); }
}

// The value that most ranks have; among equals the one that the lowest rank has.
static uint64_t majority(const uint64_t* value, int n) {
    int best = 0, best_count = 0;
    for (int i = 0; i < n; i++) {
        int count = 0;
        for (int j = 0; j < n; j++) { count += value[j] == value[i]; }
        if (count > best_count) { best = i; best_count = count; }
    }
    return value[best];
}

void ranks_check_equal(Ranks* r, uint64_t hash, const char* what, int64_t step) {
    uint64_t* all = (uint64_t*)xcalloc((size_t)r->world, sizeof *all);
    exchange(r, &hash, all, sizeof hash, "the comparison of weights");
    uint64_t common = majority(all, r->world);
    char list[256] = "";
    size_t used = 0;
    int wrong = 0, agreeing = 0;
    for (int i = 0; i < r->world; i++) {
        agreeing += all[i] == common;
        if (all[i] == common || used + 100 > sizeof list) { continue; }
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%d (%s)", wrong++ ? ", " : "", i, r->host[i]);
    }
    free(all);
    if (!wrong) { return; }
    Error err;
    error_set(&err, EXIT_INTERNAL, "step %lld: the %s of rank %s differ from those of %s (--check-every): memory or a link corrupts data; nothing is "
              "saved, the same command goes on from the last checkpoint", (long long)step, what, list,
              agreeing * 2 > r->world ? "the others" : "as many others, and which are right cannot be told");
    end_together(r, 0, err.code, &err);
}

// ---- open and close --------------------------------------------------------------------------------------------------------------

Ranks ranks_open(const Config* cfg) {
    Ranks r;
    Error err;
    memset(&r, 0, sizeof r);
    r.world = 1;
    r.timeout = cfg->timeout;
    if (cfg->init == INIT_MPI && mpi_refusal()) { FAIL(EXIT_USAGE, "--init mpi: %s", mpi_refusal()); }
    if (cfg->ranks > 1) {
        const char* refusal = comm_refusal(cfg->init == INIT_MPI);
        if (refusal) {
            error_set(&err, EXIT_USAGE, "%d ranks: %s", cfg->ranks, refusal);
            launch_fail(&err);
        }
        MeetKind kind = cfg->init == INIT_MPI ? MEET_MPI : cfg->init == INIT_TCP ? MEET_TCP : MEET_FILE;
        if (!star_open(&r.star, kind, cfg->meet, cfg->rank, cfg->ranks, r.timeout, &err)) { FAIL(err.code, "%s", err.text); }
        r.rank = r.star.rank;
        r.world = r.star.world;
        if (r.world != cfg->ranks) {
            error_set(&err, EXIT_USAGE, "the launcher started %d ranks, but MPI knows of %d: mpirun is of another MPI than the one this program was built with; "
                      "take that one's, or --init tcp or file", cfg->ranks, r.world);
            launch_fail(&err);
        }
    }
    char mine[HOST_NAME] = "?";
    gethostname(mine, sizeof mine - 1);
    r.host = (char(*)[HOST_NAME])xcalloc((size_t)r.world, HOST_NAME);
    exchange(&r, mine, r.host, HOST_NAME, "the exchange of host names");
    if (r.rank > 0 && !freopen("/dev/null", "w", stdout)) { FAIL(EXIT_INTERNAL, "/dev/null cannot be opened"); }    // rank 0 speaks for all
    for (int i = 0; i < r.rank; i++) { r.local_rank += strcmp(r.host[i], r.host[r.rank]) == 0; }
    return r;
}

// A launcher may show each rank its own GPU alone: then that one is the first.
int ranks_gpu(const Ranks* r, int count) { return count == 1 ? 0 : r->local_rank; }

typedef struct { char gpu[40], name[64]; int index; } Seat;       // gpu: its unique id, "" on the CPU

static void refuse_shared_gpus(Ranks* r, const Seat* seat) {
    Error err;
    err.code = 0;
    for (int i = 0; i < r->world && !err.code; i++) {
        for (int j = i + 1; seat[i].gpu[0] && j < r->world; j++) {
            if (strcmp(seat[i].gpu, seat[j].gpu) == 0 && strcmp(r->host[i], r->host[j]) == 0) {
                error_set(&err, EXIT_USAGE, "ranks %d and %d have the same GPU, number %d of %s (%s); start at most one process a GPU", i, j, seat[i].index,
                          r->host[i], seat[i].gpu);
                break;
            }
        }
    }
    ranks_agree(r, &err, "the sharing out of GPUs");
}

// ranks that follow each other on one host are one line
static void print_map(const Ranks* r, const Seat* seat) {
    for (int first = 0, next; first < r->world; first = next) {
        for (next = first + 1; next < r->world && strcmp(r->host[next], r->host[first]) == 0; next++) { }
        printf("ranks       %d", first);
        if (next - first > 1) { printf(" to %d", next - 1); }
        printf(" on %s: ", r->host[first]);
        if (!seat[first].gpu[0]) { printf("%s\n", seat[first].name); continue; }
        for (int i = first; i < next; i++) { printf("%sGPU %d", i > first ? ", " : "", seat[i].index); }
        printf(" (%s)\n", seat[first].name);
    }
}

static const char* pending(void* comm) { return comm_pending((Comm*)comm); }

void ranks_connect(Ranks* r, const Device* device) {
    if (r->world == 1) { return; }
    Seat mine, *seats = (Seat*)xcalloc((size_t)r->world, sizeof *seats);
    memset(&mine, 0, sizeof mine);
    snprintf(mine.gpu, sizeof mine.gpu, "%s", device->uuid);
    snprintf(mine.name, sizeof mine.name, "%.63s", device->name);
    mine.index = device->index;
    exchange(r, &mine, seats, sizeof mine, "the sharing out of GPUs");
    if (r->rank == 0) { print_map(r, seats); }
    refuse_shared_gpus(r, seats);
    char id[COMM_ID] = {0}, *ids = (char*)xmalloc((size_t)r->world * COMM_ID);
    if (r->rank == 0) { comm_make_id(id); }
    exchange(r, id, ids, COMM_ID, "the exchange of NCCL's id");
    r->watch = watch_open(&r->star, (const char(*)[HOST_NAME])r->host, r->timeout);
    r->comm = comm_open(r->rank, r->world, ids, r->watch);
    watch_detail(r->watch, pending, r->comm);
    work_listen(at_work, r);                               // from here on at any time: a thread of its own writes checkpoints
    free(ids);
    free(seats);
}

void ranks_close(Ranks* r) {
    comm_barrier(r->comm, "the end of the run");
    watch_ending(r->watch);
    comm_barrier(r->comm, "the end of the run");           // now nobody takes a closed connection for a death
    work_listen(NULL, NULL);
    watch_detail(r->watch, NULL, NULL);                    // comm has no more to tell
    comm_close(r->comm);                                   // has a deadline, too
    watch_close(r->watch);
    star_close(&r->star);
    mpi_finish();
    free(r->host);
    memset(r, 0, sizeof *r);
}

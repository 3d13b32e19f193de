// Saves beside training, by one rank and by several (threads here), read back by any number; what fails leaves nothing behind.
#include "saver.h"
#include "tempdir.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "device.h"

// ---- a model whose every element is known -------------------------------------------------------------------------------
typedef struct { Model model; Optimizer opt; } Net;

static Net* net_open(void) {
    Net* net = (Net*)calloc(1, sizeof *net);
    char* argv[] = { "test", "--dry-run", "--layers", "2", "--channels", "16", "--heads", "2", "--mlp", "16", "--seq-len", "32" };
    Config cfg;
    ModelShape shape;
    Error err = {0};
    CHECK(config_parse_into(&cfg, 12, argv, &err) && config_resolve(&cfg, &err) && shape_from_config(&shape, &cfg, &err), "%s", err.text);
    model_plan(&net->model, shape, 1, 32, RECOMPUTE_NONE, (size_t)16 << 20);
    optimizer_plan(&net->opt, &net->model);
    model_allocate(&net->model);
    optimizer_init(&net->opt, &net->model, 1);
    config_close(&cfg);
    return net;
}

static void net_close(Net* net) {
    optimizer_close(&net->opt);
    model_close(&net->model);
    free(net);
}

static float value_of(int64_t step, int arena, size_t i) { return (float)(step * 1000003 + arena * 7919 + (int64_t)i) * 0.125f; }

static void net_fill(Net* net, int64_t step) {
    float* arena[3] = { net->opt.master, net->opt.m, net->opt.v };
    for (int a = 0; a < 3; a++) {
        for (size_t i = 0; i < net->model.table.elements; i++) { arena[a][i] = value_of(step, a, i); }
    }
}

// every tensor's every element that lies in the range
static void check_values(const ParamTable* table, const StateRange* range, int64_t step) {
    const float* arena[3] = { range->master, range->m, range->v };
    for (int k = 0; k < table->count; k++) {
        const Tensor* t = &table->tensor[k];
        for (size_t i = t->offset; i < t->offset + (size_t)t->rows * (size_t)t->cols; i++) {
            if (i < range->span->flat || i >= range->span->flat + range->count) { continue; }
            for (int a = 0; a < 3; a++) {
                float found = arena[a][i - range->span->flat];
                CHECK(found == value_of(step, a, i), "%s, arena %d, element %zu is %g, not %g", t->name, a, i, (double)found, (double)value_of(step, a, i));
            }
        }
    }
}

static Progress progress_at(int64_t step) {
    Progress p = { .step = step, .updates = step - 1, .bad_steps = 1, .rows = 4 * step, .data_tokens = 99, .data_print = UINT64_MAX };
    for (int i = 0; i < 200; i++) { outliers_add(&p.loss, i % 7, INFINITY); }
    return p;
}

// the rank-th of `ranks` parts, cut where no tensor ends
static StateRange share(Net* net, Span* span, int rank, int ranks) {
    size_t n = net->model.table.elements, first = n * (size_t)rank / (size_t)ranks, count = n * (size_t)(rank + 1) / (size_t)ranks - first;
    *span = (Span){ first, 0, count, 0 };
    return (StateRange){ span, 1, count, net->opt.master + first, net->opt.m + first, net->opt.v + first };
}

// ---- ranks as threads ---------------------------------------------------------------------------------------------------
enum { MAX_RANKS = 4 };
typedef struct {
    pthread_barrier_t barrier;
    bool     says[MAX_RANKS];
    int      ranks;
    Net*     net;
    const char* dir;
    int64_t  steps[3];                 // saves, in turn; 0: no more
    bool     often, block_rank_1;      // the latter: its part cannot be made
} World;

typedef struct { World* world; int rank, asked; SaveReport report[3]; } Rank;

static bool all_say(void* context, bool mine) {
    Rank* r = (Rank*)context;
    World* w = r->world;
    if (r->asked++ == 1 && w->block_rank_1 && r->rank == 0) {          // asked in saver_start: the temporary is made, no part begun
        char path[700];
        snprintf(path, sizeof path, "%s/.tmp-step_%08d/part_0001.bin", w->dir, (int)w->steps[0]);
        temp_write(path, "", 0);
    }
    w->says[r->rank] = mine;
    pthread_barrier_wait(&w->barrier);
    bool all = true;
    for (int i = 0; i < w->ranks; i++) { all = all && w->says[i]; }
    pthread_barrier_wait(&w->barrier);
    return all;
}

static void* rank_main(void* argument) {
    Rank* r = (Rank*)argument;
    World* w = r->world;
    SaverRanks ranks = { r->rank, w->ranks, 77, all_say, r };
    Span span;
    Saver* saver = saver_open(w->dir, &w->net->model, share(w->net, &span, r->rank, w->ranks), ranks, 2, 0, w->often);
    for (int s = 0; s < 3 && w->steps[s]; s++) {
        if (r->rank == 0) { net_fill(w->net, w->steps[s]); }
        all_say(r, true);
        Progress p = progress_at(w->steps[s]);
        saver_start(saver, &p, "{\"layers\":2}");
        all_say(r, true);                                              // the state is copied, or written: it may change
        if (r->rank == 0 && saver_is_staged(saver)) { net_fill(w->net, 555); }
        all_say(r, true);
        for (int poll = 0; poll < 3 && !saver_poll(saver, false, &r->report[s]); poll++) { }
        while (saver_busy(saver) && !saver_poll(saver, true, &r->report[s])) { }
    }
    saver_close(saver);
    return NULL;
}

static void run_ranks(World* w, Rank* ranks) {
    pthread_t threads[MAX_RANKS];
    pthread_barrier_init(&w->barrier, NULL, (unsigned)w->ranks);
    for (int r = 0; r < w->ranks; r++) {
        ranks[r] = (Rank){ .world = w, .rank = r };
        pthread_create(&threads[r], NULL, rank_main, &ranks[r]);
    }
    for (int r = 0; r < w->ranks; r++) { pthread_join(threads[r], NULL); }
    pthread_barrier_destroy(&w->barrier);
}

TEST(saver_of_any_ranks_is_read_by_any_ranks) {
    Net* net = net_open();
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        for (int often = 0; often <= 1; often++) {                     // 0: not staged, written from the device
            World w = { .ranks = ranks, .net = net, .dir = temp_dir(), .steps = { 10, 20, 30 }, .often = often };
            Rank rank[MAX_RANKS];
            run_ranks(&w, rank);
            for (int r = 0; r < ranks; r++) {
                for (int s = 0; s < 3; s++) {
                    const SaveReport* report = &rank[r].report[s];
                    CHECK(report->ok && report->step == w.steps[s], "rank %d of %d, step %d: %s", r, ranks, (int)w.steps[s], report->error.text);
                    CHECK(report->bytes > 0 && report->ms > 0, "the report of rank %d is empty", r);
                }
            }
            int64_t* steps;
            CHECK_EQ(checkpoint_steps(w.dir, &steps), 2);              // --keep 2
            CHECK(steps[0] == 20 && steps[1] == 30, "kept %d and %d", (int)steps[0], (int)steps[1]);
            free(steps);
            Error err = {0};
            char* path = checkpoint_path(w.dir, 30);
            Checkpoint* checkpoint = checkpoint_open(path, &err);
            CHECK(checkpoint && checkpoint->parts == ranks, "%s", err.text);
            for (int readers = 1; readers <= MAX_RANKS; readers++) {
                net_fill(net, 1);
                for (int r = 0; r < readers; r++) {
                    Span span;
                    StateRange range = share(net, &span, r, readers);
                    CHECK(state_load_range(&range, &net->model, checkpoint, &err), "%s", err.text);
                    check_values(&net->model.table, &range, 30);
                }
            }
            Progress read, expected = progress_at(30);
            memset(&read, 0, sizeof read);
            CHECK(state_read_progress(&read, checkpoint, &err), "%s", err.text);
            CHECK(read.step == 30 && read.updates == 29 && read.bad_steps == 1 && read.rows == 120 && read.data_print == UINT64_MAX, "progress differs");
            CHECK(memcmp(&read.loss, &expected.loss, sizeof read.loss) == 0, "the detector's state differs");
            checkpoint_close(checkpoint);
            free(path);
        }
    }
    net_close(net);
}

TEST(saver_where_one_rank_fails_shows_nothing) {
    Net* net = net_open();
    World w = { .ranks = 3, .net = net, .dir = temp_dir(), .steps = { 10, 20 }, .often = true, .block_rank_1 = true };
    Rank rank[MAX_RANKS];
    run_ranks(&w, rank);
    for (int r = 0; r < 3; r++) {
        CHECK(!rank[r].report[0].ok, "rank %d: step 10 is said to be saved", r);
        CHECK_EQ(rank[r].report[0].error.code, r == 1 ? EXIT_IO : 0);
        CHECK(rank[r].report[1].ok, "rank %d: step 20 is not saved: %s", r, rank[r].report[1].error.text);
    }
    CHECK(strstr(rank[1].report[0].error.text, "step_00000010"), "\"%s\"", rank[1].report[0].error.text);
    int64_t* steps;
    CHECK(checkpoint_steps(w.dir, &steps) == 1 && steps[0] == 20, "step 10 is there");
    free(steps);
    net_close(net);
}

TEST(saver_on_a_full_disk_reports_and_goes_on) {
    Net* net = net_open();
    const char* dir = temp_dir();
    struct rlimit before, tight;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    SaverRanks one = { 0, 1, 5, NULL, NULL };
    Saver* saver = saver_open(dir, &net->model, state_share(&net->opt), one, 3, 0, true);
    CHECK(saver_is_staged(saver) && saver_host_bytes(saver) == 3 * net->model.table.elements * sizeof(float), "not staged");
    for (int64_t step = 10; step <= 40; step += 10) {
        SaveReport report;
        Progress p = progress_at(step);
        tight = before;
        tight.rlim_cur = step == 20 || step == 30 ? 10000 : before.rlim_cur;
        setrlimit(RLIMIT_FSIZE, &tight);
        net_fill(net, step);
        saver_start(saver, &p, "{}");
        CHECK(saver_busy(saver) && saver_poll(saver, true, &report), "no report of step %d", (int)step);
        setrlimit(RLIMIT_FSIZE, &before);
        CHECK(report.ok == (step == 10 || step == 40), "step %d: %s", (int)step, report.ok ? "saved" : report.error.text);
        CHECK(!saver_busy(saver) && !saver_poll(saver, true, &report), "a second report");
    }
    saver_close(saver);
    int64_t* steps;
    CHECK(checkpoint_steps(dir, &steps) == 2 && steps[0] == 10 && steps[1] == 40, "not the two saves that worked");
    free(steps);
    net_close(net);
}

static bool sync_fails;                                // of the directory that holds the checkpoints

int fsync(int file) {                                  // in the place of the C library's
    char link[64], path[700] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (sync_fails && readlink(link, path, sizeof path - 1) > 0 && !strstr(path, "/.tmp-")) { errno = EIO; return -1; }
    return (int)syscall(SYS_fsync, file);
}

TEST(saver_removes_nothing_for_a_save_that_may_be_undone) {
    Net* net = net_open();
    for (int ranks = 1; ranks <= 2; ranks++) {
        World w = { .ranks = ranks, .net = net, .dir = temp_dir(), .steps = { 10, 20, 30 }, .often = true };
        Rank rank[MAX_RANKS];
        int64_t* steps;
        sync_fails = true;
        run_ranks(&w, rank);
        for (int s = 0; s < 3; s++) {
            const SaveReport* report = &rank[0].report[s];
            CHECK(report->ok && report->error.code == EXIT_IO && strstr(report->error.text, "is saved, but"), "%d ranks: \"%s\"", ranks, report->error.text);
        }
        CHECK_EQ(checkpoint_steps(w.dir, &steps), 3);                  // keep is 2
        free(steps);
        sync_fails = false;
        w.steps[0] = 40;
        w.steps[1] = 0;
        run_ranks(&w, rank);
        CHECK(rank[0].report[0].ok && rank[0].report[0].error.code == 0, "%d ranks: \"%s\"", ranks, rank[0].report[0].error.text);
        CHECK(checkpoint_steps(w.dir, &steps) == 2 && steps[0] == 30 && steps[1] == 40, "%d ranks: not the newest two", ranks);
        free(steps);
    }
    net_close(net);
}

TEST(state_of_another_shape_is_refused) {
    Net* net = net_open();
    const char* dir = temp_dir();
    const Tensor* wte = &net->model.table.tensor[0];
    const int64_t shape[2] = { wte->cols, wte->rows };                 // as many elements, the other way round
    Error err = {0};
    net_fill(net, 1);
    CheckpointWriter* writer = checkpoint_begin(dir, 1, &err);
    CHECK(writer && checkpoint_add(writer, "master/wte", CHECKPOINT_F32, 2, shape, net->opt.master, &err) && checkpoint_commit(writer, &err), "%s", err.text);
    char* path = checkpoint_path(dir, 1);
    Checkpoint* checkpoint = checkpoint_open(path, &err);
    StateRange range = state_share(&net->opt);
    Progress progress;
    CHECK(checkpoint && !state_load_range(&range, &net->model, checkpoint, &err) && strstr(err.text, "'master/wte' is not 384 x 16"), "\"%s\"", err.text);
    CHECK(!state_read_progress(&progress, checkpoint, &err) && strstr(err.text, "counters"), "\"%s\"", err.text);
    checkpoint_close(checkpoint);
    free(path);
    net_close(net);
}

TEST_MAIN()

// Ranks as processes of this host: how they meet (tcp, file), what they say when they cannot, and how the watchdog ends them.
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "meet.h"
#include "tempdir.h"
#include "test.h"
#include "watch.h"

enum { MOST = 8, FAILS = -1 };               // FAILS: in the place of a signal, an error of the rank's own

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void sleep_ms(int ms) {
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

// Runs `body` in a process a rank, standard error of each into a file; exit statuses into status[].
typedef struct { MeetKind kind; char where[600]; int world, claimed[MOST]; double timeout; int victim; int how; bool mute; } Plan;
static int status[MOST];
static char said[MOST][1024];

static void run_ranks(const Plan* plan, int (*body)(const Plan*, int rank), int processes) {
    pid_t child[MOST];
    const char* dir = temp_dir();
    char path[600];
    fflush(stdout);
    for (int r = 0; r < processes; r++) {
        child[r] = fork();
        if (child[r] == 0) {
            snprintf(path, sizeof path, "%s/err%d", dir, r);
            if (!freopen(path, "w", stderr)) { _exit(99); }
            int result = body(plan, r);
            fflush(stderr);
            _exit(result);
        }
    }
    // a rank that was stopped goes on once the others are gone; it too must end by itself
    for (int left = processes; left > 0; ) {
        int state, index = 0;
        pid_t pid = waitpid(-1, &state, WUNTRACED);
        while (index < processes && child[index] != pid) { index++; }
        if (WIFSTOPPED(state)) { continue; }
        status[index] = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
        left--;
        if (left == 1 && plan->how == SIGSTOP) { kill(child[plan->victim], SIGCONT); }
    }
    for (int r = 0; r < processes; r++) {
        snprintf(path, sizeof path, "%s/err%d", dir, r);
        FILE* file = fopen(path, "r");
        size_t got = file ? fread(said[r], 1, sizeof said[r] - 1, file) : 0;
        said[r][got] = 0;
        if (file) { fclose(file); }
    }
}

// a port that nobody has just now
static Plan tcp_plan(int world) {
    Plan plan = {.kind = MEET_TCP, .world = world, .timeout = 10, .victim = -1};
    snprintf(plan.where, sizeof plan.where, "127.0.0.1:%d", 20000 + (int)((getpid() * 7 + world * 131 + (int)(now() * 1000)) % 12000));
    for (int r = 0; r < MOST; r++) { plan.claimed[r] = r; }
    return plan;
}

static Plan file_plan(int world) {
    Plan plan = tcp_plan(world);
    plan.kind = MEET_FILE;
    snprintf(plan.where, sizeof plan.where, "%s/meet", temp_dir());
    return plan;
}

// ---- meeting --------------------------------------------------------------------------------------------------------------------

static bool meet(Star* star, const Plan* plan, int process) {
    Error err;
    bool ok = star_open(star, plan->kind, plan->where, plan->claimed[process], plan->world, plan->timeout, &err);
    if (!ok) { fprintf(stderr, "%s", err.text); exit(err.code); }
    return ok;
}

static int meet_and_exchange(const Plan* plan, int process) {
    Star star;
    Error err;
    meet(&star, plan, process);
    int mine[2] = {star.rank * 10, star.world}, all[MOST][2];
    if (!star_exchange(&star, mine, all, sizeof mine, &err)) { return 1; }
    for (int r = 0; r < plan->world; r++) {
        if (all[r][0] != r * 10 || all[r][1] != plan->world) { return 2; }
    }
    star_close(&star);
    return 0;
}

static void check_meeting(Plan plan) {
    run_ranks(&plan, meet_and_exchange, plan.world);
    for (int r = 0; r < plan.world; r++) { CHECK(status[r] == 0, "rank %d of %d: status %d, said '%s'", r, plan.world, status[r], said[r]); }
}

TEST(meet_tcp_on_loopback)  { for (int world = 2; world <= MOST; world *= 2) { check_meeting(tcp_plan(world)); } }
TEST(meet_file_on_loopback) { for (int world = 2; world <= MOST; world *= 2) { check_meeting(file_plan(world)); } }

TEST(meet_file_of_an_earlier_run_does_no_harm) {
    Plan plan = file_plan(3);
    FILE* file = fopen(plan.where, "wb");                    // whole, but says nothing that is true today
    for (int i = 0; i < 200; i++) { fputc(i % 3 == 0 ? 1 : 0, file); }
    fclose(file);
    check_meeting(plan);
    CHECK(access(plan.where, F_OK) != 0, "%s stays behind", plan.where);
}

TEST(meet_names_the_missing_rank) {
    Plan plan = tcp_plan(3);
    plan.timeout = 0.6;
    double start = now();
    run_ranks(&plan, meet_and_exchange, 2);                  // rank 2 never comes
    CHECK(now() - start < 5, "gave up after %.1f s", now() - start);
    CHECK_EQ(status[0], EXIT_LOST_RANK);
    CHECK(strstr(said[0], "2 of 3 ranks") && strstr(said[0], "missing: 2"), "rank 0 said '%s'", said[0]);
    CHECK(status[1] == EXIT_LOST_RANK || status[1] == 1, "rank 1: status %d", status[1]);
}

TEST(meet_without_rank_0_gives_up) {
    Plan plan = tcp_plan(2);
    plan.timeout = 0.5;
    plan.claimed[0] = 1;
    run_ranks(&plan, meet_and_exchange, 1);
    CHECK_EQ(status[0], EXIT_LOST_RANK);
    CHECK(strstr(said[0], "did not reach rank 0"), "said '%s'", said[0]);
}

TEST(meet_refuses_two_of_one_rank) {
    Plan plan = tcp_plan(3);
    plan.timeout = 3;
    plan.claimed[2] = 1;
    run_ranks(&plan, meet_and_exchange, 3);
    CHECK_EQ(status[0], EXIT_USAGE);
    CHECK(strstr(said[0], "two processes were started as rank 1"), "rank 0 said '%s'", said[0]);
}

static int meet_as_one_of_two(const Plan* plan, int process) {
    Plan other = *plan;
    if (process == 1) { other.world = 2; }
    return meet_and_exchange(&other, process);
}

TEST(meet_refuses_another_number_of_ranks) {
    Plan plan = tcp_plan(4);
    plan.timeout = 3;
    run_ranks(&plan, meet_as_one_of_two, 2);
    CHECK_EQ(status[0], EXIT_USAGE);
    CHECK_EQ(status[1], EXIT_USAGE);
    CHECK(strstr(said[1], "one of 2 ranks, rank 0 as one of 4"), "rank 1 said '%s'", said[1]);
}

TEST(meet_refuses_what_is_no_address) {
    const char* bad[] = {"nowhere", "host:", ":5", "host:0", "host:65536", "host:7x"};
    for (int i = 0; i < 6; i++) {
        Star star;
        Error err;
        CHECK(!star_open(&star, MEET_TCP, bad[i], 0, 2, 1, &err) && err.code == EXIT_USAGE, "'%s' passes", bad[i]);
    }
}

// ---- the watchdog -----------------------------------------------------------------------------------------------------------------

// what a device whose queue is full may do with a question
static const char* never_answers(void* nothing) {
    (void)nothing;
    sleep_ms(60000);
    return NULL;
}

// 20 short "collectives" of 20 ms; the victim does what plan->how says in the midst of them
static int work_under_watch(const Plan* plan, int process) {
    Star star;
    char hosts[MOST][HOST_NAME];
    meet(&star, plan, process);
    for (int r = 0; r < MOST; r++) { snprintf(hosts[r], HOST_NAME, "host%d", r); }
    Watch* watch = watch_open(&star, (const char(*)[HOST_NAME])hosts, plan->timeout);
    if (plan->mute) { watch_detail(watch, never_answers, NULL); }
    for (int step = 1; step <= 20; step++) {
        if (process == plan->victim && step == 10) {
            sleep_ms(plan->how ? 500 : 60000);                    // the others are in step 10 by then; 0: stuck, but alive
            if (plan->how == FAILS) { exit(EXIT_DATA); }
            raise(plan->how);
        }
        watch_begin(watch, step, "a sum of something");
        sleep_ms(plan->victim >= 0 && step == 10 ? 60000 : 20);  // the others wait for it
        watch_end(watch);
    }
    watch_ending(watch);
    sleep_ms(100);                                               // in place of a barrier
    watch_close(watch);
    return 0;
}

// seconds that four ranks took to end, one of which is the victim
static double run_with_victim(double timeout, int victim, int how, bool mute) {
    Plan plan = tcp_plan(4);
    plan.timeout = timeout;
    plan.mute = mute;
    plan.victim = victim;
    plan.how = how;
    double start = now();
    run_ranks(&plan, work_under_watch, 4);
    return now() - start;
}

static void check_loss(int victim, int how, bool mute, const char* words) {
    const double timeout = 2, took = run_with_victim(timeout, victim, how, mute);
    char name[64];
    snprintf(name, sizeof name, "rank %d of 4 (host%d)", victim, victim);
    CHECK(took < 0.7 + timeout + 2 + mute, "it took %.1f s", took);
    for (int r = 0; r < 4; r++) {
        if (r == victim && how == SIGKILL) { CHECK_EQ(status[r], 128 + SIGKILL); continue; }
        CHECK(status[r] == EXIT_LOST_RANK, "rank %d: status %d, said '%s'", r, status[r], said[r]);
        if (r == victim) { continue; }
        CHECK(strstr(said[r], name) && strstr(said[r], words) && strstr(said[r], "step 10") && strstr(said[r], "a sum of something"),
              "rank %d said '%s'", r, said[r]);
    }
}

TEST(watch_lets_a_healthy_run_end) {
    Plan plan = tcp_plan(4);
    plan.timeout = 2;
    run_ranks(&plan, work_under_watch, 4);
    for (int r = 0; r < 4; r++) { CHECK(status[r] == 0, "rank %d: status %d, said '%s'", r, status[r], said[r]); }
}

TEST(watch_names_a_rank_that_died)           { check_loss(2, SIGKILL, false, "has ended"); }
TEST(watch_names_rank_0_when_it_died)        { check_loss(0, SIGKILL, false, "has ended"); }
TEST(watch_names_a_rank_that_was_stopped)    { check_loss(3, SIGSTOP, false, "no sign of life"); }
TEST(watch_names_rank_0_when_it_was_stopped) { check_loss(0, SIGSTOP, false, "no sign of life"); }
TEST(watch_names_a_rank_that_is_stuck)       { check_loss(1, 0, false, "does not arrive"); }
TEST(watch_does_not_wait_for_the_device)     { check_loss(2, SIGKILL, true, "has ended"); }

static void check_failure(int victim) {
    const double took = run_with_victim(10, victim, FAILS, false);
    char name[80];
    snprintf(name, sizeof name, "rank %d of 4 (host%d) has ended with an error of its own", victim, victim);
    CHECK(took < 5, "it took %.1f s", took);
    for (int r = 0; r < 4; r++) {
        bool speaks = r == (victim == 0 ? 1 : 0);
        CHECK(status[r] == (r == victim ? EXIT_DATA : EXIT_LOST_RANK), "rank %d: status %d, said '%s'", r, status[r], said[r]);
        CHECK(speaks ? strstr(said[r], name) != NULL : said[r][0] == 0, "rank %d said '%s'", r, said[r]);
    }
}

TEST(watch_calls_no_rank_lost_that_failed) { check_failure(0); check_failure(2); }

TEST_MAIN()

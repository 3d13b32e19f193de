// The run directory and its lock (RELIABILITY.md R18).
#include "rundir.h"
#include "tempdir.h"
#include "test.h"

#include <signal.h>
#include <sys/wait.h>

static void path_of(char* text, size_t room, const char* dir, const char* name) { snprintf(text, room, "%s/%s", dir, name); }

static void check_opens(const char* path, bool take_lock) {
    RunDir dir;
    Error err = {0};
    CHECK(rundir_open(&dir, path, take_lock, &err), "refused: %s", err.text);
    rundir_close(&dir);
}

static void check_refused(const char* path, bool take_lock, int code, const char* expected) {
    RunDir dir;
    Error err = {0};
    CHECK(!rundir_open(&dir, path, take_lock, &err), "%s was opened", path);
    CHECK(err.code == code && strstr(err.text, expected), "exit %d, \"%s\"; expected %d, \"...%s...\"", err.code, err.text, code, expected);
}

TEST(rundir_creates_directories_with_parents) {
    char path[700], checkpoints[720];
    path_of(path, sizeof path, temp_dir(), "a/b//c/");
    check_opens(path, false);
    path_of(checkpoints, sizeof checkpoints, path, "checkpoints");
    CHECK(access(checkpoints, W_OK) == 0, "%s is not there", checkpoints);
    check_opens(path, false);                          // again: it is there already
}

TEST(rundir_second_run_is_refused_with_host_and_pid) {
    const char* path = temp_dir();
    RunDir first;
    Error err = {0};
    CHECK(rundir_open(&first, path, false, &err), "%s", err.text);
    char host[256] = "", pid[32];
    gethostname(host, sizeof host - 1);
    snprintf(pid, sizeof pid, "pid %d,", (int)getpid());
    check_refused(path, false, EXIT_NO_OUTPUT, pid);
    check_refused(path, true, EXIT_NO_OUTPUT, host);   // alive is alive: --take-lock does not help
    rundir_close(&first);
    check_opens(path, false);
}

TEST(rundir_lock_of_a_killed_process_is_free) {
    const char* path = temp_dir();
    int ready[2];
    CHECK(pipe(ready) == 0, "no pipe");
    pid_t child = fork();
    if (child == 0) {
        RunDir dir;
        char good = rundir_open(&dir, path, false, NULL);
        if (write(ready[1], &good, 1) == 1) { pause(); }
        _exit(0);
    }
    char good = 0, pid[32];
    CHECK(read(ready[0], &good, 1) == 1 && good, "the child has no lock");
    snprintf(pid, sizeof pid, "pid %d,", (int)child);
    check_refused(path, false, EXIT_NO_OUTPUT, pid);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]); close(ready[1]);
    check_opens(path, false);
}

TEST(rundir_lock_of_another_host_needs_take_lock) {
    const char* path = temp_dir();
    char lock[700];
    path_of(lock, sizeof lock, path, "lock");
    const char* text = "{\"host\":\"node17.example\",\"pid\":4711,\"started\":\"2025-01-01T00:00:00Z\"}";
    temp_write(lock, text, strlen(text));
    check_refused(path, false, EXIT_NO_OUTPUT, "host node17.example, pid 4711, started 2025-01-01T00:00:00Z; if it is certain");
    char* after = temp_read(lock, NULL);
    CHECK_TEXT(after, text);                           // the refusal left it alone
    free(after);
    check_opens(path, true);
    check_opens(path, false);                          // ended properly: the text is gone
}

TEST(rundir_unreadable_lock_text_does_not_block) {
    const char* path = temp_dir();
    char lock[700], noise[3000];
    path_of(lock, sizeof lock, path, "lock");
    memset(noise, '{', sizeof noise);
    const char* texts[] = { "", "not json", "{\"host\":7}", "{\"pid\":\"x\"}", "[]", noise };
    for (int i = 0; i < 6; i++) {
        temp_write(lock, texts[i], i == 5 ? sizeof noise : strlen(texts[i]));
        check_opens(path, false);
    }
}

TEST(rundir_that_cannot_be_made_is_exit_73) {
    char file[700], below[720];
    path_of(file, sizeof file, temp_dir(), "file");
    temp_write(file, "x", 1);
    path_of(below, sizeof below, file, "run");
    check_refused(file, false, EXIT_NO_OUTPUT, "--out");
    check_refused(below, false, EXIT_NO_OUTPUT, file);
    check_refused("/proc/no/such", false, EXIT_NO_OUTPUT, "/proc/no");
}

// what is wrong with making it, not with looking at what is there: mkdir finds a link that leads nowhere, stat does not
TEST(rundir_that_cannot_be_made_says_why) {
    char link[700];
    path_of(link, sizeof link, temp_dir(), "link");
    CHECK(symlink("nowhere", link) == 0, "%s cannot be made", link);
    check_refused(link, false, EXIT_NO_OUTPUT, "link cannot be created: File exists");
}

TEST(rundir_mark_is_seen_in_the_same_directory_alone) {
    char path[700];
    path_of(path, sizeof path, temp_dir(), "run");
    RunDir first, same, other;
    Error err = {0};
    CHECK(rundir_open(&first, path, false, &err) && rundir_open(&other, temp_dir(), false, &err), "%s", err.text);
    rundir_follow(&same, path);
    CHECK(rundir_mark(&first, 7, &err) && rundir_sees_mark(&same, 7, &err), "%s", err.text);
    CHECK(!rundir_sees_mark(&same, 8, NULL), "another mark is seen");
    CHECK(!rundir_sees_mark(&other, 7, &err) && err.code == EXIT_NO_OUTPUT && strstr(err.text, other.checkpoints), "exit %d, \"%s\"", err.code, err.text);
    CHECK(!rundir_mark(&first, 7, &err) && err.code == EXIT_NO_OUTPUT, "a mark is made twice");
    rundir_unmark(&first, 7);
    CHECK(!rundir_sees_mark(&same, 7, NULL), "it is still there");
    rundir_close(&first);
    rundir_close(&same);
    rundir_close(&other);
}

TEST(rundir_write_replaces_a_file_whole) {
    const char* path = temp_dir();
    RunDir dir;
    Error err = {0};
    CHECK(rundir_open(&dir, path, false, &err), "%s", err.text);
    CHECK(rundir_write(&dir, "config.json", "{\"long\":\"first text\"}", &err) && rundir_write(&dir, "config.json", "{}", &err), "%s", err.text);
    char file[700];
    path_of(file, sizeof file, path, "config.json");
    char* text = temp_read(file, NULL);
    CHECK(text, "%s is not there", file);
    CHECK_TEXT(text, "{}");
    free(text);
    path_of(file, sizeof file, path, ".config.json.tmp");
    CHECK(access(file, F_OK) != 0, "%s was left", file);
    CHECK(!rundir_write(&dir, "no/such/place", "{}", &err) && err.code == EXIT_IO, "exit %d, \"%s\"", err.code, err.text);
    rundir_close(&dir);
}

TEST_MAIN()

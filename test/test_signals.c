// SIGTERM, SIGINT and SIGUSR1: the first asks for a stop, the second ends the process with 128+n (RELIABILITY.md R12).
#include "common.h"
#include "signals.h"
#include "tempdir.h"
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

// In a child: signals are installed, `first` and then `second` (0: none) are raised. Exit 0 if after the first stop_requested() says so.
static int status_after(int first, int second) {
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        signals_install();
        if (stop_requested() || stop_signal() != 0) { _exit(1); }
        raise(first);
        if (!stop_requested() || stop_signal() != first || strncmp(stop_signal_name(), "SIG", 3) != 0) { _exit(2); }
        if (second) { raise(second); _exit(3); }
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(signals_first_one_asks_for_a_stop) {
    CHECK_EQ(status_after(SIGTERM, 0), 0);
    CHECK_EQ(status_after(SIGINT, 0), 0);
    CHECK_EQ(status_after(SIGUSR1, 0), 0);
}

TEST(signals_second_one_exits_128_plus_n) {
    const int stops[] = { SIGTERM, SIGINT, SIGUSR1 };
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) { CHECK_EQ(status_after(stops[i], stops[j]), 128 + stops[j]); }
    }
}

TEST(signals_leave_failed_writes_to_the_writer) {
    char path[700];
    snprintf(path, sizeof path, "%s/full", temp_dir());
    pid_t child = fork();
    if (child == 0) {
        program_start();
        signals_install();
        int ends[2];
        int file = open(path, O_WRONLY | O_CREAT, 0666);
        struct rlimit none = { 0, 0 };
        if (file < 0 || pipe(ends) != 0 || setrlimit(RLIMIT_FSIZE, &none) != 0) { _exit(1); }
        close(ends[0]);
        bool both_failed = write(ends[1], "x", 1) < 0 && write(file, "x", 1) < 0;
        _exit(both_failed ? 0 : 2);
    }
    int status;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status), "the child died of signal %d", WTERMSIG(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

TEST_MAIN()

#include "signals.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

// A handler can reach nothing but a global.
static volatile sig_atomic_t first_signal;

const char* stop_signal_name(void) {
    return first_signal == SIGTERM ? "SIGTERM" : first_signal == SIGINT ? "SIGINT" : first_signal == SIGUSR1 ? "SIGUSR1" : "";
}

static void handle_stop(int number) {
    if (first_signal) { _exit(128 + number); }
    first_signal = number;
    static const char text[] = "\nstopping after this step, with a save; a second signal stops at once\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
}

void signals_install(void) {
    const int stops[] = { SIGTERM, SIGINT, SIGUSR1 };
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigfillset(&action.sa_mask);
    action.sa_handler = handle_stop;
    action.sa_flags = SA_RESTART;                      // reads and writes under way go on
    for (int i = 0; i < 3; i++) { sigaction(stops[i], &action, NULL); }
    signal(SIGPIPE, SIG_IGN);
}

bool stop_requested(void) { return first_signal != 0; }
int  stop_signal(void)    { return first_signal; }

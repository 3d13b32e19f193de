// Level 1: SIGTERM, SIGINT and SIGUSR1 ask for a save and a stop; the second one ends the process at once with 128+n.
#ifndef SIGNALS_H
#define SIGNALS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

// Installs the handlers. SIGPIPE is ignored (SIGXFSZ is since program_start): a write that fails is reported where it is made.
void signals_install(void);
bool stop_requested(void);
int  stop_signal(void);                // the first one's number, 0: none
const char* stop_signal_name(void);    // "SIGTERM"; "" for none

#ifdef __cplusplus
}
#endif
#endif

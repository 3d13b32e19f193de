#include "launch.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool number_in(const char* name, int* value) {
    const char* text = getenv(name);
    if (!text || !*text || text[strspn(text, "0123456789")] || strlen(text) > 8) { return false; }
    *value = atoi(text);
    return true;
}

bool launch_environment(bool slurm, int* rank, int* world) {
    return (number_in("OMPI_COMM_WORLD_RANK", rank) && number_in("OMPI_COMM_WORLD_SIZE", world))
        || (number_in("PMI_RANK", rank) && number_in("PMI_SIZE", world))
        || (slurm && number_in("SLURM_PROCID", rank) && number_in("SLURM_NTASKS", world));
}

void launch_fail(const Error* err) {
    int rank = 0, world = 1;
    bool others_end = launch_environment(false, &rank, &world);
    if (!others_end) { launch_environment(true, &rank, &world); }
    if (rank > 0) { sleep(LAUNCH_PATIENCE); }
    if (rank == 0)       { fprintf(stderr, "error: %s\n", err->text); }
    else if (others_end) { fprintf(stderr, "error: rank %d: %s\n", rank, err->text); }
    exit(err->code);
}

#include "fit.h"

#include <inttypes.h>

enum { MOST_ROWS = 65536 };                                  // as --micro-batch

size_t fit_plan_bytes(const Config* cfg, PlanRun plan, int micro_batch) {
    Model m;
    Optimizer opt;
    Config with = *cfg;
    with.micro_batch = micro_batch;
    plan(&m, &opt, &with, cfg->recompute, 0, max_int(cfg->ranks, 1), cfg->zero == 1);
    size_t bytes = m.arena.bytes;
    optimizer_close(&opt);
    model_unplan(&m);
    return bytes;
}

// The plan grows with the rows, but not evenly (scratch is capped, chunks are rounded): every divisor is tried, the largest first.
bool fit_micro_batch(const Config* cfg, PlanRun plan, int64_t rows, size_t room, int* micro_batch, Error* err) {
    int64_t most = INT32_MAX / cfg->seq_len;                 // the tokens of a pass are counted with an int
    size_t bytes = 0;
    if (most > MOST_ROWS) { most = MOST_ROWS; }
    for (int64_t n = rows < most ? rows : most; n > 0; n--) {
        if (rows % n != 0) { continue; }
        bytes = fit_plan_bytes(cfg, plan, (int)n);
        if (bytes <= room) {
            *micro_batch = (int)n;
            return true;
        }
    }
    return error_set(err, EXIT_USAGE, "--micro-batch: auto finds no room: one row of %d tokens takes %.1f MiB, %.1f are free; a higher --recompute or a "
                     "smaller --scratch needs less", cfg->seq_len, (double)bytes / (1 << 20), (double)room / (1 << 20));
}

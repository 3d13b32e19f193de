#include "fit.h"

#include <inttypes.h>

enum { MOST_ROWS = 65536 };                                  // as --micro-batch

bool fit_plan_bytes(const Config* cfg, int micro_batch, size_t* bytes, Error* err) {
    Model m;
    Optimizer opt;
    ModelShape shape;
    if (!shape_from_config(&shape, cfg, err)) { return false; }
    model_plan(&m, shape, micro_batch, cfg->seq_len, (KeepLevel)cfg->recompute, (size_t)cfg->scratch << 20);
    optimizer_plan_part(&opt, &m, 0, max_int(cfg->ranks, 1), cfg->zero == 1);
    *bytes = m.arena.bytes;
    optimizer_close(&opt);
    model_unplan(&m);
    return true;
}

// The plan grows with the rows, but not evenly (scratch is capped, chunks are rounded): every divisor is tried, the largest first.
bool fit_micro_batch(const Config* cfg, int64_t rows, size_t room, int* micro_batch, Error* err) {
    int64_t most = INT32_MAX / cfg->seq_len;                 // the tokens of a pass are counted with an int
    size_t bytes = 0;
    if (most > MOST_ROWS) { most = MOST_ROWS; }
    for (int64_t n = rows < most ? rows : most; n > 0; n--) {
        if (rows % n != 0) { continue; }
        if (!fit_plan_bytes(cfg, (int)n, &bytes, err)) { return false; }
        if (bytes <= room) {
            *micro_batch = (int)n;
            return true;
        }
    }
    return error_set(err, EXIT_USAGE, "--micro-batch: auto finds no room: one row of %d tokens takes %.1f MiB, %.1f are free; a higher --recompute or a "
                     "smaller --scratch needs less", cfg->seq_len, (double)bytes / (1 << 20), (double)room / (1 << 20));
}

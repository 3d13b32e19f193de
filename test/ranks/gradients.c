// The gradients of one step on as many ranks as mpirun starts, against those of one rank that does all the rows; and how much of their reduction
// is hidden behind backward when the link is slow.
//
//   mpirun -n N gradients OPTIONS...     options as of train_moba: sizes, --micro-batch, --total-batch, --zero, --reduce
// Prints ok or FAIL lines on rank 0; the exit status is 0 only if all are ok.
#include <string.h>
#include <time.h>

#include "config.h"
#include "model.h"
#include "optimizer.h"
#include "ranks.h"
#include "reduction.h"
#include "rng.h"

typedef struct {
    Config     cfg;
    Ranks      ranks;
    Model      m;
    Optimizer  opt;
    Reduction  reduction;
    int        rows;             // of a step
    int       *tokens, *targets; // (rows, T)
} Bench;

static int failures;

static void say(const Bench* b, const char* name, bool good, const char* why) {
    if (b->ranks.rank == 0) { printf("%s %s_%d_zero_%d_%s%s%s\n", good ? "ok" : "FAIL", name, b->ranks.world, b->cfg.zero,
                                     b->cfg.reduce == REDUCE_BF16 ? "bf16" : "fp32", good ? "" : " ", good ? "" : why); }
    failures += !good;
}

static void open_bench(Bench* b, int argc, char** argv) {
    Error err;
    ModelShape shape;
    b->cfg = config_parse(argc, argv);
    b->ranks = ranks_open(&b->cfg);
    if (!shape_from_config(&shape, &b->cfg, &err)) { FAIL(err.code, "%s", err.text); }
    Device device = device_open(ranks_gpu(&b->ranks, device_count()));
    ranks_connect(&b->ranks, &device);
    model_plan(&b->m, shape, b->cfg.micro_batch, b->cfg.seq_len, RECOMPUTE_NONE, (size_t)1 << 30);
    optimizer_plan_part(&b->opt, &b->m, b->ranks.rank, b->ranks.world, b->cfg.zero == 1);
    b->opt.comm = b->ranks.comm;
    model_allocate(&b->m);
    reduction_open(&b->reduction, &b->m, b->ranks.comm, &b->opt.partition, (ReduceType)b->cfg.reduce);
    optimizer_init(&b->opt, &b->m, 7);
    b->rows = (int)(b->cfg.total_batch / b->cfg.seq_len);
    size_t n = (size_t)b->rows * (size_t)b->cfg.seq_len;
    b->tokens = (int*)xmalloc(n * sizeof(int));
    b->targets = (int*)xmalloc(n * sizeof(int));
    for (size_t i = 0; i < n; i++) {
        b->tokens[i] = (int)(rng_uniform(3, 1, i) * b->cfg.vocab);
        b->targets[i] = (int)(rng_uniform(3, 2, i) * b->cfg.vocab);
    }
}

// rows first, first + stride * micro-batch, ... of the step
static void backward(Bench* b, int rank, int world, bool reduce) {
    int micro = b->cfg.micro_batch, T = b->cfg.seq_len;
    model_zero(&b->m);
    for (int row = rank * micro; row < b->rows; row += world * micro) {
        model_batch(&b->m, b->tokens + (size_t)row * T, b->targets + (size_t)row * T, micro, T);
        model_forward(&b->m);
        model_loss_backward(&b->m, 1.0f / (float)(b->rows * T));
        if (reduce && row + world * micro >= b->rows) { reduction_begin(&b->reduction); }
        model_backward(&b->m);
    }
    if (reduce) { reduction_end(&b->reduction); }
}

static float* gradients(Bench* b) {
    float* host = (float*)xmalloc(b->m.table.elements * sizeof(float));
    device_download(host, b->m.grads, b->m.table.elements * sizeof(float), b->m.stream);
    stream_sync(b->m.stream);
    return host;
}

// of the elements that this rank has after a reduction: the largest difference in a tensor, in units of the tensor's largest
static double worst_error(const Bench* b, const float* found, const float* expected) {
    double worst = 0;
    for (int i = 0; i < b->m.table.count; i++) {
        const Tensor* t = &b->m.table.tensor[i];
        size_t end = t->offset + (size_t)t->rows * (size_t)t->cols;
        double largest = 0, off = 0;
        for (size_t e = t->offset; e < end; e++) { largest = fmax(largest, fabs((double)expected[e])); }
        for (int s = 0; s < b->opt.partition.spans; s++) {
            const Span* span = &b->opt.partition.span[s];
            for (size_t e = max_size(t->offset, span->flat); e < min_size(end, span->flat + span->count); e++) {
                double difference = fabs((double)found[e] - (double)expected[e]);
                off = difference > off || isnan(difference) ? difference : off;
            }
        }
        if (largest > 0 && !(off / largest <= worst)) { worst = off / largest; }
    }
    return worst;
}

static void check_gradients(Bench* b) {
    char why[160];
    backward(b, 0, 1, false);
    float* expected = gradients(b);
    double total = model_total(&b->m);
    backward(b, b->ranks.rank, b->ranks.world, true);
    double measured = reduction_bf16_error(&b->reduction), worst = 0;
    float* found = gradients(b);
    double mine = worst_error(b, found, expected), *all = (double*)xmalloc((size_t)b->ranks.world * sizeof(double));
    comm_exchange(b->ranks.comm, &mine, all, sizeof mine, "the exchange of errors");
    for (int r = 0; r < b->ranks.world; r++) { worst = fmax(worst, all[r]); }
    // fp32: sums in another order. bf16: each of `world` parts and the sum are rounded by at most 2^-9 of a number that is at most as large as all
    // parts are together, for which the tensor's largest stands
    bool bf16 = b->cfg.reduce == REDUCE_BF16 && b->ranks.world > 1;
    double budget = bf16 ? (b->ranks.world + 1) / 512.0 : 1e-5;
    snprintf(why, sizeof why, "largest error %.3g of a tensor's largest gradient, allowed %.3g", worst, budget);
    say(b, "ranks_gradients", worst <= budget && worst == worst, why);
    if (bf16) {
        snprintf(why, sizeof why, "the error measured at the first step is %.3g", measured);
        say(b, "ranks_bf16_error_is_shown", measured > 1e-5 && measured < 1e-2, why);
        if (b->ranks.rank == 0) { fprintf(stderr, "bf16 on %d ranks: largest error %.3g of a tensor's largest gradient, 2-norm %.3g\n", b->ranks.world, worst, measured); }
    }
    optimizer_norm(&b->opt, &b->m);
    double sum = model_total(&b->m);
    snprintf(why, sizeof why, "sum of losses %.12g, of one rank %.12g", sum, total);
    say(b, "ranks_loss_total", fabs(sum - total) <= 1e-6 * total, why);
    free(expected);
    free(found);
    free(all);
}

// Each collective takes 5 ms more than it would, and a layer's backward is as good as 30 ms of sleep, so that a busy machine makes no difference:
// what is left when the last layer is done is the embedding's part and the vectors'.
static void sleepy_backward(Bench* b) {
    struct timespec layer = {0, 30000000};
    reduction_begin(&b->reduction);
    for (int l = b->m.shape.L - 1; l >= 0; l--) {
        nanosleep(&layer, NULL);
        b->m.on_gradients(b->m.on_gradients_argument, b->m.table.tensor[MODEL_FIELDS + l * LAYER_FIELDS + LAYER_wqkv].offset);
    }
    reduction_end(&b->reduction);
}

static void check_overlap(Bench* b) {
    char why[160];
    comm_slow_link(b->ranks.comm, 5, 0);
    CommTimes before = comm_times(b->ranks.comm);
    for (int step = 1; step <= 3; step++) {
        comm_step(b->ranks.comm, step);
        sleepy_backward(b);
        comm_step_end(b->ranks.comm);
    }
    CommTimes after = comm_times(b->ranks.comm);
    double busy = after.busy_ms - before.busy_ms, waited = after.waited_ms - before.waited_ms;
    snprintf(why, sizeof why, "%.1f ms of reductions, %.1f of them waited for", busy, waited);
    say(b, "ranks_slow_link_is_hidden", busy >= 3 * 5 * b->opt.partition.buckets && waited < 0.6 * busy, why);
}

int main(int argc, char** argv) {
    bool overlap = argc > 1 && strcmp(argv[1], "overlap") == 0;
    Bench b;
    memset(&b, 0, sizeof b);
    open_bench(&b, argc - overlap, argv + overlap);
    if (overlap) { check_overlap(&b); } else { check_gradients(&b); }
    optimizer_close(&b.opt);
    ranks_close(&b.ranks);
    model_close(&b.m);
    config_close(&b.cfg);
    free(b.tokens);
    free(b.targets);
    return failures > 0;
}

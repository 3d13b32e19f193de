// train_moba: pre-training of sliding-window / MoBA hybrids. Parse, plan, open, loop, close; the only file that sees all.
// In the common subset of C11 and C++17: nvcc compiles it for the GPU program, the C compiler for train_moba_cpu.
#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "checkpoint.h"
#include "commit.h"
#include "config.h"
#include "dataloader.h"
#include "device.h"
#include "dryrun.h"
#include "eval.h"
#include "fit.h"
#include "flops.h"
#include "json.h"
#include "logger.h"
#include "model.h"
#include "ops.h"
#include "optimizer.h"
#include "ranks.h"
#include "report.h"
#include "resume.h"
#include "rundir.h"
#include "sample.h"
#include "saver.h"
#include "schedule.h"
#include "signals.h"
#include "state.h"
#include "step.h"
#include "tokenizer.h"
#include "trained.h"

static bool due(int64_t step, int every) { return every > 0 && step % every == 0; }

static int64_t rows_per_step(const Config* cfg) { return cfg->total_batch / cfg->seq_len; }

// ---- training ---------------------------------------------------------------------------------------------------------------

typedef struct {
    const Config* cfg;
    Ranks         ranks;
    char*         options;             // cfg as JSON
    Device        device;
    RunDir        dir;
    ShardSet     *train_set, *valid_set;
    DataLoader   *train, *valid;       // valid may be NULL
    Tokenizer*    tokenizer;           // NULL unless samples are asked for
    Model         model;
    Optimizer     opt;
    Reduction     reduction;
    Stepper       stepper;
    Logger*       log;                 // rank 0's; NULL elsewhere
    Progress      progress;            // step: begun; its outcome may still be on its way (settle)
    double        max_loss, max_norm;  // above these the step under way is skipped (--skip-z); INFINITY: no limit
    Saver*        saver;
    double        save_pause_ms;       // what the save under way has held up training so far
    bool          trained;             // no step is left: waiting for the writer holds up nothing
    int64_t       saved_step;          // the newest checkpoint on disk
    double        flops_per_token;
    StepStats     last;
} Run;

#ifdef LLMC_TEST
#include "faults.h"              // test/faults.h
#else
#define test_spoil_gradient(run) ((void)0)
#define test_stop(run)           ((void)0)
#define test_flip(run)           ((void)0)
#define test_start(run)          ((void)0)
#endif

// Takes note of a save that has ended; with `wait` of the one under way. One that failed is a warning: training goes on, older ones are whole.
static void collect_save(Run* run, bool wait) {
    SaveReport r;
    double start = clock_ms();
    bool ended = saver_poll(run->saver, wait, &r);
    if (!run->trained) { run->save_pause_ms += clock_ms() - start; }
    if (!ended) { return; }
    if (!r.ok) {
        char what[64];
        snprintf(what, sizeof what, "step %lld is not saved", (long long)r.step);
        ranks_warn(&run->ranks, &r.error, what);
        return;
    }
    run->saved_step = r.step;
    if (!run->log) { return; }
    char* path = checkpoint_path(run->dir.checkpoints, r.step);
    log_save(run->log, (int)r.step, path, r.bytes, r.ms, run->save_pause_ms);
    free(path);
    if (r.error.code) { fprintf(stderr, "warning: %s\n", r.error.text); }
}

static void skip_step(Run* run, const StepOutcome* o) {
    char why[160];
    bool finite = isfinite(o->loss) && isfinite(o->norm);
    if (finite) { snprintf(why, sizeof why, "loss %g, gradient norm %g: above %g or %g (--skip-z)", o->loss, o->norm, run->max_loss, run->max_norm); }
    else        { snprintf(why, sizeof why, "loss %g, gradient norm %g: not finite", o->loss, o->norm); }
    run->progress.bad_steps++;
    if (run->log) { log_skip(run->log, (int)o->step, why); }
    if (run->progress.bad_steps >= run->cfg->max_bad_steps) {
        collect_save(run, true);                                 // one under way is of a good state
        Error err;
        char* good = run->saved_step ? xformat("over the good checkpoint of step %lld", (long long)run->saved_step)
                                     : xstrdup("anything, and there is no checkpoint yet");
        error_set(&err, EXIT_INTERNAL, "step %lld: %lld steps in a row were skipped (--max-bad-steps); stopped without saving %s",
                  (long long)o->step, (long long)run->progress.bad_steps, good);
        free(good);
        ranks_agree(&run->ranks, &err, "the end after skipped steps");
    }
}

// Waits for the oldest step under way and logs what it came to.
static void finish_step(Run* run) {
    const Config* cfg = run->cfg;
    Progress* p = &run->progress;
    comm_step_wait(run->ranks.comm);
    StepOutcome o = stepper_wait(&run->stepper);
    p->updates = run->opt.updates;
    if (isfinite(o.loss) && isfinite(o.norm) && o.norm > 0) {
        outliers_add(&p->loss, o.loss, run->max_loss);
        outliers_add(&p->log_norm, log(o.norm), log(run->max_norm));
    }
    comm_step_end(run->ranks.comm);
    if (!o.applied) {
        skip_step(run, &o);
        return;
    }
    p->bad_steps = 0;
    if (!run->log) { return; }
    StepStats* s = &run->last;
    s->step = (int)o.step;
    s->loss = o.loss;
    s->norm = o.norm;
    s->lr = o.lr;
    s->ms = o.ms;
    s->tok_s = (double)cfg->total_batch / s->ms * 1e3;
    s->mfu = run->device.peak_flops > 0 ? run->flops_per_token * s->tok_s / (run->device.peak_flops * run->ranks.world) : 0;
    s->tokens = p->rows * cfg->seq_len - (p->step - o.step) * cfg->total_batch;
    s->mem_mib = (double)device_memory_in_use() / (1 << 20);
    log_step(run->log, s);
}

// Before anything that reads the state: every step begun is finished and logged.
static void settle(Run* run) {
    while (run->stepper.under_way > 0) { finish_step(run); }
}

// Begins the optimizer step with index progress.step, and finishes the one before it: the log is one step late, the device never idle.
static void train_step(Run* run) {
    Error err;
    const Config* cfg = run->cfg;
    if (cfg->skip_z > 0) { settle(run); }                        // the limits come from every step before this one
    run->max_loss = outliers_limit(&run->progress.loss, cfg->skip_z);
    run->max_norm = exp(outliers_limit(&run->progress.log_norm, cfg->skip_z));
    AdamWSettings settings = {schedule_lr(cfg, run->progress.step), 0.9, 0.95, 1e-8, cfg->weight_decay, cfg->clip, run->max_norm,
                              run->max_loss * (double)cfg->total_batch};
    comm_step(run->ranks.comm, run->progress.step + 1);
    if (!stepper_gradients(&run->stepper, &err)) {
        settle(run);                                             // the steps before it are good
        if (run->ranks.world == 1) { collect_save(run, true); }  // of several ranks the others are in this step, and would not answer
        FAIL(err.code, "%s", err.text);
    }
    test_spoil_gradient(run);
    run->progress.rows += rows_per_step(cfg);
    stepper_update(&run->stepper, ++run->progress.step, &settings);
    double error = reduction_bf16_error(&run->reduction);
    if (error >= 0) { printf("reduce      bf16: the first bucket of gradients is off by %.3g of its 2-norm\n", error); }
    if (run->stepper.under_way == STEPS_AHEAD) { finish_step(run); }
}

// Training waits for the save before this one, if that goes on still, and for the copy of the state into host memory.
static void save(Run* run) {
    Error err;
    collect_save(run, true);
    double start = clock_ms();
    bool logged = !run->log || logger_sync(run->log, &err);
    if (!ranks_all(&run->ranks, logged)) {
        if (logged) { return; }
        fprintf(stderr, "warning: step %lld is not saved: %s\n", (long long)run->progress.step, err.text);
        return;
    }
    saver_start(run->saver, &run->progress, run->options);
    run->save_pause_ms = clock_ms() - start;
}

static void validate(Run* run) {
    Error err;
    err.code = 0;
    double loss = eval_loss(&run->model, run->valid, run->cfg->micro_batch, run->cfg->seq_len, run->cfg->eval_batches, &run->ranks, &err);
    TRY(err.code == 0);
    if (run->log) { log_eval(run->log, (int)run->progress.step, "validation", loss); }
}

static void print_sample(Run* run) {
    SampleSettings settings = sample_settings(run->cfg, (uint64_t)run->progress.step);
    printf("sample      ");
    sample_text(&run->model, run->tokenizer, "", &settings, stdout);
}

// A signal may reach one rank alone: all ask each other at every step, and hear the answer at the next, for which nobody has to wait.
static bool stopping(Run* run) {
    if (run->ranks.world == 1) { return stop_requested(); }
    bool stop = comm_answer(run->ranks.comm);
    comm_ask(run->ranks.comm, stop_requested());
    return stop;
}

// False: the last state could not be saved. After the last step, and after a signal wherever it came, nothing is left unsaved.
static bool loop(Run* run) {
    const Config* cfg = run->cfg;
    run->saved_step = run->progress.step;
    while (run->progress.step < cfg->steps && !stopping(run)) {
        train_step(run);
        test_flip(run);
        int64_t done = run->progress.step;
        bool last = done == cfg->steps;
        bool eval = run->valid && (last || due(done, cfg->eval_every)), sample = run->tokenizer && (last || due(done, cfg->sample_every));
        bool keep = !last && due(done, cfg->save_every), compare = run->ranks.world > 1 && (last || due(done, cfg->check_every)) && cfg->check_every;
        if (eval || sample || keep || compare) { settle(run); }
        if (compare)                { ranks_check_equal(&run->ranks, optimizer_fingerprint(&run->opt, &run->model), "weights", done); }
        if (eval)                   { validate(run); }
        if (sample && run->log)     { print_sample(run); }
        if (keep)                   { save(run); }
        collect_save(run, false);
        test_stop(run);
    }
    settle(run);
    run->trained = true;
    collect_save(run, true);
    if (run->saved_step != run->progress.step) {
        save(run);
        collect_save(run, true);
    }
    return run->saved_step == run->progress.step;
}

// Everything that can be wrong with the input is found here, before a device is touched.
static void open_input(Run* run) {
    const Config* cfg = run->cfg;
    Error err;
    run->train_set = open_shards(cfg, cfg->train_data);
    run->progress.data_tokens = run->train_set->tokens;
    TRY(shard_fingerprint(run->train_set, &run->progress.data_print, &err));
    if (cfg->val_data[0])  { run->valid_set = open_shards(cfg, cfg->val_data); }
    if (cfg->sample_every) { run->tokenizer = open_tokenizer(cfg); }
}

static void open_loaders(Run* run) {
    const Config* cfg = run->cfg;
    run->train = loader_open(run->train_set, cfg->micro_batch, rows_per_step(cfg), run->ranks.rank, run->ranks.world, (uint64_t)cfg->seed, true);
    loader_seek_item(run->train, run->progress.rows);
    run->stepper = stepper_open(&run->model, &run->opt, run->train, &run->reduction, cfg->micro_batch, cfg->seq_len, cfg->total_batch);
    if (run->valid_set) {
        run->valid = loader_open(run->valid_set, cfg->micro_batch, (int64_t)cfg->micro_batch * run->ranks.world, run->ranks.rank, run->ranks.world, 0, false);
    }
}

static void open_saver(Run* run) {
    const Config* cfg = run->cfg;
    uint64_t id = checkpoint_new_id();
    ranks_broadcast(&run->ranks, &id, sizeof id, "the exchange of the saves' id");
    SaverRanks ranks = {run->ranks.rank, run->ranks.world, id, ranks_all, &run->ranks};
    bool often = cfg->save_every > 0 && cfg->save_every < cfg->steps - run->progress.step;
    run->saver = saver_open(run->dir.checkpoints, &run->model, state_share(&run->opt), ranks, cfg->keep, cfg->keep_major, often);
    if (run->progress.step > 0) { saver_know(run->saver, run->progress.step); }
    if (often) {
        printf("saves       %s, %zu MiB of host memory\n", saver_is_staged(run->saver) ? "while training goes on" : "stop training: too little host memory to copy the state",
               saver_host_bytes(run->saver) >> 20);
    }
}

static void write_config(const Run* run) {
    Error err;
    Json json = json_begin();
    json_put_text(&json, "commit", COMMIT);
    json_put_text(&json, "device", run->device.name);
    json_put_raw(&json, "options", run->options);
    char* text = json_end(&json);
    TRY(rundir_write(&run->dir, "config.json", text, &err));
    free(text);
}

static void open_log(Run* run) {
    Error err;
    run->log = logger_open(run->dir.path, run->progress.step, run->cfg->steps, run->cfg->log_every, &err);
    TRY(run->log);
    StartRecord start = {run->progress.step, run->options, run->device.name, COMMIT, run->cfg->train_data, run->train_set->tokens,
                         (int64_t)run->model.table.parameters};
    log_start(run->log, &start);
}

static void print_header(const Run* run) {
    report_device(&run->device);
    report_model(&run->model);
    report_flops(run->cfg, &run->model);
    printf("data        %d training shards, %lld tokens, %lld rows\n", run->train_set->count, (long long)run->train_set->tokens,
           (long long)run->train_set->rows);
    arena_print(&run->model.arena);
    fflush(stdout);
}

static void close_input(Run* run) {
    shard_close(run->train_set);
    shard_close(run->valid_set);
    tokenizer_close(run->tokenizer);
    rundir_close(&run->dir);
}

// The reason was a warning when the save failed.
static void say_not_saved(const Run* run) {
    fprintf(stderr, "error: step %lld is not saved (the warning above says why); ", (long long)run->progress.step);
    if (run->saved_step) { fprintf(stderr, "with room for it, the same command goes on from step %lld\n", (long long)run->saved_step); }
    else                 { fprintf(stderr, "there is no checkpoint, the same command begins anew\n"); }
}

static void close_run(Run* run, bool saved, double seconds) {
    Error err;
    bool finished = run->progress.step >= run->cfg->steps;
    int status = !saved ? EXIT_IO : finished ? 0 : EXIT_STOPPED;
    char why[96];
    const char* signal = stop_requested() ? stop_signal_name() : "a signal to another rank";
    snprintf(why, sizeof why, "%s%s%s", finished ? "finished" : "stopped by ", finished ? "" : signal, saved ? "" : ", but not saved");
    EndRecord end = {(int)run->progress.step, status, why, seconds, run->last.loss, run->progress.rows * run->cfg->seq_len};
    err.code = 0;
    if (run->log) {
        log_end(run->log, &end);
        if (run->stepper.steps_ms > 0) {
            printf("loader      %.3f %% of the steps' time was spent waiting for data\n", 100 * run->stepper.loader_ms / run->stepper.steps_ms);
        }
        logger_close(run->log, &err);
        report_communication(comm_times(run->ranks.comm));
    }
    ranks_agree(&run->ranks, &err, "the end of the log");
    if (!saved && run->log) { say_not_saved(run); }
    saver_close(run->saver);
    stepper_close(&run->stepper);
    loader_close(run->train);
    loader_close(run->valid);
    optimizer_close(&run->opt);
    ranks_close(&run->ranks);
    model_close(&run->model);
    close_input(run);
    free(run->options);
}

// One rehearsal loads every kernel (but those that a graph adds) and gives every product its plan: the checkpoint's where it has one for this GPU, else the fastest, or
// with --deterministic the library's first proposal.
static void rehearse(Run* run, bool resumed) {
    Model* m = &run->model;
    if (!run->device.is_gpu) { return; }
    double start = clock_ms();
    size_t kept = matmul_plans_count(m->plans);
    if (run->ranks.rank > 0) { state_share_plans(m, &run->ranks); }   // rank 0 measures for all
    matmul_measure(m->plans, !run->cfg->deterministic);
    model_rehearse(m);
    matmul_measure(m->plans, 0);
    if (run->ranks.rank == 0) { state_share_plans(m, &run->ranks); }
    size_t made = matmul_plans_count(m->plans) - kept;
    printf("GEMM plans  %zu from the checkpoint, %zu %s, in %.1f s\n", kept, made, run->cfg->deterministic ? "by the library's first proposal" : "measured",
           (clock_ms() - start) / 1e3);
    if (resumed && made > 0) {
        printf("            the checkpoint has no plan of this GPU and library for these %zu: from here on the last bits may differ from those of a run "
               "never stopped\n", made);
    }
}

// May this run go on from the checkpoint? False if there is nothing left to do; ends the program if not.
static bool adopt_resume(Run* run, Config* cfg, const Checkpoint* checkpoint) {
    Error err;
    Config saved = resume_config(checkpoint);
    TRY(config_check_resume(cfg, &saved, &err));
    // --micro-batch auto: what the checkpoint was trained with, so that the same command writes the same bytes
    if (!cfg->micro_batch && saved.micro_batch && cfg->total_batch % ((int64_t)saved.micro_batch * cfg->seq_len * cfg->ranks) == 0) {
        cfg->micro_batch = saved.micro_batch;
    }
    config_close(&saved);
    int64_t tokens = run->progress.data_tokens;
    uint64_t print = run->progress.data_print;
    TRY(state_read_progress(&run->progress, checkpoint, &err));
    if (run->progress.data_print != print && !cfg->new_schedule) {
        FAIL(EXIT_USAGE, "--train-data: the checkpoint was trained on a set of %lld tokens (%016llx), '%.200s' has %lld (%016llx); the order of rows would change; "
             "give the same shards, under any name, or add --new-schedule to go on with these", (long long)run->progress.data_tokens,
             (unsigned long long)run->progress.data_print, cfg->train_data, (long long)tokens, (unsigned long long)print);
    }
    run->progress.data_tokens = tokens;
    run->progress.data_print = print;
    if (checkpoint->step < cfg->steps) { return true; }
    printf("%s: this run has finished its %d steps; --steps with --new-schedule goes on\n", checkpoint->path, cfg->steps);
    return false;
}

// The memory of a run, as the dry run plans it too
static void plan_run(Model* m, Optimizer* opt, const Config* cfg, int level, int rank, int ranks, bool sharded) {
    ModelShape shape = shape_of(cfg);
    shape.ranks = ranks;
    model_plan(m, shape, cfg->micro_batch, cfg->seq_len, (KeepLevel)level, (size_t)cfg->scratch << 20);
    optimizer_plan_part(opt, m, rank, ranks, sharded);
    if (cfg->sample_every) { plan_sampling(m, cfg, 0); }
}

// --micro-batch auto, where no checkpoint has decided: what fits the device now
static void choose_micro_batch(Ranks* ranks, Config* cfg) {
    Error err;
    if (cfg->micro_batch) { return; }
    int64_t rows = rows_per_step(cfg) / ranks->world;
    size_t room = ranks_least(ranks, device_memory_free());
    err.code = 0;
    fit_micro_batch(cfg, plan_run, rows, room, &cfg->micro_batch, &err);
    ranks_agree(ranks, &err, "the choice of a micro-batch");
    printf("micro-batch %d of %lld rows: the most that divide a rank's step and fit %.1f MiB\n", cfg->micro_batch, (long long)rows, (double)room / (1 << 20));
}

// The parts of a checkpoint come from all ranks: is --out the same directory for all of them?
static void check_out_is_shared(Run* run) {
    Ranks* ranks = &run->ranks;
    Error err;
    uint64_t mark = checkpoint_new_id();
    if (ranks->world == 1) { return; }
    err.code = 0;
    ranks_broadcast(ranks, &mark, sizeof mark, "the check of --out");
    if (ranks->rank == 0) { rundir_mark(&run->dir, mark, &err); }
    ranks_agree(ranks, &err, "the check of --out");
    if (ranks->rank > 0) { rundir_sees_mark(&run->dir, mark, &err); }
    ranks_agree(ranks, NULL, "the check of --out");              // all have looked
    if (ranks->rank == 0) { rundir_unmark(&run->dir, mark); }
    ranks_agree(ranks, &err, "the check of --out");
}

// What may be wrong with options, files or the checkpoint is found here, by all ranks together and before a device is touched.
// False: nothing is left to do.
static bool open_files(Run* run, Config* cfg, Checkpoint** checkpoint) {
    Error err;
    char path[4096] = "";
    ranks_together(&run->ranks);
    free(shape_of(cfg).layer);                                   // a shape that cannot be is refused first
    open_input(run);
    if (run->ranks.rank == 0) {
        TRY(rundir_open(&run->dir, cfg->out, cfg->take_lock, &err));
        *checkpoint = resume_open(cfg, run->dir.checkpoints);
        resume_refuse_to_overwrite(cfg, run->dir.checkpoints, *checkpoint ? (*checkpoint)->step : 0);
        snprintf(path, sizeof path, "%s", *checkpoint ? (*checkpoint)->path : "");
    }
    ranks_agree(&run->ranks, NULL, "the opening of files");
    ranks_broadcast(&run->ranks, path, sizeof path, "the choice of a checkpoint");
    if (run->ranks.rank > 0) { rundir_follow(&run->dir, cfg->out); }
    check_out_is_shared(run);
    ranks_together(&run->ranks);
    if (run->ranks.rank > 0) {
        *checkpoint = path[0] ? checkpoint_open_unverified(path, &err) : NULL;      // rank 0 has verified it
        TRY(*checkpoint || !path[0]);
    }
    bool go_on = !*checkpoint || adopt_resume(run, cfg, *checkpoint);
    ranks_agree(&run->ranks, NULL, "the opening of the checkpoint");
    return go_on;
}

// Plans and prints, then takes the memory, and fills it from the checkpoint or afresh.
static void open_model(Run* run, Config* cfg, Checkpoint* checkpoint) {
    Error err;
    ranks_together(&run->ranks);
    run->device = device_open(ranks_gpu(&run->ranks, device_count()));
    AttnPath path = attn_path_of(cfg, &run->device);
    ranks_agree(&run->ranks, NULL, "the opening of devices");
    ranks_connect(&run->ranks, &run->device);
    choose_micro_batch(&run->ranks, cfg);
    run->options = config_to_json(cfg);
    plan_run(&run->model, &run->opt, cfg, cfg->recompute, run->ranks.rank, run->ranks.world, cfg->zero == 1);
    run->model.attn_path = path;
    run->opt.comm = run->ranks.comm;
    if (run->device.is_gpu) { arena_count(&run->model.arena, MEM_RUNTIME, device_memory_in_use()); }
    run->flops_per_token = flops_per_token(&run->model.shape, cfg->seq_len, false);
    print_header(run);
    ranks_together(&run->ranks);
    model_allocate(&run->model);
    ranks_agree(&run->ranks, NULL, "the taking of memory");
    reduction_open(&run->reduction, &run->model, run->ranks.comm, &run->opt.partition, (ReduceType)cfg->reduce);
    test_start(run);
    if (checkpoint) {
        err.code = 0;
        ranks_together(&run->ranks);
        state_load(&run->opt, &run->model, &run->progress, checkpoint, &err);
        ranks_agree(&run->ranks, &err, "the reading of the checkpoint");
        optimizer_publish(&run->opt, &run->model);
        printf("resuming    from %s\n", checkpoint->path);
        checkpoint_close(checkpoint);
    } else {
        optimizer_init(&run->opt, &run->model, (uint64_t)cfg->seed);
    }
}

static int train(Config* cfg) {
    double start = clock_ms();
    Run run;
    signals_install();
    memset(&run, 0, sizeof run);
    run.cfg = cfg;
    run.ranks = ranks_open(cfg);
    Checkpoint* checkpoint = NULL;
    if (!open_files(&run, cfg, &checkpoint)) {
        checkpoint_close(checkpoint);
        close_input(&run);
        ranks_close(&run.ranks);
        return 0;
    }
    open_model(&run, cfg, checkpoint);
    rehearse(&run, run.progress.step > 0);
    open_loaders(&run);
    open_saver(&run);
    ranks_together(&run.ranks);
    if (run.ranks.rank == 0) {
        write_config(&run);
        open_log(&run);
    }
    ranks_agree(&run.ranks, NULL, "the opening of the log");
    bool saved = loop(&run);
    bool finished = run.progress.step >= cfg->steps;
    close_run(&run, saved, (clock_ms() - start) / 1e3);
    return !saved ? EXIT_IO : finished ? 0 : EXIT_STOPPED;
}

// --version
static int print_version(void) {
#ifdef LLMC_CPU
    printf("moba.c %s, CPU\n", COMMIT);
#else
    printf("moba.c %s, CUDA\n", COMMIT);
#endif
    require_printed();
    return 0;
}

int main(int argc, char** argv) {
    program_start();
    if (argc == 2 && strcmp(argv[1], "--version") == 0) { return print_version(); }
    Config cfg = config_parse(argc, argv);
    bool trains = !cfg.dry_run && !cfg.eval_only && !cfg.prompt[0];
    int status = cfg.dry_run ? dry_run(&cfg, plan_run) : cfg.eval_only ? trained_evaluate(&cfg) : cfg.prompt[0] ? trained_complete(&cfg) : train(&cfg);
    if (!trains) { require_printed(); }                          // a run has its log
    config_close(&cfg);
    return status;
}

// train_moba: pre-training of sliding-window / MoBA hybrids. Parse, plan, open, loop, close; the only file that sees all.
// In the common subset of C11 and C++17: nvcc compiles it for the GPU program, the C compiler for train_moba_cpu.
#include <math.h>
#include <signal.h>
#include <string.h>

#include "checkpoint.h"
#include "commit.h"
#include "config.h"
#include "dataloader.h"
#include "device.h"
#include "eval.h"
#include "flops.h"
#include "json.h"
#include "logger.h"
#include "model.h"
#include "ops.h"
#include "optimizer.h"
#include "report.h"
#include "rundir.h"
#include "sample.h"
#include "saver.h"
#include "schedule.h"
#include "signals.h"
#include "state.h"
#include "step.h"
#include "tokenizer.h"

// a failed call that filled an Error ends the program with the Error's own exit status
#define TRY(call) do { if (!(call)) { FAIL(err.code, "%s", err.text); } } while (0)

static bool due(int64_t step, int every) { return every > 0 && step % every == 0; }

// ---- options to a network ---------------------------------------------------------------------------------------------------

static ModelShape shape_of(const Config* cfg) {
    Error err;
    ModelShape s;
    TRY(shape_from_config(&s, cfg, &err));
    char text[256];
    if (model_refusal(&s, text, sizeof text)) { FAIL(EXIT_USAGE, "%s", text); }
    return s;
}

static int64_t rows_per_step(const Config* cfg) { return cfg->total_batch / cfg->seq_len; }

static ShardSet* open_shards(const Config* cfg, const char* pattern) {
    Error err;
    ShardSet* set = shard_open(pattern, cfg->seq_len, cfg->vocab, &err);
    TRY(set);
    return set;
}

static Tokenizer* open_tokenizer(const Config* cfg) {
    Error err;
    Tokenizer* tokenizer = tokenizer_open(cfg->tokenizer, &err);
    TRY(tokenizer);
    if (tokenizer_vocab_size(tokenizer) > cfg->vocab) {
        FAIL(EXIT_USAGE, "--tokenizer %s has %d tokens, the model's vocabulary %d; give the tokenizer the model was trained with",
             cfg->tokenizer, tokenizer_vocab_size(tokenizer), cfg->vocab);
    }
    return tokenizer;
}

// ---- checkpoints ------------------------------------------------------------------------------------------------------------

// The checkpoint --resume asks for, whole and verified; NULL if it is 'none', or 'auto' and there is none.
static Checkpoint* open_checkpoint(const Config* cfg, const char* checkpoints_dir) {
    Error err;
    memset(&err, 0, sizeof err);
    if (strcmp(cfg->resume, "none") == 0) { return NULL; }
    if (strcmp(cfg->resume, "auto") != 0) {
        Checkpoint* checkpoint = checkpoint_open(cfg->resume, &err);
        TRY(checkpoint);
        return checkpoint;
    }
    char* passed_over = NULL;
    Checkpoint* checkpoint = checkpoint_open_newest(checkpoints_dir, &passed_over, &err);
    if (passed_over) { fprintf(stderr, "warning: %s\n", passed_over); }
    if (passed_over && checkpoint) { fprintf(stderr, "warning: resuming from %s instead\n", checkpoint->path); }
    free(passed_over);
    TRY(checkpoint || err.code == 0);
    return checkpoint;
}

// Starting over, or from an older step, would cut the log of what came after; that takes another directory.
static void refuse_to_overwrite(const Config* cfg, const char* checkpoints_dir, int64_t from_step) {
    int64_t* steps = NULL;
    int count = checkpoint_steps(checkpoints_dir, &steps);
    if (strcmp(cfg->resume, "auto") != 0 && count > 0 && steps[count - 1] > from_step) {
        FAIL(EXIT_USAGE, "--resume %s: %s already holds step %lld; give another --out, or remove what is there", cfg->resume, checkpoints_dir,
             (long long)steps[count - 1]);
    }
    free(steps);
}

static Config checkpoint_config(const Checkpoint* checkpoint) {
    Error err;
    Config saved;
    char* options = checkpoint_read_text(checkpoint, "options", &err);
    TRY(options);
    TRY(config_from_json(&saved, options, strlen(options), &err));
    free(options);
    return saved;
}

// ---- training ---------------------------------------------------------------------------------------------------------------

typedef struct {
    const Config* cfg;
    char*         options;             // cfg as JSON
    Device        device;
    RunDir        dir;
    ShardSet     *train_set, *valid_set;
    DataLoader   *train, *valid;       // valid may be NULL
    Tokenizer*    tokenizer;           // NULL unless samples are asked for
    Model         model;
    Optimizer     opt;
    Stepper       stepper;
    Logger*       log;
    Progress      progress;            // step: begun; its outcome may still be on its way (settle)
    double        max_loss, max_norm;  // above these the step under way is skipped (--skip-z); 0: no limit
    Saver*        saver;
    double        save_pause_ms;       // what the save under way has held up so far
    int64_t       saved_step;          // the newest checkpoint on disk
    double        flops_per_token;
    StepStats     last;
} Run;

// What only faults can show (R12, R14, R15), in a program of the tests: MOBA_TEST_NAN_STEPS=FIRST-LAST puts a NaN into a gradient of these steps,
// MOBA_TEST_SPIKE_STEPS a value far too large, MOBA_TEST_STOP_STEP=N sends SIGTERM when step N is wholly done.
#ifdef LLMC_TEST
static void test_spoil_with(const Run* run, const char* variable, float value) {
    const char* range = getenv(variable);
    long long first, last, step = run->progress.step + 1;
    if (!range || sscanf(range, "%lld-%lld", &first, &last) != 2 || step < first || step > last) { return; }
    device_upload(run->model.grads + run->model.table.matrix_elements / 2, &value, sizeof value, run->model.stream);
    stream_sync(run->model.stream);
}

static void test_spoil_gradient(const Run* run) {
    test_spoil_with(run, "MOBA_TEST_NAN_STEPS", NAN);
    test_spoil_with(run, "MOBA_TEST_SPIKE_STEPS", 1e4f);
}

static void test_stop(const Run* run) {
    const char* step = getenv("MOBA_TEST_STOP_STEP");
    if (step && atoll(step) == run->progress.step) { raise(SIGTERM); }
}
#else
#define test_spoil_gradient(run) ((void)0)
#define test_stop(run)           ((void)0)
#endif

// Takes note of a save that has ended; with `wait` of the one under way. One that failed is a warning: training goes on, older ones are whole.
static void collect_save(Run* run, bool wait) {
    SaveReport r;
    double start = clock_ms();
    bool ended = saver_poll(run->saver, wait, &r);
    run->save_pause_ms += clock_ms() - start;
    if (!ended) { return; }
    if (!r.ok) {
        fprintf(stderr, "warning: step %lld is not saved: %s\n", (long long)r.step, r.error.text);
        return;
    }
    char* path = checkpoint_path(run->dir.checkpoints, r.step);
    run->saved_step = r.step;
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
    log_skip(run->log, (int)o->step, why);
    if (run->progress.bad_steps >= run->cfg->max_bad_steps) {
        collect_save(run, true);                                 // one under way is of a good state
        FAIL(EXIT_INTERNAL, "step %lld: %lld steps in a row were skipped (--max-bad-steps); stopped without saving, the checkpoints in %s are intact",
             (long long)o->step, (long long)run->progress.bad_steps, run->dir.checkpoints);
    }
}

// Waits for the oldest step under way and logs what it came to.
static void finish_step(Run* run) {
    const Config* cfg = run->cfg;
    Progress* p = &run->progress;
    StepOutcome o = stepper_wait(&run->stepper);
    p->updates = run->opt.updates;
    if (isfinite(o.loss) && isfinite(o.norm)) {
        outliers_add(&p->loss, o.loss, run->max_loss);
        outliers_add(&p->norm, o.norm, run->max_norm);
    }
    if (!o.applied) {
        skip_step(run, &o);
        return;
    }
    p->bad_steps = 0;
    StepStats* s = &run->last;
    s->step = (int)o.step;
    s->loss = o.loss;
    s->norm = o.norm;
    s->lr = o.lr;
    s->ms = o.ms;
    s->tok_s = (double)cfg->total_batch / s->ms * 1e3;
    s->mfu = run->device.peak_flops > 0 ? run->flops_per_token * s->tok_s / run->device.peak_flops : 0;
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
    run->max_norm = outliers_limit(&run->progress.norm, cfg->skip_z);
    AdamWSettings settings = {schedule_lr(cfg, run->progress.step), 0.9, 0.95, 1e-8, cfg->weight_decay, cfg->clip, run->max_norm,
                              run->max_loss * (double)cfg->total_batch};
    if (!stepper_gradients(&run->stepper, &err)) {
        settle(run);                                             // the steps before it are good
        collect_save(run, true);
        FAIL(err.code, "%s", err.text);
    }
    test_spoil_gradient(run);
    run->progress.rows += rows_per_step(cfg);
    stepper_update(&run->stepper, ++run->progress.step, &settings);
    if (run->stepper.under_way == STEPS_AHEAD) { finish_step(run); }
}

// Training waits for the save before this one, if that goes on still, and for the copy of the state into host memory.
static void save(Run* run) {
    Error err;
    double start = clock_ms();
    collect_save(run, true);
    run->save_pause_ms = 0;
    if (!logger_sync(run->log, &err)) {
        fprintf(stderr, "warning: step %lld is not saved: %s\n", (long long)run->progress.step, err.text);
        return;
    }
    saver_start(run->saver, &run->progress, run->options);
    run->save_pause_ms = clock_ms() - start;
}

static void validate(Run* run) {
    Error err;
    err.code = 0;
    double loss = eval_loss(&run->model, run->valid, run->cfg->micro_batch, run->cfg->seq_len, run->cfg->eval_batches, &err);
    TRY(err.code == 0);
    log_eval(run->log, (int)run->progress.step, "validation", loss);
}

static SampleSettings sample_settings(const Config* cfg, uint64_t stream) {
    SampleSettings s = {cfg->sample_tokens, cfg->temperature, cfg->top_k, cfg->top_p, (uint64_t)cfg->seed, stream};
    return s;
}

static void print_sample(Run* run) {
    SampleSettings settings = sample_settings(run->cfg, (uint64_t)run->progress.step);
    printf("sample      ");
    sample_text(&run->model, run->tokenizer, "", &settings, stdout);
}

// False: the last state could not be saved. After the last step, and after a signal wherever it came, nothing is left unsaved.
static bool loop(Run* run) {
    const Config* cfg = run->cfg;
    run->saved_step = run->progress.step;
    while (run->progress.step < cfg->steps && !stop_requested()) {
        train_step(run);
        int64_t done = run->progress.step;
        bool last = done == cfg->steps;
        bool eval = run->valid && (last || due(done, cfg->eval_every)), sample = run->tokenizer && (last || due(done, cfg->sample_every));
        bool keep = !last && due(done, cfg->save_every);
        if (eval || sample || keep) { settle(run); }
        if (eval)                   { validate(run); }
        if (sample)                 { print_sample(run); }
        if (keep)                   { save(run); }
        collect_save(run, false);
        test_stop(run);
    }
    settle(run);
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
    run->train = loader_open(run->train_set, cfg->micro_batch, rows_per_step(cfg), 0, 1, (uint64_t)cfg->seed, true);
    loader_seek_item(run->train, run->progress.rows);
    run->stepper = stepper_open(&run->model, &run->opt, run->train, cfg->micro_batch, cfg->seq_len, cfg->total_batch);
    if (run->valid_set) { run->valid = loader_open(run->valid_set, cfg->micro_batch, cfg->micro_batch, 0, 1, 0, false); }
}

static void open_saver(Run* run) {
    const Config* cfg = run->cfg;
    SaverRanks one = {0, 1, checkpoint_new_id(), NULL, NULL};
    bool often = cfg->save_every > 0 && cfg->save_every < cfg->steps - run->progress.step;
    run->saver = saver_open(run->dir.checkpoints, &run->model, state_whole(&run->opt, &run->model), one, cfg->keep, cfg->keep_major, often);
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

static void close_run(Run* run, bool saved, double seconds) {
    Error err;
    bool finished = run->progress.step >= run->cfg->steps;
    int status = !saved ? EXIT_IO : finished ? 0 : EXIT_STOPPED;
    char why[64];
    snprintf(why, sizeof why, finished ? "finished" : "stopped by %s", stop_signal_name());
    EndRecord end = {(int)run->progress.step, status, why, seconds, run->last.loss, run->progress.rows * run->cfg->seq_len};
    log_end(run->log, &end);
    TRY(logger_close(run->log, &err));
    saver_close(run->saver);
    stepper_close(&run->stepper);
    loader_close(run->train);
    loader_close(run->valid);
    model_close(&run->model);
    close_input(run);
    free(run->options);
}

// One rehearsal loads every kernel and gives every product its plan: the checkpoint's where it has one for this GPU, else the fastest, or
// with --deterministic the library's first proposal.
static void rehearse(Run* run, bool resumed) {
    Model* m = &run->model;
    if (!run->device.is_gpu) { return; }
    double start = clock_ms();
    size_t kept = matmul_plans_count(m->plans);
    matmul_measure(m->plans, !run->cfg->deterministic);
    model_rehearse(m);
    matmul_measure(m->plans, 0);
    size_t made = matmul_plans_count(m->plans) - kept;
    printf("GEMM plans  %zu from the checkpoint, %zu %s, in %.1f s\n", kept, made, run->cfg->deterministic ? "by the library's first proposal" : "measured",
           (clock_ms() - start) / 1e3);
    if (resumed && made > 0) {
        printf("            the checkpoint has no plan of this GPU and library for these %zu: from here on the last bits may differ from those of a run never stopped\n", made);
    }
}

// May this run go on from the checkpoint? False if there is nothing left to do; ends the program if not.
static bool check_resume(Run* run, const Checkpoint* checkpoint) {
    Error err;
    const Config* cfg = run->cfg;
    Config saved = checkpoint_config(checkpoint);
    TRY(config_check_resume(cfg, &saved, &err));
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

static int train(const Config* cfg) {
    Error err;
    double start = clock_ms();
    Run run;
    signals_install();
    memset(&run, 0, sizeof run);
    run.cfg = cfg;
    ModelShape shape = shape_of(cfg);
    open_input(&run);
    TRY(rundir_open(&run.dir, cfg->out, cfg->take_lock, &err));
    Checkpoint* checkpoint = open_checkpoint(cfg, run.dir.checkpoints);
    refuse_to_overwrite(cfg, run.dir.checkpoints, checkpoint ? checkpoint->step : 0);
    bool finished = checkpoint && !check_resume(&run, checkpoint);
    if (finished) {
        checkpoint_close(checkpoint);
        close_input(&run);
        free(shape.layer);
        return 0;
    }
    run.options = config_to_json(cfg);
    run.device = device_open(0);
    model_plan(&run.model, shape, cfg->micro_batch, cfg->seq_len, (KeepLevel)cfg->recompute, (size_t)cfg->scratch << 20);
    run.model.attn_path = (AttnPath)cfg->attn_path;
    optimizer_plan(&run.opt, &run.model);
    run.flops_per_token = flops_per_token(&run.model.shape, cfg->seq_len, false);
    print_header(&run);
    model_allocate(&run.model);
    if (checkpoint) {
        TRY(state_load(&run.opt, &run.model, &run.progress, checkpoint, &err));
        printf("resuming    from %s\n", checkpoint->path);
        checkpoint_close(checkpoint);
    } else {
        optimizer_init(&run.opt, &run.model, (uint64_t)cfg->seed);
    }
    rehearse(&run, run.progress.step > 0);
    open_loaders(&run);
    open_saver(&run);
    write_config(&run);
    open_log(&run);
    bool saved = loop(&run);
    finished = run.progress.step >= cfg->steps;
    close_run(&run, saved, (clock_ms() - start) / 1e3);
    return !saved ? EXIT_IO : finished ? 0 : EXIT_STOPPED;
}

// ---- other uses: evaluate, complete a prompt, plan ----------------------------------------------------------------------------

// The checkpoint that --resume and --out name. What describes the model and was not given comes from it.
static Checkpoint* adopt_checkpoint(Config* cfg) {
    Error err;
    char* checkpoints_dir = xformat("%s/checkpoints", cfg->out);
    Checkpoint* checkpoint = open_checkpoint(cfg, checkpoints_dir);
    if (!checkpoint) { FAIL(EXIT_NO_INPUT, "%s holds no checkpoint; give the run's --out, or --resume with a checkpoint's directory", checkpoints_dir); }
    Config saved = checkpoint_config(checkpoint);
    TRY(config_adopt(cfg, &saved, &err));
    config_close(&saved);
    free(checkpoints_dir);
    return checkpoint;
}

// Its weights, in a model planned for B rows of T tokens; closes it.
static void open_trained(Model* m, const Config* cfg, Checkpoint* checkpoint, int B, int T) {
    Error err;
    ModelShape shape = shape_of(cfg);
    device_open(0);
    model_plan(m, shape, B, T, FORWARD_ONLY, (size_t)cfg->scratch << 20);
    model_allocate(m);
    TRY(state_load_weights(m, checkpoint, &err));
    m->dense_moba = cfg->eval_attention == EVAL_DENSE;
    m->attn_path = (AttnPath)cfg->attn_path;
    printf("checkpoint  %s\n", checkpoint->path);
    checkpoint_close(checkpoint);
}

// A stream of tokens to score, and what its sidecar says of the text.
typedef struct { int* tokens; int64_t count; Sidecar sidecar; } EvalText;

static EvalText open_eval_text(const Config* cfg) {
    Error err;
    EvalText text;
    ShardSet* set = shard_open(cfg->eval_data, 1, cfg->vocab, &err);
    TRY(set);
    if (set->count != 1) { FAIL(EXIT_USAGE, "--eval-data %s names %d shards; a perplexity is that of one", cfg->eval_data, set->count); }
    TRY(sidecar_open(&text.sidecar, set->shards[0].path, &err));
    text.tokens = shard_read_all(set, 0, &text.count, &err);
    TRY(text.tokens);
    shard_close(set);
    return text;
}

static void evaluate_perplexity(Model* m, const Config* cfg, EvalText* text) {
    Perplexity p = eval_perplexity(m, text->tokens, text->count, cfg->eval_context, cfg->eval_stride);
    printf("attention         %s\n", m->dense_moba ? "dense" : "sparse, as trained");
    perplexity_print(&p, &text->sidecar);
    free(text->tokens);
    sidecar_close(&text->sidecar);
}

static void evaluate_loss(Model* m, const Config* cfg, ShardSet* set) {
    Error err;
    err.code = 0;
    DataLoader* loader = loader_open(set, cfg->micro_batch, cfg->micro_batch, 0, 1, 0, false);
    double loss = eval_loss(m, loader, cfg->micro_batch, cfg->seq_len, cfg->eval_batches, &err);
    TRY(err.code == 0);
    printf("validation loss   %.6f  (perplexity %.4f, %s)\n", loss, exp(loss), cfg->val_data);
    loader_close(loader);
    shard_close(set);
}

static int evaluate(Config* cfg) {
    Model m;
    EvalText text;
    ShardSet* valid = NULL;
    Checkpoint* checkpoint = adopt_checkpoint(cfg);
    if (cfg->eval_data[0]) { text = open_eval_text(cfg); }
    if (cfg->val_data[0])  { valid = open_shards(cfg, cfg->val_data); }
    int T = valid ? max_int(cfg->seq_len, cfg->eval_context) : cfg->eval_context;
    open_trained(&m, cfg, checkpoint, cfg->micro_batch, T);
    if (cfg->eval_data[0]) { evaluate_perplexity(&m, cfg, &text); }
    if (valid)             { evaluate_loss(&m, cfg, valid); }
    model_close(&m);
    return 0;
}

static int complete(Config* cfg) {
    Model m;
    Checkpoint* checkpoint = adopt_checkpoint(cfg);
    Tokenizer* tokenizer = open_tokenizer(cfg);
    open_trained(&m, cfg, checkpoint, 1, max_int(cfg->seq_len, cfg->eval_context));
    SampleSettings settings = sample_settings(cfg, 0);
    sample_text(&m, tokenizer, cfg->prompt, &settings, stdout);
    tokenizer_close(tokenizer);
    model_close(&m);
    return 0;
}

static int dry_run(const Config* cfg) {
    static const char* level_name[] = {"keep all", "redo norms and SwiGLU", "redo gate and up too", "keep layer inputs", "keep every second layer's input"};
    Model m;
    Optimizer opt;
    config_print(cfg, stdout);
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_PAIR; level++) {
        model_plan(&m, shape_of(cfg), cfg->micro_batch, cfg->seq_len, (KeepLevel)level, (size_t)cfg->scratch << 20);
        optimizer_plan(&opt, &m);
        if (level == RECOMPUTE_NONE) {
            report_model(&m);
            report_parameters(&m);
            report_flops(cfg, &m);
        }
        printf("--recompute %d (%s)\n  ", level, level_name[level]);
        arena_print(&m.arena);
        model_unplan(&m);
    }
    return 0;
}

int main(int argc, char** argv) {
    Config cfg = config_parse(argc, argv);
    int status = cfg.dry_run ? dry_run(&cfg) : cfg.eval_only ? evaluate(&cfg) : cfg.prompt[0] ? complete(&cfg) : train(&cfg);
    config_close(&cfg);
    return status;
}

// Whole optimizer steps, through the trainer's own code (llmc/step.h): the real loader on a shard of Zipf-distributed tokens, clipping,
// AdamW, every step's loss read. A row of the table, then one step taken apart op by op, then the device's idle time.
//   build/bench/step [TEXT...]     rows whose name contains one of the TEXTs; MOBA_STEP_DATA='GLOB' reads these shards instead,
//                                  MOBA_STEP_LOG=FILE gets every step's loss, norm and time, a line a row
//
// floor   of a product: the least its plans have taken in the rows so far; of another op: its bytes at the copy speed or its flops at the speed of an 8192^3 product,
//         both measured here first, whichever takes longer. "speed of light" is the sum of the floors.
#include "step.h"

#include <unistd.h>

#include "config.h"
#include "step_ops.h"
#include "step_trace.h"

typedef struct {
    const char* name;
    const char* options;
    int steps;                     // timed; before them at most WARM_STEPS, so that 196 end at step 200
    double gate, target;           // tokens/s; 0: none
} Row;

static const Row rows[] = {
    {"340M S256,M128:8 8K",   "--preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 8192 --micro-batch 4", 196, 175e3, 190e3},
    {"340M S256,D 8K",        "--preset 340M --pattern S256,D --kconv 0 --seq-len 8192 --micro-batch 4", 196, 146e3, 160e3},
    {"340M S256,M128:8 32K",  "--preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 32768 --micro-batch 1", 196, 170e3, 185e3},
    {"340M S256,M128:8 64K",  "--preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 65536 --micro-batch 1", 196, 165e3, 165e3},
    {"340M S256,M128:8 128K", "--preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 131072 --micro-batch 1 --recompute 2", 196, 155e3, 155e3},
    {"1B S256,M128:8 8K",     "--preset 1B --pattern S256,M128:8 --kconv 3 --seq-len 8192 --micro-batch 2", 196, 60e3, 60e3},
    {"30M S256,M128:8 8K",    "--preset 30M --pattern S256,M128:8 --kconv 3 --seq-len 8192 --micro-batch 8", 196, 0, 0},
    {"124M S256,M128:8 8K",   "--preset 124M --pattern S256,M128:8 --kconv 3 --seq-len 8192 --micro-batch 8", 196, 0, 0},
    {"340M S256,M128:8 512K", "--preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 524288 --micro-batch 1 --recompute 3", 2, 0, 0},
    {"340M S256,M128:8 1M",   "--preset 340M --pattern S256,M128:8 --kconv 3 --seq-len 1048576 --micro-batch 1 --recompute 4", 2, 0, 0},
};

enum { WARM_STEPS = 4, TRACED_STEPS = 4, TRACED_MS = 2000, MAX_PRODUCTS = 256, MAX_STEPS = 256, SHARD_TOKENS = 8 << 20, MAX_WORDS = 64, GEMM_SIZE = 8192 };

typedef struct {
    Config cfg;
    Device device;
    Model model;
    Optimizer opt;
    ShardSet* set;
    DataLoader* loader;
    Reduction reduction;           // one rank: nothing
    Stepper stepper;
    int64_t step;
    double memory_before;          // bytes in use before anything of the model
} Bench;

typedef struct { double copy, gemm; } Speeds;                            // bytes/s, flop/s

// ---- what the machine does ------------------------------------------------------------------------------------------------
static double median_ms(BenchFn fn, void* context) {
    float ms[BENCH_RUNS];
    bench_times(ms, fn, context);
    return ms[BENCH_RUNS / 2];
}

typedef struct { void *to, *from; size_t bytes; } Copy;
static void copy(void* context) {
    Copy* c = (Copy*)context;
    device_copy(c->to, c->from, c->bytes, NULL);
}

typedef struct { floatX *out, *inp, *weight; struct MatmulPlans* plans; } Square;
static void square(void* context) {
    Square* s = (Square*)context;
    matmul_forward(s->out, s->inp, s->weight, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE, s->plans, NULL);
}

static Speeds measure_speeds(const char* data) {
    const size_t n = (size_t)GEMM_SIZE * GEMM_SIZE;
    Copy c = {device_malloc((size_t)1 << 30), device_malloc((size_t)1 << 30), (size_t)1 << 30};
    void* workspace = device_malloc(matmul_workspace());
    Square s = {bench_bf16(n, 1, 1), bench_bf16(n, 2, 1), bench_bf16(n, 3, 0.02f), matmul_open(workspace, matmul_workspace())};
    matmul_measure(s.plans, 1);
    Speeds speeds = {2.0 * c.bytes / median_ms(copy, &c) * 1e3, 2.0 * n * GEMM_SIZE / median_ms(square, &s) * 1e3};
    matmul_close(s.plans);
    device_free(c.to); device_free(c.from); device_free(workspace); device_free(s.out); device_free(s.inp); device_free(s.weight);
    printf("{\"copy_gb_s\":%.0f,\"gemm_8192_tflops\":%.0f,\"data\":\"%s\"}\n", speeds.copy / 1e9, speeds.gemm / 1e12, data);
    return speeds;
}

// ---- a model with its data ------------------------------------------------------------------------------------------------
// tokens of a Zipf distribution over the vocabulary, as text has: the inverse of its distribution function at a hashed uniform
static void write_shard(const char* path) {
    Error err;
    ShardWriter writer;
    uint32_t* ids = (uint32_t*)xmalloc(SHARD_TOKENS * sizeof(uint32_t));
    for (int i = 0; i < SHARD_TOKENS; i++) {
        uint64_t x = ((uint64_t)i + 1) * 0x9e3779b97f4a7c15ull;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
        double u = (double)((x ^ (x >> 31)) >> 40) / (1 << 24);
        ids[i] = (uint32_t)exp(u * log(50000.0));
    }
    TRY(shard_writer_open(&writer, path, 2, &err));
    TRY(shard_writer_add(&writer, ids, SHARD_TOKENS, &err));
    TRY(shard_writer_close(&writer, &err));
    free(ids);
}

static Config config_of(const Row* row) {
    static char text[512];
    char* words[MAX_WORDS] = {(char*)"step"};
    int count = 1;
    snprintf(text, sizeof text, "%s --dry-run", row->options);           // --dry-run: no data is asked for
    for (char* word = strtok(text, " "); word && count < MAX_WORDS - 1; word = strtok(NULL, " ")) { words[count++] = word; }
    return config_parse(count, words);
}

// The products that have SwiGLU, a norm's backward or the turn of q and k behind them, without it: by their plans the GEMM bound counts them. The activations hold
// nothing yet.
static void measure_plain_products(Model* m) {
    LayerParams w = layer_params(&m->table, m->matrices, m->vectors, 0);
    LayerActs a = m->acts.layer[0];
    int rows = m->max_B * m->max_T, C = m->shape.C, F = m->shape.F, sizes[2] = {min_int(m->acts.mlp_rows, rows), rows % m->acts.mlp_rows};
    matmul_forward(a.qkv, a.norm1, w.wqkv, rows, C, 3 * C, m->plans, m->stream);
    for (int i = 0; i < 2; i++) {
        if (sizes[i] == 0) { continue; }
        matmul_forward(a.gate_up, a.norm2, w.w13, sizes[i], C, 2 * F, m->plans, m->stream);
        matmul_backward_input(a.product, m->acts.dx, w.w2, sizes[i], F, C, m->plans, m->stream);
        matmul_backward_input(m->acts.dy, a.gate_up, w.w13, sizes[i], C, 2 * F, m->plans, m->stream);
    }
}

static void bench_open(Bench* b, const Row* row, const char* data) {
    Error err;
    memset(b, 0, sizeof *b);
    b->cfg = config_of(row);
    ModelShape shape;
    TRY(shape_from_config(&shape, &b->cfg, &err));
    b->device = device_open(0);
    b->set = shard_open(data, b->cfg.seq_len, b->cfg.vocab, &err);
    TRY(b->set);
    CUDA_CHECK(cudaFree(NULL));                                          // the context is there
    b->memory_before = (double)device_memory_in_use();
    model_plan(&b->model, shape, b->cfg.micro_batch, b->cfg.seq_len, (KeepLevel)b->cfg.recompute, (size_t)b->cfg.scratch << 20);
    optimizer_plan(&b->opt, &b->model);
    model_allocate(&b->model);
    optimizer_init(&b->opt, &b->model, 1);
    matmul_measure(b->model.plans, 1);
    model_rehearse(&b->model);
    measure_plain_products(&b->model);
    matmul_measure(b->model.plans, 0);
    b->loader = loader_open(b->set, b->cfg.micro_batch, b->cfg.micro_batch, 0, 1, 1, true);
    reduction_open(&b->reduction, &b->model, NULL, &b->opt.partition, REDUCE_FP32);
    b->stepper = stepper_open(&b->model, &b->opt, b->loader, &b->reduction, b->cfg.micro_batch, b->cfg.seq_len, (int64_t)b->cfg.micro_batch * b->cfg.seq_len);
}

static void bench_close(Bench* b) {
    stepper_close(&b->stepper);
    loader_close(b->loader);
    optimizer_close(&b->opt);
    model_close(&b->model);
    shard_close(b->set);
    config_close(&b->cfg);
}

static const AdamWSettings settings = {3e-4, 0.9, 0.95, 1e-8, 0.1, 1, 0, 0};

static void begin_step(Bench* b) {
    Error err;
    TRY(stepper_gradients(&b->stepper, &err));
    stepper_update(&b->stepper, ++b->step, &settings);
}

// the same with every op launched by itself, which a graph hides from step_ops.h
static void begin_step_op_by_op(Bench* b) {
    Error err;
    const int *inputs, *targets;
    TRY(loader_next(b->loader, &inputs, &targets, &err));
    model_zero(&b->model);
    model_batch(&b->model, inputs, targets, b->cfg.micro_batch, b->cfg.seq_len);
    model_forward(&b->model);
    model_loss_backward(&b->model, 1.0f / (float)b->stepper.batch_tokens);
    model_backward(&b->model);
    stepper_update(&b->stepper, ++b->step, &settings);
}

// What steps came to, in their order.
typedef struct { StepOutcome step[MAX_STEPS]; int count; } History;

// `steps` steps, the log one step late as in training, added to the history
static void run_steps(Bench* b, int steps, History* h) {
    REQUIRE(h->count + steps <= MAX_STEPS, "%d steps", h->count + steps);
    for (int i = 0; i <= steps; i++) {
        if (i < steps) { begin_step(b); }
        if (i > 0) {
            StepOutcome o = stepper_wait(&b->stepper);
            REQUIRE(o.applied, "step %lld is not finite: loss %g, norm %g", (long long)o.step, o.loss, o.norm);
            h->step[h->count++] = o;
        }
    }
}

// the times of all steps from `first` on, ascending
static int sorted_times(float* ms, const History* h, int first) {
    for (int i = first; i < h->count; i++) { ms[i - first] = (float)h->step[i].ms; }
    qsort(ms, h->count - first, sizeof(float), bench_ascending);
    return h->count - first;
}

static void write_values(FILE* file, const char* name, const History* h, size_t offset, const char* format) {
    fprintf(file, ",\"%s\":[", name);
    for (int i = 0; i < h->count; i++) {
        if (i > 0) { fputc(',', file); }
        fprintf(file, format, *(const double*)((const char*)&h->step[i] + offset));
    }
    fputc(']', file);
}

static void write_history(const Row* row, const History* h) {
    const char* path = getenv("MOBA_STEP_LOG");
    FILE* file = path ? fopen(path, "a") : NULL;
    REQUIRE(!path || file, "%s cannot be written", path);
    if (!file) { return; }
    fprintf(file, "{\"row\":\"%s\",\"first_step\":1", row->name);
    write_values(file, "loss", h, offsetof(StepOutcome, loss), "%.4f");
    write_values(file, "norm", h, offsetof(StepOutcome, norm), "%.3f");
    write_values(file, "ms", h, offsetof(StepOutcome, ms), "%.2f");
    fprintf(file, "}\n");
    fclose(file);
}

// ---- one step taken apart ---------------------------------------------------------------------------------------------------
// The least that a product has taken in any row so far: rows that begin on a warm GPU measure their plans slower.
static double least_ms(const char* label, double ms) {
    static struct { char label[2 * LABEL_BYTES]; double ms; } least[MAX_PRODUCTS];
    static int count;
    int i = 0;
    while (i < count && strcmp(least[i].label, label) != 0) { i++; }
    if (i == count) {
        REQUIRE(count < MAX_PRODUCTS, "more than %d products", MAX_PRODUCTS);
        snprintf(least[count].label, sizeof least[count].label, "%s", label);
        least[count++].ms = ms;
    }
    least[i].ms = fmin(least[i].ms, ms);
    return least[i].ms;
}

// measured milliseconds of a product's plan, by its label (of the product alone, where something is behind it); 0: not a product
static double plan_ms(const char* plans, const char* op) {
    static const char* const plain[][2] = {{"matmul_swiglu_forward", "matmul_forward"}, {"matmul_swiglu_backward", "matmul_backward_input"},
                                           {"matmul_rmsnorm_backward", "matmul_backward_input"}, {"matmul_rope_forward", "matmul_forward"}};
    char label[2 * LABEL_BYTES];
    snprintf(label, sizeof label, "%s", op);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        size_t name = strlen(plain[i][0]);
        if (strncmp(op, plain[i][0], name) == 0) { snprintf(label, sizeof label, "%s%s", plain[i][1], op + name); }
    }
    double ms = 0;
    size_t length = strlen(label);
    for (const char* line = strchr(plans, '\n'); line && line[1]; line = strchr(line + 1, '\n')) {
        if (strncmp(line + 1, label, length) == 0 && line[1 + length] == ' ') { sscanf(line + 1 + length, "%lf", &ms); }
    }
    return ms > 0 ? least_ms(label, ms) : 0;
}

static double floor_ms(const OpKind* kind, const char* plans, Speeds speeds) {
    double product = kind->calls * plan_ms(plans, kind->label);
    return fmax(1e3 * kind->bytes / speeds.copy, product > 0 ? product : 1e3 * kind->flops / speeds.gemm);
}

static int slowest_first(const void* a, const void* b) {
    double x = ((const OpKind*)a)->ms, y = ((const OpKind*)b)->ms;
    return (x < y) - (x > y);
}

typedef struct { double gemm_ms, light_ms, ops_ms; } Floors;

static Floors take_apart(Bench* b, const Row* row, Speeds speeds) {
    Floors floors = {};
    size_t bytes = matmul_plans_text(NULL, 0, b->model.plans) + 1;
    char* plans = (char*)xmalloc(bytes);
    matmul_plans_text(plans, bytes, b->model.plans);
    recorder_start();
    begin_step_op_by_op(b);
    recorder_stop();
    stepper_wait(&b->stepper);
    qsort(recorder.kind, recorder.kinds, sizeof(OpKind), slowest_first);
    for (int i = 0; i < recorder.kinds; i++) { floors.ops_ms += recorder.kind[i].ms; }
    fprintf(stderr, "  %-52s %5s %9s %6s %9s %8s\n", "op", "calls", "ms", "share", "floor ms", "of roof");
    for (int i = 0; i < recorder.kinds; i++) {
        const OpKind* kind = &recorder.kind[i];
        double floor = floor_ms(kind, plans, speeds);
        floors.light_ms += floor;
        floors.gemm_ms += kind->calls * plan_ms(plans, kind->label);
        fprintf(stderr, "  %-52s %5d %9.3f %5.1f%% %9.3f %7.0f%%%s\n", kind->label, kind->calls, kind->ms, 100 * kind->ms / floors.ops_ms, floor,
                100 * floor / kind->ms, kind->ms > 1.5 * floor ? " *" : "");
        printf("{\"row\":\"%s\",\"op\":\"%s\",\"calls\":%d,\"ms\":%.3f,\"share\":%.4f,\"floor_ms\":%.3f,\"of_roof\":%.3f}\n", row->name, kind->label,
               kind->calls, kind->ms, kind->ms / floors.ops_ms, floor, floor / kind->ms);
    }
    fprintf(stderr, "  speed of light %.2f ms; ops one by one %.2f ms; * over 1.5 times its floor\n", floors.light_ms, floors.ops_ms);
    free(plans);
    return floors;
}

static Timeline trace_steps(Bench* b, int steps) {
    static History untimed;
    Timeline t = {};
    if (!trace_start()) { return t; }
    untimed.count = 0;
    run_steps(b, steps + 1, &untimed);
    return trace_stop(steps + 1);
}

// what the device waited for, a step: {"ms": in front of "count" kernels "of" this name, or copies or fills}
static void write_waits(const Timeline* line) {
    printf(",\"waits\":[");
    for (int i = 0; i < line->gaps; i++) {
        const Gap* gap = &line->gap[i];
        printf("%s{\"of\":\"%s\",\"count\":%.2f,\"ms\":%.4f}", i ? "," : "", gap->name, (double)gap->count / line->steps, gap->ms / line->steps);
        fprintf(stderr, "  idle %.4f ms a step in front of %.1f %.60s\n", gap->ms / line->steps, (double)gap->count / line->steps, gap->name);
    }
    printf("]");
}

// ---- a row ----------------------------------------------------------------------------------------------------------------
static void bench_step_row(const Row* row, const char* data, Speeds speeds) {
    static History history;
    Bench b;
    float ms[MAX_STEPS];
    history.count = 0;
    bench_open(&b, row, data);
    double planned = b.memory_before + (double)b.model.arena.bytes;
    int warm = min_int(WARM_STEPS, row->steps);
    run_steps(&b, warm, &history);
    b.stepper.loader_ms = b.stepper.steps_ms = 0;
    run_steps(&b, row->steps, &history);
    write_history(row, &history);
    int n = sorted_times(ms, &history, warm);
    double median = 0.5 * (ms[(n - 1) / 2] + ms[n / 2]), tokens = (double)b.stepper.batch_tokens;
    double spread = 0.5 * (ms[n * 9 / 10] - ms[n / 10]) / median, stall = b.stepper.loader_ms / b.stepper.steps_ms;
    double used = (double)device_memory_in_use();
    fprintf(stderr, "%s: %.2f ms, %.1fk tokens/s\n", row->name, median, tokens / median);
    Floors floors = take_apart(&b, row, speeds);
    Timeline line = trace_steps(&b, median < TRACED_MS ? TRACED_STEPS : 1);
    double idle = line.span_ms > 0 ? line.idle_ms / line.span_ms : -1;
    char share[32];
    snprintf(share, sizeof share, "%.2f %%", 100 * idle);
    printf("{\"row\":\"%s\",\"options\":\"%s\",\"tokens\":%.0f,\"steps\":%d,\"ms\":%.3f,\"spread\":%.4f,\"tok_s\":%.0f,\"gate\":%.0f,\"target\":%.0f,"
           "\"gemm_bound_ms\":%.3f,\"of_gemm_bound\":%.3f,\"speed_of_light_ms\":%.3f,\"ops_ms\":%.3f,\"planned_mib\":%.0f,\"used_mib\":%.0f,"
           "\"loader_share\":%.6f,\"idle_share\":%.5f,\"longest_gap_ms\":%.4f,\"activities\":%d,\"last_step\":%d,\"loss\":%.5f",
           row->name, row->options, tokens, row->steps, median, spread, tokens / median * 1e3, row->gate, row->target, floors.gemm_ms,
           floors.gemm_ms / median, floors.light_ms, floors.ops_ms, planned / (1 << 20), used / (1 << 20), stall, idle, line.longest_ms, line.activities,
           history.count, history.step[history.count - 1].loss);
    write_waits(&line);
    printf("}\n");
    fprintf(stderr, "  GEMM bound %.2f ms: %.0f %% of it; memory %.0f MiB used, %.0f planned; loader %.3f %% of the time; device idle %s\n\n", floors.gemm_ms,
            100 * floors.gemm_ms / median, used / (1 << 20), planned / (1 << 20), 100 * stall, idle < 0 ? "not seen, without CUPTI" : share);
    fflush(stdout);
    bench_close(&b);
}

int main(int argc, char** argv) {
    char shard[] = "/tmp/moba_step_XXXXXX";
    const char* data = getenv("MOBA_STEP_DATA");
    int file = data ? -1 : mkstemp(shard);
    if (!data) {
        REQUIRE(file >= 0, "no temporary file %s", shard);
        close(file);
        write_shard(shard);
        data = shard;
    }
    device_open(0);
    const char* name = strrchr(data, '/') ? strrchr(data, '/') + 1 : data;
    REQUIRE(!strpbrk(name, "\"\\"), "%s has a quote or a backslash in its name, which goes into the results", name);
    Speeds speeds = measure_speeds(file < 0 ? name : "random tokens, Zipf");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++) { wanted = wanted || strstr(rows[i].name, argv[a]); }
        if (wanted) { bench_step_row(&rows[i], data, speeds); }
    }
    if (file >= 0) { unlink(shard); }
    return 0;
}

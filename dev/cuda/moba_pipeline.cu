// MoBA attention as a layer pays for it: centroids, top-k, index and attention in one pipeline, then backward. Batch 2, 16 heads, block 128,
// top-k 8; the routing is the real top-k of q and k'. L2 is overwritten before a pipeline, never between its stages.
//
//   moba_pipeline [quick] [packed] [--T n] [--D n] [--B n] [--routing random|zipf|block0|recent|first|swa|dense] [--path hopper|portable] [--scratch MiB]
//   Without options the table of dev/LOG.md: random routing at all lengths, the others, the sliding window and dense layers at 8K and 64K, both
//   head dims; what heats the chip comes last. Options choose among all rows. quick: 8K and 64K, D 64, random routing.
//   packed: q and v lie in rows of 3C, as the QKV product of the model leaves them; otherwise every tensor is one of its own, as the peers have it.
//
// q and k' are random normals with one or two elements of every head overwritten (pull_kernel), so that the top-k picks
//   random   nothing in particular               block0   block 0 for every query, the rest at random
//   zipf     block of rank r about as 1/r^0.65   recent   the seven blocks before its own
//   first    the first seven blocks, every query: seven lists as long as the sequence, no others
// Of each stage: GB/s of the bytes that must move and TFLOP/s, and what share of the device's peak each is.
// What was really picked is measured and printed: top_block, the share of queries that pick the most popular block; recent, the share of
// picks among the last seven blocks; half, the share of blocks that together get half of all picks.
#include <unistd.h>

#include "bench.h"

enum { BLOCK = 128, TOPK = 8, SLOTS = TOPK - 1, HEADS = 16, STAGES = 5, SAMPLED_HEADS = 4 };

typedef enum { RANDOM, ZIPF, BLOCK_0, RECENT, FIRST, ROUTINGS } Routing;
static const char* const routing_names[ROUTINGS] = {"random", "zipf", "block0", "recent", "first"};
static const char* const path_names[] = {"auto", "hopper", "portable"};          // of AttnPath
static const char* const stage_names[STAGES] = {"centroid", "topk", "index", "attn_forward", "attn_backward"};

typedef struct { bool quick, packed; int B, T, D, path; const char* routing; size_t cap; } Wanted;   // 0, NULL: all

typedef struct {
    AttnShape shape;
    floatX *q, *k, *v, *out, *dq, *dk, *dv, *dout;
    float *lse, *centroid;
    uint16_t* sel;
    int *offset, *list;
    void *scratch, *route_scratch;
    size_t forward_bytes, backward_bytes;
    int window;                                                          // of swa rows
    DeviceEvent* mark[STAGES + 1];                                       // between stages, when they are timed one by one
} Pipeline;

// ---- targets and peers ------------------------------------------------------------------------------------------------------
// Milliseconds, one H100 80GB SXM, batch 2, 16 heads, block 128, top-k 8; 0: none. Peers measured with CUDA 13.0 and PyTorch 2.11:
// flash-moba is the paper authors' code (all forward stages), dense is PyTorch's cuDNN attention, at 512K FA2 extrapolated from 128K.
typedef struct { int D, T; double gate[2], flash_moba[2], dense[2]; } Target;   // forward, backward
static const Target targets[] = {
    { 64,   8192, { 0.40,  0.66}, {   2.67,   1.26}, {  0.67,   1.76}},
    { 64,  32768, { 1.6,   2.5 }, {  13.1,    4.32}, {  8.92,  25.7 }},
    { 64,  65536, { 3.2,   5.0 }, {  35.4,    8.53}, { 36.8,  106   }},
    { 64, 131072, { 7.5,  10   }, { 107,     17.1 }, {150,    423   }},
    { 64, 524288, {48,    42   }, {1101,     74.2 }, {3500,  9800   }},
    {128,   8192, { 0.76,  1.25}, {   4.36,   2.31}, {  1.02,   2.91}},
    {128,  32768, { 3.04,  4.75}, {  18.7,    7.64}, { 13.3,   41.3 }},
    {128,  65536, { 6.08,  9.5 }, {  48.9,   15.2 }, { 54.9,  160   }},
    {128, 131072, {14.2,  19   }, { 142,     30.7 }, {257,    655   }},
    {128, 524288, {91,    80   }, {1442,    133   }, {  0,      0   }},
};
static const double swa_gate[2] = {0.10, 0.22};                          // window 256, 8K, D 64
static const double dense_over_cudnn = 1.25;

static Target target_of(int B, int T, int D) {
    Target found = {D, T, {0, 0}, {0, 0}, {0, 0}};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        if (targets[i].D == D && targets[i].T == T) { found = targets[i]; }
    }
    for (int i = 0; i < 2; i++) {
        found.gate[i] *= B / 2.0; found.flash_moba[i] *= B / 2.0; found.dense[i] *= B / 2.0;
    }
    return found;
}

// ---- routings -----------------------------------------------------------------------------------------------------------------
// Scores of random q and centroids are N(0, D/128); what is pulled differs from the rest by several of these deviations.
// one thread per (row, head)
__global__ static void pull_kernel(floatX* q, floatX* k, AttnShape s, Routing routing) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x, row = at / s.H;
    if (row >= (size_t)s.B * s.T) { return; }
    int head = at % s.H, n = (s.T + BLOCK - 1) / BLOCK, j = (int)(row % s.T) / BLOCK;
    float noise = sqrtf(s.D / 64.0f), q0 = 1, k0 = 0, q1 = 0, k1 = 0;
    if (routing == ZIPF) {                                               // n is a power of two: an odd factor permutes
        int rank = (int)((2654435761u * (unsigned)j + 40503u * (unsigned)head) % (unsigned)n) + 1;
        k0 = -0.35f * noise * logf((float)rank);
    }
    if (routing == BLOCK_0) { q0 = 4; k0 = j == 0 ? 2 * noise : 0; }
    if (routing == FIRST)   { q0 = 4; k0 = j < SLOTS ? 2 * noise : 0; }
    if (routing == RECENT) {                                             // 4 a block, of two digits that bf16 holds exactly
        q0 = 256 * noise; k0 = j / 64;
        q1 = 4 * noise;   k1 = j % 64;
    }
    floatX *q_head = q + row * s.ldq + head * s.D, *k_head = k + row * s.ldk + head * s.D;
    q_head[0] = __float2bfloat16(q0); k_head[0] = __float2bfloat16(k0);
    q_head[1] = __float2bfloat16(q1); k_head[1] = __float2bfloat16(k1);
}

typedef struct { double top_block, recent, half; } Picked;

static int descending(const void* a, const void* b) { return *(const int*)b - *(const int*)a; }

// of one head's picks, on the host; a mean over SAMPLED_HEADS heads is in *picked
static void picked_add(Picked* picked, const uint16_t* sel, int T) {
    int n = ceil_div(T, BLOCK), *count = (int*)xcalloc(n, sizeof(int)), blocks = 0;
    size_t picks = 0, recent = 0, sum = 0;
    for (size_t i = 0; i < (size_t)T * SLOTS; i++) {
        if (sel[i] == MOBA_NONE) { continue; }
        picks++;
        count[sel[i]]++;
        recent += sel[i] + SLOTS >= (int)(i / SLOTS) / BLOCK;
    }
    qsort(count, n, sizeof(int), descending);
    while (blocks < n && 2 * sum < picks) { sum += count[blocks++]; }
    picked->top_block += (double)count[0] / T / SAMPLED_HEADS;
    picked->recent += (double)recent / picks / SAMPLED_HEADS;
    picked->half += (double)blocks / n / SAMPLED_HEADS;
    free(count);
}

// Measures the routing of the first heads and insists that it is what its name says.
static Picked picked_check(const Pipeline* p, Routing routing) {
    int T = p->shape.T, n = ceil_div(T, BLOCK);
    size_t bytes = (size_t)T * SLOTS * sizeof(uint16_t);
    uint16_t* sel = (uint16_t*)xmalloc(bytes);
    Picked picked = {0, 0, 0};
    for (int head = 0; head < SAMPLED_HEADS; head++) {
        device_download(sel, p->sel + (size_t)head * T * SLOTS, bytes, NULL);
        stream_sync(NULL);
        picked_add(&picked, sel, T);
    }
    free(sel);
    double first_blocks = (double)TOPK / n, even = SLOTS * (1 + log(fmax(1, (double)n / SLOTS))) / n;   // even: block 0's share, at random
    // twice: one of 4096 random blocks has a centroid so long that 1.7 times the even share picks it
    REQUIRE(routing != RANDOM || picked.top_block < 2 * even, "random routing, but a block has %.3f of the queries", picked.top_block);
    REQUIRE(routing != ZIPF || n < 32 || picked.top_block > 1.15 * even, "Zipf routing, but no block has over %.3f of the queries",
            picked.top_block);
    REQUIRE(routing != BLOCK_0 || picked.top_block > 0.999 - 1.0 / n, "only %.4f of the queries pick block 0", picked.top_block);
    REQUIRE(routing != FIRST || picked.top_block > 0.999 - (double)SLOTS / n, "only %.4f of the queries pick the most popular block", picked.top_block);
    REQUIRE(routing != RECENT || n < 32 || picked.recent > 0.999 - 1e-3 * first_blocks, "only %.4f of the picks are recent", picked.recent);
    return picked;
}

// ---- the pipeline ---------------------------------------------------------------------------------------------------------------
static void mark(Pipeline* p, int stage) {
    if (p->mark[stage]) { event_record(p->mark[stage], NULL); }
}

static void forward(void* context) {
    Pipeline* p = (Pipeline*)context;
    MobaRoute route = {p->sel, p->offset, p->list};
    mark(p, 0);
    moba_centroid(p->centroid, p->k, p->shape, BLOCK, NULL);
    mark(p, 1);
    moba_topk(p->sel, p->q, p->centroid, p->shape, BLOCK, TOPK, p->route_scratch, NULL);
    mark(p, 2);
    moba_index(p->offset, p->list, p->sel, p->shape.B, p->shape.H, p->shape.T, BLOCK, TOPK, p->route_scratch, NULL);
    mark(p, 3);
    moba_attn_forward(p->out, p->lse, p->q, p->k, p->v, route, p->shape, BLOCK, TOPK, p->scratch, p->forward_bytes, NULL);
    mark(p, 4);
}

static void backward(void* context) {
    Pipeline* p = (Pipeline*)context;
    MobaRoute route = {p->sel, p->offset, p->list};
    moba_attn_backward(p->dq, p->dk, p->dv, p->dout, p->out, p->lse, p->q, p->k, p->v, route, p->shape, BLOCK, TOPK,
                       p->scratch, p->backward_bytes, NULL);
    mark(p, 5);
}

static void swa(void* context) {
    Pipeline* p = (Pipeline*)context;
    swa_forward(p->out, p->lse, p->q, p->k, p->v, p->shape, p->window, NULL);
}

static void swa_back(void* context) {
    Pipeline* p = (Pipeline*)context;
    swa_backward(p->dq, p->dk, p->dv, p->dout, p->out, p->lse, p->q, p->k, p->v, NULL, p->shape, p->window, p->scratch, NULL);
}

// packed: q and v, and their gradients, lie in rows of 3C, as in the model
static Pipeline pipeline_open(int B, int T, int D, const Wanted* w) {
    Pipeline p;
    memset(&p, 0, sizeof p);
    int C = HEADS * D, wide = w->packed ? 3 * C : C;
    size_t N = (size_t)B * T;
    AttnShape shape = {B, T, HEADS, D, wide, C, wide, C, w->path};
    p.shape = shape;
    p.q = bench_bf16(N * wide, 1, 1);
    p.k = bench_bf16(N * C, 2, 1);
    p.v = w->packed ? p.q + 2 * C : bench_bf16(N * C, 3, 1);
    p.dout = bench_bf16(N * C, 4, 1);
    p.out = bench_bf16(N * C, 5, 1);
    p.dq = bench_bf16(N * wide, 6, 1);
    p.dk = bench_bf16(N * C, 7, 1);
    p.dv = w->packed ? p.dq + 2 * C : bench_bf16(N * C, 8, 1);
    p.lse = bench_f32(N * HEADS, 9, 1);
    return p;
}

static void pipeline_close(Pipeline* p) {
    bool packed = p->shape.ldq != p->shape.ldk;
    void* all[] = {p->q, p->k, packed ? NULL : p->v, p->dout, p->out, p->dq, p->dk, packed ? NULL : p->dv, p->lse, p->centroid, p->sel, p->offset,
                   p->list, p->scratch, p->route_scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) { device_free(all[i]); }
}

static void routing_open(Pipeline* p, Routing routing, size_t cap) {
    AttnShape s = p->shape;
    int n = ceil_div(s.T, BLOCK);
    size_t heads = (size_t)s.B * s.H, picks = heads * s.T * SLOTS;
    p->centroid = (float*)device_malloc(heads * n * s.D * sizeof(float));
    p->sel = (uint16_t*)device_malloc(picks * sizeof(uint16_t));
    p->offset = (int*)device_malloc(heads * (n + 1) * sizeof(int));
    p->list = (int*)device_malloc(picks * sizeof(int));
    p->route_scratch = device_malloc(max_size(moba_topk_scratch(s, BLOCK, TOPK), moba_index_scratch(s.B, s.H, s.T, BLOCK, TOPK)));
    p->forward_bytes = moba_attn_forward_scratch(s, BLOCK, TOPK, cap);
    p->backward_bytes = moba_attn_backward_scratch(s, BLOCK, TOPK, cap);
    p->scratch = device_malloc(max_size(p->forward_bytes, p->backward_bytes));
    if (routing != RANDOM) {
        pull_kernel<<<bench_blocks((size_t)s.B * s.T * s.H), 256, 0, 0>>>(p->q, p->k, s, routing);
        LAUNCH_CHECK();
    }
}

// ---- timing -----------------------------------------------------------------------------------------------------------------------
typedef struct { double ms, spread; } Time;

// Half a second of rest before: a chip that has just worked for long lowers its clock, and every row shall begin alike.
static Time time_of(BenchFn fn, void* context) {
    float ms[BENCH_RUNS];
    usleep(500000);
    bench_times(ms, fn, context);
    Time time = {0.5 * (ms[BENCH_RUNS / 2 - 1] + ms[BENCH_RUNS / 2]), 0};
    time.spread = 0.5 * (ms[BENCH_RUNS * 9 / 10] - ms[BENCH_RUNS / 10]) / time.ms;
    return time;
}

// Medians of the stages where they stand in the pipeline: what one leaves in L2, the next finds there. Backward follows at once.
static void time_stages(double median[STAGES], Pipeline* p) {
    float ms[STAGES][BENCH_RUNS];
    void* flush = device_malloc(BENCH_FLUSH_BYTES);
    for (int i = 0; i <= STAGES; i++) { p->mark[i] = event_open(); }
    for (int run = 0; run < BENCH_RUNS; run++) {
        bench_flush_l2(flush);
        forward(p);
        backward(p);
        event_wait(p->mark[STAGES]);
        for (int i = 0; i < STAGES; i++) { ms[i][run] = event_ms(p->mark[i], p->mark[i + 1]); }
    }
    for (int i = 0; i < STAGES; i++) {
        qsort(ms[i], BENCH_RUNS, sizeof(float), bench_ascending);
        median[i] = 0.5 * (ms[i][BENCH_RUNS / 2 - 1] + ms[i][BENCH_RUNS / 2]);
    }
    for (int i = 0; i <= STAGES; i++) { event_close(p->mark[i]); p->mark[i] = NULL; }
    device_free(flush);
}

// ---- rows ---------------------------------------------------------------------------------------------------------------------------
static void print_head(const char* routing, int B, int T, int D) {
    printf("{\"op\":\"moba_pipeline\",\"routing\":\"%s\",\"B\":%d,\"H\":%d,\"T\":%d,\"D\":%d", routing, B, HEADS, T, D);
}

static void print_pair(const char* name, const double ms[2]) {
    if (ms[0] > 0) { printf(",\"%s_fwd\":%.4g,\"%s_bwd\":%.4g", name, ms[0], name, ms[1]); }
}

static void print_times(Time fwd, Time bwd) {
    printf(",\"fwd_ms\":%.4f,\"fwd_spread\":%.3f,\"bwd_ms\":%.4f,\"bwd_spread\":%.3f", fwd.ms, fwd.spread, bwd.ms, bwd.spread);
}

static double sum(const double ms[2]) { return ms[0] + ms[1]; }

// What a stage must move and compute. Attention moves, in rows of D bf16 a query and head: forward gathers a query, writes and reads a partial
// for each slot; backward gathers a query and its gradient, writes and reads a dQ. Beside them q, k, v, out once, gradients too.
typedef struct { double bytes, flops; } Work;

static void stage_work(Work work[STAGES], AttnShape s) {
    double queries = (double)s.B * s.H * s.T, row = s.D * sizeof(floatX), n = ceil_div(s.T, BLOCK), centroids = (double)s.B * s.H * n * s.D * sizeof(float);
    double pick = queries * SLOTS, pairs = queries * (SLOTS * BLOCK + BLOCK / 2);
    Work all[STAGES] = {{queries * row + centroids, 0},
                        {queries * row + centroids + pick * sizeof(uint16_t), 2.0 * s.D * queries * n / 2},
                        {pick * (sizeof(uint16_t) + sizeof(int)), 0},
                        {queries * row * (3 * SLOTS + 5), 4.0 * s.D * pairs},
                        {queries * row * (4 * SLOTS + 9), 10.0 * s.D * pairs}};
    memcpy(work, all, sizeof all);
}

static void print_work(const char* name, Work work, double ms) {
    BenchPeaks peak = bench_peaks();
    printf(",\"%s_gb_s\":%.0f,\"%s_of_bandwidth\":%.2f", name, work.bytes / ms / 1e6, name, work.bytes / peak.bytes_s * 1e3 / ms);
    if (work.flops > 0 && peak.flops_s > 0) { printf(",\"%s_tflops\":%.1f,\"%s_of_peak\":%.2f", name, work.flops / ms / 1e9, name, work.flops / peak.flops_s * 1e3 / ms); }
}

static const double COPY_SPEED = 3e12;                                   // bytes/s that a copy on an H100 moves, for the traffic floor

// random_ms: forward and backward of the random routing at this shape, 0 if it was not run; set when `routing` is RANDOM
static void moba_row(int B, int T, int D, Routing routing, const Wanted* w, double random_ms[2]) {
    size_t memory = device_memory_in_use();
    Pipeline p = pipeline_open(B, T, D, w);
    routing_open(&p, routing, w->cap);
    memory = device_memory_in_use() - memory;
    Time fwd = time_of(forward, &p), bwd = time_of(backward, &p);
    Picked picked = picked_check(&p, routing);
    double stage[STAGES];
    time_stages(stage, &p);
    Target target = target_of(B, T, D);
    double ms[2] = {fwd.ms, bwd.ms};
    Work work[STAGES];
    stage_work(work, p.shape);
    if (routing == RANDOM) { random_ms[0] = fwd.ms; random_ms[1] = bwd.ms; }

    print_head(routing_names[routing], B, T, D);
    printf(",\"path\":\"%s\",\"packed\":%s,\"block\":%d,\"topk\":%d", path_names[w->path], w->packed ? "true" : "false", BLOCK, TOPK);
    printf(",\"top_block\":%.3f,\"recent\":%.3f,\"half\":%.3f", picked.top_block, picked.recent, picked.half);
    printf(",\"scratch_mib\":%zu,\"memory_mib\":%zu", w->cap >> 20, memory >> 20);
    for (int i = 0; i < STAGES; i++) {
        printf(",\"%s_ms\":%.4f", stage_names[i], stage[i]);
        print_work(stage_names[i], work[i], stage[i]);
    }
    printf(",\"of_traffic_floor_fwd\":%.2f,\"of_traffic_floor_bwd\":%.2f", work[3].bytes / COPY_SPEED * 1e3 / stage[3], work[4].bytes / COPY_SPEED * 1e3 / stage[4]);
    print_times(fwd, bwd);
    print_pair("gate", target.gate);
    if (sum(target.gate) > 0) { printf(",\"over_gate_fwd\":%.2f,\"over_gate_bwd\":%.2f", ms[0] / target.gate[0], ms[1] / target.gate[1]); }
    print_pair("flash_moba", target.flash_moba);
    print_pair("dense", target.dense);
    if (sum(target.flash_moba) > 0) { printf(",\"times_flash_moba\":%.2f", sum(target.flash_moba) / sum(ms)); }
    if (sum(target.dense) > 0) { printf(",\"times_dense\":%.2f", sum(target.dense) / sum(ms)); }
    if (random_ms[0] > 0) { printf(",\"over_random_fwd\":%.2f,\"over_random_bwd\":%.2f", ms[0] / random_ms[0], ms[1] / random_ms[1]); }
    printf("}\n");
    fflush(stdout);
    pipeline_close(&p);
}

// window >= T: the dense layer, next to cuDNN's dense attention
static void swa_row(int B, int T, int D, int window, const Wanted* w) {
    Pipeline p = pipeline_open(B, T, D, w);
    p.window = window;
    p.scratch = device_malloc(swa_backward_scratch(p.shape, window));
    Time fwd = time_of(swa, &p), bwd = time_of(swa_back, &p);
    bool dense = window >= T;
    Target target = target_of(B, T, D);
    double gate[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        if (dense) { gate[i] = dense_over_cudnn * target.dense[i]; }
        if (!dense && T == 8192 && D == 64 && B == 2) { gate[i] = swa_gate[i]; }
    }
    print_head(dense ? "dense" : "swa", B, T, D);
    printf(",\"window\":%d", window);
    print_times(fwd, bwd);
    double queries = (double)B * HEADS * T, row = queries * D * sizeof(floatX), pairs = queries * window - (double)B * HEADS * window * (window - 1.0) / 2;
    Work forward_work = {4 * row, 4.0 * D * pairs}, backward_work = {8 * row, 10.0 * D * pairs};
    print_work("fwd", forward_work, fwd.ms);
    print_work("bwd", backward_work, bwd.ms);
    print_pair("gate", gate);
    if (dense) { print_pair("cudnn", target.dense); }
    if (sum(gate) > 0) { printf(",\"over_gate_fwd\":%.2f,\"over_gate_bwd\":%.2f", fwd.ms / gate[0], bwd.ms / gate[1]); }
    printf("}\n");
    fflush(stdout);
    pipeline_close(&p);
}

// ---- which rows ---------------------------------------------------------------------------------------------------------------------
static Wanted wanted_parse(int argc, char** argv) {
    Wanted w = {false, false, 0, 0, 0, ATTN_AUTO, NULL, (size_t)2048 << 20};
    for (int i = 1; i < argc; i++) {
        const char* value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "quick") == 0) { w.quick = true; continue; }
        if (strcmp(argv[i], "packed") == 0) { w.packed = true; continue; }
        if      (strcmp(argv[i], "--B") == 0)       { w.B = atoi(value); }
        else if (strcmp(argv[i], "--T") == 0)       { w.T = atoi(value); }
        else if (strcmp(argv[i], "--D") == 0)       { w.D = atoi(value); }
        else if (strcmp(argv[i], "--routing") == 0) { w.routing = value; }
        else if (strcmp(argv[i], "--path") == 0 && strcmp(value, "hopper") == 0)   { w.path = ATTN_HOPPER; }
        else if (strcmp(argv[i], "--path") == 0 && strcmp(value, "portable") == 0) { w.path = ATTN_PORTABLE; }
        else if (strcmp(argv[i], "--scratch") == 0) { w.cap = (size_t)atoi(value) << 20; }
        else { FAIL(EXIT_USAGE, "%s: not an option (the head of dev/cuda/moba_pipeline.cu lists them)", argv[i]); }
        i++;
    }
    if (w.quick && w.D == 0) { w.D = 64; }
    if (w.quick && w.routing == NULL) { w.routing = routing_names[RANDOM]; }
    return w;
}

static bool wanted_routing(const Wanted* w, const char* name) { return w->routing == NULL || strcmp(w->routing, name) == 0; }

// Is this row of the whole table, or asked for?
static bool wanted_row(const Wanted* w, const char* name, int T) {
    if (w->routing || w->T || strcmp(name, routing_names[RANDOM]) == 0) { return wanted_routing(w, name); }
    return T == 8192 || T == 65536;
}

static void rows_of_length(const Wanted* w, int T, bool dense) {
    int B = w->B > 0 ? w->B : 2;
    for (int D = 64; D <= 128; D *= 2) {
        if (w->D > 0 && w->D != D) { continue; }
        double random_ms[2] = {0, 0}, also[2] = {0, 0};
        for (int routing = 0; routing < ROUTINGS && !dense; routing++) {
            if (!wanted_row(w, routing_names[routing], T)) { continue; }
            moba_row(B, T, D, (Routing)routing, w, random_ms);
            if (T == 524288 && w->B == 0) { moba_row(1, T, D, (Routing)routing, w, also); }
        }
        if (!dense && wanted_row(w, "swa", T)) { swa_row(B, T, D, 256, w); }
        if (dense && wanted_row(w, "dense", T) && T <= 65536) { swa_row(B, T, D, T, w); }
    }
}

int main(int argc, char** argv) {
    static const int all[] = {8192, 16384, 32768, 65536, 131072, 262144, 524288}, quick[] = {8192, 65536};
    Wanted w = wanted_parse(argc, argv);
    const int* lengths = w.T > 0 ? &w.T : w.quick ? quick : all;
    int count = w.T > 0 ? 1 : w.quick ? 2 : 7;
    for (int dense = 0; dense < 2; dense++) {
        for (int i = 0; i < count; i++) { rows_of_length(&w, lengths[i], dense); }
    }
    return 0;
}

// What the five programs share: one problem, how its output is checked, and the line that is printed. A program brings a Step.
//
//   build/ladder/N_name [--B n] [--T n] [--H n] [--check]      --check: no timing (an emulator, another length)
#ifndef LADDER_H
#define LADDER_H

#include "bench.h"

enum { D = 64, BLOCK = 128, TOPK = 8, SLOTS = TOPK - 1, CHECKED = 512 };

// q, k, v, out: (B, T, H, D). A "head" is b*H + h.
typedef struct {
    AttnShape shape;
    int T, heads, blocks;
    floatX *q, *k, *v, *out;
    MobaRoute route;
    void* scratch;
    size_t scratch_bytes;
    float scale;                                                         // 1/sqrt(D)
} Problem;

typedef struct {
    const char *name, *idea;
    int roundings;                                                       // to bf16, on the way from q, k, v to out
    void (*run)(const Problem* p);
    size_t (*scratch)(const Problem* p);                                 // bytes; NULL: none
} Step;

__host__ __device__ inline size_t row_at(const Problem& p, int head, int t) {
    return (((size_t)(head / p.shape.H) * p.T + t) * p.shape.H + head % p.shape.H) * D;
}

// the blocks that query t picked, MOBA_NONE in places it did not need; its own block is not among them
__host__ __device__ inline const uint16_t* picks_of(const uint16_t* sel, const Problem& p, int head, int t) {
    return sel + ((size_t)head * p.T + t) * SLOTS;
}

// ---- the problem: normals, routed by the real centroids, top-k and index ------------------------------------------------------
static Problem problem_open(int B, int T, int H) {
    Problem p;
    memset(&p, 0, sizeof p);
    p.shape.B = B; p.shape.T = T; p.shape.H = H; p.shape.D = D;
    p.shape.ldq = p.shape.ldk = p.shape.ldv = p.shape.ldo = H * D;
    p.T = T; p.heads = B * H; p.blocks = ceil_div(T, BLOCK);
    p.scale = 1 / sqrtf(D);
    floatX** tensors[] = {&p.q, &p.k, &p.v, &p.out};
    for (int i = 0; i < 4; i++) { *tensors[i] = bench_bf16((size_t)p.heads * T * D, i + 1, 1); }
    CUDA_CHECK(cudaMemset(p.out, 0xff, (size_t)p.heads * T * D * sizeof(floatX)));       // NaN

    size_t picks = (size_t)p.heads * T * SLOTS;
    uint16_t* sel = (uint16_t*)device_malloc(picks * sizeof(uint16_t));
    int *offset = (int*)device_malloc((size_t)p.heads * (p.blocks + 1) * sizeof(int)), *list = (int*)device_malloc(picks * sizeof(int));
    float* centroid = (float*)device_malloc((size_t)p.heads * p.blocks * D * sizeof(float));
    void* scratch = device_malloc(max_size(moba_index_scratch(B, H, T, BLOCK, TOPK), moba_topk_scratch(p.shape, BLOCK, TOPK)));
    moba_centroid(centroid, p.k, p.shape, BLOCK, NULL);
    moba_topk(sel, p.q, centroid, p.shape, BLOCK, TOPK, scratch, NULL);
    moba_index(offset, list, sel, B, H, T, BLOCK, TOPK, scratch, NULL);
    stream_sync(NULL);
    device_free(centroid);
    device_free(scratch);
    p.route.sel = sel; p.route.offset = offset; p.route.list = list;
    return p;
}

static void problem_close(Problem* p) {
    void* all[] = {p->q, p->k, p->v, p->out, (void*)p->route.sel, (void*)p->route.offset, (void*)p->route.list};
    for (int i = 0; i < 7; i++) { device_free(all[i]); }
}

// ---- the check: what 1_naive.cu does, on the host in double, for some queries ---------------------------------------------------
static void* downloaded(const void* device, size_t bytes) {
    void* host = xmalloc(bytes);
    device_download(host, device, bytes, NULL);
    stream_sync(NULL);
    return host;
}

// out (D) of one query, and size (D) = sum of weight * |v|, which bounds what a relative error of weights or values can do to it
static void exact_query(double* out, double* size, const Problem* p, const uint16_t* sel, const uint16_t* q, const uint16_t* k,
                        const uint16_t* v, int head, int t) {
    double sum = 0;
    const uint16_t *picks = picks_of(sel, *p, head, t), *query = q + row_at(*p, head, t);
    for (int d = 0; d < D; d++) { out[d] = size[d] = 0; }
    for (int i = 0; i <= SLOTS; i++) {
        int j = i < SLOTS ? picks[i] : t / BLOCK;
        for (int u = j * BLOCK; j != MOBA_NONE && u < (j + 1) * BLOCK && u <= t; u++) {
            const uint16_t *key = k + row_at(*p, head, u), *value = v + row_at(*p, head, u);
            double score = 0, weight;
            for (int d = 0; d < D; d++) { score += (double)bf16_to_float(query[d]) * bf16_to_float(key[d]); }
            weight = exp(score / sqrt((double)D));                       // scores are normals: no maximum has to be taken out
            sum += weight;
            for (int d = 0; d < D; d++) {
                out[d] += weight * bf16_to_float(value[d]);
                size[d] += weight * fabs(bf16_to_float(value[d]));
            }
        }
    }
    for (int d = 0; d < D; d++) { out[d] /= sum; size[d] /= sum; }
}

// The largest error as a share of what is allowed: half a unit of bf16 (2^-8) for each rounding, relative to `size`, and 2^-12 for fp32:
// scores of 64 products, sums of 960 weights.
static double error_of(const Problem* p, int roundings) {
    size_t bytes = (size_t)p->heads * p->T * D * sizeof(floatX);
    uint16_t *q = (uint16_t*)downloaded(p->q, bytes), *k = (uint16_t*)downloaded(p->k, bytes), *v = (uint16_t*)downloaded(p->v, bytes);
    uint16_t *out = (uint16_t*)downloaded(p->out, bytes);
    uint16_t *sel = (uint16_t*)downloaded(p->route.sel, (size_t)p->heads * p->T * SLOTS * sizeof(uint16_t));
    double worst = 0, allowed = roundings / 256.0 + 1 / 4096.0;
    for (int i = 0; i < CHECKED; i++) {
        int head = i % p->heads, t = i == 0 ? p->T - 1 : (int)(i * 2654435761u % (unsigned)p->T);
        double exact[D], size[D];
        exact_query(exact, size, p, sel, q, k, v, head, t);
        for (int d = 0; d < D; d++) {
            double share = fabs(bf16_to_float(out[row_at(*p, head, t) + d]) - exact[d]) / (allowed * size[d]);
            if (!(share <= worst)) { worst = share; }                    // NaN stays
        }
    }
    free(q); free(k); free(v); free(out); free(sel);
    return worst;
}

// ---- running a step ---------------------------------------------------------------------------------------------------------------
typedef struct { const Problem* problem; const Step* step; } StepCall;

static void step_call(void* context) {
    StepCall* call = (StepCall*)context;
    call->step->run(call->problem);
}

// Checks, times, prints one line; returns the exit status.
static int step_row(const Step* step, Problem* p, bool timed) {
    p->scratch_bytes = step->scratch ? step->scratch(p) : 0;
    p->scratch = p->scratch_bytes ? device_malloc(p->scratch_bytes) : NULL;
    step->run(p);
    double error = error_of(p, step->roundings);
    printf("{\"op\":\"moba_ladder\",\"step\":\"%s\",\"idea\":\"%s\",\"B\":%d,\"H\":%d,\"T\":%d,\"D\":%d,\"block\":%d,\"topk\":%d", step->name,
           step->idea, p->shape.B, p->shape.H, p->T, D, BLOCK, TOPK);
    if (timed) {
        float ms[BENCH_RUNS];
        StepCall call = {p, step};
        bench_times(ms, step_call, &call);
        double median = 0.5 * (ms[BENCH_RUNS / 2 - 1] + ms[BENCH_RUNS / 2]);
        printf(",\"ms\":%.4f,\"spread\":%.3f", median, 0.5 * (ms[BENCH_RUNS * 9 / 10] - ms[BENCH_RUNS / 10]) / median);
    }
    printf(",\"error\":%.3f}\n", error);
    fflush(stdout);
    if (p->scratch) { device_free(p->scratch); }
    if (error <= 1) { return 0; }
    fprintf(stderr, "error: %s is wrong by %.3g times what its roundings allow\n", step->name, error);
    return 1;
}

static int ladder_main(int argc, char** argv, const Step* steps, int count) {
    int B = 2, T = 8192, H = 16, status = 0;
    bool timed = true;
    for (int i = 1; i < argc; i++) {
        int value = i + 1 < argc ? atoi(argv[i + 1]) : 0;
        if (strcmp(argv[i], "--check") == 0)  { timed = false; continue; }
        if      (strcmp(argv[i], "--B") == 0) { B = value; }
        else if (strcmp(argv[i], "--T") == 0) { T = value; }
        else if (strcmp(argv[i], "--H") == 0) { H = value; }
        else { FAIL(EXIT_USAGE, "%s: not an option; [--B n] [--T n] [--H n] [--check]", argv[i]); }
        i++;
    }
    REQUIRE(B > 0 && T > 0 && H > 0, "ladder: B=%d T=%d H=%d is no shape", B, T, H);
    Problem p = problem_open(B, T, H);
    for (int i = 0; i < count; i++) { status |= step_row(&steps[i], &p, timed); }
    problem_close(&p);
    return status;
}

#endif

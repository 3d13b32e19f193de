// MoBA at lengths that no reference computes whole: up to a million tokens, routed by the op's own top-k, spot-checked on random queries
// (out, lse, dq) and on random blocks of keys (dk, dv) against moba_spot.h, which itself is held against the references at a small length.
// Each path runs the whole pipeline, and is checked for the blocks that its own top-k picked.
#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "attn_problem.h"
#include "cuda_common.cuh"
#endif
#include "attn_case.h"
#include "moba_spot.h"

// ---- the spot checks against whole results ------------------------------------------------------------------------------------------
enum { WHOLE_T = 300, WHOLE_H = 2, WHOLE_D = 16, WHOLE_BLOCK = 32, WHOLE_TOPK = 4, WHOLE_N = WHOLE_T * WHOLE_H * WHOLE_D };

typedef struct { float out[WHOLE_N], lse[WHOLE_H * WHOLE_T], dq[WHOLE_N], dk[WHOLE_N], dv[WHOLE_N]; } Whole;

typedef void (*WholeForward)(float*, float*, const float*, const float*, const float*, MobaRoute, AttnShape, int, int, void*, size_t, stream_t);
typedef void (*WholeBackward)(float*, float*, float*, const float*, const float*, const float*, const float*, const float*, const float*,
                              MobaRoute, AttnShape, int, int, void*, size_t, stream_t);

static float* whole_floats(const uint16_t* bits) {
    float* x = (float*)malloc(WHOLE_N * sizeof(float));
    for (int i = 0; i < WHOLE_N; i++) { x[i] = bf16_to_float(bits[i]); }
    return x;
}

static Whole* whole_reference(const Spot* s, MobaRoute route, WholeForward forward, WholeBackward backward) {
    const int C = WHOLE_H * WHOLE_D;
    AttnShape shape = {1, WHOLE_T, WHOLE_H, WHOLE_D, C, C, C, C, ATTN_AUTO};
    Whole* w = (Whole*)malloc(sizeof(Whole));
    float *q = whole_floats(s->q), *k = whole_floats(s->k), *v = whole_floats(s->v), *dout = whole_floats(s->dout);
    forward(w->out, w->lse, q, k, v, route, shape, s->block, s->topk, NULL, 0, NULL);
    backward(w->dq, w->dk, w->dv, dout, w->out, w->lse, q, k, v, route, shape, s->block, s->topk, NULL, 0, NULL);
    free(q); free(k); free(v); free(dout);
    return w;
}

static Whole* whole_spots(const Spot* s, const PickedRoute* route) {
    Whole* w = (Whole*)malloc(sizeof(Whole));
    for (int head = 0; head < WHOLE_H; head++) {
        for (int t = 0; t < WHOLE_T; t++) {
            SpotQuery query = spot_query(s, head, t);
            double dq[SPOT_MAX_D];
            size_t at = ((size_t)t * WHOLE_H + head) * WHOLE_D;
            spot_dq(s, dq, &query, head, t);
            w->lse[head * WHOLE_T + t] = (float)query.lse;
            for (int d = 0; d < WHOLE_D; d++) { w->out[at + d] = (float)query.out[d]; w->dq[at + d] = (float)dq[d]; }
        }
        for (int j = 0; j < route->blocks; j++) {
            const int *offset = route->offset + head * (route->blocks + 1) + j, *list = route->list + (size_t)head * WHOLE_T * route->slots;
            int callers[WHOLE_T], count = offset[1] - offset[0];
            float dk[WHOLE_BLOCK * WHOLE_D], dv[WHOLE_BLOCK * WHOLE_D];
            for (int i = 0; i < count; i++) { callers[i] = list[offset[0] + i] / MOBA_MAX_TOPK; }
            spot_block(s, dk, dv, head, j, callers, count);
            for (int u = j * WHOLE_BLOCK; u < (j + 1) * WHOLE_BLOCK && u < WHOLE_T; u++) {
                memcpy(w->dk + ((size_t)u * WHOLE_H + head) * WHOLE_D, dk + (u % WHOLE_BLOCK) * WHOLE_D, WHOLE_D * sizeof(float));
                memcpy(w->dv + ((size_t)u * WHOLE_H + head) * WHOLE_D, dv + (u % WHOLE_BLOCK) * WHOLE_D, WHOLE_D * sizeof(float));
            }
        }
    }
    return w;
}

static double distance(const float* a, const float* b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) { sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]); }
    return sqrt(sum);
}

// found and expected may be `share` of the 2-norm of (scale_a - scale_b) apart
static void whole_check(const Whole* found, const Whole* expected, const Whole* scale_a, const Whole* scale_b, double share) {
    #define FIELD(x, n) do { double apart = distance(found->x, expected->x, n), allowed = share * distance(scale_a->x, scale_b->x, n); \
        CHECK(apart <= allowed, "%s: 2-norm %.3g apart, allowed %.3g", #x, apart, allowed); } while (0)
    FIELD(out, WHOLE_N);
    FIELD(dq, WHOLE_N);
    FIELD(dk, WHOLE_N);
    FIELD(dv, WHOLE_N);
    #undef FIELD
    for (int i = 0; i < WHOLE_H * WHOLE_T; i++) { CHECK_NEAR(found->lse[i], expected->lse[i], 1e-5); }
}

static Spot whole_problem(const PickedRoute* route, bool rounded) {
    Spot s = {WHOLE_T, WHOLE_H, WHOLE_D, WHOLE_BLOCK, WHOLE_TOPK, spot_normals(WHOLE_N, 1), spot_normals(WHOLE_N, 2), spot_normals(WHOLE_N, 3),
              spot_normals(WHOLE_N, 4), route->sel, rounded};
    return s;
}
static void spot_free(Spot* s) { free((void*)s->q); free((void*)s->k); free((void*)s->v); free((void*)s->dout); }

#ifdef LLMC_CPU
TEST(moba_large_spot_checks_are_the_cpu_op) {
    PickedRoute route = picked_route(1, WHOLE_H, WHOLE_T, WHOLE_BLOCK, WHOLE_TOPK, PICK_SPARSE, 5);
    Spot s = whole_problem(&route, false);
    Whole *spots = whole_spots(&s, &route), *op = whole_reference(&s, picked_view(&route), moba_attn_forward, moba_attn_backward);
    Whole* zero = (Whole*)calloc(1, sizeof(Whole));
    whole_check(spots, op, op, zero, 1e-6);                              // the op's outputs are fp32
    free(spots); free(op); free(zero);
    spot_free(&s);
    picked_free(&route);
}
#endif

#ifndef LLMC_CPU
GPU_TEST(moba_large_spot_checks_are_the_references) {
    PickedRoute route = picked_route(1, WHOLE_H, WHOLE_T, WHOLE_BLOCK, WHOLE_TOPK, PICK_SPARSE, 5);
    Spot s = whole_problem(&route, false), r = whole_problem(&route, true);
    Whole *exact = whole_spots(&s, &route), *ref = whole_reference(&s, picked_view(&route), ref_moba_attn_forward, ref_moba_attn_backward);
    Whole *rounded = whole_spots(&r, &route), *rnd = whole_reference(&r, picked_view(&route), rnd_moba_attn_forward, rnd_moba_attn_backward);
    Whole* zero = (Whole*)calloc(1, sizeof(Whole));
    whole_check(exact, ref, ref, zero, 1e-6);
    whole_check(rounded, rnd, rnd, ref, 0.1);                            // apart only where a last bit of fp32 tips a rounding to bf16
    free(exact); free(ref); free(rounded); free(rnd); free(zero);
    spot_free(&s);
    spot_free(&r);
    picked_free(&route);
}

// ---- the kernels at length ------------------------------------------------------------------------------------------------------------
enum { BLOCK = 128, TOPK = 8, SLOTS = TOPK - 1, SPOT_QUERIES = 4096, SPOT_BLOCKS = 16 };

// Two heads, at the end of rows that have room for `wide` of them: with 12, as in the 124M model, a million rows of q, k, v are more than
// 2^31 elements.
typedef struct {
    AttnShape shape;
    char label[64];                       // for messages
    int C, at;                            // wide * D; column of the first head
    floatX *qv, *k, *dout, *out, *dqv, *dk;
    float* lse;
} Large;

// columns [at, at + width) of the (T, ld) tensor: poison elsewhere
static floatX* columns_from(const uint16_t* dense, int T, int width, int ld, int at) {
    size_t row = (size_t)width * 2;
    floatX* to = (floatX*)device_malloc((size_t)T * ld * 2);
    void* from = device_from(dense, T * row);
    CUDA_CHECK(cudaMemset(to, 0xff, (size_t)T * ld * 2));
    CUDA_CHECK(cudaMemcpy2D(to + at, (size_t)ld * 2, from, row, row, T, cudaMemcpyDeviceToDevice));
    device_free(from);
    return to;
}
static void columns_set(floatX* to, const uint16_t* dense, int T, int width, int ld, int at) {
    size_t row = (size_t)width * 2;
    void* from = device_from(dense, T * row);
    CUDA_CHECK(cudaMemcpy2D(to + at, (size_t)ld * 2, from, row, row, T, cudaMemcpyDeviceToDevice));
    device_free(from);
}
static uint16_t* columns_to_host(const floatX* from, int T, int width, int ld, int at) {
    size_t row = (size_t)width * 2;
    void* to = device_malloc(T * row);
    CUDA_CHECK(cudaMemcpy2D(to, row, from + at, (size_t)ld * 2, row, T, cudaMemcpyDeviceToDevice));
    uint16_t* dense = (uint16_t*)host_from(to, T * row);
    device_free(to);
    return dense;
}
static floatX* poisoned_rows(int T, int ld) {
    floatX* to = (floatX*)device_malloc((size_t)T * ld * 2);
    CUDA_CHECK(cudaMemset(to, 0xff, (size_t)T * ld * 2));
    return to;
}

static Large large_open(const Spot* s, int wide, AttnPath path) {
    Large l;
    int width = s->H * s->D;
    l.C = wide * s->D;
    l.at = l.C - width;
    AttnShape shape = {1, s->T, s->H, s->D, 3 * l.C, l.C, 3 * l.C, l.C, path};
    l.shape = shape;
    snprintf(l.label, sizeof l.label, "T %d, D %d, %s", s->T, s->D, attn_path_name(path));
    l.qv = columns_from(s->q, s->T, width, 3 * l.C, l.at);
    columns_set(l.qv, s->v, s->T, width, 3 * l.C, 2 * l.C + l.at);
    l.k = columns_from(s->k, s->T, width, l.C, l.at);
    l.dout = columns_from(s->dout, s->T, width, l.C, l.at);
    l.out = poisoned_rows(s->T, l.C);
    l.dqv = poisoned_rows(s->T, 3 * l.C);
    l.dk = poisoned_rows(s->T, l.C);
    l.lse = (float*)device_malloc((size_t)s->H * s->T * sizeof(float));
    return l;
}
static void large_close(Large* l) {
    void* all[] = {l->qv, l->k, l->dout, l->out, l->dqv, l->dk, l->lse};
    for (int i = 0; i < 7; i++) { device_free(all[i]); }
}

// The whole pipeline as a layer runs it. The scratch of a gigabyte holds the slots of one head of a million tokens.
static void large_run(Large* l, uint16_t** sel, int** offset, int** list) {
    AttnShape s = l->shape;
    int n = (s.T + BLOCK - 1) / BLOCK;
    size_t picks = (size_t)s.H * s.T * SLOTS, cap = (size_t)1 << 30;
    size_t forward = moba_attn_forward_scratch(s, BLOCK, TOPK, cap), backward = moba_attn_backward_scratch(s, BLOCK, TOPK, cap);
    float* centroid = (float*)device_malloc((size_t)s.H * n * s.D * sizeof(float));
    uint16_t* sel_dev = (uint16_t*)device_malloc(picks * sizeof(uint16_t));
    int *offset_dev = (int*)device_malloc((size_t)s.H * (n + 1) * sizeof(int)), *list_dev = (int*)device_malloc(picks * sizeof(int));
    void *index = device_malloc(moba_index_scratch(1, s.H, s.T, BLOCK, TOPK)), *scratch = device_malloc(forward > backward ? forward : backward);
    const floatX *q = l->qv + l->at, *k = l->k + l->at, *v = l->qv + 2 * l->C + l->at;
    MobaRoute route = {sel_dev, offset_dev, list_dev};
    moba_centroid(centroid, k, s, BLOCK, NULL);
    moba_topk(sel_dev, q, centroid, s, BLOCK, TOPK, scratch, NULL);
    moba_index(offset_dev, list_dev, sel_dev, 1, s.H, s.T, BLOCK, TOPK, index, NULL);
    moba_attn_forward(l->out + l->at, l->lse, q, k, v, route, s, BLOCK, TOPK, scratch, forward, NULL);
    moba_attn_backward(l->dqv + l->at, l->dk + l->at, l->dqv + 2 * l->C + l->at, l->dout + l->at, l->out + l->at, l->lse, q, k, v, route, s,
                       BLOCK, TOPK, scratch, backward, NULL);
    *sel = (uint16_t*)host_from(sel_dev, picks * sizeof(uint16_t));
    *offset = (int*)host_from(offset_dev, (size_t)s.H * (n + 1) * sizeof(int));
    *list = (int*)host_from(list_dev, picks * sizeof(int));
    void* all[] = {centroid, sel_dev, offset_dev, list_dev, index, scratch};
    for (int i = 0; i < 6; i++) { device_free(all[i]); }
}

// kernel, exact and rounded values of the sampled elements
typedef struct { size_t n; float *kernel, *exact, *rounded; } Samples;

static Samples samples_open(size_t n) {
    Samples x = {n, (float*)malloc(n * sizeof(float)), (float*)malloc(n * sizeof(float)), (float*)malloc(n * sizeof(float))};
    return x;
}
static void samples_check(const char* what, Samples* x, const Large* l, double terms) {
    char label[80];
    snprintf(label, sizeof label, "%s (%s)", what, l->label);
    check_budget(label, x->kernel, x->exact, x->rounded, x->n, terms);
    free(x->kernel); free(x->exact); free(x->rounded);
}

static void check_queries(const Large* l, const Spot* exact, int queries) {
    int T = exact->T, H = exact->H, D = exact->D, *head = (int*)malloc(queries * sizeof(int)), *at = (int*)malloc(queries * sizeof(int));
    uint16_t *out_all = columns_to_host(l->out, T, H * D, l->C, l->at), *dq_all = columns_to_host(l->dqv, T, H * D, 3 * l->C, l->at);
    float* lse_all = (float*)host_from(l->lse, (size_t)H * T * sizeof(float));
    Samples out = samples_open((size_t)queries * D), dq = samples_open((size_t)queries * D), lse = samples_open(queries);
    Spot rounded = *exact;
    rounded.rounded = true;
    uint64_t random = 11;
    for (int i = 0; i < queries; i++) {
        head[i] = (int)(test_bits(&random) % (uint64_t)H);
        at[i] = i == 0 ? T - 1 : (int)(test_bits(&random) % (uint64_t)T);
    }
    #pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < queries; i++) {
        double exact_dq[SPOT_MAX_D], rounded_dq[SPOT_MAX_D];
        SpotQuery e = spot_query(exact, head[i], at[i]), r = spot_query(&rounded, head[i], at[i]);
        spot_dq(exact, exact_dq, &e, head[i], at[i]);
        spot_dq(&rounded, rounded_dq, &r, head[i], at[i]);
        size_t row = ((size_t)at[i] * H + head[i]) * D, to = (size_t)i * D;
        for (int d = 0; d < D; d++) {
            out.kernel[to + d] = bf16_to_float(out_all[row + d]); out.exact[to + d] = (float)e.out[d]; out.rounded[to + d] = (float)r.out[d];
            dq.kernel[to + d] = bf16_to_float(dq_all[row + d]); dq.exact[to + d] = (float)exact_dq[d]; dq.rounded[to + d] = (float)rounded_dq[d];
        }
        lse.kernel[i] = lse_all[(size_t)head[i] * T + at[i]]; lse.exact[i] = (float)e.lse; lse.rounded[i] = (float)r.lse;
    }
    samples_check("out", &out, l, TOPK * BLOCK);
    samples_check("lse", &lse, l, TOPK * BLOCK + D);
    samples_check("dq", &dq, l, TOPK * BLOCK);
    free(out_all); free(dq_all); free(lse_all); free(head); free(at);
}

// ---- blocks of keys -----------------------------------------------------------------------------------------------------------------------
typedef struct { int head, block, count; int* entries; } Callers;        // entries as in MobaRoute.list

// Distinct (head, block) pairs, the first and the last block among them, and who picked them, collected from sel.
static void callers_find(Callers* c, int blocks, const Spot* s) {
    int n = (s->T + BLOCK - 1) / BLOCK, *wanted = (int*)calloc((size_t)s->H * n, sizeof(int));
    uint64_t random = 12;
    for (int i = 0; i < blocks; ) {
        int head = (int)(test_bits(&random) % (uint64_t)s->H), j = i == 0 ? 0 : i == 1 ? n - 1 : (int)(test_bits(&random) % (uint64_t)n);
        if (wanted[head * n + j]) { continue; }
        c[i].head = head; c[i].block = j; c[i].count = 0;
        c[i].entries = (int*)malloc((size_t)s->T * sizeof(int));
        wanted[head * n + j] = ++i;
    }
    for (int head = 0; head < s->H; head++) {
        for (int t = 0; t < s->T; t++) {
            for (int slot = 0; slot < SLOTS; slot++) {
                int j = s->sel[((size_t)head * s->T + t) * SLOTS + slot];
                if (j == MOBA_NONE || !wanted[head * n + j]) { continue; }
                Callers* to = &c[wanted[head * n + j] - 1];
                to->entries[to->count++] = t * MOBA_MAX_TOPK + slot;
            }
        }
    }
    free(wanted);
}

// the index's list of the block is what sel says
static void callers_check_list(const Callers* c, const int* offset, const int* list, const Large* l) {
    int T = l->shape.T, n = (T + BLOCK - 1) / BLOCK;
    const int* range = offset + (size_t)c->head * (n + 1) + c->block;
    CHECK(range[1] - range[0] == c->count, "the list of block %d of head %d has %d entries, %d queries picked it (%s)", c->block, c->head,
          range[1] - range[0], c->count, l->label);
    CHECK(memcmp(list + (size_t)c->head * T * SLOTS + range[0], c->entries, c->count * sizeof(int)) == 0,
          "the list of block %d of head %d is not who picked it (%s)", c->block, c->head, l->label);
}

static void check_blocks(const Large* l, const Spot* exact, const int* offset, const int* list, int blocks) {
    int T = exact->T, H = exact->H, D = exact->D, longest = 0;
    uint16_t *dk_all = columns_to_host(l->dk, T, H * D, l->C, l->at), *dv_all = columns_to_host(l->dqv, T, H * D, 3 * l->C, 2 * l->C + l->at);
    Samples dk = samples_open((size_t)blocks * BLOCK * D), dv = samples_open((size_t)blocks * BLOCK * D);
    Callers callers[SPOT_BLOCKS];
    callers_find(callers, blocks, exact);
    for (int i = 0; i < blocks; i++) {
        const Callers* c = &callers[i];
        callers_check_list(c, offset, list, l);
        longest = c->count > longest ? c->count : longest;
        for (int e = 0; e < c->count; e++) { c->entries[e] /= MOBA_MAX_TOPK; }
        for (int u = 0; u < BLOCK; u++) {
            size_t row = ((size_t)(c->block * BLOCK + u) * H + c->head) * D, to = ((size_t)i * BLOCK + u) * D;
            for (int d = 0; d < D; d++) {
                bool live = c->block * BLOCK + u < T;
                dk.kernel[to + d] = live ? bf16_to_float(dk_all[row + d]) : 0;
                dv.kernel[to + d] = live ? bf16_to_float(dv_all[row + d]) : 0;
            }
        }
    }
    #pragma omp parallel for schedule(dynamic)
    for (int task = 0; task < 2 * blocks; task++) {
        int i = task / 2;
        Spot s = *exact;
        s.rounded = task % 2;
        size_t to = (size_t)i * BLOCK * D;
        spot_block(&s, (s.rounded ? dk.rounded : dk.exact) + to, (s.rounded ? dv.rounded : dv.exact) + to, callers[i].head, callers[i].block,
                   callers[i].entries, callers[i].count);
    }
    for (int i = 0; i < blocks; i++) { free(callers[i].entries); }
    free(dk_all); free(dv_all);
    samples_check("dk", &dk, l, longest + BLOCK);
    samples_check("dv", &dv, l, longest + BLOCK);
}

static void large_case(int T, int D, int wide, int queries, int blocks) {
    const int H = 2;
    size_t n = (size_t)T * H * D;
    Spot s = {T, H, D, BLOCK, TOPK, spot_normals(n, 1), spot_normals(n, 2), spot_normals(n, 3), spot_normals(n, 4), NULL, false};
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        uint16_t* sel;
        int *offset, *list;
        Large l = large_open(&s, wide, path[i]);
        large_run(&l, &sel, &offset, &list);
        s.sel = sel;
        check_queries(&l, &s, queries);
        check_blocks(&l, &s, offset, list, blocks);
        large_close(&l);
        free(sel); free(offset); free(list);
    }
    spot_free(&s);
}

GPU_TEST(moba_large_ragged_and_small)  { large_case(1500, 64, 3, 256, 6); large_case(1500, 128, 3, 256, 6); }
GPU_TEST(moba_large_8191_tokens_D64)   { large_case(8191, 64, 2, SPOT_QUERIES, SPOT_BLOCKS); }
GPU_TEST(moba_large_8191_tokens_D128)  { large_case(8191, 128, 2, SPOT_QUERIES, SPOT_BLOCKS); }
GPU_TEST(moba_large_64k_tokens)        { large_case(1 << 16, 64, 2, SPOT_QUERIES, SPOT_BLOCKS); }
GPU_TEST(moba_large_64k_tokens_D128)   { large_case(1 << 16, 128, 2, SPOT_QUERIES, SPOT_BLOCKS); }
GPU_TEST(moba_large_512k_tokens)       { large_case(1 << 19, 64, 2, SPOT_QUERIES, SPOT_BLOCKS); }
GPU_TEST(moba_large_512k_tokens_D128)  { large_case(1 << 19, 128, 2, SPOT_QUERIES, SPOT_BLOCKS); }
GPU_TEST(moba_large_a_million_tokens)  { large_case(1 << 20, 64, 12, SPOT_QUERIES, SPOT_BLOCKS); }
#endif

TEST_MAIN()

// MoBA at lengths that no reference computes whole: up to a million tokens, routed by the op's own top-k, spot-checked on random queries
// (out, lse, dq) and on random blocks of keys (dk, dv) against attn_spot.h, which itself is held against the references at a small length.
// Each path runs the whole pipeline, and is checked for the blocks that its own top-k picked.
#include "attn_large.h"

// ---- the spot checks against whole results ------------------------------------------------------------------------------------------
enum { WHOLE_BLOCK = 32, WHOLE_TOPK = 4 };

typedef void (*WholeForward)(float*, float*, const float*, const float*, const float*, MobaRoute, AttnShape, int, int, void*, size_t, stream_t);
typedef void (*WholeBackward)(float*, float*, float*, const float*, const float*, const float*, const float*, const float*, const float*,
                              MobaRoute, AttnShape, int, int, void*, size_t, stream_t);

static Whole* whole_reference(const Spot* s, MobaRoute route, WholeForward forward, WholeBackward backward) {
    AttnShape shape = whole_shape();
    Whole* w = (Whole*)malloc(sizeof(Whole));
    WholeInputs in = whole_inputs(s);
    forward(w->out, w->lse, in.q, in.k, in.v, route, shape, s->block, s->topk, NULL, 0, NULL);
    backward(w->dq, w->dk, w->dv, in.dout, w->out, w->lse, in.q, in.k, in.v, route, shape, s->block, s->topk, NULL, 0, NULL);
    whole_inputs_free(&in);
    return w;
}

static Whole* whole_spots(const Spot* s, const PickedRoute* route) {
    Whole* w = (Whole*)malloc(sizeof(Whole));
    whole_queries(w, s);
    for (int head = 0; head < WHOLE_H; head++) {
        for (int j = 0; j < route->blocks; j++) {
            const int *offset = route->offset + head * (route->blocks + 1) + j, *list = route->list + (size_t)head * WHOLE_T * route->slots;
            int callers[WHOLE_T], count = offset[1] - offset[0];
            float dk[WHOLE_BLOCK * WHOLE_D], dv[WHOLE_BLOCK * WHOLE_D];
            for (int i = 0; i < count; i++) { callers[i] = list[offset[0] + i] / MOBA_MAX_TOPK; }
            spot_block(s, dk, dv, head, j, callers, count);
            whole_keys(w, dk, dv, head, j * WHOLE_BLOCK, (j + 1) * WHOLE_BLOCK);
        }
    }
    return w;
}

static Spot whole_problem(const PickedRoute* route, bool rounded) {
    Spot s = spot_open(WHOLE_T, WHOLE_H, WHOLE_D, WHOLE_BLOCK, WHOLE_TOPK, 0);
    s.sel = route->sel;
    s.rounded = rounded;
    return s;
}

#ifdef LLMC_CPU
TEST(moba_large_spot_checks_are_the_cpu_op) {
    PickedRoute route = picked_route(1, WHOLE_H, WHOLE_T, WHOLE_BLOCK, WHOLE_TOPK, PICK_SPARSE, 5);
    Spot s = whole_problem(&route, false);
    Whole *spots = whole_spots(&s, &route), *op = whole_reference(&s, picked_view(&route), moba_attn_forward, moba_attn_backward);
    Whole* zero = (Whole*)calloc(1, sizeof(Whole));
    whole_check(spots, op, op, zero, 1e-6);                              // the op's outputs are fp32
    free(spots); free(op); free(zero);
    spot_close(&s);
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
    spot_close(&s);
    spot_close(&r);
    picked_free(&route);
}

// ---- the kernels at length ------------------------------------------------------------------------------------------------------------
enum { BLOCK = 128, TOPK = 8, SLOTS = TOPK - 1, SPOT_QUERIES = 4096, SPOT_BLOCKS = 16 };

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

// random queries, the last one among them
static void check_random_queries(const Large* l, const LargeResults* found, const Spot* exact, int queries) {
    int *head = (int*)malloc(queries * sizeof(int)), *at = (int*)malloc(queries * sizeof(int));
    uint64_t random = 11;
    for (int i = 0; i < queries; i++) {
        head[i] = (int)(test_bits(&random) % (uint64_t)exact->H);
        at[i] = i == 0 ? exact->T - 1 : (int)(test_bits(&random) % (uint64_t)exact->T);
    }
    check_queries(l, found, exact, head, at, queries, TOPK * BLOCK, "random queries");
    free(head); free(at);
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

static void check_blocks(const Large* l, const LargeResults* found, const Spot* exact, const int* offset, const int* list, int blocks) {
    int D = exact->D, longest = 0;
    Samples dk = samples_open((size_t)blocks * BLOCK * D), dv = samples_open((size_t)blocks * BLOCK * D);
    Callers callers[SPOT_BLOCKS];
    callers_find(callers, blocks, exact);
    for (int i = 0; i < blocks; i++) {
        const Callers* c = &callers[i];
        callers_check_list(c, offset, list, l);
        longest = c->count > longest ? c->count : longest;
        for (int e = 0; e < c->count; e++) { c->entries[e] /= MOBA_MAX_TOPK; }
        sample_rows(dk.kernel + (size_t)i * BLOCK * D, found->dk, exact, c->head, c->block * BLOCK, BLOCK);
        sample_rows(dv.kernel + (size_t)i * BLOCK * D, found->dv, exact, c->head, c->block * BLOCK, BLOCK);
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
    samples_check("dk", &dk, l, longest + BLOCK);
    samples_check("dv", &dv, l, longest + BLOCK);
}

static void large_case(int T, int D, int wide, int queries, int blocks) {
    const int H = 2;
    Spot s = spot_open(T, H, D, BLOCK, TOPK, 0);
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        uint16_t* sel;
        int *offset, *list;
        Large l = large_open(&s, wide, path[i]);
        large_run(&l, &sel, &offset, &list);
        s.sel = sel;
        LargeResults found = large_results(&l);
        check_random_queries(&l, &found, &s, queries);
        check_blocks(&l, &found, &s, offset, list, blocks);
        large_results_free(&found);
        large_close(&l);
        free(sel); free(offset); free(list);
    }
    spot_close(&s);
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

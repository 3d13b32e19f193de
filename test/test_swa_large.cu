// Sliding-window and dense causal attention at lengths that no reference computes whole, spot-checked as in test_moba_large: runs of queries
// (out, lse, dq) straight from the formula, and runs of keys (dk, dv) given lse and out. A key at the front of a dense row is seen by every
// query, and each needs its lse and its delta = dout . out: a whole forward in fp64. So these come from the kernel's own lse and out, whose
// samples are checked before, and what remains are the pairs with the sampled keys.
// In a dense row every tensor shrinks along the row (out as 1/sqrt(t)): each run of rows has a budget of its own.
#include "attn_large.h"

// ---- the spot checks against whole results ------------------------------------------------------------------------------------------
enum { WHOLE_BLOCK = 32 };

typedef void (*WholeForward)(float*, float*, const float*, const float*, const float*, AttnShape, int, stream_t);
typedef void (*WholeBackward)(float*, float*, float*, const float*, const float*, const float*, const float*, const float*, const float*,
                              const float*, AttnShape, int, void*, stream_t);

static Spot whole_problem(int window, bool rounded) {
    Spot s = spot_open(WHOLE_T, WHOLE_H, WHOLE_D, WHOLE_BLOCK, 1, window);
    s.rounded = rounded;
    return s;
}

static Whole* whole_reference(const Spot* s, WholeForward forward, WholeBackward backward) {
    Whole* w = (Whole*)malloc(sizeof(Whole));
    WholeInputs in = whole_inputs(s);
    forward(w->out, w->lse, in.q, in.k, in.v, whole_shape(), s->window, NULL);
    backward(w->dq, w->dk, w->dv, in.dout, w->out, w->lse, in.q, in.k, in.v, NULL, whole_shape(), s->window, NULL, NULL);
    whole_inputs_free(&in);
    return w;
}

// dk and dv given the lse and out of `given`
static Whole* whole_spots(const Spot* s, const Whole* given) {
    Whole* w = (Whole*)malloc(sizeof(Whole));
    double delta[WHOLE_H * WHOLE_T];
    whole_queries(w, s);
    for (int head = 0; head < WHOLE_H; head++) {
        for (int t = 0; t < WHOLE_T; t++) {
            double dout[WHOLE_D], sum = 0;
            spot_load(s, dout, s->dout, head, t);
            for (int d = 0; d < WHOLE_D; d++) { sum += dout[d] * given->out[(t * WHOLE_H + head) * WHOLE_D + d]; }
            delta[head * WHOLE_T + t] = sum;
        }
        for (int from = 0; from < WHOLE_T; from += WHOLE_BLOCK) {
            int to = from + WHOLE_BLOCK < WHOLE_T ? from + WHOLE_BLOCK : WHOLE_T;
            float dk[WHOLE_BLOCK * WHOLE_D], dv[WHOLE_BLOCK * WHOLE_D];
            spot_window_keys(s, dk, dv, head, from, to, given->lse, delta);
            whole_keys(w, dk, dv, head, from, to);
        }
    }
    return w;
}

#ifdef LLMC_CPU
static void whole_case(int window) {
    Spot s = whole_problem(window, false);
    Whole *op = whole_reference(&s, swa_forward, swa_backward), *spots = whole_spots(&s, op), *zero = (Whole*)calloc(1, sizeof(Whole));
    whole_check(spots, op, op, zero, 1e-6);                              // the op's outputs are fp32
    free(spots); free(op); free(zero);
    spot_close(&s);
}
TEST(swa_large_spot_checks_are_the_cpu_op) { whole_case(77); whole_case(WHOLE_T); }
#endif

#ifndef LLMC_CPU
static void whole_case(int window) {
    Spot s = whole_problem(window, false), r = whole_problem(window, true);
    Whole *ref = whole_reference(&s, ref_swa_forward, ref_swa_backward), *exact = whole_spots(&s, ref);
    Whole *rnd = whole_reference(&r, rnd_swa_forward, rnd_swa_backward), *rounded = whole_spots(&r, rnd);
    Whole* zero = (Whole*)calloc(1, sizeof(Whole));
    whole_check(exact, ref, ref, zero, 1e-6);
    whole_check(rounded, rnd, rnd, ref, 0.1);                            // apart only where a last bit of fp32 tips a rounding to bf16
    free(exact); free(ref); free(rounded); free(rnd); free(zero);
    spot_close(&s);
    spot_close(&r);
}
GPU_TEST(swa_large_spot_checks_are_the_references) { whole_case(77); whole_case(WHOLE_T); }

// ---- the kernels at length ------------------------------------------------------------------------------------------------------------
enum { QUERY_RUNS = 16, QUERIES = 32, KEY_RUNS = 16, KEYS = 64, PIECE = 16 };

static void large_run(const Large* l, int window) {
    const floatX *q = l->qv + l->at, *k = l->k + l->at, *v = l->qv + 2 * l->C + l->at;
    void* scratch = poisoned(swa_backward_scratch(l->shape, window));
    swa_forward(l->out + l->at, l->lse, q, k, v, l->shape, window, NULL);
    swa_backward(l->dqv + l->at, l->dk + l->at, l->dqv + 2 * l->C + l->at, l->dout + l->at, l->out + l->at, l->lse, q, k, v, NULL, l->shape,
                 window, scratch, NULL);
    device_free(scratch);
}

static void check_untouched(const char* what, const Large* l, const floatX* x, int ld, int from, int to) {
    uint16_t* bits = columns_to_host(x, l->shape.T, to - from, ld, from);
    size_t n = (size_t)l->shape.T * (to - from), written = 0;
    #pragma omp parallel for reduction(+:written)
    for (size_t i = 0; i < n; i++) { written += bits[i] != 0xffff; }
    free(bits);
    CHECK(written == 0, "%zu elements of columns %d to %d of %s, which are no output's, were written (%s)", written, from, to - 1, what, l->label);
}

// the columns of other heads, and k's of the product
static void check_neighbours(const Large* l) {
    check_untouched("out", l, l->out, l->C, 0, l->at);
    check_untouched("dk", l, l->dk, l->C, 0, l->at);
    check_untouched("dq and dv", l, l->dqv, 3 * l->C, 0, l->at);
    check_untouched("dq and dv", l, l->dqv, 3 * l->C, l->C, 2 * l->C + l->at);
}

// One of the samples: `rows` consecutive rows of a head from row `first` on. Sample 0 begins the sequence, sample 1 ends it.
typedef struct { int head, first; } Run;
static Run run_pick(int i, int rows, const Spot* s, uint64_t* random) {
    Run r = {(int)(test_bits(random) % (uint64_t)s->H), (int)(test_bits(random) % (uint64_t)(s->T - rows + 1))};
    if (i == 0) { r.first = 0; }
    if (i == 1) { r.first = s->T - rows; }
    return r;
}

static void check_query_runs(const Large* l, const LargeResults* found, const Spot* exact) {
    uint64_t random = 11;
    for (int i = 0; i < QUERY_RUNS; i++) {
        Run run = run_pick(i, QUERIES, exact, &random);
        int head[QUERIES], at[QUERIES], last = run.first + QUERIES - 1;
        char which[64];
        for (int j = 0; j < QUERIES; j++) { head[j] = run.head; at[j] = run.first + j; }
        snprintf(which, sizeof which, "queries %d to %d of head %d", run.first, last, run.head);
        check_queries(l, found, exact, head, at, QUERIES, last + 1 - spot_first(exact, last), which);
    }
}

// delta = dout . out of all queries (H, T), from the out that the kernel's backward read
static double* all_deltas(const LargeResults* found, const Spot* s) {
    double* delta = (double*)malloc((size_t)s->H * s->T * sizeof(double));
    #pragma omp parallel for
    for (int t = 0; t < s->T; t++) {
        for (int head = 0; head < s->H; head++) {
            double dout[SPOT_MAX_D];
            spot_load(s, dout, s->dout, head, t);
            delta[(size_t)head * s->T + t] = spot_dot(dout, spot_row(s, found->out, head, t), s->D);
        }
    }
    return delta;
}

static void check_key_runs(const Large* l, const LargeResults* found, const Spot* exact) {
    Samples dk[KEY_RUNS], dv[KEY_RUNS];
    Run run[KEY_RUNS];
    uint64_t random = 12;
    double* delta = all_deltas(found, exact);
    for (int i = 0; i < KEY_RUNS; i++) {
        run[i] = run_pick(i, KEYS, exact, &random);
        dk[i] = samples_open((size_t)KEYS * exact->D);
        dv[i] = samples_open((size_t)KEYS * exact->D);
        sample_rows(dk[i].kernel, found->dk, exact, run[i].head, run[i].first, KEYS);
        sample_rows(dv[i].kernel, found->dv, exact, run[i].head, run[i].first, KEYS);
    }
    const int PIECES = KEYS / PIECE;
    #pragma omp parallel for schedule(dynamic)
    for (int task = 0; task < KEY_RUNS * PIECES * 2; task++) {
        int i = task / 2 / PIECES, piece = task / 2 % PIECES, from = run[i].first + piece * PIECE;
        size_t to = (size_t)piece * PIECE * exact->D;
        Spot s = *exact;
        s.rounded = task % 2;
        spot_window_keys(&s, (s.rounded ? dk[i].rounded : dk[i].exact) + to, (s.rounded ? dv[i].rounded : dv[i].exact) + to, run[i].head,
                         from, from + PIECE, found->lse, delta);
    }
    free(delta);
    for (int i = 0; i < KEY_RUNS; i++) {
        char what[80];
        int callers = exact->T - run[i].first, most = KEYS - 1 + exact->window;
        #define NAME(x) (snprintf(what, sizeof what, x " of keys %d to %d of head %d", run[i].first, run[i].first + KEYS - 1, run[i].head), what)
        samples_check(NAME("dk"), &dk[i], l, callers < most ? callers : most);
        samples_check(NAME("dv"), &dv[i], l, callers < most ? callers : most);
        #undef NAME
    }
}

static void large_case(int T, int D, int window, int wide) {
    Spot s = spot_open(T, 2, D, 0, 1, window);
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {          // dense rows of 64K are 1e13 FLOP at D 128: no path is too slow for them
        Large l = large_open(&s, wide, path[i]);
        large_run(&l, window);
        LargeResults found = large_results(&l);
        check_neighbours(&l);
        check_query_runs(&l, &found, &s);
        check_key_runs(&l, &found, &s);
        large_results_free(&found);
        large_close(&l);
    }
    spot_close(&s);
}

GPU_TEST(swa_large_ragged_and_small_D64)        { large_case(1500, 64, 256, 3); }
GPU_TEST(swa_large_ragged_and_small_D128)       { large_case(1500, 128, 256, 3); }
GPU_TEST(swa_large_ragged_and_small_dense_D64)  { large_case(1500, 64, 1500, 3); }
GPU_TEST(swa_large_ragged_and_small_dense_D128) { large_case(1500, 128, 1500, 3); }
GPU_TEST(swa_large_8191_tokens_D64)             { large_case(8191, 64, 256, 3); large_case(8191, 64, 8191, 3); }
GPU_TEST(swa_large_8191_tokens_D128)            { large_case(8191, 128, 256, 3); large_case(8191, 128, 8191, 3); }
GPU_TEST(swa_large_64k_tokens)                  { large_case(1 << 16, 64, 256, 3); }
GPU_TEST(swa_large_64k_tokens_D128)             { large_case(1 << 16, 128, 256, 3); }
GPU_TEST(swa_large_64k_tokens_dense)            { large_case(1 << 16, 64, 1 << 16, 3); }
GPU_TEST(swa_large_64k_tokens_dense_D128)       { large_case(1 << 16, 128, 1 << 16, 3); }
#endif

TEST_MAIN()

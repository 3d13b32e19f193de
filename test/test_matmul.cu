#include "test.h"

#ifdef LLMC_CPU
#include <omp.h>

#include "ops.h"

// small whole numbers: every product and sum is exact
static float* whole_numbers(size_t n, uint64_t seed) {
    float* x = (float*)malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) { x[i] = (float)((int)(test_bits(&seed) % 9) - 4); }
    return x;
}

TEST(matmul_by_hand) {
    float inp[3 * 8] = {0}, weight[8 * 8] = {0}, out[3 * 8], dweight[8 * 8];
    inp[0] = 2; inp[1] = 3;                                              // row 0 = (2, 3, 0...), row 2 = (0, ..., 5)
    inp[2 * 8 + 7] = 5;
    weight[4 * 8 + 0] = 10; weight[4 * 8 + 1] = 100;                     // output 4 = 10 x0 + 100 x1, output 6 = -x7
    weight[6 * 8 + 7] = -1;
    matmul_forward(out, inp, weight, 3, 8, 8, NULL, NULL);
    CHECK_NEAR(out[0 * 8 + 4], 320, 0);
    CHECK_NEAR(out[2 * 8 + 6], -5, 0);
    CHECK_NEAR(out[1 * 8 + 4], 0, 0);
    float add[3 * 8], joined[3 * 8];
    for (int i = 0; i < 24; i++) { add[i] = 7; }
    matmul_forward_add(joined, inp, weight, add, 3, 8, 8, NULL, NULL);
    CHECK_NEAR(joined[0 * 8 + 4], 327, 0);
    CHECK_NEAR(joined[2 * 8 + 6], 2, 0);
    CHECK_NEAR(joined[1 * 8 + 4], 7, 0);
    float dinp[3 * 8];
    matmul_backward_input(dinp, out, weight, 3, 8, 8, NULL, NULL);       // dout = out
    CHECK_NEAR(dinp[0], 3200, 0);
    CHECK_NEAR(dinp[1], 32000, 0);
    CHECK_NEAR(dinp[2 * 8 + 7], 5, 0);
    for (int i = 0; i < 64; i++) { dweight[i] = 1000; }
    matmul_backward_weight(dweight, out, inp, 3, 8, 8, 1, NULL, NULL);
    CHECK_NEAR(dweight[4 * 8 + 0], 1000 + 640, 0);
    CHECK_NEAR(dweight[4 * 8 + 1], 1000 + 960, 0);
    CHECK_NEAR(dweight[6 * 8 + 7], 1000 - 25, 0);
    CHECK_NEAR(dweight[0], 1000, 0);
    matmul_backward_weight(dweight, out, inp, 3, 8, 8, 0, NULL, NULL);                   // set
    CHECK_NEAR(dweight[4 * 8 + 0], 640, 0);
    CHECK_NEAR(dweight[0], 0, 0);
}

static void matmul_exact_check(int N, int C, int OC) {
    float *inp = whole_numbers((size_t)N * C, 1), *weight = whole_numbers((size_t)OC * C, 2), *dout = whole_numbers((size_t)N * OC, 3);
    float *out = (float*)malloc((size_t)N * OC * 4), *dinp = (float*)malloc((size_t)N * C * 4), *dweight = whole_numbers((size_t)OC * C, 4);
    float* start = whole_numbers((size_t)OC * C, 4);
    matmul_forward(out, inp, weight, N, C, OC, NULL, NULL);
    matmul_backward_input(dinp, dout, weight, N, C, OC, NULL, NULL);
    matmul_backward_weight(dweight, dout, inp, N, C, OC, 1, NULL, NULL);
    for (int n = 0; n < N; n++) {
        for (int o = 0; o < OC; o++) {
            double sum = 0;
            for (int c = 0; c < C; c++) { sum += inp[n * C + c] * weight[o * C + c]; }
            CHECK(out[n * OC + o] == sum, "out[%d,%d] is %g, expected %g (N=%d C=%d OC=%d)", n, o, out[n * OC + o], sum, N, C, OC);
        }
        for (int c = 0; c < C; c++) {
            double sum = 0;
            for (int o = 0; o < OC; o++) { sum += dout[n * OC + o] * weight[o * C + c]; }
            CHECK(dinp[n * C + c] == sum, "dinp[%d,%d] is %g, expected %g (N=%d C=%d OC=%d)", n, c, dinp[n * C + c], sum, N, C, OC);
        }
    }
    for (int i = 0; i < OC * C; i++) {
        double sum = start[i];
        for (int n = 0; n < N; n++) { sum += dout[n * OC + i / C] * inp[n * C + i % C]; }
        CHECK(dweight[i] == sum, "dweight[%d] is %g, expected %g (N=%d C=%d OC=%d)", i, dweight[i], sum, N, C, OC);
    }
    free(inp); free(weight); free(dout); free(out); free(dinp); free(dweight); free(start);
}
TEST(matmul_is_exact_on_whole_numbers) {
    matmul_exact_check(1, 8, 8);
    matmul_exact_check(5, 16, 24);
    matmul_exact_check(63, 264, 40);
    matmul_exact_check(65, 64, 136);
    matmul_exact_check(257, 72, 520);
}

TEST(matmul_does_not_depend_on_the_number_of_threads) {
    enum { N = 131, C = 304, OC = 200 };
    float *inp = test_normals(N * C, 1, 1), *weight = test_normals(OC * C, 2, 1), *one = (float*)malloc(N * OC * 4), *more = (float*)malloc(N * OC * 4);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    matmul_forward(one, inp, weight, N, C, OC, NULL, NULL);
    omp_set_num_threads(3);
    matmul_forward(more, inp, weight, N, C, OC, NULL, NULL);
    omp_set_num_threads(threads);
    CHECK(memcmp(one, more, N * OC * 4) == 0, "1 and 3 threads differ");
    free(inp); free(weight); free(one); free(more);
}
#else
#include "ref.h"

typedef struct { float *out, *dinp, *dweight; } MatmulResults;

static MatmulResults matmul_results(const floatX* inp, const floatX* weight, const floatX* dout, const float* start, int N, int C, int OC,
                                    struct MatmulPlans* plans) {
    size_t inps = (size_t)N * C, outs = (size_t)N * OC, weights = (size_t)OC * C;
    floatX *d_out = (floatX*)device_poisoned(outs * 2), *d_dinp = (floatX*)device_poisoned(inps * 2);
    float* d_dweight = (float*)(start ? device_from(start, weights * 4) : device_poisoned(weights * 4));     // no start: set
    matmul_forward(d_out, inp, weight, N, C, OC, plans, NULL);
    matmul_backward_input(d_dinp, dout, weight, N, C, OC, plans, NULL);
    matmul_backward_weight(d_dweight, dout, inp, N, C, OC, start != NULL, plans, NULL);
    MatmulResults r = {floats_from(d_out, outs), floats_from(d_dinp, inps), (float*)host_from(d_dweight, weights * 4)};
    device_free(d_out); device_free(d_dinp); device_free(d_dweight);
    return r;
}

// out = add + product
static void forward_add_check(const floatX* d_inp, const floatX* d_weight, const float* inp, const float* weight, int N, int C, int OC,
                              struct MatmulPlans* plans) {
    size_t outs = (size_t)N * OC;
    float *add = test_normals(outs, 7, 3), *exact = (float*)malloc(outs * 4), *rounded = (float*)malloc(outs * 4);
    floatX *d_add = device_from_floats(add, outs), *d_out = (floatX*)device_poisoned(outs * 2);
    matmul_forward_add(d_out, d_inp, d_weight, d_add, N, C, OC, plans, NULL);
    float* out = floats_from(d_out, outs);
    ref_matmul_forward_add(exact, inp, weight, add, N, C, OC, NULL, NULL);
    rnd_matmul_forward_add(rounded, inp, weight, add, N, C, OC, NULL, NULL);
    check_budget("out, added", out, exact, rounded, outs, C);
    free(add); free(exact); free(rounded); free(out);
    device_free(d_add); device_free(d_out);
}

static void matmul_check(int N, int C, int OC, int repeats, struct MatmulPlans* plans) {
    size_t inps = (size_t)N * C, outs = (size_t)N * OC, weights = (size_t)OC * C;
    float *inp = test_normals(inps, 1, 1), *weight = test_normals(weights, 2, 0.02), *dout = test_normals(outs, 3, 1);
    float* start = test_normals(weights, 4, 1);
    floatX *d_inp = device_from_floats(inp, inps), *d_weight = device_from_floats(weight, weights), *d_dout = device_from_floats(dout, outs);
    MatmulResults first = matmul_results(d_inp, d_weight, d_dout, start, N, C, OC, plans);       // where plans are measured, dweight is added many times
    MatmulResults found = matmul_results(d_inp, d_weight, d_dout, start, N, C, OC, plans), again;
    free(first.out); free(first.dinp); free(first.dweight);
    float *exact = (float*)malloc(max_size(outs, inps) * 4), *rounded = (float*)malloc(max_size(outs, inps) * 4);
    ref_matmul_forward(exact, inp, weight, N, C, OC, NULL, NULL);
    rnd_matmul_forward(rounded, inp, weight, N, C, OC, NULL, NULL);
    check_budget("out", found.out, exact, rounded, outs, C);
    forward_add_check(d_inp, d_weight, inp, weight, N, C, OC, plans);
    ref_matmul_backward_input(exact, dout, weight, N, C, OC, NULL, NULL);
    rnd_matmul_backward_input(rounded, dout, weight, N, C, OC, NULL, NULL);
    check_budget("dinp", found.dinp, exact, rounded, inps, OC);
    float* exact_weight = (float*)malloc(weights * 4);
    memcpy(exact_weight, start, weights * 4);
    ref_matmul_backward_weight(exact_weight, dout, inp, N, C, OC, 1, NULL, NULL);
    check_budget("dweight", found.dweight, exact_weight, exact_weight, weights, N);
    again = matmul_results(d_inp, d_weight, d_dout, NULL, N, C, OC, plans);
    ref_matmul_backward_weight(exact_weight, dout, inp, N, C, OC, 0, NULL, NULL);
    check_budget("dweight, set", again.dweight, exact_weight, exact_weight, weights, N);
    free(again.out); free(again.dinp); free(again.dweight);
    for (int r = 1; r < repeats; r++) {
        again = matmul_results(d_inp, d_weight, d_dout, start, N, C, OC, plans);
        CHECK(memcmp(found.out, again.out, outs * 4) == 0 && memcmp(found.dinp, again.dinp, inps * 4) == 0
              && memcmp(found.dweight, again.dweight, weights * 4) == 0, "repeat %d differs", r);
        free(again.out); free(again.dinp); free(again.dweight);
    }
    free(inp); free(weight); free(dout); free(start); free(exact); free(rounded); free(exact_weight);
    free(found.out); free(found.dinp); free(found.dweight);
    device_free(d_inp); device_free(d_weight); device_free(d_dout);
}

typedef struct { void* workspace; struct MatmulPlans* plans; } Planner;

static Planner planner_open(int measure) {
    Planner p = {device_malloc(matmul_workspace()), NULL};
    p.plans = matmul_open(p.workspace, matmul_workspace());
    matmul_measure(p.plans, measure);
    return p;
}

static void planner_close(Planner* p) {
    matmul_close(p->plans);
    device_free(p->workspace);
}

static char* text_of(const struct MatmulPlans* plans) {
    size_t bytes = matmul_plans_text(NULL, 0, plans) + 1;
    char* text = (char*)malloc(bytes);
    size_t written = matmul_plans_text(text, bytes, plans);
    CHECK(written + 1 == bytes && strlen(text) == written, "a text of %zu bytes, %zu announced", strlen(text), bytes - 1);
    return text;
}

GPU_TEST(matmul_within_budget_whatever_N) {
    for (int measure = 0; measure < 2; measure++) {
        Planner p = planner_open(measure);
        matmul_check(1, 64, 128, 1, p.plans);
        matmul_check(17, 128, 64, 1, p.plans);
        matmul_check(333, 72, 200, 1, p.plans);
        matmul_check(512, 1024, 768, 1, p.plans);
        matmul_check(129, 256, 5128, 1, p.plans);
        planner_close(&p);
    }
}

// N large against C and OC invites a split inner dimension: the case that atomics would spoil
GPU_TEST(matmul_repeats_to_the_bit) {
    for (int measure = 0; measure < 2; measure++) {
        Planner p = planner_open(measure);
        matmul_check(8192, 128, 64, 12, p.plans);
        planner_close(&p);
    }
}

// more shapes than the table starts with, each asked for twice
GPU_TEST(matmul_keeps_many_plans) {
    Planner p = planner_open(0);
    for (int round = 0; round < 2; round++) {
        for (int N = 1; N <= 15; N++) { matmul_check(N, 16, 8, 1, p.plans); }
    }
    CHECK(matmul_plans_count(p.plans) == 60, "%zu plans for 15 shapes", matmul_plans_count(p.plans));
    planner_close(&p);
}

// plans that went through a text give the same bits, and the same text again
GPU_TEST(matmul_plans_survive_as_text) {
    enum { N = 4096, C = 256, OC = 384 };
    float *inp = test_normals(N * C, 1, 1), *weight = test_normals(OC * C, 2, 0.02), *dout = test_normals(N * OC, 3, 1), *start = test_normals(OC * C, 4, 1);
    floatX *d_inp = device_from_floats(inp, N * C), *d_weight = device_from_floats(weight, OC * C), *d_dout = device_from_floats(dout, N * OC);
    Planner measured = planner_open(1), resumed = planner_open(0);
    MatmulResults first = matmul_results(d_inp, d_weight, d_dout, start, N, C, OC, measured.plans);      // dweight added many times
    MatmulResults before = matmul_results(d_inp, d_weight, d_dout, start, N, C, OC, measured.plans);
    char* text = text_of(measured.plans);
    CHECK(matmul_plans_take(resumed.plans, text) == 3, "not all of the plans are taken:\n%s", text);
    char* again = text_of(resumed.plans);
    CHECK(strcmp(text, again) == 0, "the text changes on the way:\n%s\n%s", text, again);
    MatmulResults after = matmul_results(d_inp, d_weight, d_dout, start, N, C, OC, resumed.plans);
    CHECK(memcmp(before.out, after.out, (size_t)N * OC * 4) == 0 && memcmp(before.dinp, after.dinp, (size_t)N * C * 4) == 0
          && memcmp(before.dweight, after.dweight, (size_t)OC * C * 4) == 0, "the same plans give other bits");
    planner_close(&measured);
    planner_close(&resumed);
    free(text); free(again); free(inp); free(weight); free(dout); free(start);
    free(first.out); free(first.dinp); free(first.dweight);
    free(before.out); free(before.dinp); free(before.dweight); free(after.out); free(after.dinp); free(after.dweight);
    device_free(d_inp); device_free(d_weight); device_free(d_dout);
}

// another GPU's plans, torn and foreign lines: none is taken, none ends the program
GPU_TEST(matmul_plans_of_elsewhere_are_left) {
    Planner p = planner_open(0);
    matmul_check(64, 64, 64, 1, p.plans);
    char *text = text_of(p.plans), *first_end = strchr(text, '\n');
    planner_close(&p);
    const char* tails[] = {"", "matmul_forward", "matmul_forward 1 2", "matmul_sideways 64 64 64 0.1 1 2 3 4 5 6 7 8\n",
                           "matmul_forward 64 64 64 0.1 1 2 3\n", "matmul_forward -64 64 64 0.1 0 0 0 0 0 0 0 0\n"};
    Planner q = planner_open(0);
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        char whole[1024];
        snprintf(whole, sizeof whole, "%.*s\n%s", (int)(first_end - text), text, tails[i]);
        CHECK(matmul_plans_take(q.plans, whole) == 0, "taken: %s", tails[i]);
    }
    text[0] ^= 1;                                                        // a GPU of another name
    CHECK(matmul_plans_take(q.plans, text) == 0 && matmul_plans_count(q.plans) == 0, "another GPU's plans are taken");
    matmul_check(64, 64, 64, 1, q.plans);
    planner_close(&q);
    free(text);
}
#endif

TEST_MAIN()

// A micro-batch launched as one recorded graph leaves the gradients and the loss of its ops launched one by one, to the bit: the first of a
// step, which sets them, those that add, new tokens in the same graph, other sizes and another scale. (Without graphs, on the CPU: the same calls.)
#include "test.h"

#include "ops.h"
#include "optimizer.h"

enum { ROWS = 2, LENGTH = 256, LONGEST = 1100, VOCAB = 257, MICRO_BATCHES = 3 };

typedef struct {
    Model m;
    Optimizer opt;
} StepNet;

static void step_open(StepNet* net, KeepLevel level, int D, int length) {
    Error err;
    ModelShape s;
    memset(&s, 0, sizeof s);
    s.L = 3; s.C = 128; s.H = s.C / D; s.D = D; s.F = 192; s.V = VOCAB; s.Vp = 384; s.W = 3; s.theta = 10000;
    s.layer = (LayerSpec*)xcalloc((size_t)s.L, sizeof *s.layer);
    CHECK(pattern_parse(s.layer, s.L, "S64,M64:3,D", &err), "%s", err.text);
    device_open(0);
    model_plan(&net->m, s, ROWS, length, level, (size_t)1 << 28);
    optimizer_plan(&net->opt, &net->m);
    model_allocate(&net->m);
    optimizer_init(&net->opt, &net->m, 5);
}

static void step_close(StepNet* net) {
    optimizer_close(&net->opt);
    model_close(&net->m);
}

// gradients (table.elements), then the total, of one step
static double* step_gradients(StepNet* net, int rows, int length, float scale, uint64_t seed, bool recorded) {
    Model* m = &net->m;
    int tokens[ROWS * LONGEST], targets[ROWS * LONGEST];
    size_t n = m->table.elements;
    float* grads = (float*)xmalloc(n * sizeof(float));
    double* all = (double*)xmalloc((n + 1) * sizeof(double));
    model_zero(m);
    for (int i = 0; i < MICRO_BATCHES; i++) {
        for (int t = 0; t < rows * length; t++) {
            tokens[t] = (int)(test_bits(&seed) % VOCAB);
            targets[t] = (int)(test_bits(&seed) % VOCAB);
        }
        model_batch(m, tokens, targets, rows, length);
        if (recorded) {
            model_forward_backward(m, scale);
        } else {
            model_forward(m);
            model_loss_backward(m, scale);
            model_backward(m);
        }
    }
    device_download(grads, m->grads, n * sizeof(float), m->stream);
    all[n] = model_total(m);
    for (size_t i = 0; i < n; i++) { all[i] = grads[i]; }
    free(grads);
    return all;
}

static void step_check(StepNet* net, int rows, int length, float scale, uint64_t seed) {
    double* plain = step_gradients(net, rows, length, scale, seed, false);
    double* recorded = step_gradients(net, rows, length, scale, seed, true);
    size_t n = net->m.table.elements, different = 0;
    double size = 0;
    for (size_t i = 0; i < n; i++) {
        different += memcmp(&plain[i], &recorded[i], sizeof(double)) != 0;
        size += plain[i] * plain[i];
    }
    CHECK(size > 0 && isfinite(size), "gradients of squared size %g", size);
    CHECK(different == 0, "%d x %d, seed %d: %zu of %zu gradients differ", rows, length, (int)seed, different, n);
    CHECK(plain[n] == recorded[n], "%d x %d, seed %d: total %.17g one by one, %.17g recorded", rows, length, (int)seed, plain[n], recorded[n]);
    free(plain);
    free(recorded);
}

static void step_check_level(KeepLevel level) {
    StepNet net;
    step_open(&net, level, 64, LENGTH);
    step_check(&net, ROWS, LENGTH, 0.001f, 1);
    step_check(&net, ROWS, LENGTH, 0.001f, 2);         // the same graph, other tokens
    step_check(&net, 1, 200, 0.001f, 3);               // other sizes
    step_check(&net, 1, 200, 0.5f, 4);                 // another scale
    step_check(&net, ROWS, LENGTH, 0.001f, 1);         // and back
    step_close(&net);
}

#ifdef LLMC_CPU
TEST(step_recorded_is_op_by_op)                   { step_check_level(RECOMPUTE_NONE); }
#else
GPU_TEST(step_graph_is_op_by_op)                  { step_check_level(RECOMPUTE_NONE); }
GPU_TEST(step_graph_is_op_by_op_when_recomputing) { step_check_level(RECOMPUTE_PAIR); }

// dense layers of D = 128 have a backward of their own from some length on, whose scratch a shorter row must not outgrow
GPU_TEST(step_graph_with_a_long_dense_layer) {
    StepNet net;
    step_open(&net, RECOMPUTE_NONE, 128, LONGEST);
    step_check(&net, ROWS, LONGEST, 0.001f, 8);
    step_check(&net, ROWS, 200, 0.001f, 9);
    step_check(&net, 1, LONGEST, 0.001f, 10);
    step_close(&net);
}

// a step whose plans are measured in a rehearsal, as the trainer has it
GPU_TEST(step_graph_after_a_rehearsal) {
    StepNet net;
    step_open(&net, RECOMPUTE_NONE, 64, LENGTH);
    matmul_measure(net.m.plans, 1);
    model_rehearse(&net.m);
    matmul_measure(net.m.plans, 0);
    step_check(&net, ROWS, LENGTH, 0.001f, 7);
    step_close(&net);
}
#endif

TEST_MAIN()

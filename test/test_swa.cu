// Sliding-window and dense causal attention.
#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#include "attn_case.h"
#else
#include "attn_problem.h"
#endif
#include "rope_table.h"

#ifdef LLMC_CPU
// everything a forward needs, q, k, v from one (B*T, 3*H*D) product
typedef struct { AttnShape shape; size_t rows, n; float *qkv, *out, *lse; } Forward;

static Forward forward_open(int B, int T, int H, int D, uint64_t seed) {
    Forward f;
    f.shape = attn_shape(B, T, H, D);
    f.shape.ldk = 3 * H * D;
    f.rows = (size_t)B * T;
    f.n = f.rows * H * D;
    f.qkv = attn_normals(3 * f.n, seed);
    f.out = attn_normals(f.n, seed + 1);            // garbage: outputs are set
    f.lse = attn_normals(f.rows * H, seed + 2);
    return f;
}
static void forward_run(Forward* f, int window) {
    int C = f->shape.H * f->shape.D;
    swa_forward(f->out, f->lse, f->qkv, f->qkv + C, f->qkv + 2 * C, f->shape, window, NULL);
}
static void forward_close(Forward* f) { free(f->qkv); free(f->out); free(f->lse); }

TEST(swa_two_tokens_by_hand) {
    // one head of 8: q1 . k0 / sqrt(8) = ln 3, q1 . k1 = 0, so token 1 weighs v0 : v1 as 3 : 1
    AttnShape shape = attn_shape(1, 2, 1, 8);
    float q[48] = {0}, k[16] = {0}, out[16], lse[2];
    q[24] = (float)(log(3.0) * sqrt(8.0));
    k[0] = 1;
    float* v = q + 16;
    v[0] = 4; v[1] = 8; v[24] = 12; v[25] = -8;
    swa_forward(out, lse, q, k, v, shape, 2, NULL);
    CHECK_NEAR(out[0], 4, 0);
    CHECK_NEAR(out[1], 8, 0);
    CHECK_NEAR(out[8], 6, 1e-5);
    CHECK_NEAR(out[9], 4, 1e-5);
    CHECK_NEAR(lse[0], 0, 1e-6);
    CHECK_NEAR(lse[1], log(4.0), 1e-6);
}

TEST(swa_window_1_copies_v) {
    Forward f = forward_open(2, 7, 2, 8, 1);
    forward_run(&f, 1);
    for (size_t row = 0; row < f.rows; row++) {
        for (int c = 0; c < 16; c++) { CHECK_NEAR(f.out[row * 16 + c], f.qkv[row * 48 + 32 + c], 0); }
    }
    forward_close(&f);
}

TEST(swa_window_of_T_or_more_is_dense) {
    Forward a = forward_open(1, 13, 2, 16, 2), b = forward_open(1, 13, 2, 16, 2);
    forward_run(&a, 13);
    forward_run(&b, 1 << 30);
    CHECK(memcmp(a.out, b.out, a.n * sizeof(float)) == 0, "window T and window 2^30 differ");
    CHECK(memcmp(a.lse, b.lse, a.rows * 2 * sizeof(float)) == 0, "their lse differ");
    forward_close(&a);
    forward_close(&b);
}

// softmax over an explicit mask, written down a second time
TEST(swa_equals_masked_softmax) {
    int B = 2, T = 21, H = 2, D = 8, C = H * D, window = 6;
    Forward f = forward_open(B, T, H, D, 3);
    forward_run(&f, window);
    for (int b = 0; b < B; b++) for (int h = 0; h < H; h++) for (int t = 0; t < T; t++) {
        double sum = 0, out[8] = {0};
        for (int u = 0; u < T; u++) {
            const float *q = f.qkv + ((size_t)b * T + t) * 3 * C + h * D, *k = f.qkv + ((size_t)b * T + u) * 3 * C + C + h * D, *v = k + C;
            double s = 0;
            for (int d = 0; d < D; d++) { s += (double)q[d] * k[d]; }
            double p = u <= t && t - u < window ? exp(s / sqrt((double)D)) : 0;
            sum += p;
            for (int d = 0; d < D; d++) { out[d] += p * v[d]; }
        }
        for (int d = 0; d < D; d++) { CHECK_NEAR(f.out[((size_t)b * T + t) * C + h * D + d], out[d] / sum, 2e-6); }
        CHECK_NEAR(f.lse[((size_t)b * H + h) * T + t], log(sum), 1e-5);
    }
    forward_close(&f);
}

TEST(swa_never_looks_ahead) {
    Forward a = forward_open(1, 20, 2, 8, 4), b = forward_open(1, 20, 2, 8, 4);
    for (size_t i = 12 * 48; i < 13 * 48; i++) { b.qkv[i] += 1; }     // token 12
    forward_run(&a, 5);
    forward_run(&b, 5);
    CHECK(memcmp(a.out, b.out, 12 * 16 * sizeof(float)) == 0, "an output before the changed token changed");
    CHECK(memcmp(a.out + 12 * 16, b.out + 12 * 16, 16 * sizeof(float)) != 0, "the changed token's output did not change");
    CHECK(memcmp(a.out + 17 * 16, b.out + 17 * 16, 3 * 16 * sizeof(float)) == 0, "a window of 5 reached 5 tokens back");
    forward_close(&a);
    forward_close(&b);
}

// dq (at column 0 of dqv's rows), dk and dv (at column 2*H*D) of a forward that has run
typedef struct { float *dqv, *dk; } Backward;

static Backward backward_open(const Forward* f, int window, const float* rope) {
    int C = f->shape.H * f->shape.D;
    AttnShape s = f->shape;
    Backward b = {(float*)calloc(3 * f->n, sizeof(float)), (float*)calloc(3 * f->n, sizeof(float))};
    float* dout = attn_normals(f->n, 9);
    swa_backward(b.dqv, b.dk, b.dqv + 2 * C, dout, f->out, f->lse, f->qkv, f->qkv + C, f->qkv + 2 * C, rope, s, window, NULL, NULL);
    free(dout);
    return b;
}
static void backward_close(Backward* b) { free(b->dqv); free(b->dk); }

TEST(swa_backward_turns_back_a_quarter) {
    enum { B = 2, T = 2, H = 2, D = 8, C = H * D };
    float table[T * D];
    for (int i = 0; i < D / 2; i++) {
        table[2 * i] = 1;     table[2 * i + 1] = 0;                      // t = 0: none
        table[D + 2 * i] = 0; table[D + 2 * i + 1] = 1;                  // t = 1: a quarter
    }
    Forward f = forward_open(B, T, H, D, 5);
    forward_run(&f, T);
    Backward plain = backward_open(&f, T, NULL), turned = backward_open(&f, T, table);
    for (size_t i = 0; i < 3 * f.n; i++) {
        size_t c = i % (3 * C), t = i / (3 * C) % T;
        bool first = c % D < D / 2;
        float dq = plain.dqv[i], dk = plain.dk[i];
        if (t == 1 && c < C) {
            dq = first ? plain.dqv[i + D / 2] : -plain.dqv[i - D / 2];
            dk = first ? plain.dk[i + D / 2] : -plain.dk[i - D / 2];
        }
        CHECK(turned.dqv[i] == dq && turned.dk[i] == dk, "row %zu column %zu: %g and %g, expected %g and %g", i / (3 * C), c,
              (double)turned.dqv[i], (double)turned.dk[i], (double)dq, (double)dk);
    }
    backward_close(&plain); backward_close(&turned);
    forward_close(&f);
}

TEST(swa_backward_with_rope_is_backward_and_the_turn_back) {
    int T = 21, H = 3, D = 16, C = H * D, window = 6;
    float *table = rope_table(T, D, 1), *back = rope_table(T, D, -1);
    Forward f = forward_open(2, T, H, D, 6);
    forward_run(&f, window);
    Backward two = backward_open(&f, window, NULL), one = backward_open(&f, window, table);
    rope_forward(two.dqv, back, 2 * T, T, H, D, 3 * C, NULL);
    rope_forward(two.dk, back, 2 * T, T, H, D, 3 * C, NULL);
    double largest = 0, ulp = 1.0 / (1 << 24);
    for (size_t i = 0; i < 3 * f.n; i++) { largest = fmax(largest, fmax(fabs(one.dqv[i]), fabs(one.dk[i]))); }
    CHECK(largest > 0.1, "gradients of %g have nothing to turn", largest);
    for (size_t i = 0; i < 3 * f.n; i++) {                               // three roundings of values of a pair that is at most sqrt(2) as long
        CHECK_NEAR(one.dqv[i], two.dqv[i], 3 * sqrt(2.0) * ulp * largest);
        CHECK_NEAR(one.dk[i], two.dk[i], 3 * sqrt(2.0) * ulp * largest);
    }
    backward_close(&one); backward_close(&two);
    forward_close(&f);
    free(table); free(back);
}

TEST(swa_refuses_odd_head_dims) {
    CHECK(swa_refusal(64) == NULL && swa_refusal(24) == NULL, "multiples of 8 are refused");
    CHECK(swa_refusal(12) != NULL && swa_refusal(0) != NULL, "12 or 0 is not refused");
}
#endif

#ifndef LLMC_CPU
static AttnResults swa_kernel(const AttnProblem* p, int window, const float* rope) {
    enum { GUARD = 4096 };                          // bytes behind the scratch, which nobody may touch
    AttnOutputs o = outputs_open(p);
    const floatX *q = p->qv_dev, *k = p->k_dev, *v = q + 2 * p->C;
    size_t bytes = swa_backward_scratch(p->shape, window);
    char* scratch = (char*)device_poisoned(bytes + GUARD);
    swa_forward(o.out, o.lse, q, k, v, p->shape, window, NULL);
    swa_backward(o.dqv, o.dk, o.dqv + 2 * p->C, p->dout_dev, o.out, o.lse, q, k, v, rope, p->shape, window, scratch, NULL);
    AttnResults r = outputs_close(p, &o);
    unsigned char* guard = (unsigned char*)host_from(scratch + bytes, GUARD);
    for (int i = 0; i < GUARD; i++) { CHECK(guard[i] == 0xff, "byte %d behind the scratch was written", i); }
    free(guard);
    device_free(scratch);
    return r;
}
static AttnResults swa_exact(const AttnProblem* p, int window) {
    AttnResults r = results_open(p);
    const float *q = p->qv, *k = p->k, *v = q + 2 * p->C;
    ref_swa_forward(r.out, r.lse, q, k, v, p->shape, window, NULL);
    ref_swa_backward(r.dqv, r.dk, r.dqv + 2 * p->C, p->dout, r.out, r.lse, q, k, v, NULL, p->shape, window, NULL, NULL);
    return r;
}
static AttnResults swa_rounded(const AttnProblem* p, int window, const float* rope) {
    AttnResults r = results_open(p);
    const float *q = p->qv, *k = p->k, *v = q + 2 * p->C;
    rnd_swa_forward(r.out, r.lse, q, k, v, p->shape, window, NULL);
    rnd_swa_backward(r.dqv, r.dk, r.dqv + 2 * p->C, p->dout, r.out, r.lse, q, k, v, rope, p->shape, window, NULL, NULL);
    return r;
}

// rope: NULL, or rope_table(T, D, 1). The exact results are backward's, and then the turn's by the other table.
static void swa_turned_case(int B, int T, int H, int D, int window, float sharpness, const float* rope) {
    AttnPath path[2];
    AttnProblem p = problem_open(B, T, H, D, sharpness);
    AttnResults exact = swa_exact(&p, window), rounded = swa_rounded(&p, window, rope);
    float* device_rope = NULL;
    if (rope != NULL) {
        float* back = rope_table(T, D, -1);
        ref_rope_forward(exact.dqv, back, B * T, T, H, D, 3 * p.C, NULL);
        ref_rope_forward(exact.dk, back, B * T, T, H, D, p.C, NULL);
        free(back);
        device_rope = (float*)device_from(rope, (size_t)T * D * sizeof(float));
    }
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        char label[64];
        p.shape.path = path[i];
        snprintf(label, sizeof label, "window %d, %s%s", window, attn_path_name(path[i]), rope != NULL ? ", rope" : "");
        AttnResults kernel = swa_kernel(&p, window, device_rope);
        check_results(&p, &kernel, &exact, &rounded, window == 1 || T == 1, label);
        results_free(&kernel);
    }
    results_free(&exact); results_free(&rounded);
    if (rope != NULL) { device_free(device_rope); }
    problem_close(&p);
}

static void swa_case(int B, int T, int H, int D, int window, float sharpness) { swa_turned_case(B, T, H, D, window, sharpness, NULL); }

static void swa_rope_case(int B, int T, int H, int D, int window) {
    float* rope = rope_table(T, D, 1);
    swa_turned_case(B, T, H, D, window, 1, rope);
    free(rope);
}

static void swa_windows(int T, int D) {
    int windows[] = {1, 64, 100, 256, T, 1 << 30};
    for (int i = 0; i < 6; i++) { swa_case(1, T, 2, D, windows[i], 1); }
}

GPU_TEST(swa_within_budget_D64_T1)        { swa_windows(1, 64); }
GPU_TEST(swa_within_budget_D64_T63)       { swa_windows(63, 64); }
GPU_TEST(swa_within_budget_D64_T64)       { swa_windows(64, 64); }
GPU_TEST(swa_within_budget_D64_T65)       { swa_windows(65, 64); }
GPU_TEST(swa_within_budget_D64_T300)      { swa_windows(300, 64); }
GPU_TEST(swa_within_budget_D64_T1000)     { swa_windows(1000, 64); }
GPU_TEST(swa_within_budget_D128_T1)       { swa_windows(1, 128); }
GPU_TEST(swa_within_budget_D128_T127)     { swa_windows(127, 128); }
GPU_TEST(swa_within_budget_D128_T129)     { swa_windows(129, 128); }
GPU_TEST(swa_within_budget_D128_T300)     { swa_windows(300, 128); }
GPU_TEST(swa_within_budget_D128_T1000)    { swa_windows(1000, 128); }
GPU_TEST(swa_within_budget_D64_T8191)     { swa_case(1, 8191, 2, 64, 256, 1); }
GPU_TEST(swa_within_budget_D128_T8191)    { swa_case(1, 8191, 2, 128, 256, 1); }
GPU_TEST(swa_within_budget_dense_T2047)   { swa_case(1, 2047, 2, 64, 2047, 1); swa_case(1, 2047, 2, 128, 2047, 1); }
GPU_TEST(swa_within_budget_two_sequences) { swa_case(2, 200, 3, 64, 77, 1); swa_case(2, 130, 1, 128, 1000, 1); }
GPU_TEST(swa_within_budget_dense_many_heads) { swa_case(64, 300, 3, 128, 300, 1); }
GPU_TEST(swa_within_budget_long_window)   { swa_case(1, 1400, 1, 64, 1100, 1); }
GPU_TEST(swa_within_budget_sharp_softmax) { swa_case(1, 300, 1, 64, 300, 12); swa_case(1, 300, 1, 128, 90, 12); }
GPU_TEST(swa_rope_within_budget_D64)           { swa_rope_case(1, 1, 2, 64, 64); swa_rope_case(1, 64, 2, 64, 64); swa_rope_case(1, 300, 2, 64, 100); }
GPU_TEST(swa_rope_within_budget_D128)          { swa_rope_case(1, 63, 2, 128, 63); swa_rope_case(1, 129, 2, 128, 64); swa_rope_case(1, 300, 2, 128, 256); }
GPU_TEST(swa_rope_within_budget_two_sequences) { swa_rope_case(2, 200, 3, 64, 77); swa_rope_case(2, 130, 1, 128, 1000); }
GPU_TEST(swa_rope_within_budget_long_window)   { swa_rope_case(1, 1400, 1, 64, 1100); }

static void swa_repeats(int B, int T, int D, int window) {          // 2 heads
    AttnPath path[2];
    AttnProblem p = problem_open(B, T, 2, D, 1);
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        p.shape.path = path[i];
        AttnResults first = swa_kernel(&p, window, NULL);
        for (int repeat = 1; repeat <= 30; repeat++) {
            AttnResults again = swa_kernel(&p, window, NULL);
            check_repeat(&p, &first, &again, repeat);
            results_free(&again);
        }
        results_free(&first);
    }
    problem_close(&p);
}
GPU_TEST(swa_repeats_to_the_bit_short)      { swa_repeats(2, 500, 64, 200); swa_repeats(2, 500, 128, 500); }
GPU_TEST(swa_repeats_to_the_bit_D64)        { swa_repeats(1, 2000, 64, 256); }
GPU_TEST(swa_repeats_to_the_bit_D128)       { swa_repeats(1, 2000, 128, 256); }
GPU_TEST(swa_repeats_to_the_bit_dense_D64)  { swa_repeats(1, 2000, 64, 2000); }
GPU_TEST(swa_repeats_to_the_bit_dense_D128) { swa_repeats(1, 2000, 128, 2000); }
// more blocks of keys than an H100 has multiprocessors, of two heads and of many short ones
GPU_TEST(swa_repeats_to_the_bit_dense_D128_long) { swa_repeats(1, 20000, 128, 20000); }
GPU_TEST(swa_repeats_to_the_bit_dense_D128_heads)  { swa_repeats(16, 1500, 128, 1500); }

GPU_TEST(swa_gpu_never_looks_ahead) {
    AttnPath path[2];
    for (int i = 0, paths = attn_paths(path); i < paths; i++) {
        AttnProblem p = problem_open(1, 200, 1, 64, 1);
        p.shape.path = path[i];
        AttnResults before = swa_kernel(&p, 150, NULL);
        problem_change_token(&p, 130);
        AttnResults after = swa_kernel(&p, 150, NULL);
        check_causal(&p, &before, &after, 130);
        results_free(&before); results_free(&after);
        problem_close(&p);
    }
}

// on the path that the trainer takes, where another backward begins to serve dense layers of D = 128
GPU_TEST(swa_within_budget_dense_D128_around_1024) {
    for (int T = 1023; T <= 1025; T++) {
        AttnProblem p = problem_open(1, T, 1, 128, 1);
        p.shape.path = ATTN_AUTO;
        AttnResults exact = swa_exact(&p, T), rounded = swa_rounded(&p, T, NULL), kernel = swa_kernel(&p, T, NULL);
        check_results(&p, &kernel, &exact, &rounded, false, "dense, auto");
        results_free(&exact); results_free(&rounded); results_free(&kernel);
        problem_close(&p);
    }
}

// a plan for T tokens serves every shorter row, whose window may be all of it; one for any path every path
GPU_TEST(swa_scratch_grows_with_T_and_serves_every_path) {
    const int windows[] = {1, 256, 1000, 1024, 3000, 1 << 30};
    const AttnPath paths[] = {ATTN_AUTO, ATTN_HOPPER, ATTN_PORTABLE};
    for (int D = 64; D <= 128; D += 64) for (int w = 0; w < 6; w++) {
        size_t before[3] = {0, 0, 0};
        for (int T = 1; T < 6000; T++) {
            AttnShape shape = attn_shape(2, T, 3, D);
            size_t bytes[3];
            for (int path = 0; path < 3; path++) {
                shape.path = paths[path];
                bytes[path] = swa_backward_scratch(shape, windows[w]);
                CHECK(bytes[path] >= before[path], "D %d, window %d: %zu bytes for T %d, %zu for one less", D, windows[w], bytes[path], T, before[path]);
                CHECK(bytes[path] <= bytes[0], "D %d, window %d, T %d: %zu bytes for one path, %zu for any", D, windows[w], T, bytes[path], bytes[0]);
                before[path] = bytes[path];
            }
        }
    }
}

GPU_TEST(swa_refuses_other_head_dims) {
    CHECK(swa_refusal(64) == NULL && swa_refusal(128) == NULL, "64 or 128 is refused");
    CHECK(swa_refusal(96) != NULL && swa_refusal(32) != NULL, "96 or 32 is not refused");
}
#endif

TEST_MAIN()

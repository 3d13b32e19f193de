#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "ref.h"
#endif

static float* kconv_normals(size_t n, uint64_t seed) {
    float* x = (float*)malloc((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++) { x[i] = (float)test_normal(&seed); }
    return x;
}

#ifdef LLMC_CPU
static double silu(double z) { return z / (1 + exp(-z)); }

TEST(kconv_impulse_shows_the_taps) {
    enum { T = 6, C = 8, W = 3 };
    float k[T * C] = {0}, w[W * C], out[T * C];
    for (int i = 0; i < W * C; i++) { w[i] = (float)(i % 7) - 2.5f; }
    for (int c = 0; c < C; c++) { k[(c % 3) * C + c] = 1; }              // channel c rings at t = c % 3
    kconv_forward(out, k, w, 1, T, C, W, C, NULL);
    for (int t = 0; t < T; t++) {
        for (int c = 0; c < C; c++) {
            int lag = t - c % 3;
            double expected = lag < 0 || lag >= W ? 0 : silu(w[lag * C + c]) + (lag == 0);
            CHECK_NEAR(out[t * C + c], expected, 1e-6);
        }
    }
}

TEST(kconv_is_causal_and_keeps_sequences_apart) {
    enum { B = 2, T = 9, C = 16, W = 5, LD = 40 };
    float *k = kconv_normals(B * T * LD, 1), *w = kconv_normals(W * C, 2), before[B * T * C], after[B * T * C];
    kconv_forward(before, k, w, B, T, C, W, LD, NULL);
    k[(size_t)(T - 1) * LD] += 1;                                        // the last row of the first sequence
    kconv_forward(after, k, w, B, T, C, W, LD, NULL);
    for (int i = 0; i < B * T * C; i++) {
        CHECK((before[i] != after[i]) == (i == (T - 1) * C), "row %d, channel %d: %g became %g", i / C, i % C,
              (double)before[i], (double)after[i]);
    }
    free(k); free(w);
}

TEST(kconv_shorter_than_its_taps) {
    enum { T = 2, C = 8, W = 5 };
    float k[T * C], w[W * C], out[T * C];
    for (int c = 0; c < C; c++) { k[c] = 2; k[C + c] = -1; }
    for (int i = 0; i < W * C; i++) { w[i] = (float)(i / C + 1); }       // taps 1 2 3 4 5
    kconv_forward(out, k, w, 1, T, C, W, C, NULL);
    CHECK_NEAR(out[0], 2 + silu(2), 1e-6);
    CHECK_NEAR(out[C], -1 + silu(-1 + 2 * 2), 1e-6);
}

TEST(kconv_centroid_by_hand) {                                           // the means are of k', not of k, and of the keys there are
    enum { B = 2, T = 5, H = 2, D = 8, C = H * D, W = 3, LD = 40, BLOCK = 2, BLOCKS = 3 };
    float *k = kconv_normals(B * T * LD, 6), w[W * C] = {0}, out[B * T * C], centroid[B * H * BLOCKS * D];
    for (int c = 0; c < C; c++) { w[C + c] = 1; }                        // z[t] = k[t-1]
    kconv_centroid_forward(out, centroid, k, w, B, T, H, D, W, LD, BLOCK, NULL);
    for (int b = 0; b < B; b++) {
        for (int c = 0; c < C; c++) {
            double kprime[T + 1] = {0};
            for (int t = 0; t < T; t++) {
                kprime[t] = k[(b * T + t) * LD + c] + (t ? silu(k[(b * T + t - 1) * LD + c]) : 0);
                CHECK_NEAR(out[(b * T + t) * C + c], kprime[t], 1e-6);
            }
            for (int j = 0; j < BLOCKS; j++) {
                double mean = j < 2 ? (kprime[2 * j] + kprime[2 * j + 1]) / 2 : kprime[4];
                CHECK_NEAR(centroid[((b * H + c / D) * BLOCKS + j) * D + c % D], mean, 1e-6);
            }
        }
    }
    free(k);
}

TEST(kconv_backward_with_zero_taps_by_hand) {                            // z = 0, silu'(0) = 1/2
    enum { B = 2, T = 4, C = 8, W = 3, LD = 24 };
    float *k = kconv_normals(B * T * LD, 3), *dout = kconv_normals(B * T * C, 4), w[W * C] = {0}, dk[B * T * LD], dw[W * C];
    for (int i = 0; i < B * T * LD; i++) { dk[i] = 99; }
    for (int i = 0; i < W * C; i++) { dw[i] = 10; }
    void* scratch = malloc(kconv_backward_scratch(B, T, C, W));
    kconv_backward(dk, dw, dout, k, w, B, T, C, W, LD, scratch, NULL);
    for (int row = 0; row < B * T; row++) {
        for (int c = 0; c < LD; c++) {                                   // set where the keys are, untouched beside them
            CHECK_NEAR(dk[row * LD + c], c < C ? dout[row * C + c] : 99, 0);
        }
    }
    for (int i = 0; i < W; i++) {
        for (int c = 0; c < C; c++) {
            double expected = 10;                                        // added to what was there
            for (int b = 0; b < B; b++) {
                for (int t = i; t < T; t++) { expected += 0.5 * dout[(b * T + t) * C + c] * k[(b * T + t - i) * LD + c]; }
            }
            CHECK_NEAR(dw[i * C + c], expected, 1e-5);
        }
    }
    free(k); free(dout); free(scratch);
}
#endif

#ifndef LLMC_CPU
typedef struct { int B, T, C, W, ldk; } KconvShape;

static const KconvShape kconv_shapes[] = {{1, 1, 8, 3, 8},      {2, 2, 16, 5, 48},    {2, 31, 264, 3, 800}, {1, 64, 256, 5, 256},
                                          {1, 65, 256, 5, 768}, {3, 257, 40, 5, 120}, {2, 1000, 64, 3, 64}, {1, 515, 1024, 3, 3072}};
enum { KCONV_SHAPES = sizeof kconv_shapes / sizeof *kconv_shapes };

GPU_TEST(kconv_kernel_forward_within_budget) {
    for (int i = 0; i < KCONV_SHAPES; i++) {
        KconvShape s = kconv_shapes[i];
        size_t rows = (size_t)s.B * s.T;
        float *k = kconv_normals(rows * s.ldk, 10 + i), *w = kconv_normals(s.W * s.C, 20 + i);
        floatX *device_k = device_from_floats(k, rows * s.ldk), *device_out = (floatX*)device_poisoned(rows * s.C * 2);
        float* device_w = (float*)device_from(w, s.W * s.C * sizeof(float));
        float *exact = kconv_normals(rows * s.C, 0), *rounded = kconv_normals(rows * s.C, 0);
        kconv_forward(device_out, device_k, device_w, s.B, s.T, s.C, s.W, s.ldk, NULL);
        ref_kconv_forward(exact, k, w, s.B, s.T, s.C, s.W, s.ldk, NULL);
        rnd_kconv_forward(rounded, k, w, s.B, s.T, s.C, s.W, s.ldk, NULL);
        float* kernel = floats_from(device_out, rows * s.C);
        check_budget("out", kernel, exact, rounded, rows * s.C, s.W);
        free(k); free(w); free(exact); free(rounded); free(kernel);
        device_free(device_k); device_free(device_out); device_free(device_w);
    }
}

typedef struct { int B, T, H, D, W, ldk; } KconvHeads;

// k' and block means in one pass, twice: to the bit what kconv_forward and moba_centroid give, which is the mean of the rounded k'
static void kconv_check_centroid(KconvHeads s, int block, uint64_t seed) {
    int C = s.H * s.D, n = (s.T + block - 1) / block;
    size_t keys = (size_t)s.B * s.T * s.ldk, outs = (size_t)s.B * s.T * C, means = (size_t)s.B * n * C;
    float *k = kconv_normals(keys, seed), *w = kconv_normals((size_t)s.W * C, seed + 1), *exact = kconv_normals(means, 0);
    floatX *device_k = device_from_floats(k, keys), *device_out = (floatX*)device_poisoned(outs * 2);
    float *device_w = (float*)device_from(w, (size_t)s.W * C * sizeof(float)), *device_mean = (float*)device_poisoned(means * sizeof(float));
    AttnShape shape = {s.B, s.T, s.H, s.D, C, C, C, C, ATTN_AUTO};
    kconv_forward(device_out, device_k, device_w, s.B, s.T, C, s.W, s.ldk, NULL);
    moba_centroid(device_mean, device_out, shape, block, NULL);
    float *out = floats_from(device_out, outs), *mean = (float*)host_from(device_mean, means * sizeof(float));
    ref_moba_centroid(exact, out, shape, block, NULL);
    check_budget("centroid", mean, exact, exact, means, s.T < block ? s.T : block);      // fp32 throughout: the floor alone
    device_free(device_out); device_free(device_mean);
    for (int repeat = 0; repeat < 2; repeat++) {
        floatX* once = (floatX*)device_poisoned(outs * 2);
        float* once_mean = (float*)device_poisoned(means * sizeof(float));
        kconv_centroid_forward(once, once_mean, device_k, device_w, s.B, s.T, s.H, s.D, s.W, s.ldk, block, NULL);
        float *found = floats_from(once, outs), *found_mean = (float*)host_from(once_mean, means * sizeof(float));
        for (size_t i = 0; i < outs; i++) {
            CHECK(memcmp(found + i, out + i, sizeof(float)) == 0, "T=%d block %d: k' %zu is %.9g, by kconv_forward %.9g", s.T, block, i,
                  (double)found[i], (double)out[i]);
        }
        for (size_t i = 0; i < means; i++) {
            CHECK(memcmp(found_mean + i, mean + i, sizeof(float)) == 0, "T=%d block %d: mean %zu is %.9g, by moba_centroid %.9g", s.T, block, i,
                  (double)found_mean[i], (double)mean[i]);
        }
        free(found); free(found_mean); device_free(once); device_free(once_mean);
    }
    free(k); free(w); free(exact); free(out); free(mean); device_free(device_k); device_free(device_w);
}

GPU_TEST(kconv_kernel_centroid_is_the_two_ops_to_the_bit) {
    static const KconvHeads shapes[] = {{1, 1, 1, 8, 3, 8},      {2, 63, 3, 64, 5, 576}, {2, 200, 5, 24, 3, 368}, {3, 257, 1, 128, 5, 384},
                                        {1, 1030, 2, 64, 3, 384}, {2, 1024, 1, 64, 5, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (int block = 64; block <= 1024; block *= 2) { kconv_check_centroid(shapes[i], block, 50 + 2 * i); }
    }
    kconv_check_centroid(shapes[2], 20, 70);                             // runs of 3, the last but one short, the last empty
    KconvHeads wide = {2, 130, 34, 64, 3, 3 * 34 * 64};
    kconv_check_centroid(wide, 64, 72);
}

typedef struct { floatX *dout, *k, *dk; float *w, *dw; void* scratch; } KconvDevice;

// Runs the backward from dk full of NaN and dw full of 1; dk comes back as (rows, ldk), dw as (W, C).
static void kconv_run_backward(KconvShape s, KconvDevice d, float** dk, float** dw) {
    size_t rows = (size_t)s.B * s.T;
    float* ones = (float*)malloc(s.W * s.C * sizeof(float));
    void* poison = malloc(rows * s.ldk * 2);
    for (int i = 0; i < s.W * s.C; i++) { ones[i] = 1; }
    memset(poison, 0xff, rows * s.ldk * 2);
    device_upload(d.dk, poison, rows * s.ldk * 2, NULL);
    device_upload(d.dw, ones, s.W * s.C * sizeof(float), NULL);
    stream_sync(NULL);
    free(poison); free(ones);
    kconv_backward(d.dk, d.dw, d.dout, d.k, d.w, s.B, s.T, s.C, s.W, s.ldk, d.scratch, NULL);
    *dk = floats_from(d.dk, rows * s.ldk);
    *dw = (float*)host_from(d.dw, s.W * s.C * sizeof(float));
}

static void kconv_check_backward(KconvShape s, int repeats, uint64_t seed) {
    size_t rows = (size_t)s.B * s.T, keys = rows * s.ldk, taps = (size_t)s.W * s.C;
    float *k = kconv_normals(keys, seed), *w = kconv_normals(taps, seed + 1), *dout = kconv_normals(rows * s.C, seed + 2);
    KconvDevice d = {device_from_floats(dout, rows * s.C), device_from_floats(k, keys), (floatX*)device_poisoned(keys * 2),
                     (float*)device_from(w, taps * sizeof(float)), (float*)device_poisoned(taps * sizeof(float)),
                     device_poisoned(kconv_backward_scratch(s.B, s.T, s.C, s.W))};
    float *exact = (float*)calloc(keys, sizeof(float)), *rounded = (float*)calloc(keys, sizeof(float)), *dk, *dw;
    float *exact_dw = (float*)malloc(taps * sizeof(float)), *rounded_dw = (float*)malloc(taps * sizeof(float));
    for (size_t i = 0; i < taps; i++) { exact_dw[i] = rounded_dw[i] = 1; }
    void* scratch = malloc(rows * s.C * sizeof(float));                  // the reference's: all of dz
    ref_kconv_backward(exact, exact_dw, dout, k, w, s.B, s.T, s.C, s.W, s.ldk, scratch, NULL);
    rnd_kconv_backward(rounded, rounded_dw, dout, k, w, s.B, s.T, s.C, s.W, s.ldk, scratch, NULL);

    kconv_run_backward(s, d, &dk, &dw);
    for (size_t row = 0; row < rows; row++) {                            // beside the keys the poison is as it was; then it may be compared
        for (int c = s.C; c < s.ldk; c++) {
            CHECK(dk[row * s.ldk + c] != dk[row * s.ldk + c], "row %zu column %d is not a key but was written", row, c);
            dk[row * s.ldk + c] = 0;
        }
    }
    check_budget("dk", dk, exact, rounded, keys, s.W);
    check_budget("dw", dw, exact_dw, rounded_dw, taps, rows);
    for (int repeat = 1; repeat < repeats; repeat++) {
        float *again_dk, *again_dw;
        kconv_run_backward(s, d, &again_dk, &again_dw);
        for (size_t row = 0; row < rows; row++) {
            CHECK(memcmp(again_dk + row * s.ldk, dk + row * s.ldk, s.C * sizeof(float)) == 0, "dk row %zu differs in repeat %d", row, repeat);
        }
        CHECK(memcmp(again_dw, dw, taps * sizeof(float)) == 0, "dw differs in repeat %d", repeat);
        free(again_dk); free(again_dw);
    }
    free(k); free(w); free(dout); free(exact); free(rounded); free(exact_dw); free(rounded_dw); free(scratch); free(dk); free(dw);
    device_free(d.dout); device_free(d.k); device_free(d.dk); device_free(d.w); device_free(d.dw); device_free(d.scratch);
}

GPU_TEST(kconv_kernel_backward_within_budget) {
    for (int i = 0; i < KCONV_SHAPES; i++) { kconv_check_backward(kconv_shapes[i], 1, 30 + 3 * i); }
}

GPU_TEST(kconv_kernel_backward_repeats_to_the_bit) {
    KconvShape shape = {2, 700, 264, 3, 792};
    kconv_check_backward(shape, 10, 5);
}
#endif

TEST_MAIN()

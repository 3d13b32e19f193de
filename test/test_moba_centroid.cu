#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "ref.h"
#endif

#ifdef LLMC_CPU
TEST(moba_centroid_by_hand) {
    enum { B = 2, T = 5, H = 2, D = 8, LD = 24, BLOCK = 2, BLOCKS = 3 };
    float k[B * T * LD], centroid[B * H * BLOCKS * D];
    for (int row = 0; row < B * T; row++) {
        for (int c = 0; c < LD; c++) { k[row * LD + c] = (float)(row * row + c); }
    }
    AttnShape shape = {B, T, H, D, LD, LD, LD, LD, ATTN_AUTO};
    moba_centroid(centroid, k, shape, BLOCK, NULL);
    for (int b = 0; b < B; b++) {
        int r = b * T;
        double mean[BLOCKS] = {(r * r + (r + 1) * (r + 1)) / 2.0, ((r + 2) * (r + 2) + (r + 3) * (r + 3)) / 2.0, (r + 4.0) * (r + 4)};
        for (int h = 0; h < H; h++) {
            for (int j = 0; j < BLOCKS; j++) {
                for (int d = 0; d < D; d++) { CHECK_NEAR(centroid[((b * H + h) * BLOCKS + j) * D + d], mean[j] + h * D + d, 0); }
            }
        }
    }
}
#endif

#ifndef LLMC_CPU
static void centroid_check_shape(AttnShape s, int block, int repeats) {
    size_t keys = (size_t)s.B * s.T * s.ldk, size = (size_t)s.B * s.H * ((s.T + block - 1) / block) * s.D;
    float *k = (float*)malloc(keys * sizeof(float)), *exact = (float*)malloc(size * sizeof(float)), *first = NULL;
    uint64_t random = (uint64_t)s.T;
    for (size_t i = 0; i < keys; i++) { k[i] = (float)test_normal(&random); }
    floatX* device_k = device_from_floats(k, keys);
    ref_moba_centroid(exact, k, s, block, NULL);
    for (int repeat = 0; repeat < repeats; repeat++) {
        float* device_centroid = (float*)device_poisoned(size * sizeof(float));
        moba_centroid(device_centroid, device_k, s, block, NULL);
        float* kernel = (float*)host_from(device_centroid, size * sizeof(float));
        device_free(device_centroid);
        if (repeat == 0) {
            first = kernel;
            check_budget("centroid", kernel, exact, exact, size, s.T < block ? s.T : block);   // fp32 throughout: the floor alone
        } else {
            CHECK(memcmp(kernel, first, size * sizeof(float)) == 0, "repeat %d differs", repeat);
            free(kernel);
        }
    }
    free(k); free(exact); free(first); device_free(device_k);
}

GPU_TEST(moba_centroid_kernel_within_budget) {
    AttnShape shapes[] = {{1, 1, 1, 64, 64, 64, 64, 64, ATTN_AUTO},      {2, 63, 3, 64, 192, 576, 192, 192, ATTN_AUTO},
                          {1, 64, 5, 128, 640, 640, 640, 640, ATTN_AUTO}, {2, 200, 16, 64, 8, 3072, 8, 1024, ATTN_AUTO},
                          {3, 1025, 2, 128, 256, 264, 256, 256, ATTN_AUTO}, {1, 300, 3, 24, 72, 80, 72, 72, ATTN_AUTO}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (int block = 64; block <= 1024; block *= 4) { centroid_check_shape(shapes[i], block, 1); }
    }
}

// generation adds blocks one at a time, each as a sequence of its own: (blocks, H, D)
GPU_TEST(moba_centroid_kernel_block_by_block_to_the_bit) {
    enum { H = 3, D = 64, C = H * D, T = 700, BLOCK = 128, WHOLE = T / BLOCK, BLOCKS = WHOLE + 1 };
    AttnShape row = {1, T, H, D, C, C, C, C, ATTN_AUTO}, apart = {WHOLE, BLOCK, H, D, C, C, C, C, ATTN_AUTO};
    float* k = (float*)malloc(T * C * sizeof(float));
    uint64_t random = 7;
    for (int i = 0; i < T * C; i++) { k[i] = (float)test_normal(&random); }
    floatX* device_k = device_from_floats(k, T * C);
    float *device_row = (float*)device_poisoned(BLOCKS * C * sizeof(float)), *device_apart = (float*)device_poisoned(WHOLE * C * sizeof(float));
    moba_centroid(device_row, device_k, row, BLOCK, NULL);
    moba_centroid(device_apart, device_k, apart, BLOCK, NULL);
    float *in_row = (float*)host_from(device_row, BLOCKS * C * sizeof(float)), *alone = (float*)host_from(device_apart, WHOLE * C * sizeof(float));
    for (int j = 0; j < WHOLE; j++) {
        for (int h = 0; h < H; h++) {
            CHECK(memcmp(alone + (j * H + h) * D, in_row + (h * BLOCKS + j) * D, D * sizeof(float)) == 0, "block %d, head %d differs", j, h);
        }
    }
    free(k); free(in_row); free(alone); device_free(device_k); device_free(device_row); device_free(device_apart);
}

GPU_TEST(moba_centroid_kernel_repeats_to_the_bit) {
    AttnShape shape = {2, 1000, 4, 64, 256, 768, 256, 256, ATTN_AUTO};
    centroid_check_shape(shape, 128, 10);
}
#endif

TEST_MAIN()

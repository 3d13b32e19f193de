#include "test.h"

#ifdef LLMC_CPU
#include "ops.h"

TEST(embedding_picks_rows) {
    float* wte = test_normals(5 * 8, 1, 1);
    const int tokens[4] = {4, 0, 4, 2};
    float out[4 * 8];
    embedding_forward(out, wte, tokens, 4, 8, NULL);
    for (int i = 0; i < 4; i++) { CHECK(memcmp(out + i * 8, wte + tokens[i] * 8, 8 * sizeof(float)) == 0, "row %d is not token %d's", i, tokens[i]); }
    free(wte);
}

TEST(embedding_gradient_is_added_by_token) {
    enum { N = 4, C = 8, V = 4 };
    const int tokens[N] = {2, 0, 2, 2};
    float dout[N * C], dwte[V * C];
    for (int i = 0; i < N * C; i++) { dout[i] = (float)(i / C + 1); }    // row i holds i + 1
    for (int i = 0; i < V * C; i++) { dwte[i] = 100; }
    void* scratch = malloc(embedding_backward_scratch(N, C, V));
    embedding_backward(dwte, dout, tokens, N, C, V, scratch, NULL);
    for (int c = 0; c < C; c++) {
        CHECK_NEAR(dwte[0 * C + c], 102, 0);
        CHECK_NEAR(dwte[1 * C + c], 100, 0);
        CHECK_NEAR(dwte[2 * C + c], 100 + 1 + 3 + 4, 0);
        CHECK_NEAR(dwte[3 * C + c], 100, 0);
    }
    free(scratch);
}

TEST(embedding_gradient_of_a_hot_token) {
    enum { N = 6000, C = 16, V = 50257 };
    int* tokens = (int*)malloc(N * sizeof(int));
    float *dout = (float*)malloc(N * C * sizeof(float)), *dwte = (float*)calloc((size_t)V * C, sizeof(float));
    for (int i = 0; i < N; i++) { tokens[i] = i % 10 == 9 ? V - 1 : 17; }
    for (int i = 0; i < N * C; i++) { dout[i] = 0.5f; }
    void* scratch = malloc(embedding_backward_scratch(N, C, V));
    embedding_backward(dwte, dout, tokens, N, C, V, scratch, NULL);
    for (int c = 0; c < C; c++) {
        CHECK_NEAR(dwte[17 * C + c], 2700, 0);
        CHECK_NEAR(dwte[(size_t)(V - 1) * C + c], 300, 0);
        CHECK_NEAR(dwte[18 * C + c], 0, 0);
    }
    free(tokens); free(dout); free(dwte); free(scratch);
}
#else
#include "ref.h"

// `hot` of 100 tokens are token 1, the others uniform
static int* draw_tokens(int N, int V, int hot, uint64_t seed) {
    int* tokens = (int*)malloc(N * sizeof(int));
    for (int i = 0; i < N; i++) {
        bool is_hot = (int)(test_bits(&seed) % 100) < hot;
        tokens[i] = is_hot ? 1 % V : (int)(test_bits(&seed) % V);
    }
    return tokens;
}

GPU_TEST(embedding_forward_is_a_copy) {
    enum { N = 77, C = 2056, V = 40 };
    float* wte = test_normals(V * C, 1, 1);
    floatX* d_wte = device_from_floats(wte, V * C);
    int* tokens = draw_tokens(N, V, 10, 2);
    int* d_tokens = (int*)device_from(tokens, N * sizeof(int));
    floatX* d_out = (floatX*)device_poisoned(N * C * 2);
    embedding_forward(d_out, d_wte, d_tokens, N, C, NULL);
    float *out = floats_from(d_out, N * C), *expected = (float*)malloc(N * C * sizeof(float));
    ref_embedding_forward(expected, wte, tokens, N, C, NULL);
    CHECK(memcmp(out, expected, N * C * sizeof(float)) == 0, "the rows differ from the reference's");
    free(wte); free(tokens); free(out); free(expected);
    device_free(d_wte); device_free(d_tokens); device_free(d_out);
}

// repeats > 1: the first result is compared with the reference, the others with the first, to the bit
static void embedding_backward_check(int N, int C, int V, int hot, int repeats) {
    size_t outs = (size_t)N * C, weights = (size_t)V * C;
    float *dout = test_normals(outs, 3, 1), *start = test_normals(weights, 4, 1);
    int* tokens = draw_tokens(N, V, hot, 5);
    floatX* d_dout = device_from_floats(dout, outs);
    int* d_tokens = (int*)device_from(tokens, N * sizeof(int));
    void *d_scratch = device_poisoned(embedding_backward_scratch(N, C, V)), *scratch = malloc(ref_embedding_backward_scratch(N, C, V));
    float* exact = (float*)malloc(weights * sizeof(float));
    memcpy(exact, start, weights * sizeof(float));
    ref_embedding_backward(exact, dout, tokens, N, C, V, scratch, NULL);
    float* first = NULL;
    for (int r = 0; r < repeats; r++) {
        float* d_dwte = (float*)device_from(start, weights * sizeof(float));
        embedding_backward(d_dwte, d_dout, d_tokens, N, C, V, d_scratch, NULL);
        float* found = (float*)host_from(d_dwte, weights * sizeof(float));
        device_free(d_dwte);
        if (!first) { first = found; continue; }
        CHECK(memcmp(first, found, weights * sizeof(float)) == 0, "repeat %d differs", r);
        free(found);
    }
    check_budget("dwte", first, exact, exact, weights, N);
    free(dout); free(start); free(tokens); free(scratch); free(exact); free(first);
    device_free(d_dout); device_free(d_tokens); device_free(d_scratch);
}

GPU_TEST(embedding_backward_small_and_ragged) {
    const int rows[] = {1, 31, 63, 64, 65, 512, 513, 1025};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        embedding_backward_check(rows[i], 8, 3, 0, 1);
        embedding_backward_check(rows[i], 520, 257, 30, 1);
    }
}
GPU_TEST(embedding_backward_one_token_alone)    { embedding_backward_check(1000, 64, 1, 0, 1); }
GPU_TEST(embedding_backward_hot_token_repeats)  { embedding_backward_check(6500, 128, 50257, 90, 12); }
GPU_TEST(embedding_backward_three_digit_tokens) { embedding_backward_check(3000, 8, 70000, 20, 1); }
#endif

TEST_MAIN()

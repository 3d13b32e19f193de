// The network as a whole: who may see what, identities between kinds of layers, and gradients as slopes of the loss.
// (Against PyTorch: dev/torch_check.py. Recompute levels and the GPU: test_model.sh.)
enum { VOCAB = 61, CHANNELS = 32, HEADS = 2 };

#include "tiny_net.h"

static Net* net_open(const char* pattern, int kconv, int layers, int B, int T, KeepLevel level) {
    ModelShape s = {.L = layers, .C = CHANNELS, .H = HEADS, .D = CHANNELS / HEADS, .F = 48, .V = VOCAB, .Vp = 128, .W = kconv, .theta = 10000};
    return tiny_net_open(s, pattern, B, T, 0, level, 8);
}

// logits (B*T, V) of a forward pass; the caller's to free
static float* logits_of(Net* net, const int* tokens, int B, int T) {
    float* logits = (float*)xmalloc((size_t)B * T * VOCAB * sizeof(float));
    model_batch(&net->m, tokens, NULL, B, T);
    model_forward(&net->m);
    for (int row = 0; row < B * T; row++) { model_logits(&net->m, row, logits + (size_t)row * VOCAB); }
    return logits;
}

static double loss_of(Net* net, const int* tokens, const int* targets, int B, int T) {
    model_zero(&net->m);
    model_batch(&net->m, tokens, targets, B, T);
    model_forward(&net->m);
    model_loss(&net->m);
    return model_total(&net->m) / (B * T);
}

// adds to the gradients and to the total
static void backward(Net* net, const int* tokens, const int* targets, int B, int T, float scale) {
    model_batch(&net->m, tokens, targets, B, T);
    model_forward(&net->m);
    model_loss_backward(&net->m, scale);
    model_backward(&net->m);
}

static double largest_of(const float* x, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) { largest = fmax(largest, fabs((double)x[i])); }
    return largest;
}

// every gradient of a lies within `share` of the tensor's largest element from b's
static void check_gradients_near(const Net* a, const Net* b, double share) {
    for (int i = 0; i < a->m.table.count; i++) {
        const Tensor* t = &a->m.table.tensor[i];
        size_t n = (size_t)t->rows * (size_t)t->cols;
        const float *x = a->m.grads + t->offset, *y = b->m.grads + t->offset;
        double budget = share * largest_of(y, n);
        for (size_t j = 0; j < n; j++) {
            CHECK(fabs((double)x[j] - (double)y[j]) <= budget, "gradient of %s, element %zu: %.9g and %.9g, budget %.3g", t->name, j,
                  (double)x[j], (double)y[j], budget);
        }
    }
}

// ---- who may see what -----------------------------------------------------------------------------------------------------

// Rows that differ only from token `from` on: logits before it are the same to the bit, and the one at it is not.
static void check_causal(const char* pattern, int kconv) {
    enum { T = 300 };
    static const int changes[] = {1, 31, 32, 33, 64, 150, 299};
    Net* net = net_open(pattern, kconv, 2, 1, T, FORWARD_ONLY);
    int* tokens = random_tokens(11, T);
    float* before = logits_of(net, tokens, 1, T);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        int from = changes[i];
        int* changed = (int*)xmalloc(T * sizeof(int));
        for (int t = 0; t < T; t++) { changed[t] = t < from ? tokens[t] : (tokens[t] + 1 + t % 7) % VOCAB; }
        float* after = logits_of(net, changed, 1, T);
        for (size_t j = 0; j < (size_t)from * VOCAB; j++) {
            CHECK(before[j] == after[j], "%s, kconv %d: token %d changes logit %zu of token %zu", pattern, kconv, from, j % VOCAB, j / VOCAB);
        }
        CHECK(memcmp(before + (size_t)from * VOCAB, after + (size_t)from * VOCAB, VOCAB * sizeof(float)) != 0,
              "%s, kconv %d: token %d does not change its own logits", pattern, kconv, from);
        free(after);
        free(changed);
    }
    free(before);
    free(tokens);
    net_close(net);
}

TEST(model_is_causal_sliding_window)   { check_causal("S32", 0); }
TEST(model_is_causal_dense)            { check_causal("D", 0); }
TEST(model_is_causal_moba)             { check_causal("M32:3", 0); }
TEST(model_is_causal_moba_kconv)       { check_causal("M32:3", 3); check_causal("M64:2", 5); }
TEST(model_is_causal_hybrid)           { check_causal("S32,M32:3", 3); }

// the last token reaches back exactly window - 1 tokens through one S layer
TEST(model_window_ends_where_it_says) {
    enum { T = 100, WINDOW = 16 };
    Net* net = net_open("S16", 0, 1, 1, T, FORWARD_ONLY);
    int* tokens = random_tokens(12, T);
    float* before = logits_of(net, tokens, 1, T);
    for (int back = WINDOW - 1; back <= WINDOW; back++) {
        int at = T - 1 - back, kept = tokens[at];
        tokens[at] = (kept + 1) % VOCAB;
        float* after = logits_of(net, tokens, 1, T);
        bool same = memcmp(before + (size_t)(T - 1) * VOCAB, after + (size_t)(T - 1) * VOCAB, VOCAB * sizeof(float)) == 0;
        CHECK(same == (back == WINDOW), "the token %d before %s through a window of %d", back, same ? "is not seen" : "is seen", WINDOW);
        tokens[at] = kept;
        free(after);
    }
    free(before);
    free(tokens);
    net_close(net);
}

// Each row of a batch of two has the bits it has alone, in memory planned for more rows and longer ones.
TEST(model_rows_of_a_batch_are_independent) {
    enum { T = 150 };
    Net *two = net_open("S32,M32:3", 3, 4, 2, T, FORWARD_ONLY), *roomy = net_open("S32,M32:3", 3, 4, 3, T + 50, FORWARD_ONLY);
    int* tokens = random_tokens(13, 2 * T);
    float* together = logits_of(two, tokens, 2, T);
    for (int row = 0; row < 2; row++) {
        float* alone = logits_of(roomy, tokens + row * T, 1, T);
        for (size_t j = 0; j < (size_t)T * VOCAB; j++) {
            CHECK(alone[j] == together[(size_t)row * T * VOCAB + j], "row %d, token %zu: logit %.9g alone, %.9g in the batch", row, j / VOCAB,
                  (double)alone[j], (double)together[(size_t)row * T * VOCAB + j]);
        }
        free(alone);
    }
    free(together);
    free(tokens);
    net_close(two);
    net_close(roomy);
}

// ---- identities -------------------------------------------------------------------------------------------------------------

// Two patterns of the same parameters that mean the same attention: losses and gradients agree to fp32 rounding.
static void check_same(const char* pattern, const char* other, int T) {
    Net *a = net_open(pattern, 0, 3, 1, T, RECOMPUTE_NONE), *b = net_open(other, 0, 3, 1, T, RECOMPUTE_NONE);
    int *tokens = random_tokens(14, T), *targets = random_tokens(15, T);
    model_zero(&a->m);
    model_zero(&b->m);
    backward(a, tokens, targets, 1, T, 1.0f / (float)T);
    backward(b, tokens, targets, 1, T, 1.0f / (float)T);
    CHECK_NEAR(model_total(&a->m) / T, model_total(&b->m) / T, 1e-6);
    check_gradients_near(a, b, 1e-5);
    free(tokens);
    free(targets);
    net_close(a);
    net_close(b);
}

TEST(model_moba_of_all_blocks_is_dense)      { check_same("M32:32", "D", 250); }
TEST(model_moba_within_one_block_is_dense)   { check_same("M256:1", "D", 250); }

static bool losses_equal(const Net* a, const Net* b, int n) { return memcmp(a->m.acts.losses, b->m.acts.losses, (size_t)n * sizeof(float)) == 0; }

TEST(model_dense_moba_is_moba_of_all_blocks) {
    enum { T = 250 };
    Net *a = net_open("S32,M32:2", 3, 4, 1, T, FORWARD_ONLY), *b = net_open("S32,M32:32", 3, 4, 1, T, FORWARD_ONLY);
    int *tokens = random_tokens(16, T), *targets = random_tokens(17, T);
    double sparse = loss_of(a, tokens, targets, 1, T), all = loss_of(b, tokens, targets, 1, T);
    a->m.dense_moba = true;
    CHECK_NEAR(loss_of(a, tokens, targets, 1, T), all, 1e-6);
    CHECK(fabs(sparse - all) > 1e-4, "two of eight blocks give the loss of all eight, %.9g", sparse);
    free(tokens);
    free(targets);
    net_close(a);
    net_close(b);
}

TEST(model_forward_only_has_the_bits_of_training) {
    enum { T = 130 };
    Net *train = net_open("S32,M32:2,D", 3, 3, 2, T, RECOMPUTE_NONE), *eval = net_open("S32,M32:2,D", 3, 3, 2, T, FORWARD_ONLY);
    int *tokens = random_tokens(18, 2 * T), *targets = random_tokens(19, 2 * T);
    model_zero(&train->m);
    backward(train, tokens, targets, 2, T, 1.0f);
    double loss = loss_of(eval, tokens, targets, 2, T);
    CHECK(losses_equal(train, eval, 2 * T), "a token's loss differs between training and evaluation");
    CHECK(loss == model_total(&train->m) / (2 * T), "the mean loss is %.17g in evaluation, %.17g in training", loss, model_total(&train->m) / (2 * T));
    free(tokens);
    free(targets);
    net_close(train);
    net_close(eval);
}

TEST(model_unscored_targets_count_nothing) {
    enum { T = 100 };
    Net *some = net_open("S32,M32:2", 3, 2, 1, T, RECOMPUTE_NONE), *all = net_open("S32,M32:2", 3, 2, 1, T, RECOMPUTE_NONE);
    int *tokens = random_tokens(20, T), *targets = random_tokens(21, T);
    model_zero(&all->m);
    backward(all, tokens, targets, 1, 60, 1.0f);         // the first 60 tokens alone
    for (int t = 60; t < T; t++) { targets[t] = -1; }
    model_zero(&some->m);
    backward(some, tokens, targets, 1, T, 1.0f);
    CHECK(model_total(&some->m) == model_total(&all->m), "total %.17g with 40 unscored tokens, %.17g without them",
          model_total(&some->m), model_total(&all->m));
    check_gradients_near(some, all, 1e-6);
    free(tokens);
    free(targets);
    net_close(some);
    net_close(all);
}

// ---- gradients --------------------------------------------------------------------------------------------------------------

// Two micro-batches of one row add up to one of two rows. Activations are the same to the bit; only the sums over rows round apart.
TEST(model_micro_batches_accumulate) {
    enum { T = 150 };
    Net *once = net_open("S32,M32:3", 3, 4, 2, T, RECOMPUTE_NONE), *twice = net_open("S32,M32:3", 3, 4, 1, T, RECOMPUTE_NONE);
    int *tokens = random_tokens(22, 2 * T), *targets = random_tokens(23, 2 * T);
    model_zero(&once->m);
    model_zero(&twice->m);
    backward(once, tokens, targets, 2, T, 0.5f / T);
    for (int row = 0; row < 2; row++) { backward(twice, tokens + row * T, targets + row * T, 1, T, 0.5f / T); }
    CHECK_NEAR(model_total(&twice->m), model_total(&once->m), 1e-9 * model_total(&once->m));
    check_gradients_near(twice, once, 1e-6);
    free(tokens);
    free(targets);
    net_close(once);
    net_close(twice);
}

// Slope of the loss at the start of tensor t along `direction` (a unit vector), from four points: 8 (f(h) - f(-h)) - (f(2h) - f(-2h))
// over 12 h, whose error is of order h^4
static double slope_along(Net* net, const Tensor* t, const float* direction, double unit, double h, const int* tokens, const int* targets, int T) {
    static const double weight[] = {1, -8, 0, 8, -1};
    size_t n = (size_t)t->rows * (size_t)t->cols;
    float *x = net->opt.master + t->offset, *start = (float*)xmalloc(n * sizeof(float));
    double slope = 0;
    memcpy(start, x, n * sizeof(float));
    for (int k = 0; k < 5; k++) {
        for (size_t j = 0; j < n; j++) { x[j] = (float)(start[j] + (k - 2) * h * unit * direction[j]); }
        optimizer_publish(&net->opt, &net->m);
        if (k != 2) { slope += weight[k] * loss_of(net, tokens, targets, 1, T) / (12 * h); }
    }
    memcpy(x, start, n * sizeof(float));
    optimizer_publish(&net->opt, &net->m);
    free(start);
    return slope;
}

static double norm_of(const float* x, size_t n) {
    double sum = 0;
    for (size_t j = 0; j < n; j++) { sum += (double)x[j] * (double)x[j]; }
    return sqrt(sum);
}

// Along its own gradient g the loss climbs by |g| a unit, for every tensor. M layers read all blocks, so that the loss is smooth. With steps
// of 0.3 % of a tensor's norm the four points and the rounding of the losses together are good to 1e-4; ten times that is asked for.
TEST(model_gradients_are_slopes_of_the_loss) {
    enum { T = 70 };
    Net *net = net_open("S16,M16:32,D", 3, 3, 1, T, RECOMPUTE_NONE), *moved = net_open("S16,M16:32,D", 3, 3, 1, T, FORWARD_ONLY);
    int *tokens = random_tokens(24, T), *targets = random_tokens(25, T);
    model_zero(&net->m);
    backward(net, tokens, targets, 1, T, 1.0f / T);
    for (int i = 0; i < net->m.table.count; i++) {
        const Tensor* t = &net->m.table.tensor[i];
        size_t n = (size_t)t->rows * (size_t)t->cols;
        if (n == 0) { continue; }
        const float* g = net->m.grads + t->offset;
        double size = norm_of(g, n), slope = slope_along(moved, t, g, 1 / size, 0.003 * norm_of(net->opt.master + t->offset, n), tokens, targets, T);
        CHECK(fabs(slope / size - 1) <= 1e-3, "%s: the loss climbs by %.9g along a gradient of norm %.9g", t->name, slope, size);
    }
    free(tokens);
    free(targets);
    net_close(net);
    net_close(moved);
}

TEST(model_padded_vocabulary_stays_zero) {
    enum { T = 70 };
    Net* net = net_open("S16,M16:2", 3, 2, 1, T, RECOMPUTE_NONE);
    int *tokens = random_tokens(26, T), *targets = random_tokens(27, T);
    model_zero(&net->m);
    backward(net, tokens, targets, 1, T, 1.0f / T);
    AdamWSettings settings = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip = 1};
    const Tensor* wte = &net->m.table.tensor[MODEL_wte];
    float before = net->opt.master[wte->offset];
    optimizer_norm(&net->opt, &net->m);
    optimizer_update(&net->opt, &net->m, &settings);
    CHECK(net->opt.master[wte->offset] != before, "the update left wte as it was");
    for (size_t j = (size_t)VOCAB * CHANNELS; j < (size_t)128 * CHANNELS; j++) {
        CHECK(net->m.grads[wte->offset + j] == 0, "row %zu has a gradient", j / CHANNELS);
        CHECK(net->opt.master[wte->offset + j] == 0, "row %zu moved", j / CHANNELS);
    }
    free(tokens);
    free(targets);
    net_close(net);
}

TEST_MAIN()

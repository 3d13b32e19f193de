// The operations that MFU counts, by enumerating what a step does.
#include "test.h"

#include "flops.h"

static ModelShape shape_of_pattern(const char* pattern, int L, int C, int H, int F, int Vp) {
    ModelShape s = {.L = L, .C = C, .H = H, .D = C / H, .F = F, .V = Vp - 3, .Vp = Vp, .W = 0, .theta = 10000};
    Error err;
    s.layer = (LayerSpec*)xcalloc((size_t)L, sizeof *s.layer);
    CHECK(pattern_parse(s.layer, L, pattern, &err), "%s", err.text);
    return s;
}

// keys that query t of layer l may read, looked at one by one
static int keys_of(const LayerSpec* spec, int t) {
    int keys = 0, own = spec->kind == LAYER_M ? t / spec->block : 0;
    for (int u = 0; u <= t; u++) {
        bool seen = spec->kind != LAYER_M ? t - u < spec->window
                  : u / spec->block == own || u / spec->block < spec->topk - 1;      // which past blocks does not matter, how many does
        keys += seen;
    }
    return keys;
}

TEST(flops_count_the_keys_that_are_read) {
    static const char* patterns[] = {"S256", "S1", "S1000", "D", "M64:1", "M64:3", "M128:8", "M24:5", "M512:2"};
    static const int lengths[] = {1, 63, 64, 65, 300, 512};
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        ModelShape s = shape_of_pattern(patterns[p], 1, 64, 2, 96, 128);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            double keys = 0, all = 0;
            for (int t = 0; t < lengths[i]; t++) { keys += keys_of(&s.layer[0], t); all += t + 1; }
            CHECK_NEAR(mean_keys(&s, 0, lengths[i], false), keys / lengths[i], 1e-9);
            CHECK_NEAR(mean_keys(&s, 0, lengths[i], true), all / lengths[i], 1e-9);
        }
        free(s.layer);
    }
}

// Every product of a forward pass has as many multiplications a token as its matrix has elements, two operations each; backward twice as many.
TEST(flops_count_every_matrix_and_attention) {
    enum { L = 3, C = 64, F = 96, Vp = 128, T = 300 };
    ModelShape s = shape_of_pattern("S16,M32:3,D", L, C, 2, F, Vp);
    ParamTable table = param_table(&s);
    double elements = 0, expected = 0, dense = 0;
    for (int i = 0; i < table.count; i++) {
        if (table.tensor[i].is_matrix) { elements += (double)table.tensor[i].rows * table.tensor[i].cols; }      // wte once: as the head, not as the embedding
    }
    for (int l = 0; l < L; l++) {
        for (int t = 0; t < T; t++) {
            expected += 3 * 2 * 2.0 * C * keys_of(&s.layer[l], t) / T;          // q k and p v, over all heads C columns; forward and twice that backward
            dense += 3 * 2 * 2.0 * C * (t + 1) / T;
        }
    }
    CHECK_NEAR(flops_per_token(&s, T, false), 6 * elements + expected, 1e-3);
    CHECK_NEAR(flops_per_token(&s, T, true), 6 * elements + dense, 1e-3);
    param_table_free(&table);
    free(s.layer);
}

// The 340M hybrid at 8K by hand: matrices 359.7e6 with the head; S256 reads 252.0 keys in the mean, M128:8 904.5.
TEST(flops_of_the_340M_hybrid) {
    ModelShape s = shape_of_pattern("S256,M128:8", 24, 1024, 16, 2816, 50304);
    double matrices = 24 * (4.0 * 1024 * 1024 + 3.0 * 2816 * 1024) + 50304.0 * 1024;
    double window = (256.0 * 257 / 2 + (8192.0 - 256) * 256) / 8192;
    double routed = 0;
    for (int block = 0; block < 64; block++) { routed += (block < 7 ? block : 7) * 128.0 + 64.5; }
    CHECK_NEAR(flops_per_token(&s, 8192, false), 6 * matrices + 12 * 1024.0 * 12 * (window + routed / 64), 1);
    free(s.layer);
}

TEST_MAIN()

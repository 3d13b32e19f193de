// The largest micro-batch that fits: against a search over every divisor, at every room that changes the answer.
#include "test.h"

#include "config.h"
#include "fit.h"
#include "trained.h"

static Config config_of(const char* recompute) {
    Config cfg;
    Error err;
    char* argv[] = {"test", "--train-data", "none", "--preset", "tiny", "--pattern", "S64,M64:2", "--seq-len", "256", "--scratch", "16",
                    "--recompute", (char*)recompute, "--micro-batch", "auto", "--total-batch", "6144"};
    CHECK(config_parse_into(&cfg, (int)(sizeof argv / sizeof *argv), argv, &err) && config_resolve(&cfg, &err), "%s", err.text);
    return cfg;
}

static void plan_of(Model* m, Optimizer* opt, const Config* cfg, int level, int rank, int ranks, bool sharded) {
    ModelShape shape;
    Error err;
    CHECK(shape_from_config(&shape, cfg, &err), "%s", err.text);
    model_plan(m, shape, cfg->micro_batch, cfg->seq_len, (KeepLevel)level, (size_t)cfg->scratch << 20);
    optimizer_plan_part(opt, m, rank, ranks, sharded);
    if (cfg->sample_every) { plan_sampling(m, cfg, 0); }
}

static size_t bytes_of(const Config* cfg, int rows) { return fit_plan_bytes(cfg, plan_of, rows); }

static void check_fit(const char* recompute) {
    enum { ROWS = 24 };
    static const int divisors[] = {24, 12, 8, 6, 4, 3, 2, 1};
    Error err;
    Config cfg = config_of(recompute);
    CHECK(cfg.micro_batch == 0, "auto is stored as %d", cfg.micro_batch);
    for (int i = 0; i < 8; i++) {
        size_t bytes = bytes_of(&cfg, divisors[i]);
        int found = 0;
        CHECK(fit_micro_batch(&cfg, plan_of, ROWS, bytes, &found, &err) && found == divisors[i], "%d rows in exactly the %zu bytes that %d take", found, bytes, divisors[i]);
        bool less = fit_micro_batch(&cfg, plan_of, ROWS, bytes - 1, &found, &err);
        CHECK(i == 7 ? !less && strstr(err.text, "one row of 256 tokens") != NULL : less && found == divisors[i + 1],
              "a byte less than %d rows take: %d rows (%s)", divisors[i], found, less ? "fit" : err.text);
    }
    config_close(&cfg);
}

TEST(fit_finds_the_largest_divisor)                 { check_fit("0"); }
TEST(fit_finds_the_largest_divisor_when_recomputing) { check_fit("3"); }

TEST(fit_more_recompute_fits_more) {
    Error err;
    Config all = config_of("0"), inputs = config_of("3");
    int most_all = 0, most_inputs = 0;
    size_t room = bytes_of(&all, 4);
    CHECK(fit_micro_batch(&all, plan_of, 24, room, &most_all, &err), "%s", err.text);
    CHECK(fit_micro_batch(&inputs, plan_of, 24, room, &most_inputs, &err), "%s", err.text);
    CHECK(most_all == 4 && most_inputs > most_all, "%d rows keeping all, %d keeping layer inputs", most_all, most_inputs);
    config_close(&all);
    config_close(&inputs);
}

TEST(fit_counts_what_sampling_keeps) {
    Error err;
    Config cfg = config_of("0");
    int found = 0;
    size_t room = bytes_of(&cfg, 4);
    cfg.sample_every = 1;
    CHECK(bytes_of(&cfg, 4) > room, "no cache is planned");
    CHECK(fit_micro_batch(&cfg, plan_of, 24, room, &found, &err) && found == 3, "%d rows fit beside the cache", found);
    config_close(&cfg);
}

TEST(fit_counts_a_pass_with_an_int) {
    Error err;
    Config cfg = config_of("0");
    int found = 0;
    cfg.seq_len = 1 << 20;
    CHECK(fit_micro_batch(&cfg, plan_of, 1 << 14, SIZE_MAX, &found, &err), "%s", err.text);
    CHECK(found == 1 << 10, "%d rows of a million tokens: more than an int counts, or fewer than could be", found);
    config_close(&cfg);
}

// fp32: a row of gate_up is 8 F bytes, of GPT-2's logits 4 * 50304; both chunks stay under their bounds, and a pass has as few as that allows
static void check_chunks(const char* preset, int B, int T, int mlp_rows, int logit_rows) {
    Config cfg;
    Error err;
    Model m;
    ModelShape shape;
    char* argv[] = {"test", "--train-data", "none", "--preset", (char*)preset, "--pattern", "S64", "--micro-batch", "1"};
    CHECK(config_parse_into(&cfg, (int)(sizeof argv / sizeof *argv), argv, &err) && config_resolve(&cfg, &err), "%s", err.text);
    CHECK(shape_from_config(&shape, &cfg, &err), "%s", err.text);
    model_plan(&m, shape, B, T, RECOMPUTE_NONE, (size_t)16 << 20);
    CHECK(m.acts.mlp_rows == mlp_rows && m.acts.logit_rows == logit_rows, "%s, %d x %d: chunks of %d and %d rows, expected %d and %d", preset, B, T,
          m.acts.mlp_rows, m.acts.logit_rows, mlp_rows, logit_rows);
    model_unplan(&m);
    config_close(&cfg);
}

TEST(fit_chunks_are_as_few_as_fit) {
    check_chunks("340M", 1, 100, 100, 100);
    check_chunks("340M", 4, 8192, 16384, 4096);              // of 32768: two of at most 23808, eight of at most 4608
    check_chunks("1B", 2, 8192, 8192, 4096);                 // of 16384: two of at most 8192, which is 512 MiB
    check_chunks("30M", 16, 8192, 65536, 4608);              // of 131072: two of at most 65536; 29 of 4520, rounded up to 128
    check_chunks("30M", 1, 65537, 32896, 4480);              // a row too many: two halves, rounded up to 128; 15
    check_chunks("30M", 1, INT32_MAX, 65536, 4608);
}

TEST_MAIN()

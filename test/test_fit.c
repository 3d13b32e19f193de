// The largest micro-batch that fits: against a search over every divisor, at every room that changes the answer.
#include "test.h"

#include "config.h"
#include "fit.h"

static Config config_of(const char* recompute) {
    Config cfg;
    Error err;
    char* argv[] = {"test", "--train-data", "none", "--preset", "tiny", "--pattern", "S64,M64:2", "--seq-len", "256", "--scratch", "16",
                    "--recompute", (char*)recompute, "--micro-batch", "auto", "--total-batch", "6144"};
    CHECK(config_parse_into(&cfg, (int)(sizeof argv / sizeof *argv), argv, &err) && config_resolve(&cfg, &err), "%s", err.text);
    return cfg;
}

static size_t bytes_of(const Config* cfg, int rows) {
    Error err;
    size_t bytes = 0;
    CHECK(fit_plan_bytes(cfg, rows, &bytes, &err), "%s", err.text);
    return bytes;
}

static void check_fit(const char* recompute) {
    enum { ROWS = 24 };
    static const int divisors[] = {24, 12, 8, 6, 4, 3, 2, 1};
    Error err;
    Config cfg = config_of(recompute);
    CHECK(cfg.micro_batch == 0, "auto is stored as %d", cfg.micro_batch);
    for (int i = 0; i < 8; i++) {
        size_t bytes = bytes_of(&cfg, divisors[i]);
        int found = 0;
        CHECK(fit_micro_batch(&cfg, ROWS, bytes, &found, &err) && found == divisors[i], "%d rows in exactly the %zu bytes that %d take", found, bytes, divisors[i]);
        bool less = fit_micro_batch(&cfg, ROWS, bytes - 1, &found, &err);
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
    CHECK(fit_micro_batch(&all, 24, room, &most_all, &err), "%s", err.text);
    CHECK(fit_micro_batch(&inputs, 24, room, &most_inputs, &err), "%s", err.text);
    CHECK(most_all == 4 && most_inputs > most_all, "%d rows keeping all, %d keeping layer inputs", most_all, most_inputs);
    config_close(&all);
    config_close(&inputs);
}

TEST(fit_counts_a_pass_with_an_int) {
    Error err;
    Config cfg = config_of("0");
    int found = 0;
    cfg.seq_len = 1 << 20;
    CHECK(fit_micro_batch(&cfg, 1 << 14, SIZE_MAX, &found, &err), "%s", err.text);
    CHECK(found == 1 << 10, "%d rows of a million tokens: more than an int counts, or fewer than could be", found);
    config_close(&cfg);
}

TEST_MAIN()

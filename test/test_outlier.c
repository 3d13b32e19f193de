// --skip-z's detector (RELIABILITY R15): spikes are seen, clean runs are left alone, a lasting new level is accepted, the state survives.
#include "outlier.h"
#include "test.h"

// a loss curve as training draws them: falling, with noise
static double loss_at(int step, uint64_t* state) { return 3 + 8 * exp(-step / 100.0) + 0.05 * test_normal(state); }

TEST(outlier_window_must_be_full) {
    Outliers o = {0};
    for (int i = 0; i < OUTLIER_WINDOW; i++) {
        CHECK(isinf(outliers_limit(&o, 3)), "a limit after %d values", i);
        outliers_add(&o, i % 2, INFINITY);
    }
    // 64 zeros, 64 ones: mean 1/2, deviation sqrt(128/4/127)
    CHECK_NEAR(outliers_limit(&o, 3), 0.5 + 3 * sqrt(32.0 / 127), 1e-12);
    CHECK(isinf(outliers_limit(&o, 0)), "z 0 is off");
}

TEST(outlier_values_all_the_same_judge_nothing) {
    Outliers o = {0};
    for (int i = 0; i < 200; i++) { outliers_add(&o, 2.5, INFINITY); }
    CHECK(isinf(outliers_limit(&o, 6)), "limit %g", outliers_limit(&o, 6));
}

TEST(outlier_no_false_alarm_in_clean_runs) {
    for (uint64_t seed = 1; seed <= 10; seed++) {
        uint64_t state = seed;
        Outliers loss = {0}, log_norm = {0};
        for (int step = 0; step < 1000; step++) {
            double x = loss_at(step, &state), y = 0.2 * test_normal(&state);
            double limit = outliers_limit(&loss, 6), norm_limit = outliers_limit(&log_norm, 6);
            CHECK(x <= limit && y <= norm_limit, "seed %d, step %d: loss %g above %g, or log of the norm %g above %g", (int)seed, step, x, limit, y, norm_limit);
            outliers_add(&loss, x, limit);
            outliers_add(&log_norm, y, norm_limit);
        }
    }
}

TEST(outlier_spikes_are_seen_one_after_the_other) {
    uint64_t state = 5;
    Outliers o = {0};
    int seen = 0;
    for (int step = 0; step < 1000; step++) {
        bool spike = step >= 600 && step % 50 < 2;
        double x = loss_at(step, &state) + (spike ? 1.5 : 0), limit = outliers_limit(&o, 6);
        CHECK(spike == (x > limit), "step %d: %g, limit %g", step, x, limit);
        seen += x > limit;
        outliers_add(&o, x, limit);
    }
    CHECK_EQ(seen, 16);
}

// ten deviations up, for good: accepted before the default of --max-bad-steps, 10, stops the run
TEST(outlier_lasting_level_is_accepted) {
    uint64_t state = 6;
    Outliers o = {0};
    int skipped = 0;
    for (int step = 0; step < 600; step++) {
        double x = (step < 300 ? 3 : 3.5) + 0.05 * test_normal(&state), limit = outliers_limit(&o, 6);
        skipped += x > limit;
        outliers_add(&o, x, limit);
    }
    CHECK(skipped > 0 && skipped < 10, "%d steps were skipped before the new level was accepted", skipped);
}

TEST(outlier_state_comes_back) {
    uint64_t state = 7;
    Outliers o = {0}, back = {0};
    double saved[OUTLIER_STATE];
    for (int step = 0; step < 300; step++) { outliers_add(&o, test_normal(&state), INFINITY); }
    outliers_put(&o, saved);
    CHECK(outliers_get(&back, saved) && memcmp(&o, &back, sizeof o) == 0, "the state differs");
    const double bad[] = { -1, 0.5, 1e300, NAN, INFINITY };
    for (int i = 0; i < 5; i++) {
        saved[0] = bad[i];
        CHECK(!outliers_get(&back, saved), "a count of %g is accepted", bad[i]);
    }
    saved[0] = 300;
    saved[7] = NAN;
    CHECK(!outliers_get(&back, saved), "a NaN is accepted");
}

TEST_MAIN()

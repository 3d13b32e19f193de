// rng.h: published vectors of Philox, moments of the derived distributions, and the shuffle as a permutation.
#include "rng.h"
#include "test.h"

static void check_philox(const uint32_t counter[4], const uint32_t key[2], const uint32_t expected[4]) {
    uint32_t found[4];
    philox4x32(found, counter, key);
    for (int i = 0; i < 4; i++) { CHECK(found[i] == expected[i], "word %d is %08x, expected %08x", i, found[i], expected[i]); }
}

// the three philox4x32-10 vectors of Random123's kat_vectors
TEST(rng_philox_gives_the_published_vectors) {
    check_philox((uint32_t[4]){ 0, 0, 0, 0 }, (uint32_t[2]){ 0, 0 },
                 (uint32_t[4]){ 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 });
    check_philox((uint32_t[4]){ ~0u, ~0u, ~0u, ~0u }, (uint32_t[2]){ ~0u, ~0u },
                 (uint32_t[4]){ 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd });
    check_philox((uint32_t[4]){ 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, (uint32_t[2]){ 0xa4093822, 0x299f31d0 },
                 (uint32_t[4]){ 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 });
}

// rng_bits lays seed, stream and index out as key and counter, low words first: the third vector again
TEST(rng_bits_are_philox_of_seed_stream_index) {
    RngBits bits = rng_bits(0x299f31d0a4093822ull, 0x0370734413198a2eull, 0x85a308d3243f6a88ull);
    CHECK(bits.a == 0x94fdccebd16cfe09ull, "a is %016llx", (unsigned long long)bits.a);
    CHECK(bits.b == 0x24126ea15001e420ull, "b is %016llx", (unsigned long long)bits.b);
}

// FNV-1a's own vectors
TEST(rng_streams_are_fnv1a_of_the_name) {
    CHECK(rng_stream("") == 0xcbf29ce484222325ull, "the empty name");
    CHECK(rng_stream("a") == 0xaf63dc4c8601ec8cull, "the name 'a'");
    CHECK(rng_stream("foobar") == 0x85944171f73967e8ull, "the name 'foobar'");
}

TEST(rng_uniform_stays_inside_its_open_interval) {
    CHECK(rng_unit(0) > 0, "smallest is %g", rng_unit(0));
    CHECK(rng_unit(UINT64_MAX) < 1, "largest is %.17g", rng_unit(UINT64_MAX));
    int cells[16] = { 0 };
    const int n = 160000;
    for (int i = 0; i < n; i++) { cells[(int)(16 * rng_uniform(7, rng_stream("cells"), (uint64_t)i))]++; }
    double chi2 = 0;
    for (int i = 0; i < 16; i++) { chi2 += (cells[i] - n / 16.0) * (cells[i] - n / 16.0) / (n / 16.0); }
    CHECK(chi2 < 48, "chi squared of 16 cells is %.1f, 48 is passed once in 40000", chi2);
}

// n = 200000 draws: mean within 5 standard errors of 0, variance of 1, fourth moment of 3; and no neighbour or stream correlates
TEST(rng_normal_has_the_moments_of_a_normal) {
    const int n = 200000;
    const uint64_t stream = rng_stream("layer.00.wqkv"), other = rng_stream("layer.01.wqkv");
    double sum = 0, sum2 = 0, sum4 = 0, neighbour = 0, stranger = 0, previous = 0;
    for (int i = 0; i < n; i++) {
        double x = rng_normal(1337, stream, (uint64_t)i);
        CHECK(isfinite(x), "element %d is %g", i, x);
        sum += x; sum2 += x * x; sum4 += x * x * x * x;
        neighbour += x * previous;
        stranger += x * rng_normal(1337, other, (uint64_t)i);
        previous = x;
    }
    double error = 5 / sqrt(n);
    CHECK_NEAR(sum / n, 0, error);
    CHECK_NEAR(sum2 / n, 1, error * sqrt(2));
    CHECK_NEAR(sum4 / n, 3, error * sqrt(96));
    CHECK_NEAR(neighbour / n, 0, error);
    CHECK_NEAR(stranger / n, 0, error);
}

static bool is_permutation(int64_t n, uint64_t key) {
    bool* seen = (bool*)calloc((size_t)n, 1);
    bool all = true;
    for (int64_t i = 0; i < n; i++) {
        int64_t to = shuffled_index(i, n, key);
        if (to < 0 || to >= n || seen[to]) { all = false; break; }
        seen[to] = true;
    }
    free(seen);
    return all;
}

TEST(rng_shuffle_is_a_permutation) {
    for (int64_t n = 1; n <= 300; n++) { CHECK(is_permutation(n, shuffle_key(1, (uint64_t)n)), "n = %lld", (long long)n); }
    const int64_t larger[] = { 1000, 4095, 4096, 4097, 65536, 65537, 1000003 };
    for (int i = 0; i < 7; i++) { CHECK(is_permutation(larger[i], shuffle_key(1, 0)), "n = %lld", (long long)larger[i]); }
}

TEST(rng_shuffle_of_the_largest_sets_stays_inside_and_apart) {
    const int64_t sizes[] = { INT64_MAX, INT64_C(1) << 62, (INT64_C(1) << 62) + 1, (INT64_C(1) << 40) + 12345 };
    for (int s = 0; s < 4; s++) {
        int64_t low = 0, earlier[64];
        for (int i = 0; i < 64; i++) {
            int64_t to = shuffled_index(i % 2 ? sizes[s] - 1 - i : i, sizes[s], 99);
            CHECK(to >= 0 && to < sizes[s], "%d goes to %lld of %lld", i, (long long)to, (long long)sizes[s]);
            for (int j = 0; j < i; j++) { CHECK(earlier[j] != to, "places %d and %d share %lld", i, j, (long long)to); }
            earlier[i] = to;
            low += to < sizes[s] / 2;
        }
        CHECK(low > 8 && low < 56, "%lld of 64 in the lower half", (long long)low);
    }
}

// two unrelated permutations of n agree in one place on average, whatever n
TEST(rng_shuffle_differs_between_epochs_and_seeds) {
    const int64_t n = 1000;
    const uint64_t a = shuffle_key(1337, 0), keys[] = { shuffle_key(1337, 1), shuffle_key(1338, 0), shuffle_key(1337, UINT64_C(1) << 32) };
    for (int k = 0; k < 3; k++) {
        int same = 0;
        for (int64_t i = 0; i < n; i++) { same += shuffled_index(i, n, a) == shuffled_index(i, n, keys[k]); }
        CHECK(same < 12, "orders %d agree in %d of 1000 places", k, same);
    }
}

// every one of the 5! = 120 orders of five rows equally often: 119 degrees of freedom, standard deviation 15.4
TEST(rng_shuffle_reaches_every_order_of_five_equally_often) {
    enum { DRAWS = 24000 };
    int counts[3125] = { 0 }, reached = 0;
    for (int e = 0; e < DRAWS; e++) {
        int code = 0;
        for (int i = 0; i < 5; i++) { code = code * 5 + (int)shuffled_index(i, 5, shuffle_key(3, (uint64_t)e)); }
        counts[code]++;
    }
    double chi2 = 0, expected = DRAWS / 120.0;
    for (int i = 0; i < 3125; i++) {
        if (counts[i] == 0) { continue; }
        reached++;
        chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    CHECK_EQ(reached, 120);
    CHECK(chi2 < 119 + 5 * 15.4, "chi squared is %.1f, expected 119 +- 15.4", chi2);
}

// over many epochs a row visits every tenth of the epoch, keeps its place and follows its predecessor as rarely as chance has it
TEST(rng_shuffle_is_roughly_uniform) {
    enum { N = 1000, EPOCHS = 1000 };
    int tenth[10] = { 0 }, fixed = 0, followed = 0;
    for (uint64_t e = 0; e < EPOCHS; e++) {
        uint64_t key = shuffle_key(11, e);
        int64_t previous = -2;
        tenth[shuffled_index(123, N, key) / (N / 10)]++;
        for (int64_t i = 0; i < N; i++) {
            int64_t to = shuffled_index(i, N, key);
            fixed += to == i;
            followed += to == previous + 1;
            previous = to;
        }
    }
    for (int i = 0; i < 10; i++) { CHECK_NEAR(tenth[i], EPOCHS / 10, 5 * sqrt(EPOCHS * 0.09)); }
    CHECK_NEAR(fixed, EPOCHS, 5 * sqrt(EPOCHS));          // one a permutation, variance one
    CHECK_NEAR(followed, EPOCHS, 5 * sqrt(EPOCHS));
}

TEST_MAIN()

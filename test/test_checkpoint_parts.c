// Checkpoints written by several ranks, a part each: read in any ranges; parts of another save, gaps and a rank that failed are noticed.
#include "checkpoint.h"
#include "tempdir.h"
#include "test.h"

#include <inttypes.h>

enum { N = 1000 };           // floats in the tensor

static float value_at(int64_t step, int i) { return (float)(step * 7 + i) * 0.25f; }

// `parts` writers, each with its share of "wte" (shares as even as can be, and rank 0's also "options"); `skew` elements more for part 0
static bool save_parts(const char* dir, int64_t step, int parts, uint64_t id, int skew, Error* err) {
    float weights[N];
    const int64_t shape[] = { 10, N / 10 };
    for (int i = 0; i < N; i++) { weights[i] = value_at(step, i); }
    if (!checkpoint_prepare(dir, step, err)) { return false; }
    for (int part = parts - 1; part >= 0; part--) {
        int first = N * part / parts, end = N * (part + 1) / parts + (part == 0 ? skew : 0);
        CheckpointWriter* writer = checkpoint_begin_part(dir, step, part, parts, id, err);
        bool good = writer && checkpoint_add_slice(writer, "wte", CHECKPOINT_F32, 2, shape, (uint64_t)first, (uint64_t)(end - first), weights + first, err) &&
                    (part > 0 || checkpoint_add_text(writer, "options", "{}", err));
        if (!good) { checkpoint_abort(writer); return false; }
        if (!checkpoint_finish(writer, err)) { return false; }
    }
    return checkpoint_publish(dir, step, err);
}

TEST(checkpoint_parts_are_read_in_any_ranges) {
    const char* dir = temp_dir();
    const int counts[] = { 1, 2, 3, 8, 64, 1500 };                     // the last: more writers than elements
    float back[N];
    for (int c = 0; c < 6; c++) {
        Error err = {0};
        CHECK(save_parts(dir, 10 + c, counts[c], 7, 0, &err), "%d parts: %s", counts[c], err.text);
        char* path = checkpoint_path(dir, 10 + c);
        CHECK_EQ(temp_entries(path), counts[c]);
        Checkpoint* whole = c % 2 ? checkpoint_open_unverified(path, &err) : checkpoint_open(path, &err);
        CHECK(whole && whole->parts == counts[c], "%d parts: %s", counts[c], err.text);
        CHECK(checkpoint_read(whole, "wte", CHECKPOINT_F32, back, sizeof back, &err), "%s", err.text);
        for (int i = 0; i < N; i++) { CHECK(back[i] == value_at(10 + c, i), "%d parts: weight %d is %g", counts[c], i, (double)back[i]); }
        for (int ranks = 1; ranks <= 5; ranks++) {                     // another number of ranks reads its own ranges
            for (int r = 0; r < ranks; r++) {
                int first = N * r / ranks, count = N * (r + 1) / ranks - first;
                memset(back, 0, sizeof back);
                CHECK(checkpoint_read_range(whole, "wte", CHECKPOINT_F32, (uint64_t)first, (uint64_t)count, back, &err), "%s", err.text);
                for (int i = 0; i < count; i++) { CHECK(back[i] == value_at(10 + c, first + i), "rank %d of %d: weight %d", r, ranks, first + i); }
                CHECK(count == N || back[count] == 0, "rank %d of %d: read beyond its range", r, ranks);
            }
        }
        CHECK(!checkpoint_read_range(whole, "wte", CHECKPOINT_F32, 1, N, back, &err) && strstr(err.text, "wte"), "a range beyond the tensor was read");
        CHECK(!checkpoint_read_range(whole, "wte", CHECKPOINT_F32, UINT64_MAX, 2, back, &err), "a range that wraps was read");
        checkpoint_close(whole);
        free(path);
    }
}

static void check_parts_damaged(const char* dir, int64_t step, const char* says, const char* what) {
    Error err = {0};
    char* path = checkpoint_path(dir, step);
    Checkpoint* checkpoint = checkpoint_open(path, &err);
    CHECK(!checkpoint && strstr(err.text, says), "%s: %s", what, checkpoint ? "not noticed" : err.text);
    free(path);
}

TEST(checkpoint_parts_of_another_save_are_noticed) {
    const char* dir = temp_dir();
    Error err = {0};
    CHECK(save_parts(dir, 10, 3, 7, 0, &err) && save_parts(dir, 20, 3, 7, 0, &err), "%s", err.text);
    const char* other = temp_dir();
    CHECK(save_parts(other, 10, 3, 8, 0, &err), "%s", err.text);
    char a[700], b[700];
    const struct { const char *from; int64_t step; int part; const char* what; } swaps[] = {
        { dir, 20, 1, "another step's" }, { other, 10, 1, "another run's of the same step" }, { dir, 10, 2, "another part's" } };
    snprintf(a, sizeof a, "%s/step_00000010/part_0001.bin", dir);
    size_t bytes = 0;
    char* good = temp_read(a, &bytes);
    for (int i = 0; i < 3; i++) {
        snprintf(b, sizeof b, "%s/step_%08d/part_%04d.bin", swaps[i].from, (int)swaps[i].step, swaps[i].part);
        size_t other_bytes = 0;
        char* data = temp_read(b, &other_bytes);
        temp_write(a, data, other_bytes);
        check_parts_damaged(dir, 10, "part_0001.bin", swaps[i].what);
        free(data);
    }
    unlink(a);
    check_parts_damaged(dir, 10, "part_0001.bin", "deleted");
    for (size_t cut = 0; cut < bytes; cut += bytes / 5) {
        temp_write(a, good, cut);
        check_parts_damaged(dir, 10, "part_0001.bin", "cut");
    }
    for (int flip = 0; flip < 20; flip++) {
        size_t place = bytes * (size_t)flip / 20;
        good[place] ^= 4;
        temp_write(a, good, bytes);
        check_parts_damaged(dir, 10, "part_0001.bin", "a bit flipped");
        good[place] ^= 4;
    }
    temp_write(a, good, bytes);
    char* path = checkpoint_path(dir, 10);
    Checkpoint* checkpoint = checkpoint_open(path, &err);
    CHECK(checkpoint, "put right: %s", err.text);
    checkpoint_close(checkpoint);
    free(path); free(good);
}

TEST(checkpoint_gaps_and_overlaps_of_parts_are_noticed) {
    const char* dir = temp_dir();
    Error err = {0};
    CHECK(save_parts(dir, 10, 4, 7, 3, &err), "%s", err.text);
    check_parts_damaged(dir, 10, "250 to 253 twice", "an overlap");
    CHECK(save_parts(dir, 20, 4, 7, -3, &err), "%s", err.text);
    check_parts_damaged(dir, 20, "247 to 250 nowhere", "a gap");
    CHECK(save_parts(dir, 30, 1, 7, -3, &err), "%s", err.text);
    check_parts_damaged(dir, 30, "997 of its 1000", "an end that lacks");
}

TEST(checkpoint_of_a_rank_that_failed_stays_out_of_sight) {
    const char* dir = temp_dir();
    Error err = {0};
    CHECK(checkpoint_prepare(dir, 10, &err), "%s", err.text);
    CheckpointWriter *zero = checkpoint_begin_part(dir, 10, 0, 2, 7, &err), *one = checkpoint_begin_part(dir, 10, 1, 2, 7, &err);
    CHECK(zero && one, "%s", err.text);
    checkpoint_abort(one);
    CHECK(checkpoint_finish(zero, &err), "%s", err.text);
    int64_t* steps;
    CHECK_EQ(checkpoint_steps(dir, &steps), 0);
    free(steps);
    checkpoint_discard(dir, 10);
    CHECK_EQ(temp_entries(dir), 0);
    CHECK(save_parts(dir, 10, 2, 7, 0, &err), "the next one: %s", err.text);
}

TEST_MAIN()

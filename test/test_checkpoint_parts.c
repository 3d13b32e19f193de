// Checkpoints written by several ranks, a part each: read in any ranges; parts of another save, gaps and a rank that failed are noticed; long ones synced.
#include "checkpoint.h"
#include "tempdir.h"
#include "test.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/syscall.h>

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

// ---- a long part is synced on the way --------------------------------------------------------------------------------------
static int syncs, failing_sync, signs_of_life;         // fdatasync calls since the last save began, the one that fails (0: none), work_done calls

int fdatasync(int file) {                              // in the place of the C library's
    if (++syncs == failing_sync) { errno = EIO; return -1; }
    return (int)syscall(SYS_fdatasync, file);
}

static void count_sign(void* argument) { (void)argument; signs_of_life++; }

static bool save_long(const char* dir, int64_t step, const char* bytes, int64_t count, Error* err) {
    syncs = signs_of_life = 0;
    CheckpointWriter* writer = checkpoint_begin(dir, step, err);
    CHECK(writer, "%s", err->text);
    bool good = checkpoint_add(writer, "first", CHECKPOINT_BYTES, 1, &count, bytes, err) && checkpoint_add(writer, "second", CHECKPOINT_BYTES, 1, &count, bytes, err);
    if (!good) { checkpoint_abort(writer); return false; }
    return checkpoint_commit(writer, err);
}

TEST(checkpoint_of_many_bytes_is_synced_on_the_way_and_says_that_it_is_at_work) {
    const char* dir = temp_dir();
    const int64_t count = 70 << 20;                    // twice: 140 MiB, past the second 64 MiB
    char *bytes = (char*)malloc((size_t)count), *back = (char*)malloc((size_t)count);
    for (int64_t i = 0; i < count; i++) { bytes[i] = (char)(i >> 12); }
    work_listen(count_sign, NULL);
    Error err = {0};
    CHECK(save_long(dir, 1, bytes, count, &err), "%s", err.text);
    CHECK_EQ(syncs, 2);
    CHECK(signs_of_life >= 140, "%d signs of life for 140 MiB", signs_of_life);
    char* path = checkpoint_path(dir, 1);
    Checkpoint* checkpoint = checkpoint_open(path, &err);
    CHECK(checkpoint && checkpoint_read(checkpoint, "second", CHECKPOINT_BYTES, back, (size_t)count, &err), "%s", err.text);
    CHECK(memcmp(bytes, back, (size_t)count) == 0, "the second record differs");
    checkpoint_close(checkpoint);

    failing_sync = 2;
    CHECK(!save_long(dir, 2, bytes, count, &err) && err.code == EXIT_IO && strstr(err.text, strerror(EIO)), "exit %d, \"%s\"", err.code, err.text);
    CHECK_EQ(temp_entries(dir), 1);                    // of the failed save nothing is left
    failing_sync = 0;
    work_listen(NULL, NULL);
    free(path); free(bytes); free(back);
}

TEST_MAIN()

// Checkpoints (RELIABILITY.md R5, R6, R7): what is written reads back; damage is always found and named; a failed save leaves nothing;
// the set on disk is the specified one.
#include "checkpoint.h"
#include "tempdir.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { N = 1000 };           // floats in the tensor; 4000 bytes are no multiple of 64

static float value_at(int64_t step, int i) { return (float)(step * 7 + i) * 0.25f; }

static bool save(const char* dir, int64_t step, Error* err) {
    float weights[N];
    for (int i = 0; i < N; i++) { weights[i] = value_at(step, i); }
    const int64_t shape[] = { 10, N / 10 }, three = 3, none = 0;
    const uint64_t counters[] = { (uint64_t)step, 2, UINT64_MAX };
    CheckpointWriter* writer = checkpoint_begin(dir, step, err);
    if (!writer) { return false; }
    bool good = checkpoint_add(writer, "wte", CHECKPOINT_F32, 2, shape, weights, err) &&
                checkpoint_add(writer, "counters", CHECKPOINT_U64, 1, &three, counters, err) &&
                checkpoint_add(writer, "nothing", CHECKPOINT_F32, 1, &none, NULL, err) &&
                checkpoint_add_text(writer, "options", "{\"layers\":4}", err);
    if (!good) { checkpoint_abort(writer); return false; }
    return checkpoint_commit(writer, err);
}

static void must_save(const char* dir, int64_t step) {
    Error err = {0};
    CHECK(save(dir, step, &err), "step %" PRId64 " cannot be saved: %s", step, err.text);
}

static void check_content(const Checkpoint* checkpoint, int64_t step) {
    float weights[N];
    uint64_t counters[3];
    Error err = {0};
    CHECK_EQ(checkpoint->step, step);
    CHECK_EQ(checkpoint->num_records, 4);
    CHECK(checkpoint_read(checkpoint, "wte", CHECKPOINT_F32, weights, sizeof weights, &err), "%s", err.text);
    for (int i = 0; i < N; i++) { CHECK(weights[i] == value_at(step, i), "weight %d is %g", i, (double)weights[i]); }
    CHECK(checkpoint_read(checkpoint, "counters", CHECKPOINT_U64, counters, sizeof counters, &err), "%s", err.text);
    CHECK(counters[0] == (uint64_t)step && counters[2] == UINT64_MAX, "counters are %" PRIu64 ", %" PRIu64, counters[0], counters[2]);
    char* options = checkpoint_read_text(checkpoint, "options", &err);
    CHECK(options, "%s", err.text);
    CHECK_TEXT(options, "{\"layers\":4}");
    free(options);
}

static void check_whole(const char* dir, int64_t step) {
    Error err = {0};
    char* path = checkpoint_path(dir, step);
    Checkpoint* checkpoint = checkpoint_open(path, &err);
    CHECK(checkpoint, "%s", err.text);
    check_content(checkpoint, step);
    checkpoint_close(checkpoint);
    free(path);
}

static void check_damaged(const char* dir, int64_t step, const char* what) {
    Error err = {0};
    char* path = checkpoint_path(dir, step);
    Checkpoint* checkpoint = checkpoint_open(path, &err);
    CHECK(!checkpoint, "%s: not noticed", what);
    CHECK((err.code == EXIT_DATA || err.code == EXIT_NO_INPUT) && strstr(err.text, path), "%s: exit %d, \"%s\"", what, err.code, err.text);
    free(path);
}

static void part_path(char* text, size_t room, const char* dir, int64_t step) {
    char* path = checkpoint_path(dir, step);
    snprintf(text, room, "%s/part_0000.bin", path);
    free(path);
}

TEST(checkpoint_reads_back_what_was_written) {
    const char* dir = temp_dir();
    must_save(dir, 1000);
    check_whole(dir, 1000);
    CHECK_EQ(temp_entries(dir), 1);
    char name[700];
    snprintf(name, sizeof name, "%s/step_00001000/", dir);           // a trailing slash is no other name
    Error err = {0};
    Checkpoint* checkpoint = checkpoint_open(name, &err);
    CHECK(checkpoint, "%s", err.text);
    const CheckpointRecord* record = checkpoint_find(checkpoint, "wte");
    CHECK(record && record->ndim == 2 && record->shape[0] == 10 && record->shape[1] == N / 10, "the shape of wte is lost");
    CHECK(!checkpoint_find(checkpoint, "wpe"), "a record that is not there was found");
    float weights[N];
    CHECK(!checkpoint_read(checkpoint, "wpe", CHECKPOINT_F32, weights, 4, &err) && strstr(err.text, "no record 'wpe'"), "\"%s\"", err.text);
    CHECK(!checkpoint_read(checkpoint, "wte", CHECKPOINT_F32, weights, 3996, &err) && strstr(err.text, "3996"), "\"%s\"", err.text);
    CHECK(!checkpoint_read(checkpoint, "counters", CHECKPOINT_F32, weights, 24, &err), "u64 was read as fp32");
    checkpoint_close(checkpoint);
}

TEST(checkpoint_of_many_records_and_chunks_reads_back) {
    const char* dir = temp_dir();
    enum { BIG = 700000 };                                            // 2.8 MB: three chunks
    float *big = (float*)malloc(BIG * sizeof(float)), *back = (float*)malloc(BIG * sizeof(float));
    for (int i = 0; i < BIG; i++) { big[i] = (float)i; }
    Error err = {0};
    CheckpointWriter* writer = checkpoint_begin(dir, 7, &err);
    CHECK(writer, "%s", err.text);
    for (int64_t r = 0; r < 200; r++) {
        char name[64];
        snprintf(name, sizeof name, "tensor.%d", (int)r);
        CHECK(checkpoint_add(writer, name, CHECKPOINT_F32, 1, &r, big + r, &err), "%s", err.text);
    }
    const int64_t shape[] = { 7, 100, 1000, 1 };
    CHECK(checkpoint_add(writer, "big", CHECKPOINT_F32, 4, shape, big, &err) && checkpoint_commit(writer, &err), "%s", err.text);
    char* path = checkpoint_path(dir, 7);
    Checkpoint* checkpoint = checkpoint_open(path, &err);
    CHECK(checkpoint, "%s", err.text);
    CHECK_EQ(checkpoint->num_records, 201);
    CHECK(checkpoint_read(checkpoint, "big", CHECKPOINT_F32, back, BIG * sizeof(float), &err), "%s", err.text);
    CHECK(memcmp(big, back, BIG * sizeof(float)) == 0, "the big tensor differs");
    CHECK(checkpoint_read(checkpoint, "tensor.199", CHECKPOINT_F32, back, 199 * sizeof(float), &err), "%s", err.text);
    CHECK(memcmp(big + 199, back, 199 * sizeof(float)) == 0, "tensor.199 differs");
    checkpoint_close(checkpoint);
    free(path); free(big); free(back);
}

// ---- R5 --------------------------------------------------------------------------------------------------------------
TEST(checkpoint_cut_anywhere_is_noticed) {
    const char* dir = temp_dir();
    must_save(dir, 20);
    char file[700], what[64];
    part_path(file, sizeof file, dir, 20);
    size_t bytes = 0;
    char* data = temp_read(file, &bytes);
    const size_t cuts[] = { 0, 1, 63, 64, bytes / 2, bytes - 128, bytes - 1 };
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        temp_write(file, data, cuts[i]);
        snprintf(what, sizeof what, "cut to %zu of %zu bytes", cuts[i], bytes);
        check_damaged(dir, 20, what);
    }
    char* longer = (char*)calloc(bytes + 128, 1);
    memcpy(longer, data, bytes);
    temp_write(file, longer, bytes + 1);
    check_damaged(dir, 20, "a byte appended");
    temp_write(file, longer, bytes + 128);
    check_damaged(dir, 20, "a record's worth of zeros appended");
    temp_write(file, data, bytes);
    check_whole(dir, 20);
    free(data); free(longer);
}

TEST(checkpoint_bit_flips_are_noticed) {
    const char* dir = temp_dir();
    must_save(dir, 20);
    char file[700], what[64];
    part_path(file, sizeof file, dir, 20);
    size_t bytes = 0;
    char* data = temp_read(file, &bytes);
    uint64_t state = 20240607;
    // 100 anywhere, then every byte of header and table, then every padding byte (records end at 64+4000, ..+24, ..+12)
    for (size_t i = 0; i < 100 + 64 + 4 * 128; i++) {
        size_t table = bytes - 4 * 128;
        size_t place = i < 100 ? test_bits(&state) % bytes : i < 164 ? i - 100 : table + (i - 164);
        int bit = (int)(test_bits(&state) % 8);
        data[place] ^= (char)(1 << bit);
        temp_write(file, data, bytes);
        snprintf(what, sizeof what, "bit %d of byte %zu of %zu", bit, place, bytes);
        check_damaged(dir, 20, what);
        data[place] ^= (char)(1 << bit);
    }
    for (size_t place = 64 + 4000; place < 64 + 4032; place++) {
        data[place] ^= 1;
        temp_write(file, data, bytes);
        check_damaged(dir, 20, "a bit of padding");
        data[place] ^= 1;
    }
    temp_write(file, data, bytes);
    check_whole(dir, 20);
    free(data);
}

TEST(checkpoint_deleted_or_swapped_is_noticed) {
    const char* dir = temp_dir();
    must_save(dir, 10);
    must_save(dir, 20);
    char ten[700], twenty[700], aside[700];
    part_path(ten, sizeof ten, dir, 10);
    part_path(twenty, sizeof twenty, dir, 20);
    snprintf(aside, sizeof aside, "%s/aside", dir);
    CHECK(rename(ten, aside) == 0 && rename(twenty, ten) == 0 && rename(aside, twenty) == 0, "the files cannot be swapped");
    check_damaged(dir, 10, "swapped with step 20's");
    check_damaged(dir, 20, "swapped with step 10's");
    unlink(twenty);
    check_damaged(dir, 20, "deleted");
    mkdir(twenty, 0777);
    check_damaged(dir, 20, "a directory in place of the file");
    check_damaged(dir, 30, "never written");
}

TEST(checkpoint_newest_passes_over_damaged_ones_and_names_them) {
    const char* dir = temp_dir();
    Error err = {0};
    char *passed = NULL, file[700];
    CHECK(!checkpoint_open_newest(dir, &passed, &err) && err.code == 0 && !passed, "an empty directory: exit %d, \"%s\"", err.code, err.text);
    CHECK(!checkpoint_open_newest("/nonexistent/checkpoints", &passed, &err) && err.code == 0 && !passed, "no directory: exit %d", err.code);
    for (int64_t step = 10; step <= 40; step += 10) { must_save(dir, step); }
    Checkpoint* newest = checkpoint_open_newest(dir, &passed, &err);
    CHECK(newest && !passed, "nothing is damaged, but: %s", passed ? passed : err.text);
    check_content(newest, 40);
    checkpoint_close(newest);

    part_path(file, sizeof file, dir, 40);
    CHECK(truncate(file, 500) == 0, "cannot cut");
    part_path(file, sizeof file, dir, 30);
    CHECK(unlink(file) == 0, "cannot delete");
    newest = checkpoint_open_newest(dir, &passed, &err);
    CHECK(newest && passed, "no fallback: %s", err.text);
    check_content(newest, 20);
    CHECK(strstr(passed, "step_00000040/part_0000.bin") && strstr(passed, "step_00000030/part_0000.bin") && !strstr(passed, "step_00000020"), "passed over: %s", passed);
    checkpoint_close(newest);
    free(passed);

    must_save(dir, 30);                                // takes the place of the damaged one
    check_whole(dir, 30);
    for (int64_t step = 10; step <= 30; step += 10) {
        part_path(file, sizeof file, dir, step);
        CHECK(truncate(file, 0) == 0, "cannot cut");
    }
    newest = checkpoint_open_newest(dir, &passed, &err);
    CHECK(!newest && err.code == EXIT_DATA && strstr(err.text, "all 4 checkpoints"), "all damaged: exit %d, \"%s\"", err.code, err.text);
    free(passed);
}

TEST(checkpoint_steps_ignores_other_names) {
    const char* dir = temp_dir();
    const char* names[] = { "step_00000010", "step_1234567890", "step_10", "step_0000001x", "step_", ".tmp-step_00000011", "best", "step_0000000012", "step_99999999999999999999" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[700];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        mkdir(path, 0777);
    }
    int64_t* steps;
    CHECK_EQ(checkpoint_steps(dir, &steps), 2);
    CHECK(steps[0] == 10 && steps[1] == 1234567890, "steps are %" PRId64 ", %" PRId64, steps[0], steps[1]);
    free(steps);
}

// ---- R6 --------------------------------------------------------------------------------------------------------------
TEST(checkpoint_on_a_full_disk_leaves_nothing_and_the_next_one_works) {
    const char* dir = temp_dir();
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, tight;
    getrlimit(RLIMIT_FSIZE, &before);
    must_save(dir, 10);
    const rlim_t limits[] = { 0, 1, 64, 100, 2000, 4096, 4300, 4736 };        // the file has 4736 bytes
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        tight = before;
        tight.rlim_cur = limits[i];
        setrlimit(RLIMIT_FSIZE, &tight);
        Error err = {0};
        bool saved = save(dir, 20, &err);
        setrlimit(RLIMIT_FSIZE, &before);
        CHECK(saved == (limits[i] >= 4736), "with %d bytes of room: %s", (int)limits[i], saved ? "saved" : err.text);
        CHECK(saved || (err.code == EXIT_IO && strstr(err.text, "step_00000020")), "exit %d, \"%s\"", err.code, err.text);
        CHECK_EQ(temp_entries(dir), saved ? 2 : 1);
        check_whole(dir, 10);
    }
    check_whole(dir, 20);
}

// ---- a directory that cannot be synced ---------------------------------------------------------------------------------
static int sync_errno[2], directory_syncs;             // what the first and the second fsync of a directory answer; 0: they work

int fsync(int file) {                                  // in the place of the C library's
    struct stat info;
    bool directory = fstat(file, &info) == 0 && S_ISDIR(info.st_mode);
    int why = directory && directory_syncs < 2 ? sync_errno[directory_syncs++] : 0;
    if (why) { errno = why; return -1; }
    return (int)syscall(SYS_fsync, file);
}

static bool save_with_syncs(const char* dir, int64_t step, int first, int second, Error* err) {
    sync_errno[0] = first;
    sync_errno[1] = second;
    directory_syncs = 0;
    bool saved = save(dir, step, err);
    CHECK(directory_syncs == (saved ? 2 : 1), "step %d: %d directories were synced", (int)step, directory_syncs);
    sync_errno[0] = sync_errno[1] = 0;
    return saved;
}

TEST(checkpoint_where_directories_cannot_be_synced_is_saved) {
    const char* dir = temp_dir();
    const int answers[] = { EINVAL, ENOTSUP };
    for (int i = 0; i < 2; i++) {
        Error err = {0};
        CHECK(save_with_syncs(dir, 10 + i, answers[i], answers[i], &err) && err.code == 0, "%s: exit %d, \"%s\"", strerror(answers[i]), err.code, err.text);
        check_whole(dir, 10 + i);
    }
}

TEST(checkpoint_whose_last_sync_fails_is_saved_with_a_warning) {
    const char* dir = temp_dir();
    Error err = {0};
    CHECK(save_with_syncs(dir, 10, 0, EIO, &err), "it is there, and said not to be: \"%s\"", err.text);
    CHECK(err.code == EXIT_IO && strstr(err.text, "step_00000010 is saved, but") && strstr(err.text, strerror(EIO)), "exit %d, \"%s\"", err.code, err.text);
    check_whole(dir, 10);
    CHECK(save_with_syncs(dir, 20, 0, 0, &err) && err.code == 0, "exit %d, \"%s\"", err.code, err.text);
    CHECK(!save_with_syncs(dir, 30, EIO, 0, &err) && err.code == EXIT_IO, "its files' names are not on the disk, and it is said to be saved");
    CHECK_EQ(temp_entries(dir), 2);
}

TEST(checkpoint_into_no_directory_is_an_error) {
    Error err = {0};
    CHECK(!save("/nonexistent/checkpoints", 10, &err) && err.code == EXIT_IO && strstr(err.text, "/nonexistent"), "exit %d, \"%s\"", err.code, err.text);
}

TEST(checkpoint_abort_leaves_nothing_visible) {
    const char* dir = temp_dir();
    Error err = {0};
    CheckpointWriter* writer = checkpoint_begin(dir, 5, &err);
    CHECK(writer, "%s", err.text);
    int64_t* steps;
    CHECK_EQ(checkpoint_steps(dir, &steps), 0);
    free(steps);
    checkpoint_abort(writer);
    CHECK_EQ(temp_entries(dir), 0);
}

TEST(checkpoint_removes_what_dead_saves_left) {
    const char* dir = temp_dir();
    char path[700];
    const char* names[] = { ".tmp-step_00000040", ".tmp-removed_00000010" };
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        mkdir(path, 0777);
        snprintf(path, sizeof path, "%s/%s/part_0000.bin", dir, names[i]);
        temp_write(path, "half", 4);
    }
    Error err = {0};
    char* passed;
    CHECK(!checkpoint_open_newest(dir, &passed, &err) && err.code == 0, "a half-written one was taken: %s", err.text);
    must_save(dir, 40);
    CHECK_EQ(temp_entries(dir), 1);
    check_whole(dir, 40);
}

// a third of R1: kill -9 at any moment of saving and pruning; what is visible is whole, and the next process goes on from it
TEST(checkpoint_survives_kill_at_any_moment) {
    const char* dir = temp_dir();
    uint64_t state = 99;
    int64_t last = 0;
    for (int round = 0; round < 25; round++) {
        pid_t child = fork();
        if (child == 0) {
            Error err;
            CheckpointsKnown known = {0};
            for (int64_t step = last + 1; save(dir, step, &err) && checkpoint_prune(dir, step, 2, 0, &known, &err); step++) { }
            _exit(1);
        }
        usleep((useconds_t)(1000 + test_bits(&state) % 30000));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        CHECK(WIFSIGNALED(status), "round %d: the child ended by itself, status %d", round, status);
        Error err = {0};
        char* passed = NULL;
        Checkpoint* newest = checkpoint_open_newest(dir, &passed, &err);
        CHECK(!passed && err.code == 0, "round %d: a damaged one is visible: %s", round, passed ? passed : err.text);
        if (!newest) { continue; }
        CHECK(newest->step >= last, "round %d: step %" PRId64 " after %" PRId64, round, newest->step, last);
        check_content(newest, newest->step);
        last = newest->step;
        checkpoint_close(newest);
    }
    CHECK(last > 0, "no save was ever finished");
}

// ---- R7 --------------------------------------------------------------------------------------------------------------
TEST(checkpoint_prune_keeps_exactly_the_specified_set) {
    uint64_t state = 77;
    for (int round = 0; round < 20; round++) {
        const char* dir = temp_dir();
        bool on_disk[200] = {false};                   // the specification's own copy, by step
        int keep = 2 + (int)(test_bits(&state) % 3), major = (int)(test_bits(&state) % 3) * 10;
        int step = 0;
        CheckpointsKnown known = {0};
        for (int saves = 0; saves < 8; saves++) {
            step += 1 + (int)(test_bits(&state) % 12);
            if (test_bits(&state) % 4 == 0) { step = (step + 9) / 10 * 10; }
            char* path = checkpoint_path(dir, step);
            mkdir(path, 0777);                         // content does not matter here: it is known to be whole
            free(path);
            checkpoint_know(&known, step);
            on_disk[step] = true;
            Error err = {0};
            CHECK(checkpoint_prune(dir, step, keep, major, &known, &err), "%s", err.text);
            for (int s = step, newer = 0; s >= 0; s--) {
                bool there = on_disk[s];
                on_disk[s] = there && (newer < keep || (major && s % major == 0));
                newer += there;
            }
            int64_t* steps;
            int count = checkpoint_steps(dir, &steps), expected = 0;
            for (int s = 0; s < 200; s++) { expected += on_disk[s]; }
            CHECK(count == expected, "round %d, step %d, keep %d, major %d: %d on disk, %d specified", round, step, keep, major, count, expected);
            for (int i = 0; i < count; i++) { CHECK(on_disk[steps[i]], "round %d: step %" PRId64 " should be gone", round, steps[i]); }
            CHECK(steps[count - 1] == step, "round %d: the newest, %d, is gone", round, step);
            CHECK_EQ(temp_entries(dir), count);
            free(steps);
        }
        free(known.step);
    }
}

TEST(checkpoint_prune_leaves_later_steps_alone) {
    const char* dir = temp_dir();
    for (int64_t step = 10; step <= 60; step += 10) { must_save(dir, step); }
    Error err = {0};
    CheckpointsKnown known = {0};
    CHECK(checkpoint_prune(dir, 40, 2, 0, &known, &err), "%s", err.text);
    int64_t* steps;
    CHECK_EQ(checkpoint_steps(dir, &steps), 4);
    CHECK(steps[0] == 30 && steps[1] == 40 && steps[2] == 50 && steps[3] == 60, "kept %" PRId64 ", %" PRId64 ", ...", steps[0], steps[1]);
    free(steps);
    free(known.step);
}

// a damaged one must not push a whole one out: with --keep 2 the newest two that could be resumed from stay
TEST(checkpoint_prune_does_not_count_damaged_ones) {
    const char* dir = temp_dir();
    CheckpointsKnown known = {0};
    char file[700];
    for (int64_t step = 10; step <= 50; step += 10) { must_save(dir, step); }
    part_path(file, sizeof file, dir, 40);
    CHECK(truncate(file, 100) == 0, "cannot cut");
    part_path(file, sizeof file, dir, 20);
    CHECK(unlink(file) == 0, "cannot delete");
    Error err = {0};
    CHECK(checkpoint_prune(dir, 50, 2, 0, &known, &err), "%s", err.text);
    int64_t* steps;
    CHECK_EQ(checkpoint_steps(dir, &steps), 3);
    CHECK(steps[0] == 30 && steps[1] == 40 && steps[2] == 50, "kept %" PRId64 ", %" PRId64 ", %" PRId64, steps[0], steps[1], steps[2]);
    CHECK(known.count == 1 && known.step[0] == 30, "%d steps are known to be whole", known.count);
    free(steps);
    must_save(dir, 60);
    checkpoint_know(&known, 50);
    CHECK(checkpoint_prune(dir, 60, 2, 0, &known, &err), "%s", err.text);
    CHECK_EQ(checkpoint_steps(dir, &steps), 2);
    CHECK(steps[0] == 50 && steps[1] == 60, "kept %" PRId64 ", %" PRId64, steps[0], steps[1]);
    free(steps);
    free(known.step);
}

// ---- the format over memory ------------------------------------------------------------------------------------------
TEST(checkpoint_structure_with_overflowing_sizes_is_refused) {
    CheckpointHeader header = { .magic = "mobackp", .version = CHECKPOINT_VERSION, .num_records = 1, .table_offset = 128, .file_bytes = 256, .parts = 1 };
    header.magic[7] = 't';
    CheckpointRecord good = { .name = "w", .dtype = CHECKPOINT_F32, .ndim = 1, .shape = { 16 }, .offset = 64, .first = 0, .count = 16 };
    Error err = {0};
    CHECK(checkpoint_check_header(&header, 256, &err) && checkpoint_check_table(&header, &good, &err), "the good one is refused: %s", err.text);
    enum { BAD = 16 };
    CheckpointRecord bad[BAD];
    for (int i = 0; i < BAD; i++) { bad[i] = good; }
    bad[0].shape[0] = bad[0].count = UINT64_MAX / 4;                                                    // more than the file
    bad[1].ndim = 2; bad[1].shape[0] = (uint64_t)1 << 62; bad[1].shape[1] = 4; bad[1].count = 0;         // 2^64 elements wrap to 0
    bad[2].offset = 0; bad[3].offset = 128; bad[4].ndim = 5; bad[5].dtype = 9; bad[6].name[0] = 0;
    memset(bad[7].name, 'x', sizeof bad[7].name);
    bad[8].shape[0] = bad[8].count = 17;                                                                // 68 bytes where 64 have room
    bad[9].count = 0; bad[9].shape[0] = 0;                                                              // records end before the table
    bad[10].first = 1;                                                                                  // one beyond the tensor
    bad[11].first = UINT64_MAX - 14;                                                                    // first + count wraps to 1
    bad[12].part = 1;
    bad[13].shape[0] = (uint64_t)1 << 62; bad[13].dtype = CHECKPOINT_U64;                               // 2^65 bytes
    bad[14].name[1] = '\033';                                                                           // would speak to the terminal
    bad[15].name[3] = 'x';                                                                              // behind the name's end
    for (int i = 0; i < BAD; i++) { CHECK(!checkpoint_check_table(&header, &bad[i], &err), "bad record %d is accepted", i); }
    CheckpointHeader h[] = { header, header, header, header, header, header };
    h[0].num_records = UINT32_MAX; h[1].step = -1; h[2].parts = 0; h[3].part = 1; h[4].parts = UINT32_MAX;      // records, parts: 4 billion
    h[5].version = 1;
    for (int i = 0; i < 6; i++) { CHECK(!checkpoint_check_header(&h[i], 256, &err), "bad header %d is accepted", i); }
    CHECK(strstr(err.text, "version 1"), "another version: \"%s\"", err.text);
    header.table_offset = 32; header.file_bytes = 160;
    CHECK(!checkpoint_check_header(&header, 160, &err), "a table inside the header is accepted");
}

TEST_MAIN()

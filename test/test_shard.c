// Token shards: every way in which one can be bad is named in a sentence, and the last rows of very large ones are read.
#include "shard.h"
#include "test.h"
#include "shard_files.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// shard_open refuses, with this exit status, in under 5 s, in a sentence that says all of these
static void check_refused(const char* pattern, int row_tokens, int vocab, int code, const char* a, const char* b, const char* c) {
    Error err = { 0 };
    double start = now();
    ShardSet* set = shard_open(pattern, row_tokens, vocab, &err);
    CHECK(set == NULL, "'%s' was accepted", pattern);
    CHECK(now() - start < 5, "'%s' took %.1f s to refuse", pattern, now() - start);
    CHECK(err.code == code, "exit status %d, expected %d: %s", err.code, code, err.text);
    const char* parts[] = { a, b, c };
    for (int i = 0; i < 3; i++) { CHECK(strstr(err.text, parts[i]), "'%s' is not in: %s", parts[i], err.text); }
}

// ---- what is refused --------------------------------------------------------------------------------------------------

TEST(shard_none_matches) {
    check_refused(file_path("absent_*.bin"), 8, 100, EXIT_NO_INPUT, "absent_*.bin", "no token shard matches", "data/README.md");
    check_refused(file_path("absent.bin"), 8, 100, EXIT_NO_INPUT, "absent.bin", "no token shard matches", "");
    check_refused("", 8, 100, EXIT_NO_INPUT, "no token shard matches", "''", "");
}

TEST(shard_wrong_magic) {
    const char* path = file_shard("magic.bin", 12345, 1, 100, 2, 100, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "magic is 12345", "expected 20240520 (uint16 tokens) or 20240801");
}

TEST(shard_wrong_version) {
    const char* path = file_shard("version.bin", SHARD_MAGIC_U16, 2, 100, 2, 100, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "version is 2", "expected 1 for magic 20240520");
    path = file_shard("version32.bin", SHARD_MAGIC_U32, 1, 100, 4, 100, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "version is 1", "expected 7 for magic 20240801");
}

TEST(shard_byte_swapped) {
    const char* path = file_shard("swapped.bin", __builtin_bswap32(SHARD_MAGIC_U16), __builtin_bswap32(1), __builtin_bswap32(100), 2, 100, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "20240520 with its bytes swapped", "little-endian");
    path = file_shard("swapped32.bin", __builtin_bswap32(SHARD_MAGIC_U32), __builtin_bswap32(7), __builtin_bswap32(100), 4, 100, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "20240801 with its bytes swapped", "little-endian");
}

TEST(shard_count_does_not_match_the_size) {
    const char* path = file_shard("more.bin", SHARD_MAGIC_U16, 1, 101, 2, 100, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "promises 101 tokens (1226 bytes", "has 1224 bytes, too few (cut copy?)");
    path = file_shard("fewer.bin", SHARD_MAGIC_U16, 1, 99, 2, 100, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "promises 99 tokens (1222 bytes", "has 1224 bytes, too many");
    path = file_shard("negative.bin", SHARD_MAGIC_U16, 1, (uint32_t)-5, 2, 100, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "promises -5 tokens", "expected a positive number");
    path = file_shard("widths.bin", SHARD_MAGIC_U32, 7, 100, 2, 100, 0, 50);          // 16-bit tokens under the 32-bit magic
    check_refused(path, 8, 100, EXIT_DATA, path, "promises 100 tokens (1424 bytes", "has 1224 bytes");
}

TEST(shard_cut_by_a_byte) {
    const char* path = file_u16("cut.bin", 100, 0, 50);
    CHECK(truncate(path, 1223) == 0, "truncate %s", path);
    check_refused(path, 8, 100, EXIT_DATA, path, "1224 bytes", "has 1223 bytes, too few (cut copy?)");
    CHECK(truncate(path, 1000) == 0, "truncate %s", path);
    check_refused(path, 8, 100, EXIT_DATA, path, "has 1000 bytes", "the header's 1024");
}

TEST(shard_empty) {
    const char* path = file_write("empty.bin", "", 0);
    check_refused(path, 8, 100, EXIT_DATA, path, "is empty", "expected a header of 1024 bytes");
    path = file_u16("no_tokens.bin", 0, 0, 50);
    check_refused(path, 8, 100, EXIT_DATA, path, "has 0 tokens", "one row of 9");
}

TEST(shard_shorter_than_a_row) {
    const char* path = file_u16("short.bin", 64, 0, 50);
    check_refused(path, 64, 100, EXIT_DATA, path, "has 64 tokens", "fewer than one row of 65 (--seq-len 64");
    Error err = { 0 };
    ShardSet* set = shard_open(path, 63, 100, &err);
    CHECK(set && set->rows == 1, "63 tokens a row: %s", err.text);
    shard_close(set);
}

TEST(shard_directory) {
    const char* path = file_path("directory.bin");
    CHECK(mkdir(path, 0755) == 0, "mkdir %s", path);
    check_refused(path, 8, 100, EXIT_DATA, path, "is a directory, expected a file", "/*.bin");
}

TEST(shard_pipe_does_not_hang_the_start) {
    const char* path = file_path("pipe.bin");
    CHECK(mkfifo(path, 0644) == 0, "mkfifo %s", path);
    check_refused(path, 8, 100, EXIT_DATA, path, "is not a regular file", "");
}

TEST(shard_unreadable) {
    const char* path = file_u16("unreadable.bin", 100, 0, 50);
    CHECK(chmod(path, 0) == 0, "chmod %s", path);
    bool superuser = geteuid() == 0;                       // who may read everything: look at it as nobody
    if (superuser) { CHECK(seteuid(65534) == 0, "seteuid"); }
    Error err = { 0 };
    ShardSet* set = shard_open(path, 8, 100, &err);
    if (superuser) { CHECK(seteuid(0) == 0, "seteuid back"); }
    CHECK(set == NULL, "an unreadable file was read");
    CHECK_EQ(err.code, EXIT_NO_INPUT);
    CHECK(strstr(err.text, path) && strstr(err.text, "cannot be opened: Permission denied"), "%s", err.text);
}

TEST(shard_token_id_outside_the_vocabulary) {
    const char* path = file_u16("id16.bin", 10000, 0, 258);
    check_refused(path, 8, 257, EXIT_DATA, path, "token 221 (row 27 of the shard) is id 257", "outside the vocabulary of 257: expected 0 to 256");
    path = file_u32("id32.bin", 100000, 0, 99990);
    check_refused(path, 8, 99989, EXIT_DATA, path, "is id 99989", "outside the vocabulary of 99989: expected 0 to 99988");
    Error err = { 0 };
    ShardSet* set = shard_open(path, 8, 99990, &err);
    CHECK(set && set->ids_checked, "the right vocabulary: %s", err.text);
    shard_close(set);
}

TEST(shard_both_magics_in_one_set) {
    file_u16("mixed_0.bin", 100, 0, 50);
    file_u32("mixed_1.bin", 100, 0, 50);
    check_refused(file_path("mixed_*.bin"), 8, 100, EXIT_DATA, "mixed_1.bin", "has 4-byte tokens", "mixed_0.bin of the same set has 2-byte tokens");
}

TEST(shard_the_bad_one_of_a_set_is_named) {
    for (int i = 0; i < 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "five_%d.bin", i);
        file_u16(name, 100, 0, i == 3 ? 200 : 50);
    }
    check_refused(file_path("five_*.bin"), 8, 100, EXIT_DATA, "five_3.bin", "outside the vocabulary of 100", "");
}

// ---- what is read -----------------------------------------------------------------------------------------------------

TEST(shard_rows_run_through_a_set_and_never_cross_shards) {
    const int counts[] = { 65, 80, 81, 17, 1000 }, T = 16;
    for (int i = 0; i < 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "rows_%d.bin", i);
        file_u32(name, counts[i], 1000 * i, 100000);
    }
    Error err = { 0 };
    ShardSet* set = shard_open(file_path("rows_*.bin"), T, 100000, &err);
    CHECK(set, "%s", err.text);
    CHECK_EQ(set->count, 5);
    CHECK_EQ(set->tokens, 1243);
    CHECK_EQ(set->bytes, 5 * 1024 + 4 * 1243);
    CHECK_EQ(set->rows, 4 + 4 + 5 + 1 + 62);
    int64_t row = 0;
    for (int i = 0; i < 5; i++) {
        for (int r = 0; r < (counts[i] - 1) / T; r++, row++) {
            int tokens[17];
            CHECK(shard_read_row(set, row, tokens, &err), "%s", err.text);
            for (int t = 0; t <= T; t++) { CHECK_EQ(tokens[t], 7 * (r * T + t) + 1000 * i); }
        }
    }
    CHECK_EQ(row, set->rows);
    shard_close(set);
}

TEST(shard_is_read_whole_as_one_stream) {
    const int tokens = 100003;                             // several chunks and a rest
    Error err = { 0 };
    ShardSet* set = shard_open(file_u16("stream.bin", tokens, 3, 50257), 1, 50257, &err);
    CHECK(set, "%s", err.text);
    int64_t count = 0;
    int* all = shard_read_all(set, 0, &count, &err);
    CHECK(all, "%s", err.text);
    CHECK_EQ(count, tokens);
    for (int i = 0; i < tokens; i++) { CHECK_EQ(all[i], (7 * i + 3) % 50257); }
    free(all);
    shard_close(set);
}

TEST(shard_name_with_pattern_characters_is_itself) {
    Error err = { 0 };
    ShardSet* set = shard_open(file_u16("odd[1]?.bin", 100, 0, 50), 8, 50, &err);
    CHECK(set && set->count == 1, "%s", err.text);
    shard_close(set);
}

// more shards than descriptors may be held
TEST(shard_set_of_1100_shards) {
    for (int i = 0; i < 1100; i++) {
        char name[32];
        snprintf(name, sizeof name, "many_%04d.bin", i);
        file_u16(name, 9, i, 60000);
    }
    Error err = { 0 };
    ShardSet* set = shard_open(file_path("many_*.bin"), 8, 60000, &err);
    CHECK(set, "%s", err.text);
    CHECK_EQ(set->rows, 1100);
    for (int i = 0; i < 1100; i++) {
        int tokens[9];
        CHECK(shard_read_row(set, i, tokens, &err), "%s", err.text);
        CHECK_EQ(tokens[8], 56 + i);
    }
    shard_close(set);
}

TEST(shard_cut_after_it_was_opened) {
    const char* path = file_u16("late_cut.bin", 100, 0, 50);
    Error err = { 0 };
    int tokens[9];
    ShardSet* set = shard_open(path, 8, 50, &err);
    CHECK(set, "%s", err.text);
    CHECK(truncate(path, SHARD_HEADER_BYTES + 2 * 50) == 0, "truncate %s", path);
    CHECK(shard_read_row(set, 5, tokens, &err), "a row before the cut: %s", err.text);
    CHECK(!shard_read_row(set, 6, tokens, &err), "a row across the cut was read");
    CHECK_EQ(err.code, EXIT_DATA);
    CHECK(strstr(err.text, path) && strstr(err.text, "ends at byte 1124"), "%s", err.text);
    shard_close(set);
}

// Of random headers exactly those that say what the file is are accepted. Each lies in a block of its exact size, for address checkers.
TEST(shard_header_parser_over_random_bytes) {
    uint64_t state = 20240520;
    int accepted = 0;
    for (int trial = 0; trial < 200000; trial++) {
        size_t n = test_bits(&state) % 3 ? SHARD_HEADER_BYTES : (size_t)(test_bits(&state) % (SHARD_HEADER_BYTES + 1));
        unsigned char* bytes = (unsigned char*)xmalloc(n);
        for (size_t i = 0; i < n && i < 16; i++) { bytes[i] = (unsigned char)test_bits(&state); }
        uint32_t head[3] = { test_bits(&state) % 2 ? SHARD_MAGIC_U16 : SHARD_MAGIC_U32, test_bits(&state) % 2 ? 1 : 7,
                             test_bits(&state) % 2 ? 1000 : (uint32_t)test_bits(&state) };
        if (n >= 12 && test_bits(&state) % 8) { memcpy(bytes, head, sizeof head); }
        int64_t size = test_bits(&state) % 2 ? SHARD_HEADER_BYTES + 1000 * (test_bits(&state) % 2 ? 2 : 4) : (int64_t)n;
        ShardHeader header = { 0 };
        Error err = { 0 };
        bool ok = shard_parse_header(bytes, n, size, &header, &err);
        if (n >= 12) { memcpy(head, bytes, sizeof head); }
        bool u16 = n >= 12 && head[0] == SHARD_MAGIC_U16 && head[1] == 1, u32 = n >= 12 && head[0] == SHARD_MAGIC_U32 && head[1] == 7;
        bool good = (u16 || u32) && head[2] <= INT32_MAX && size == SHARD_HEADER_BYTES + (int64_t)head[2] * (u16 ? 2 : 4);
        free(bytes);
        CHECK(ok == good, "trial %d: %s, expected the opposite: %s", trial, ok ? "accepted" : "refused", err.text);
        CHECK(ok || (err.code == EXIT_DATA && err.text[0]), "trial %d: refused without a sentence", trial);
        accepted += ok;
    }
    CHECK(accepted > 1000, "only %d headers were good", accepted);
}

// ---- what is written --------------------------------------------------------------------------------------------------

TEST(shard_writer_and_reader_agree) {
    for (int token_bytes = 2; token_bytes <= 4; token_bytes += 2) {
        const char* path = file_path("written.bin");
        uint32_t ids[5000];
        Error err = { 0 };
        ShardWriter w;
        for (int i = 0; i < 5000; i++) { ids[i] = token_bytes == 2 ? 65535u - (uint32_t)i : 100000u + (uint32_t)i; }
        CHECK(shard_writer_open(&w, path, token_bytes, &err), "%s", err.text);
        CHECK(shard_writer_add(&w, ids, 1, &err) && shard_writer_add(&w, ids + 1, 4999, &err), "%s", err.text);
        CHECK(access(path, F_OK) != 0, "%s is visible before it is whole", path);
        CHECK(shard_writer_close(&w, &err), "%s", err.text);
        ShardSet* set = shard_open(path, 1, 200000, &err);
        CHECK(set, "%s", err.text);
        int64_t count = 0;
        int* all = shard_read_all(set, 0, &count, &err);
        CHECK(all && count == 5000, "%lld tokens: %s", (long long)count, err.text);
        for (int i = 0; i < 5000; i++) { CHECK_EQ(all[i], ids[i]); }
        free(all);
        shard_close(set);
        CHECK(unlink(path) == 0, "unlink %s", path);
    }
}

static int open_files(const ShardSet* set) {
    int open = 0;
    for (int i = 0; i < set->count; i++) { open += set->shards[i].file >= 0; }
    return open;
}

// Two sets of 40 shards each where a process may open 64 files: opened and read to the last row; the soft limit alone is raised.
TEST(shard_sets_keep_as_many_files_open_as_the_process_may) {
    char name[40];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "kept_%02d.bin", i);
        CHECK(file_u16(name, 100, (uint64_t)i, 50), "%s", name);
    }
    for (int hard = 0; hard < 2; hard++) {
        Error err = { 0 };
        pid_t child = fork();
        if (child == 0) {                                                     // a hard limit cannot be raised again
            struct rlimit few;
            if (getrlimit(RLIMIT_NOFILE, &few) != 0) { _exit(2); }
            few.rlim_cur = 64;
            if (hard) { few.rlim_max = 64; }
            if (setrlimit(RLIMIT_NOFILE, &few) != 0) { _exit(3); }
            ShardSet *train = shard_open(file_path("kept_*.bin"), 8, 50, &err), *valid = train ? shard_open(file_path("kept_*.bin"), 8, 50, &err) : NULL;
            if (!valid) { fprintf(stderr, "%s\n", err.text); _exit(4); }
            int kept = hard ? 16 : 40, row[9];
            if (open_files(train) != kept || open_files(valid) != kept) { _exit(5); }
            if (train->count != 40 || !shard_read_row(train, 0, row, &err) || !shard_read_row(valid, valid->rows - 1, row, &err)) { _exit(6); }
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s limit of 64 files: status %d", hard ? "hard" : "soft", WEXITSTATUS(status));
    }
}

// A sentence keeps its beginning and its remedy, however long the path between them is.
TEST(shard_errors_of_long_paths_say_what_to_do) {
    char path[3000];
    for (size_t i = 0; i + 1 < sizeof path; i++) { path[i] = i % 100 ? 'x' : '/'; }
    path[sizeof path - 1] = 0;
    Error err = { 0 };
    CHECK(!shard_open(path, 8, 50, &err), "a path of %zu bytes", strlen(path));
    CHECK(strstr(err.text, "no token shard matches '/xxx") == err.text && strstr(err.text, "xx'; data/README.md says how to make some"), "%s", err.text);
    CHECK_EQ((int)strlen(err.text), (int)sizeof err.text - 1);
}

TEST(shard_writer_without_room_leaves_nothing) {
    Error err = { 0 };
    ShardWriter w;
    CHECK(!shard_writer_open(&w, file_path("absent/x.bin"), 2, &err), "a shard in an absent directory");
    CHECK_EQ(err.code, EXIT_NO_OUTPUT);
    CHECK(strstr(err.text, "absent/x.bin") && strstr(err.text, "No such file"), "%s", err.text);

    const char* path = file_u16("kept.bin", 100, 0, 50);                      // what was there before stays
    const uint32_t ids[4096] = { 0 };
    struct rlimit before, small = { .rlim_cur = 4096 };
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0, "getrlimit");
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0, "setrlimit");
    bool ok = shard_writer_open(&w, path, 2, &err) && shard_writer_add(&w, ids, 4096, &err) && shard_writer_close(&w, &err);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0, "setrlimit back");
    CHECK(!ok, "8 KB were written with room for 4");
    CHECK_EQ(err.code, EXIT_IO);
    CHECK(strstr(err.text, path) && strstr(err.text, "cannot be written: File too large"), "%s", err.text);
    CHECK(access(file_path("kept.bin.tmp"), F_OK) != 0, "the temporary is still there");
    ShardSet* set = shard_open(path, 8, 50, &err);
    CHECK(set && set->tokens == 100, "the shard of before: %s", err.text);
    shard_close(set);
}

// ---- large ones (R9, R10) ---------------------------------------------------------------------------------------------

// ids of a set over 256 MB are checked when their row is read
static void shard_bad_id_in_a_large_set_is_found_when_its_row_is_read(void) {
    const int64_t tokens = 150000001;
    uint32_t last[9] = { 5, 5, 5, 300, 5, 5, 5, 5, 5 };
    CHECK(file_sparse("large.bin", 2, tokens, last, 9), "sparse file");
    const char* path = file_path("large.bin");
    Error err = { 0 };
    int row[9];
    double start = now();
    ShardSet* set = shard_open(path, 8, 300, &err);
    CHECK(set, "%s", err.text);
    CHECK(!set->ids_checked && now() - start < 1, "300 MB were checked at the start");
    CHECK(shard_read_row(set, set->rows - 3, row, &err), "a good row: %s", err.text);
    CHECK(!shard_read_row(set, set->rows - 1, row, &err), "the bad row was read");
    CHECK_EQ(err.code, EXIT_DATA);
    CHECK(strstr(err.text, path) && strstr(err.text, "token 149999995 (row 18749999 of the shard) is id 300"), "%s", err.text);
    shard_close(set);
    CHECK(unlink(path) == 0, "unlink %s", path);
}

// the last two rows, and the last token, of a sparse shard whose last 2T+1 tokens are known
static void check_last_row(const char* name, int token_bytes, int64_t tokens, int T, int vocab) {
    uint32_t* last = (uint32_t*)xmalloc((size_t)(2 * T + 1) * sizeof(uint32_t));
    int* row = (int*)xmalloc((size_t)(T + 1) * sizeof(int));
    for (int i = 0; i < 2 * T + 1; i++) { last[i] = (uint32_t)((1 + 31 * (int64_t)i) % vocab); }
    CHECK(file_sparse(name, token_bytes, tokens, last, 2 * T + 1), "sparse file");
    Error err = { 0 };
    ShardSet* set = shard_open(file_path(name), T, vocab, &err);
    CHECK(set, "%s", err.text);
    CHECK_EQ(set->tokens, tokens);
    CHECK_EQ(set->rows, (tokens - 1) / T);
    for (int back = 1; back <= 2; back++) {
        int64_t r = set->rows - back, first = r * T;
        CHECK(shard_read_row(set, r, row, &err), "%s", err.text);
        for (int t = 0; t <= T; t++) {
            int64_t known = first + t - (tokens - (2 * T + 1));
            CHECK_EQ(row[t], known < 0 ? 0 : last[known]);
        }
    }
    CHECK(shard_read_tokens(set, 0, tokens - 1, 1, row, &err) && row[0] == (int)last[2 * T], "the very last token is %d: %s", row[0], err.text);
    CHECK(shard_read_row(set, set->rows / 2, row, &err) && row[0] == 0 && row[T] == 0, "a row of the middle: %s", err.text);
    shard_close(set);
    free(last);
    free(row);
    CHECK(unlink(file_path(name)) == 0, "unlink %s", name);
}

static void shard_of_5_gb_is_read_to_its_last_row(void) { check_last_row("5gb.bin", 4, 1250000000, 8192, 200000); }
static void shard_of_2147483647_tokens_is_read_to_its_last_row(void) { check_last_row("2g.bin", 2, INT32_MAX, 1024, 50257); }

int main(int argc, char** argv) {
    static const TestCase large[] = {
        { "shard_bad_id_in_a_large_set_is_found_when_its_row_is_read", shard_bad_id_in_a_large_set_is_found_when_its_row_is_read },
        { "shard_of_5_gb_is_read_to_its_last_row",                     shard_of_5_gb_is_read_to_its_last_row },
        { "shard_of_2147483647_tokens_is_read_to_its_last_row",        shard_of_2147483647_tokens_is_read_to_its_last_row },
    };
    bool sparse = file_sparse("probe.bin", 4, 1250000000, NULL, 0);
    unlink(file_path("probe.bin"));
    for (int i = 0; i < 3; i++) {
        if (sparse) { test_register(large[i].name, large[i].run); }
        else { printf("skip %s (no sparse files of 5 GB in %s)\n", large[i].name, files_dir); }
    }
    return test_run_all(argc, argv);
}

// The tokenizer against files built here byte by byte; equality with tiktoken on real text is in test_data_tools.py.
#include "tempdir.h"
#include "test.h"
#include "tokenizer.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

// ---- a small tokenizer file: 256 bytes, a few merges, end of text -------------------------------------------------------

// "hell" outranks its own parts' merges with o; "aaa" can be reached by a + aa or aa + a
static const char* const MERGES[] = {"he", "ll", "hell", "o ", " w", "aa", "aaa", "'s", "\xc3\xa9", "12", "  ", "ab", "bc"};
enum { NUM_MERGES = sizeof MERGES / sizeof *MERGES, VOCAB = 256 + NUM_MERGES + 1, EOT = VOCAB - 1 };
static const uint32_t RANGES[][2] = {{'A', 'Z'}, {'a', 'z'}, {0xe9, 0xe9}, {'0', '9'}, {'\t', '\r'}, {' ', ' '}, {0x2003, 0x2003}};

enum { AT_VERSION = 8, AT_VOCAB = 12, AT_EOT = 16, AT_RANGES = 20, AT_TOKEN_BYTES = 32, AT_FIRST_RANGE = 40,
       AT_LENGTHS = AT_FIRST_RANGE + sizeof RANGES, AT_TEXTS = AT_LENGTHS + 2 * VOCAB };

typedef struct { uint8_t bytes[4096]; size_t n; } File;

static void put(File* f, const void* bytes, size_t n) { memcpy(f->bytes + f->n, bytes, n); f->n += n; }
static void put32(File* f, uint32_t x)                { put(f, &x, sizeof x); }
static void set32(File* f, size_t at, uint32_t x)     { memcpy(f->bytes + at, &x, sizeof x); }

// the checksum made right again, so that a damage reaches the checks behind it
static void sign(File* f) { set32(f, f->n - 4, (uint32_t)crc32(0, f->bytes, (uInt)(f->n - 4))); }

static const char* token_text(int id, size_t* n) {
    static char byte;
    if (id < 256) {
        byte = (char)id;
        *n = 1;
        return &byte;
    }
    const char* text = id == EOT ? "<|endoftext|>" : MERGES[id - 256];
    *n = strlen(text);
    return text;
}

static File small_file(void) {
    File f = {.n = 0};
    size_t n, total = 0;
    for (int id = 0; id < VOCAB; id++) { token_text(id, &n); total += n; }
    put(&f, "MOBATOK", 8);
    const uint32_t header[] = {1, VOCAB, EOT, 3, 1, 3, (uint32_t)total, 0x100000};
    put(&f, header, sizeof header);
    put(&f, RANGES, sizeof RANGES);
    for (int id = 0; id < VOCAB; id++) {
        token_text(id, &n);
        uint16_t length = (uint16_t)n;
        put(&f, &length, sizeof length);
    }
    for (int id = 0; id < VOCAB; id++) {
        const char* text = token_text(id, &n);
        put(&f, text, n);
    }
    put32(&f, 0);
    sign(&f);
    return f;
}

static Tokenizer* open_small(void) {
    File f = small_file();
    Tokenizer* tok = NULL;
    Error err = {0, ""};
    CHECK(tokenizer_parse(f.bytes, f.n, &tok, &err), "%s", err.text);
    return tok;
}

// The file from memory exactly as long as it is, so that a read past its end is seen by a sanitizer. True if it was accepted.
static bool accepted(const File* f, Error* err) {
    uint8_t* bytes = (uint8_t*)memcpy(xmalloc(f->n), f->bytes, f->n);
    Tokenizer* tok = NULL;
    bool ok = tokenizer_parse(bytes, f->n, &tok, err);
    free(bytes);
    if (ok) {
        int ids[16];
        tokenizer_encode(tok, ids, "hello world 12's", 16);
        tokenizer_close(tok);
    }
    return ok;
}

static void check_refused(File f, const char* because) {
    Error err = {0, ""};
    sign(&f);
    CHECK(!accepted(&f, &err), "accepted a file that should be refused: %s", because);
    CHECK_EQ(err.code, EXIT_DATA);
    CHECK(strstr(err.text, because), "refused with \"%s\", expected a word of \"%s\"", err.text, because);
}

// Encodes and compares with `expected`, a list of token texts separated by '|'.
static void check_tokens(const Tokenizer* tok, const char* text, size_t n, const char* expected) {
    int* ids = (int*)xmalloc((n + 1) * sizeof *ids);
    size_t count = tokenizer_encode(tok, ids, text, n), used = 0;
    CHECK(count <= n, "%zu tokens from %zu bytes", count, n);
    char found[512];
    for (size_t i = 0; i < count; i++) {
        size_t length;
        const char* token = tokenizer_decode(tok, ids[i], &length);
        if (i > 0) { found[used++] = '|'; }
        memcpy(found + used, token, length);
        used += length;
    }
    found[used] = 0;
    free(ids);
    CHECK_TEXT(found, expected);
}
#define CHECK_TOKENS(tok, text, expected) check_tokens(tok, text, strlen(text), expected)

// ---- bytes --------------------------------------------------------------------------------------------------------------

TEST(tokenizer_of_bytes) {
    Error err;
    Tokenizer* tok = tokenizer_open("byte", &err);
    CHECK(tok != NULL, "no byte tokenizer");
    CHECK_EQ(tokenizer_vocab_size(tok), 257);
    CHECK_EQ(tokenizer_eot(tok), 256);
    char text[256];
    int ids[256];
    for (int i = 0; i < 256; i++) { text[i] = (char)i; }
    CHECK_EQ(tokenizer_encode(tok, ids, text, 256), 256);
    for (int i = 0; i < 256; i++) {
        size_t n;
        CHECK_EQ(ids[i], i);
        const char* back = tokenizer_decode(tok, i, &n);
        CHECK(n == 1 && (uint8_t)back[0] == i, "byte %d does not come back", i);
    }
    CHECK_EQ(tokenizer_encode(tok, ids, text, 0), 0);
    tokenizer_close(tok);
}

TEST(tokenizer_decodes_only_its_ids) {
    Tokenizer* tok = open_small();
    size_t n = 99;
    CHECK_EQ(tokenizer_vocab_size(tok), VOCAB);
    CHECK_EQ(tokenizer_eot(tok), EOT);
    const char* text = tokenizer_decode(tok, EOT, &n);
    CHECK(n == 13 && memcmp(text, "<|endoftext|>", 13) == 0, "end of text decodes to %zu bytes", n);
    const int outside[] = {-1, VOCAB, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 4; i++) {
        tokenizer_decode(tok, outside[i], &n);
        CHECK_EQ(n, 0);
    }
    tokenizer_close(tok);
}

// ---- splitting and merging ----------------------------------------------------------------------------------------------

TEST(tokenizer_merges_by_rank) {
    Tokenizer* tok = open_small();
    CHECK_TOKENS(tok, "", "");
    CHECK_TOKENS(tok, "hello", "hell|o");
    CHECK_TOKENS(tok, "aaaa", "aa|aa");          // aa before aaa, the leftmost first: aa aa, and no token joins them
    CHECK_TOKENS(tok, "aaaaa", "aa|aaa");        // then aa + a, at the second aa: the pair (aa, aa) is none
    CHECK_TOKENS(tok, "abc", "ab|c");            // ab outranks bc
    CHECK_TOKENS(tok, "xbc", "x|bc");
    CHECK_TOKENS(tok, "aaa", "aaa");
    tokenizer_close(tok);
}

TEST(tokenizer_splits_like_gpt2) {
    Tokenizer* tok = open_small();
    CHECK_TOKENS(tok, "o w", "o| w");            // "o " never merges across words
    CHECK_TOKENS(tok, "he's", "he|'s");
    CHECK_TOKENS(tok, "he'x", "he|'|x");
    CHECK_TOKENS(tok, "''s", "'|'|s");           // two signs are one word, then a letter
    CHECK_TOKENS(tok, "12ab", "12|ab");
    CHECK_TOKENS(tok, "a   w", "a|  | w");       // a run of spaces leaves one to the word
    CHECK_TOKENS(tok, "a  ", "a|  ");            // at the end it keeps all
    CHECK_TOKENS(tok, "  ", "  ");
    CHECK_TOKENS(tok, " ", " ");
    CHECK_TOKENS(tok, " \nw", " |\n|w");         // only a plain blank joins the word after it
    CHECK_TOKENS(tok, "\xe2\x80\x83\xe2\x80\x83w", "\xe2|\x80|\x83|\xe2|\x80|\x83|w");
    CHECK_TOKENS(tok, "\xc3\xa9", "\xc3\xa9");
    tokenizer_close(tok);
}

TEST(tokenizer_takes_any_bytes) {
    Tokenizer* tok = open_small();
    const char* const broken[] = {"\xc3", "a\xe2\x80", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff\xfe", "\x80he"};
    uint64_t state = 7;
    char text[300];
    int ids[300];
    for (int round = 0; round < 2000; round++) {
        size_t n = round < 7 ? strlen(broken[round]) : test_bits(&state) % sizeof text;
        for (size_t i = 0; i < n; i++) {
            uint64_t r = test_bits(&state);
            char usual = "helo wa'12\xc3\xa9\n"[(r >> 8) % 13], any = (char)(r >> 8);
            text[i] = round < 7 ? broken[round][i] : r % 3 ? usual : any;
        }
        size_t count = tokenizer_encode(tok, ids, text, n), at = 0;
        for (size_t i = 0; i < count; i++) {
            size_t length;
            const char* token = tokenizer_decode(tok, ids[i], &length);
            CHECK(at + length <= n && memcmp(token, text + at, length) == 0, "round %d: token %zu does not spell the text", round, i);
            CHECK(ids[i] != EOT, "round %d: end of text came out of a text", round);
            at += length;
        }
        CHECK_EQ(at, n);
    }
    tokenizer_close(tok);
}

// A word without a place to split must cost about as much as text: 4 MB, quadratic merging would take hours.
TEST(tokenizer_merges_megabytes_in_one_word) {
    enum { N = 4 << 20 };
    Tokenizer* tok = open_small();
    char* text = (char*)xmalloc(N);
    int*  ids  = (int*)xmalloc(N * sizeof *ids);
    memset(text, 'a', N);
    size_t count = tokenizer_encode(tok, ids, text, N);
    CHECK_EQ(count, N / 2);                      // aa all along
    CHECK(ids[0] == ids[count - 1], "first and last token differ");
    for (int i = 0; i < N; i++) { text[i] = "hello"[i % 5]; }
    count = tokenizer_encode(tok, ids, text, N);
    CHECK_EQ(count, N / 5 * 2 + 1);              // hell o ... and the last four letters
    free(text);
    free(ids);
    tokenizer_close(tok);
}

// ---- damaged files ------------------------------------------------------------------------------------------------------

TEST(tokenizer_file_cut_anywhere_is_refused) {
    File f = small_file(), longer = f;
    Error err;
    size_t whole = f.n;
    for (f.n = 0; f.n < whole; f.n++) {
        err.code = 0;
        CHECK(!accepted(&f, &err), "accepted %zu of %zu bytes", f.n, whole);
        CHECK_EQ(err.code, EXIT_DATA);
    }
    longer.bytes[longer.n++] = 0;
    CHECK(!accepted(&longer, &err), "accepted a byte too many");
}

TEST(tokenizer_file_with_a_flipped_bit_is_refused) {
    File f = small_file();
    Error err;
    for (size_t bit = 0; bit < 8 * f.n; bit++) {
        f.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        err.code = 0;
        CHECK(!accepted(&f, &err), "accepted with bit %zu of byte %zu flipped", bit % 8, bit / 8);
        CHECK_EQ(err.code, EXIT_DATA);
        f.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    CHECK(accepted(&f, &err), "the file itself is refused: %s", err.text);
}

// With the checksum made right nothing but the other checks stands between a wrong field and memory.
TEST(tokenizer_file_with_wrong_fields_is_refused) {
    const struct { size_t at; uint32_t value; const char* because; } wrong[] = {
        {0, 0x00424f4d, "does not begin"},            {AT_VERSION, 2, "version 2"},
        {AT_VOCAB, 0, "0 tokens"},                    {AT_VOCAB, 256, "256 tokens"},
        {AT_VOCAB, UINT32_MAX, "4294967295 tokens"},  {AT_VOCAB, VOCAB + 1, "promises"},
        {AT_EOT, VOCAB, "outside the vocabulary"},    {AT_EOT, 'a', "byte 97 has no token"},
        {AT_RANGES, 1u << 29, "promises"},            {AT_RANGES + 8, UINT32_MAX, "promises"},
        {AT_TOKEN_BYTES, 0, "promises"},              {AT_TOKEN_BYTES, UINT32_MAX, "promises"},
        {AT_FIRST_RANGE, 'b', "in two ranges"},       {AT_FIRST_RANGE, 'a' - 1, "no range"},
        {AT_FIRST_RANGE + 4, 0x110000, "no range"},   {AT_FIRST_RANGE + 4, UINT32_MAX, "no range"},
        {AT_LENGTHS, 0x10000, "token 0 has 0 bytes"}, {AT_LENGTHS, 0x1ffff, "token 0 has 65535 bytes"},
        {AT_TEXTS + 4, 0x01010101, "are the same"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        File f = small_file();
        // the first range, A to Z, moved into the second one keeps its order
        if (wrong[i].at == AT_FIRST_RANGE && wrong[i].value == 'b') { set32(&f, AT_FIRST_RANGE + 4, 'c'); }
        set32(&f, wrong[i].at, wrong[i].value);
        check_refused(f, wrong[i].because);
    }
    File f = small_file();
    f.bytes[AT_LENGTHS + 2 * EOT]--;                  // one byte of the texts belongs to no token
    check_refused(f, "in all");
}

TEST(tokenizer_file_of_noise_behind_a_right_checksum_does_not_crash) {
    File f = small_file();
    Error err = {0, ""};
    uint64_t state = 11;
    int refused = 0;
    for (int round = 0; round < 3000; round++) {
        File g = f;
        for (uint64_t i = 0, changes = 1 + test_bits(&state) % 4; i < changes; i++) {
            g.bytes[8 + test_bits(&state) % (g.n - 12)] = (uint8_t)test_bits(&state);
        }
        sign(&g);
        refused += !accepted(&g, &err);
    }
    CHECK(refused > 1000, "only %d of 3000 damaged files were refused", refused);
}

TEST(tokenizer_open_names_the_file) {
    Error err = {0, ""};
    CHECK(tokenizer_open("/nonexistent/gpt2.tok", &err) == NULL, "opened a file that is not there");
    CHECK_EQ(err.code, EXIT_NO_INPUT);
    CHECK(strstr(err.text, "/nonexistent/gpt2.tok"), "no file name in \"%s\"", err.text);
    CHECK(tokenizer_open("/", &err) == NULL, "opened a directory");
    CHECK_EQ(err.code, EXIT_DATA);

    char path[700];
    snprintf(path, sizeof path, "%s/small.tok", temp_dir());
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    File f = small_file();
    CHECK(fd >= 0 && write(fd, f.bytes, f.n) == (ssize_t)f.n, "no temporary file");
    Tokenizer* tok = tokenizer_open(path, &err);
    CHECK(tok != NULL, "%s", err.text);
    CHECK_TOKENS(tok, "hello", "hell|o");
    tokenizer_close(tok);
    CHECK(ftruncate(fd, (off_t)f.n - 1) == 0, "cannot cut the file");
    close(fd);
    CHECK(tokenizer_open(path, &err) == NULL, "opened a cut file");
    CHECK_EQ(err.code, EXIT_DATA);
    CHECK(strstr(err.text, path) && strstr(err.text, "cut copy?"), "\"%s\"", err.text);
}

TEST_MAIN()

// Text files to one token shard, with the tokenizer the trainer itself uses:
//
//   build/data/tokenize --tokenizer gpt2.tok --out corpus.bin FILE...
//
// A file is one document to its last byte, or several separated by lines that hold only <|endoftext|>; then the line end before such a
// line, and one at the end of the file, belong to no document ("A\n<|endoftext|>\nB\n" holds "A" and "B").
// An end-of-text token stands before each document, as in llm.c's shards, unless --no-eot.
#define _GNU_SOURCE      // memmem
#include "tokenizer.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEPARATOR "\n<|endoftext|>\n"

typedef struct {
    const char *tokenizer, *out;
    bool        eot;
} Options;

typedef struct {
    FILE*            file;
    const char*      path;          // final name; what is written goes to `temporary`
    char*            temporary;
    const Tokenizer* tok;
    bool             wide;          // uint32 tokens, where the vocabulary does not fit in uint16
    int64_t          tokens, documents;
} Shard;

static void usage(FILE* to) {
    fprintf(to, "usage: tokenize --tokenizer FILE|byte --out SHARD [--no-eot] TEXT...\n"
                "  --tokenizer FILE  written by data/gpt2_tokenizer.py, or 'byte' (default: byte)\n"
                "  --out SHARD       the token shard to write\n"
                "  --no-eot          no end-of-text token before documents\n"
                "Documents are files, and in a file the parts between lines that hold only <|endoftext|>.\n");
}

static Options parse_options(int argc, char** argv) {
    static const struct option names[] = {{"tokenizer", required_argument, NULL, 't'}, {"out", required_argument, NULL, 'o'},
                                          {"no-eot", no_argument, NULL, 'n'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    Options o = {.tokenizer = "byte", .eot = true};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
            case 't': o.tokenizer = optarg; break;
            case 'o': o.out = optarg; break;
            case 'n': o.eot = false; break;
            case 'h': usage(stdout); exit(0);
            default:  usage(stderr); exit(EXIT_USAGE);
        }
    }
    if (!o.out || optind == argc) { FAIL(EXIT_USAGE, "tokenize needs --out SHARD and at least one text file (see --help)"); }
    return o;
}

static void write_out(Shard* s, const void* bytes, size_t n) {
    if (n > 0 && fwrite(bytes, 1, n, s->file) != n) { FAIL(EXIT_IO, "%s: %s", s->temporary, strerror(errno)); }
}

static void write_header(Shard* s) {
    int32_t header[256] = {s->wide ? 20240801 : 20240520, s->wide ? 7 : 1, (int32_t)s->tokens};
    if (fseek(s->file, 0, SEEK_SET) != 0) { FAIL(EXIT_IO, "%s: %s", s->temporary, strerror(errno)); }
    write_out(s, header, sizeof header);
}

static Shard shard_create(const char* path, const Tokenizer* tok) {
    Shard s = {.path = path, .tok = tok, .wide = tokenizer_vocab_size(tok) > 1 << 16};
    size_t room = strlen(path) + 5;
    s.temporary = (char*)xmalloc(room);
    snprintf(s.temporary, room, "%s.tmp", path);
    s.file = fopen(s.temporary, "wb");
    if (!s.file) { FAIL(EXIT_NO_OUTPUT, "%s: %s", s.temporary, strerror(errno)); }
    write_header(&s);
    return s;
}

static void shard_finish(Shard* s) {
    write_header(s);
    if (fflush(s->file) != 0 || fsync(fileno(s->file)) != 0 || fclose(s->file) != 0 || rename(s->temporary, s->path) != 0) {
        FAIL(EXIT_IO, "%s: %s", s->path, strerror(errno));
    }
    free(s->temporary);
}

static void write_tokens(Shard* s, const int* ids, size_t n) {
    s->tokens += (int64_t)n;
    if (s->tokens > INT32_MAX) { FAIL(EXIT_DATA, "%s: a shard holds at most %d tokens; give fewer texts at once", s->path, INT32_MAX); }
    if (s->wide) {
        write_out(s, ids, n * sizeof *ids);
        return;
    }
    uint16_t* narrow = (uint16_t*)xmalloc(n * sizeof *narrow);
    for (size_t i = 0; i < n; i++) { narrow[i] = (uint16_t)ids[i]; }
    write_out(s, narrow, n * sizeof *narrow);
    free(narrow);
}

static void write_document(Shard* s, const char* text, size_t n, bool eot) {
    int* ids = (int*)xmalloc((n + 1) * sizeof *ids);
    ids[0] = tokenizer_eot(s->tok);
    size_t count = eot + tokenizer_encode(s->tok, ids + eot, text, n);
    write_tokens(s, ids, count);
    s->documents++;
    free(ids);
}

static void write_text_file(Shard* s, const char* path, bool eot) {
    int fd = open(path, O_RDONLY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) { FAIL(EXIT_NO_INPUT, "text %s: %s", path, strerror(errno)); }
    if (!S_ISREG(info.st_mode) || info.st_size == 0) { FAIL(EXIT_DATA, "text %s: expected a file that is not empty", path); }
    size_t n = (size_t)info.st_size;
    const char* text = (const char*)mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (text == MAP_FAILED) { FAIL(EXIT_NO_INPUT, "text %s: %s", path, strerror(errno)); }
    size_t at = 0;
    for (const char* end; (end = (const char*)memmem(text + at, n - at, SEPARATOR, strlen(SEPARATOR))) != NULL;) {
        write_document(s, text + at, (size_t)(end - text) - at, eot);
        at = (size_t)(end - text) + strlen(SEPARATOR);
    }
    if (at < n) { write_document(s, text + at, n - at - (at > 0 && text[n - 1] == '\n'), eot); }
    munmap((void*)text, n);
    close(fd);
}

int main(int argc, char** argv) {
    Options o = parse_options(argc, argv);
    Error err;
    Tokenizer* tok = tokenizer_open(o.tokenizer, &err);
    if (!tok) { FAIL(err.code, "%s", err.text); }
    Shard shard = shard_create(o.out, tok);
    for (int i = optind; i < argc; i++) { write_text_file(&shard, argv[i], o.eot); }
    shard_finish(&shard);
    printf("%s: %lld tokens of %lld documents\n", o.out, (long long)shard.tokens, (long long)shard.documents);
    tokenizer_close(tok);
    return 0;
}

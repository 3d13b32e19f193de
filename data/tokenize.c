// Text files to one token shard, with the tokenizer the trainer itself uses:
//
//   build/data/tokenize --tokenizer gpt2.tok --out corpus.bin FILE...
//
// A file is one document to its last byte, or several separated by lines that hold only <|endoftext|>; then the line end before such a
// line, and one at the end of the file, belong to no document ("A\n<|endoftext|>\nB\n" holds "A" and "B").
// An end-of-text token stands before each document, as in llm.c's shards, unless --no-eot.
#include "tool.h"

#include "shard.h"
#include "tokenizer.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const char *tokenizer, *out;
    bool        eot;
} Options;

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

typedef struct {
    ShardWriter      shard;
    const Tokenizer* tok;
    bool             eot;
    int64_t          documents;
    ToolProgress     progress;
    double           bytes;           // of text, so far
} Output;

static void write_document(Output* o, const char* text, size_t n) {
    int* ids = (int*)xmalloc((n + 1) * sizeof *ids);
    ids[0] = tokenizer_eot(o->tok);
    size_t count = o->eot + tokenizer_encode(o->tok, ids + o->eot, text, n);
    Error err;
    if (!shard_writer_add(&o->shard, (const uint32_t*)ids, count, &err)) { FAIL(err.code, "%s", err.text); }
    o->documents++;
    o->bytes += (double)n;
    tool_progress(&o->progress, o->bytes);
    free(ids);
}

// An input that cannot be read leaves nothing behind.
__attribute__((noreturn)) static void refuse(Output* o, int code, const char* path, const char* why) {
    shard_writer_abandon(&o->shard);
    FAIL(code, "text %s: %s", path, why);
}

static void write_text_file(Output* o, const char* path) {
    int fd = open_to_read(path);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) { refuse(o, EXIT_NO_INPUT, path, strerror(errno)); }
    if (!S_ISREG(info.st_mode) || info.st_size == 0) { refuse(o, EXIT_DATA, path, "expected a file that is not empty"); }
    size_t n = (size_t)info.st_size, at = 0, found = 0;
    const char* text = (const char*)mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (text == MAP_FAILED) { refuse(o, EXIT_NO_INPUT, path, strerror(errno)); }
    for (size_t begin, bytes; tool_next_document(text, n, &at, &begin, &bytes); found++) { write_document(o, text + begin, bytes); }
    if (found == 0) { refuse(o, EXIT_DATA, path, "it holds no document"); }
    munmap((void*)text, n);
    close(fd);
}

// of the files that are there; what is wrong with the others is said when their turn comes
static double total_bytes(char* const* paths, int count) {
    struct stat info;
    double total = 0;
    for (int i = 0; i < count; i++) { total += stat(paths[i], &info) == 0 ? (double)info.st_size : 0; }
    return total;
}

int main(int argc, char** argv) {
    program_start();
    Options options = parse_options(argc, argv);
    Error err;
    Tokenizer* tok = tokenizer_open(options.tokenizer, &err);
    if (!tok) { FAIL(err.code, "%s", err.text); }
    Output out = {.tok = tok, .eot = options.eot, .progress = tool_progress_open("tokenize", total_bytes(argv + optind, argc - optind))};
    int token_bytes = tokenizer_vocab_size(tok) <= 1 << 16 ? 2 : 4;
    if (!shard_writer_open(&out.shard, options.out, token_bytes, &err)) { FAIL(err.code, "%s", err.text); }
    for (int i = optind; i < argc; i++) { write_text_file(&out, argv[i]); }
    long long tokens = (long long)out.shard.tokens;
    if (!shard_writer_close(&out.shard, &err)) { FAIL(err.code, "%s", err.text); }
    double seconds = tool_seconds(&out.progress);
    fprintf(stderr, "%.1f MB in %.1f s: %.0f tokens/s\n", out.bytes / 1e6, seconds, (double)tokens / seconds);
    printf("%s: %lld tokens of %lld documents\n", options.out, tokens, (long long)out.documents);
    tokenizer_close(tok);
    return 0;
}

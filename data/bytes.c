// Text to token shards without a tokenizer file: a byte is its own id, 256 is end-of-text and stands before each document.
//
//   build/data/bytes --out train.bin --val-out val.bin --val-fraction 0.1 FILE...
//
// A file is one document to its last byte, or several separated by lines that hold only <|endoftext|>; then the line end before such a
// line, and one at the end of the file, belong to no document. The validation text is the last part of all the text, from the first line
// start in it on; a document that the border falls into is divided there. A shard to be evaluated gets a sidecar NAME.json.
#include "tool.h"

#include "shard.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EOT = 256 };
typedef struct {
    const char *out, *val_out;
    double      val_fraction;
    bool        sidecar;              // of the training shard too
} Options;

typedef struct { const unsigned char* text; size_t bytes; } Document;

typedef struct {
    Document* all;
    size_t    count, room, bytes;     // bytes: of all documents together
} Documents;

// a shard on its way, and what its sidecar will say
typedef struct {
    ShardWriter writer;
    const char* path;
    int64_t     bytes, words, *starts;
    size_t      documents, room;
} Output;

static void usage(FILE* to) {
    fprintf(to, "usage: bytes --out NAME.bin [options] FILE...\n"
                "  --out NAME.bin       the shard to write\n"
                "  --val-out NAME.bin   a second shard of the last part of the text, and its sidecar NAME.json\n"
                "  --val-fraction X     how much of the text that is (default: 0.1)\n"
                "  --sidecar            write a sidecar of --out too\n"
                "Documents are files, and in a file the parts between lines that hold only <|endoftext|>.\n");
}

static Options parse_options(int argc, char** argv) {
    static const struct option names[] = {
        { "out", required_argument, NULL, 'o' }, { "val-out", required_argument, NULL, 'v' }, { "val-fraction", required_argument, NULL, 'f' },
        { "sidecar", no_argument, NULL, 's' }, { "help", no_argument, NULL, 'h' }, { 0 } };
    Options o = { .val_fraction = 0.1 };
    bool fraction_given = false;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
            case 'o': o.out = tool_shard_name("out", optarg); break;
            case 'v': o.val_out = tool_shard_name("val-out", optarg); break;
            case 'f': o.val_fraction = tool_real("val-fraction", optarg, 0, 1); fraction_given = true; break;
            case 's': o.sidecar = true; break;
            case 'h': usage(stdout); exit(0);
            default:  usage(stderr); exit(EXIT_USAGE);
        }
    }
    if (!o.out || optind == argc) { FAIL(EXIT_USAGE, "bytes needs --out NAME.bin and at least one text file (see --help)"); }
    if (fraction_given && !o.val_out) { FAIL(EXIT_USAGE, "--val-fraction says nothing without --val-out NAME.bin"); }
    if (o.val_out && strcmp(o.out, o.val_out) == 0) { FAIL(EXIT_USAGE, "--out and --val-out are both '%s'; expected two names", o.out); }
    return o;
}

// ---- reading ----------------------------------------------------------------------------------------------------------

static void add_document(Documents* d, const char* text, size_t bytes) {
    if (d->count == d->room) {
        d->room = d->room ? 2 * d->room : 64;
        d->all = (Document*)realloc(d->all, d->room * sizeof(Document));
        if (!d->all) { FAIL(EXIT_INTERNAL, "out of host memory: %zu documents", d->room); }
    }
    d->all[d->count++] = (Document){ (const unsigned char*)text, bytes };
    d->bytes += bytes;
}

// the documents of a file, which stays mapped until the end of the program
static void find_documents(Documents* d, const char* path) {
    int file = open_to_read(path);
    struct stat info;
    if (file < 0 || fstat(file, &info) != 0) { FAIL(EXIT_NO_INPUT, "text %s cannot be read: %s", path, strerror(errno)); }
    if (!S_ISREG(info.st_mode)) { FAIL(EXIT_DATA, "text %s is not a file", path); }
    if (info.st_size == 0) { FAIL(EXIT_DATA, "text %s is empty; leave it out", path); }
    size_t n = (size_t)info.st_size, at = 0, found = 0;
    const char* text = (const char*)mmap(NULL, n, PROT_READ, MAP_PRIVATE, file, 0);
    if (text == MAP_FAILED) { FAIL(EXIT_NO_INPUT, "text %s cannot be read: %s", path, strerror(errno)); }
    close(file);
    for (size_t begin, bytes; tool_next_document(text, n, &at, &begin, &bytes); found++) { add_document(d, text + begin, bytes); }
    if (found == 0) { FAIL(EXIT_DATA, "text %s holds no document", path); }
}

// ---- writing ----------------------------------------------------------------------------------------------------------

static int64_t count_words(const unsigned char* text, size_t bytes) {
    int64_t words = 0;
    bool inside = false;
    for (size_t i = 0; i < bytes; i++) {
        bool space = text[i] == ' ' || (text[i] >= '\t' && text[i] <= '\r');
        words += !space && !inside;
        inside = !space;
    }
    return words;
}

static bool write_document(Output* out, const unsigned char* text, size_t bytes, Error* err) {
    if (out->documents == out->room) {
        out->room = out->room ? 2 * out->room : 64;
        out->starts = (int64_t*)realloc(out->starts, out->room * sizeof(int64_t));
        if (!out->starts) { FAIL(EXIT_INTERNAL, "out of host memory: %zu documents", out->room); }
    }
    out->starts[out->documents++] = out->writer.tokens;
    out->bytes += (int64_t)bytes;
    out->words += count_words(text, bytes);
    uint32_t ids[4096] = { EOT };
    if (!shard_writer_add(&out->writer, ids, 1, err)) { return false; }
    for (size_t done = 0; done < bytes; done += 4096) {
        size_t now = min_size(bytes - done, 4096);
        for (size_t i = 0; i < now; i++) { ids[i] = text[done + i]; }
        if (!shard_writer_add(&out->writer, ids, now, err)) { return false; }
    }
    return true;
}

// bytes of the document that are training text, where `left` bytes of training text remain: all, or up to a line start
static size_t training_part(const Document* d, size_t left) {
    if (left >= d->bytes) { return d->bytes; }
    if (left == 0) { return 0; }
    const unsigned char* end = (const unsigned char*)memchr(d->text + left - 1, '\n', d->bytes - left + 1);
    return end ? (size_t)(end + 1 - d->text) : d->bytes;
}

static bool write_documents(Output* train, Output* val, const Documents* d, size_t train_bytes, Error* err) {
    size_t left = train_bytes;
    ToolProgress progress = tool_progress_open("bytes", (double)d->bytes);
    for (size_t i = 0; i < d->count; i++) {
        const Document* doc = &d->all[i];
        size_t head = val ? training_part(doc, left) : doc->bytes;
        if ((head > 0 || doc->bytes == 0) && !write_document(train, doc->text, head, err)) { return false; }
        if (head < doc->bytes && !write_document(val, doc->text + head, doc->bytes - head, err)) { return false; }
        left -= min_size(left, head);
        tool_progress(&progress, (double)(train->bytes + (val ? val->bytes : 0)));
    }
    if (val && val->bytes == 0) {
        return error_set(err, EXIT_DATA, "no line starts in the validation part of the text; give more text or a larger --val-fraction");
    }
    return true;
}

static void write_sidecar(const Output* out) {
    char* name = tool_sidecar_name(out->path);
    char* temporary = (char*)xmalloc(strlen(name) + 5);
    sprintf(temporary, "%s.tmp", name);
    FILE* file = fopen(temporary, "wb");
    if (!file) { FAIL(EXIT_NO_OUTPUT, "sidecar %s cannot be created: %s", temporary, strerror(errno)); }
    int64_t tokens = out->bytes + (int64_t)out->documents;
    fprintf(file, "{\"bytes\":%lld,\"words\":%lld,\"join\":\"eot\",\"tokens\":%lld,\"tokenizer\":\"byte\",\"vocab\":%d,\"documents\":[",
            (long long)out->bytes, (long long)out->words, (long long)tokens, EOT + 1);
    for (size_t i = 0; i < out->documents; i++) { fprintf(file, "%s%lld", i ? "," : "", (long long)out->starts[i]); }
    fprintf(file, "]}\n");
    bool ok = fflush(file) == 0 && fsync(fileno(file)) == 0;
    ok = fclose(file) == 0 && ok && rename(temporary, name) == 0;
    if (!ok) {
        int why = errno;
        unlink(temporary);
        FAIL(EXIT_IO, "sidecar %s cannot be written: %s", name, strerror(why));
    }
    free(name);
    free(temporary);
}

// Two names, ./x.bin and x.bin, may be one file.
static bool same_file(const Output* a, const Output* b) {
    struct stat x, y;
    return fstat(fileno(a->writer.file), &x) == 0 && fstat(fileno(b->writer.file), &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static void report(const Output* out) {
    printf("%s: %lld tokens, %zu documents, %lld bytes, %lld words\n", out->path, (long long)(out->bytes + (int64_t)out->documents),
           out->documents, (long long)out->bytes, (long long)out->words);
}

int main(int argc, char** argv) {
    program_start();
    Options o = parse_options(argc, argv);
    Documents docs = { 0 };
    for (int i = optind; i < argc; i++) { find_documents(&docs, argv[i]); }
    Output train = { .path = o.out }, val = { .path = o.val_out };
    Error err;
    bool ok = shard_writer_open(&train.writer, o.out, 2, &err) && (!o.val_out || shard_writer_open(&val.writer, o.val_out, 2, &err));
    if (ok && o.val_out && same_file(&train, &val)) { ok = error_set(&err, EXIT_USAGE, "--out %s and --val-out %s are one file; expected two", o.out, o.val_out); }
    size_t val_bytes = (size_t)((double)docs.bytes * o.val_fraction);
    ok = ok && write_documents(&train, o.val_out ? &val : NULL, &docs, docs.bytes - val_bytes, &err);
    ok = ok && shard_writer_close(&train.writer, &err) && (!o.val_out || shard_writer_close(&val.writer, &err));
    if (!ok) {
        shard_writer_abandon(&train.writer);
        shard_writer_abandon(&val.writer);
        FAIL(err.code, "%s", err.text);
    }
    if (o.sidecar) { write_sidecar(&train); }
    if (o.val_out) { write_sidecar(&val); }
    report(&train);
    if (o.val_out) { report(&val); }
    free(train.starts);
    free(val.starts);
    free(docs.all);
    return 0;
}

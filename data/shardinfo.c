// Says what is in token shards:
//
//   build/data/shardinfo --seq-len 8192 'data/*.bin'
//
// Every argument is a file or a pattern, opened and checked as the trainer does. Ends with the exit status of the first that is bad.
#include "tool.h"

#include "shard.h"

#include <sys/stat.h>

enum { GPT2_EOT = 50256, BYTE_EOT = 256, CHUNK = 1 << 16 };

typedef struct {
    int     seq_len, vocab, first;
    int64_t eot;                      // -1: the tokenizer's, guessed from the largest id
} Options;

typedef struct {
    uint32_t low, high;               // smallest and largest id
    int64_t  eot, gpt2_eot, byte_eot; // how many of each end-of-text id
} Counts;

static void usage(FILE* to) {
    fprintf(to, "usage: shardinfo [options] SHARD|PATTERN...\n"
                "  --seq-len T   rows are counted at this length (default: 1024)\n"
                "  --vocab V     ids must be below this (default: 0, not checked)\n"
                "  --eot ID      end-of-text id that begins a document (default: 256 where no id is larger, else 50256)\n"
                "  --first N     tokens shown (default: 16)\n");
}

static Options parse_options(int argc, char** argv) {
    static const struct option names[] = {
        { "seq-len", required_argument, NULL, 't' }, { "vocab", required_argument, NULL, 'v' }, { "eot", required_argument, NULL, 'e' },
        { "first", required_argument, NULL, 'f' }, { "help", no_argument, NULL, 'h' }, { 0 } };
    Options o = { .seq_len = 1024, .first = 16, .eot = -1 };
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
            case 't': o.seq_len = (int)tool_int("seq-len", optarg, 1, INT32_MAX); break;
            case 'v': o.vocab = (int)tool_int("vocab", optarg, 0, INT32_MAX); break;
            case 'e': o.eot = tool_int("eot", optarg, 0, UINT32_MAX); break;
            case 'f': o.first = (int)tool_int("first", optarg, 0, 1000); break;
            case 'h': usage(stdout); exit(0);
            default:  usage(stderr); exit(EXIT_USAGE);
        }
    }
    if (optind == argc) { FAIL(EXIT_USAGE, "shardinfo needs at least one shard or pattern (see --help)"); }
    return o;
}

static bool count_ids(Counts* counts, const ShardSet* set, int shard, int64_t eot, Error* err) {
    static int ids[CHUNK];
    const Shard* s = &set->shards[shard];
    ToolProgress progress = tool_progress_open(s->path, (double)s->header.tokens * s->header.token_bytes);
    *counts = (Counts){ .low = UINT32_MAX };
    int64_t tokens = s->header.tokens;
    for (int64_t first = 0; first < tokens; first += CHUNK) {
        int64_t now = tokens - first < CHUNK ? tokens - first : CHUNK;
        if (!shard_read_tokens(set, shard, first, now, ids, err)) { return false; }
        for (int64_t i = 0; i < now; i++) {
            uint32_t id = (uint32_t)ids[i];
            if (id < counts->low) { counts->low = id; }
            if (id > counts->high) { counts->high = id; }
            counts->eot += id == eot;
            counts->gpt2_eot += id == GPT2_EOT;
            counts->byte_eot += id == BYTE_EOT;
        }
        tool_progress(&progress, (double)(first + now) * s->header.token_bytes);
    }
    return true;
}

// the sidecar as it stands, on one line and cut where its list of documents is long
static void print_sidecar(const char* shard) {
    char* name = tool_sidecar_name(shard);
    struct stat info;
    FILE* file = stat(name, &info) == 0 && S_ISREG(info.st_mode) ? fopen(name, "rb") : NULL;
    if (file) {
        char text[401];
        size_t n = fread(text, 1, 400, file);
        text[n] = 0;
        while (n > 0 && text[n - 1] == '\n') { text[--n] = 0; }
        for (size_t i = 0; i < n; i++) { if ((unsigned char)text[i] < 32) { text[i] = ' '; } }
        printf("  sidecar    %s: %s%s\n", name, text, getc(file) == EOF ? "" : " ...");
        fclose(file);
    }
    free(name);
}

static bool print_shard(const ShardSet* set, int shard, const Options* o, Error* err) {
    const Shard* s = &set->shards[shard];
    const int64_t tokens = s->header.tokens, rows = (tokens - 1) / o->seq_len;
    const bool wide = s->header.token_bytes == 4;
    int first[1000], shown = (int)(tokens < o->first ? tokens : o->first);
    Counts counts;
    if (!count_ids(&counts, set, shard, o->eot, err) || !shard_read_tokens(set, shard, 0, shown, first, err)) { return false; }
    int64_t eot = o->eot >= 0 ? o->eot : counts.high <= BYTE_EOT ? BYTE_EOT : GPT2_EOT;
    int64_t documents = o->eot >= 0 ? counts.eot : eot == BYTE_EOT ? counts.byte_eot : counts.gpt2_eot;
    printf("%s\n", s->path);
    printf("  header     magic %d, version %d: %s tokens\n", wide ? SHARD_MAGIC_U32 : SHARD_MAGIC_U16, wide ? 7 : 1, wide ? "uint32" : "uint16");
    printf("  size       %lld bytes, %lld tokens\n", (long long)(SHARD_HEADER_BYTES + tokens * s->header.token_bytes), (long long)tokens);
    printf("  rows       %lld of %d tokens, %lld left over\n", (long long)rows, o->seq_len, (long long)(tokens - 1 - rows * o->seq_len));
    printf("  ids        %u to %u\n", counts.low, counts.high);
    printf("  documents  %lld (tokens with id %lld)\n", (long long)documents, (long long)eot);
    printf("  first     ");
    for (int i = 0; i < shown; i++) { printf(" %u", (uint32_t)first[i]); }
    printf("\n");
    print_sidecar(s->path);
    return true;
}

// prints what a name or pattern stands for; 0 or the exit status of its error
static int print_set(const char* pattern, const Options* o) {
    Error err;
    ShardSet* set = shard_open(pattern, 1, o->vocab, &err);
    bool ok = set != NULL;
    int64_t rows = 0;
    for (int i = 0; ok && i < set->count; i++) {
        ok = print_shard(set, i, o, &err);
        rows += (set->shards[i].header.tokens - 1) / o->seq_len;
    }
    if (ok && set->count > 1) {
        printf("%s: %d shards, %lld bytes, %lld tokens, %lld rows\n", pattern, set->count,
               (long long)set->bytes, (long long)set->tokens, (long long)rows);
    }
    shard_close(set);
    if (ok) { return 0; }
    fflush(stdout);
    fprintf(stderr, "error: %s\n", err.text);
    return err.code;
}

int main(int argc, char** argv) {
    program_start();
    Options o = parse_options(argc, argv);
    int status = 0;
    for (int i = optind; i < argc; i++) {
        int code = print_set(argv[i], &o);
        if (!status) { status = code; }
    }
    require_printed();
    return status;
}

// Token shards of made-up data whose best possible loss is known:
//
//   build/data/synthetic --kind copy --tokens 1000000 --vocab 257 --out copy.bin
//
// Token i is a function of (kind, seed, i): the same command writes the same bytes on every machine.
#include "tool.h"

#include "rng.h"
#include "shard.h"

enum { UNIFORM, ZIPF, COPY };
static const char* const KINDS[] = { "uniform", "zipf", "copy" };
static const char* const DTYPES[] = { "auto", "u16", "u32" };

typedef struct {
    int         kind, token_bytes, vocab;
    int64_t     tokens, period;
    uint64_t    seed;
    const char* out;
} Options;

static void usage(FILE* to) {
    fprintf(to, "usage: synthetic --tokens N --out NAME.bin [options]\n"
                "  --kind KIND    uniform: every id equally often; best loss log V   (default)\n"
                "                 zipf: id k with probability in proportion to 1/(k+1); best loss its entropy\n"
                "                 copy: P random tokens, then the same P again, and so on; best loss (log V)/2\n"
                "  --tokens N     1 to 2147483647\n"
                "  --vocab V      ids are 0 .. V-1 (default: 257)\n"
                "  --period P     of copy (default: 32)\n"
                "  --seed S       (default: 1)\n"
                "  --dtype TYPE   u16, u32, or auto: u16 where the vocabulary fits (default: auto)\n"
                "  --out NAME.bin the shard to write\n");
}

static Options parse_options(int argc, char** argv) {
    static const struct option names[] = {
        { "kind", required_argument, NULL, 'k' }, { "tokens", required_argument, NULL, 'n' }, { "vocab", required_argument, NULL, 'v' },
        { "period", required_argument, NULL, 'p' }, { "seed", required_argument, NULL, 's' }, { "dtype", required_argument, NULL, 'd' },
        { "out", required_argument, NULL, 'o' }, { "help", no_argument, NULL, 'h' }, { 0 } };
    Options o = { .vocab = 257, .period = 32, .seed = 1 };
    int dtype = 0;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
            case 'k': o.kind = tool_word("kind", optarg, KINDS, 3); break;
            case 'n': o.tokens = tool_int("tokens", optarg, 1, INT32_MAX); break;
            case 'v': o.vocab = (int)tool_int("vocab", optarg, 1, 1 << 24); break;
            case 'p': o.period = tool_int("period", optarg, 1, INT32_MAX); break;
            case 's': o.seed = (uint64_t)tool_int("seed", optarg, 0, INT64_MAX); break;
            case 'd': dtype = tool_word("dtype", optarg, DTYPES, 3); break;
            case 'o': o.out = tool_shard_name("out", optarg); break;
            case 'h': usage(stdout); exit(0);
            default:  usage(stderr); exit(EXIT_USAGE);
        }
    }
    if (optind < argc) { FAIL(EXIT_USAGE, "'%s' is not an option of synthetic (see --help)", argv[optind]); }
    if (!o.tokens || !o.out) { FAIL(EXIT_USAGE, "synthetic needs --tokens N and --out NAME.bin (see --help)"); }
    o.token_bytes = dtype == 0 ? (o.vocab <= 65536 ? 2 : 4) : dtype * 2;
    if (o.token_bytes == 2 && o.vocab > 65536) { FAIL(EXIT_USAGE, "--dtype u16: ids of a vocabulary of %d need u32 (u16 holds 65536)", o.vocab); }
    return o;
}

// below[k] = probability of an id <= k, and the entropy in nats
static double* zipf_table(int vocab, double* entropy) {
    double* below = (double*)xmalloc((size_t)vocab * sizeof(double));
    double sum = 0, weighted_logs = 0;
    for (int k = 0; k < vocab; k++) {
        sum += 1.0 / (k + 1);
        weighted_logs += log(k + 1.0) / (k + 1);
        below[k] = sum;
    }
    for (int k = 0; k < vocab; k++) { below[k] /= sum; }
    *entropy = log(sum) + weighted_logs / sum;
    return below;
}

// the first id with u < below[id]
static uint32_t zipf_draw(const double* below, int vocab, double u) {
    int low = 0, high = vocab - 1;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (u < below[middle]) { high = middle; } else { low = middle + 1; }
    }
    return (uint32_t)low;
}

static uint32_t token_at(const Options* o, const double* below, uint64_t stream, int64_t i) {
    if (o->kind == COPY) { i = i / (2 * o->period) * o->period + i % o->period; }      // the second time reads the first's draws
    double u = rng_uniform(o->seed, stream, (uint64_t)i);
    return o->kind == ZIPF ? zipf_draw(below, o->vocab, u) : (uint32_t)(u * o->vocab);
}

int main(int argc, char** argv) {
    program_start();
    Options o = parse_options(argc, argv);
    double entropy = log(o.vocab), *below = NULL;
    if (o.kind == ZIPF) { below = zipf_table(o.vocab, &entropy); }
    if (o.kind == COPY) { entropy /= 2; }
    const uint64_t stream = rng_stream(KINDS[o.kind]);
    Error err;
    ShardWriter writer;
    bool ok = shard_writer_open(&writer, o.out, o.token_bytes, &err);
    uint32_t ids[4096];
    ToolProgress progress = tool_progress_open("synthetic", (double)o.tokens * o.token_bytes);
    for (int64_t first = 0; ok && first < o.tokens; first += 4096) {
        int64_t now = o.tokens - first < 4096 ? o.tokens - first : 4096;
        for (int64_t i = 0; i < now; i++) { ids[i] = token_at(&o, below, stream, first + i); }
        ok = shard_writer_add(&writer, ids, (size_t)now, &err);
        tool_progress(&progress, (double)(first + now) * o.token_bytes);
    }
    ok = ok && shard_writer_close(&writer, &err);
    if (!ok) { FAIL(err.code, "%s", err.text); }
    printf("%s: %lld tokens, %s, vocabulary %d, best loss %.4f\n", o.out, (long long)o.tokens, KINDS[o.kind], o.vocab, entropy);
    free(below);
    return 0;
}

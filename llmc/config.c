#include "config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "json.h"
#include "launch.h"
#include "pattern.h"

#define OPTION_LINE(type, field, name, preset, min, max, choices, resume, group, help) \
    { name, TYPE_##type, offsetof(Config, field), preset, min, max, choices, RESUME_##resume, group, help },
const Option config_options[NUM_OPTIONS] = { OPTIONS(OPTION_LINE) };

static const struct { int layers, channels, heads, mlp, vocab; } presets[] = {
    [PRESET_TINY] = {  4,  128,  2,  384,   257 },      // vocabulary: 256 bytes and one end-of-text
    [PRESET_30M]  = {  6,  384,  6, 1024, 50257 },
    [PRESET_124M] = { 12,  768, 12, 2048, 50257 },
    [PRESET_340M] = { 24, 1024, 16, 2816, 50257 },
    [PRESET_1B]   = { 16, 2048, 32, 8192, 50257 },
};

enum { BYTE_VOCAB = 257 };

static void* field_of(Config* cfg, const Option* option)                   { return (char*)cfg + option->offset; }
static const void* const_field_of(const Config* cfg, const Option* option) { return (const char*)cfg + option->offset; }

// ---- one value -------------------------------------------------------------------------------------------------------
static int shown(const char* text) { return strlen(text) > 60 ? 60 : (int)strlen(text); }     // of a value, in a message

static void set_text(const char** field, const char* text) {
    char* copy = xstrdup(text);
    free((char*)*field);
    *field = copy;
}

static bool set_whole(Config* cfg, const Option* option, const char* text, Error* err) {
    size_t sign = text[0] == '-';
    if (option->choices[0] && strcmp(text, option->choices) == 0) {
        *(int*)field_of(cfg, option) = 0;
        return true;
    }
    if (text[sign] == 0 || text[sign + strspn(text + sign, "0123456789")] != 0) {
        return error_set(err, EXIT_USAGE, "--%s: '%.*s' is not a whole number; it takes one in [%.17g, %.17g]%s%s",
                         option->name, shown(text), text, option->min, option->max, option->choices[0] ? " or " : "", option->choices);
    }
    errno = 0;
    long long number = strtoll(text, NULL, 10);
    if (errno || number < (long long)option->min || number > (long long)option->max) {
        return error_set(err, EXIT_USAGE, "--%s: %.*s is outside [%.17g, %.17g]", option->name, shown(text), text, option->min, option->max);
    }
    if (option->type == TYPE_INT) { *(int*)field_of(cfg, option) = (int)number; }
    else { *(int64_t*)field_of(cfg, option) = number; }
    return true;
}

static bool set_real(Config* cfg, const Option* option, const char* text, Error* err) {
    char* end = NULL;
    errno = 0;
    double number = strtod(text, &end);
    bool plain = text[strspn(text, "0123456789+-.eE")] == 0;               // no hexadecimal, no nan, no inf, no spaces
    if (!plain || end == text || *end) {
        return error_set(err, EXIT_USAGE, "--%s: '%.*s' is not a decimal number; it takes one in [%g, %g]",
                         option->name, shown(text), text, option->min, option->max);
    }
    if (errno || !(number >= option->min && number <= option->max)) {      // ERANGE: beyond what a double holds, on either side
        return error_set(err, EXIT_USAGE, "--%s: %.*s is outside [%g, %g]", option->name, shown(text), text, option->min, option->max);
    }
    *(double*)field_of(cfg, option) = number;
    return true;
}

static bool set_choice(Config* cfg, const Option* option, const char* text, Error* err) {
    int index = 0;
    for (const char* word = option->choices; ; index++) {
        size_t length = strcspn(word, "|");
        if (length == strlen(text) && memcmp(word, text, length) == 0) {
            *(int*)field_of(cfg, option) = index;
            return true;
        }
        if (word[length] == 0) { break; }
        word += length + 1;
    }
    return error_set(err, EXIT_USAGE, "--%s: '%.*s' is none of %s", option->name, shown(text), text, option->choices);
}

static bool set_option(Config* cfg, const Option* option, const char* text, Error* err) {
    switch (option->type) {
        case TYPE_INT: case TYPE_TOKENS: return set_whole(cfg, option, text, err);
        case TYPE_REAL: return set_real(cfg, option, text, err);
        case TYPE_ENUM: return set_choice(cfg, option, text, err);
        case TYPE_FLAG: *(int*)field_of(cfg, option) = strcmp(text, "1") == 0; return true;
        case TYPE_TEXT: set_text((const char**)field_of(cfg, option), text); return true;
    }
    return false;
}

static bool same_value(const Config* a, const Config* b, const Option* option) {
    const void *x = const_field_of(a, option), *y = const_field_of(b, option);
    switch (option->type) {
        case TYPE_TEXT:   return strcmp(*(const char* const*)x, *(const char* const*)y) == 0;
        case TYPE_REAL:   return *(const double*)x == *(const double*)y;
        case TYPE_TOKENS: return *(const int64_t*)x == *(const int64_t*)y;
        default:          return *(const int*)x == *(const int*)y;
    }
}

// an INT that holds its word instead of a number
static bool is_word(const Config* cfg, const Option* option) {
    return option->type == TYPE_INT && option->choices[0] && *(const int*)const_field_of(cfg, option) == 0;
}

char* config_value_text(const Config* cfg, const Option* option) {
    const void* field = const_field_of(cfg, option);
    switch (option->type) {
        case TYPE_TEXT:   return xstrdup(*(const char* const*)field);
        case TYPE_TOKENS: return xformat("%" PRId64, *(const int64_t*)field);
        case TYPE_REAL: {                                                  // as few digits as read back to the same number
            char text[40];
            int digits = 6;
            do { snprintf(text, sizeof text, "%.*g", digits, *(const double*)field); } while (strtod(text, NULL) != *(const double*)field && digits++ < 17);
            return xstrdup(text);
        }
        case TYPE_ENUM: {
            const char* word = option->choices;
            for (int i = *(const int*)field; i > 0; i--) { word += strcspn(word, "|") + 1; }
            return xformat("%.*s", (int)strcspn(word, "|"), word);
        }
        default: return is_word(cfg, option) ? xstrdup(option->choices) : xformat("%d", *(const int*)field);
    }
}

// ---- the command line ------------------------------------------------------------------------------------------------
static void set_defaults(Config* cfg) {
    memset(cfg, 0, sizeof *cfg);
    for (int i = 0; i < NUM_OPTIONS; i++) {
        Error err;
        REQUIRE(set_option(cfg, &config_options[i], config_options[i].preset, &err), "the table's own default is refused: %s", err.text);
    }
}

void config_close(Config* cfg) {
    for (int i = 0; i < NUM_OPTIONS; i++) {
        if (config_options[i].type == TYPE_TEXT) { free(*(char**)field_of(cfg, &config_options[i])); }
    }
    memset(cfg, 0, sizeof *cfg);
}

static int find_option(const char* name, size_t length) {
    for (int i = 0; i < NUM_OPTIONS; i++) {
        if (strlen(config_options[i].name) == length && memcmp(config_options[i].name, name, length) == 0) { return i; }
    }
    return -1;
}

// Levenshtein: insertions, deletions and substitutions from a to b, both cut at 63 bytes.
static int edit_distance(const char* a, size_t a_length, const char* b) {
    int row[64];                                     // row[j]: distance of a's first i bytes to b's first j
    int n = (int)min_size(a_length, 63), m = (int)min_size(strlen(b), 63);
    for (int j = 0; j <= m; j++) { row[j] = j; }
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int substituted = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = min_int(substituted, min_int(row[j], row[j - 1]) + 1);
        }
    }
    return row[m];
}

static const char* nearest_option(const char* name, size_t length) {
    int best = 0, best_distance = 1 << 30;
    for (int i = 0; i < NUM_OPTIONS; i++) {
        int distance = edit_distance(name, length, config_options[i].name);
        if (distance < best_distance) { best = i; best_distance = distance; }
    }
    return config_options[best].name;
}

// Is argv[i] what a shell put behind the first of several names, where it saw a pattern without quotes? Then the option it belongs to, else NULL.
static const char* option_of_a_pattern(char** argv, int i) {
    static const char* const patterns[] = { "--train-data", "--val-data", "--eval-data" };
    for (size_t p = 0; i >= 3 && p < sizeof patterns / sizeof *patterns; p++) {
        if (strcmp(argv[i - 2], patterns[p]) == 0) { return patterns[p]; }
    }
    return NULL;
}

// argv[*i] is an option, perhaps argv[*i + 1] its value; *i moves to the last one used.
static bool parse_argument(Config* cfg, int argc, char** argv, int* i, Error* err) {
    const char* argument = argv[*i];
    if (strncmp(argument, "--", 2) != 0 || argument[2] == 0) {
        const char* pattern = option_of_a_pattern(argv, *i);
        if (pattern) {
            return error_set(err, EXIT_USAGE, "'%.*s' is not an option, and %s takes one name; a pattern needs quotes, so that the shell leaves it as it is: "
                             "%s 'data/*.bin'", shown(argument), argument, pattern, pattern);
        }
        return error_set(err, EXIT_USAGE, "'%.*s' is not an option; options are --name value (--help lists them)", shown(argument), argument);
    }
    const char* name = argument + 2;
    size_t length = strcspn(name, "=");
    int index = find_option(name, length);
    if (index < 0) {
        return error_set(err, EXIT_USAGE, "--%.*s: no such option; the nearest is --%s (--help lists all)",
                         (int)min_size(length, 60), name, nearest_option(name, length));
    }
    const Option* option = &config_options[index];
    const char* value = name[length] ? name + length + 1 : NULL;
    cfg->given[index] = true;
    if (option->type == TYPE_FLAG) {
        if (value) { return error_set(err, EXIT_USAGE, "--%s takes no value, found '%.*s'", option->name, shown(value), value); }
        return set_option(cfg, option, "1", err);
    }
    if (!value) {
        if (*i + 1 == argc) { return error_set(err, EXIT_USAGE, "--%s needs a value", option->name); }
        value = argv[++*i];
        if (strncmp(value, "--", 2) == 0) {
            return error_set(err, EXIT_USAGE, "--%s needs a value, found '%.*s' (a value that starts with dashes: --%s=VALUE)",
                             option->name, shown(value), value, option->name);
        }
    }
    if (value[0] == 0) { return error_set(err, EXIT_USAGE, "--%s: the value is empty", option->name); }
    return set_option(cfg, option, value, err);
}

bool config_parse_into(Config* cfg, int argc, char** argv, Error* err) {
    set_defaults(cfg);
    for (int i = 1; i < argc; i++) {
        if (!parse_argument(cfg, argc, argv, &i, err)) {
            config_close(cfg);
            return false;
        }
    }
    return true;
}

Config config_parse(int argc, char** argv) {
    for (int i = 1; i < argc; i++) {
        bool help = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0, markdown = strcmp(argv[i], "--help-markdown") == 0;
        if (help) { config_help(stdout, argv[0]); }
        if (markdown) { config_help_markdown(stdout); }
        if (help || markdown) { exit(fflush(stdout) == 0 ? 0 : EXIT_IO); }
    }
    Config cfg;
    Error err;
    if (!config_parse_into(&cfg, argc, argv, &err) || !config_resolve(&cfg, &err)) { launch_fail(&err); }
    return cfg;
}

// ---- what follows from what ------------------------------------------------------------------------------------------
static bool needs_checkpoint(const Config* cfg) { return cfg->eval_only || cfg->prompt[0]; }

static bool check_uses(const Config* cfg, Error* err) {
    int uses = cfg->dry_run + cfg->eval_only + (cfg->prompt[0] != 0);
    if (uses > 1) { return error_set(err, EXIT_USAGE, "--dry-run, --eval-only and --prompt contradict each other: give one of them"); }
    if (cfg->eval_only && !cfg->eval_data[0] && !cfg->val_data[0]) {
        return error_set(err, EXIT_USAGE, "--eval-only needs --eval-data (texts, tasks) or --val-data (a loss)");
    }
    if (!cfg->eval_only && cfg->eval_data[0]) { return error_set(err, EXIT_USAGE, "--eval-data is only used with --eval-only"); }
    if (!cfg->eval_data[0] && (cfg->eval_out[0] || cfg->eval_items)) {
        return error_set(err, EXIT_USAGE, "--eval-out and --eval-items are only used with --eval-data");
    }
    if (!cfg->eval_only && cfg->eval_attention == EVAL_DENSE) {
        return error_set(err, EXIT_USAGE, "--eval-attention dense is only used with --eval-only");
    }
    if (needs_checkpoint(cfg) && strcmp(cfg->resume, "none") == 0) {
        return error_set(err, EXIT_USAGE, "--resume none contradicts --%s, which needs a checkpoint", cfg->eval_only ? "eval-only" : "prompt");
    }
    if (cfg->new_schedule && strcmp(cfg->resume, "none") == 0) {
        return error_set(err, EXIT_USAGE, "--new-schedule contradicts --resume none: there is no checkpoint whose schedule could change");
    }
    if (uses == 0 && !cfg->train_data[0]) {
        return error_set(err, EXIT_USAGE, "--train-data is needed to train (--dry-run, --eval-only and --prompt do without)");
    }
    return true;
}

static bool resolve_model(Config* cfg, Error* err) {
    if (!cfg->layers)   { cfg->layers   = presets[cfg->preset].layers; }
    if (!cfg->channels) { cfg->channels = presets[cfg->preset].channels; }
    if (!cfg->heads)    { cfg->heads    = presets[cfg->preset].heads; }
    if (!cfg->mlp)      { cfg->mlp      = presets[cfg->preset].mlp; }
    if (!cfg->vocab)    { cfg->vocab    = presets[cfg->preset].vocab; }
    if (cfg->channels % cfg->heads) {
        return error_set(err, EXIT_USAGE, "--heads: %d does not divide --channels %d", cfg->heads, cfg->channels);
    }
    if (cfg->channels / cfg->heads % 8) {
        return error_set(err, EXIT_USAGE, "--heads: %d heads of --channels %d have head dim %d, which is not a multiple of 8",
                         cfg->heads, cfg->channels, cfg->channels / cfg->heads);
    }
    if (cfg->mlp % 8) { return error_set(err, EXIT_USAGE, "--mlp: %d is not a multiple of 8", cfg->mlp); }
    if (cfg->kconv != 0 && cfg->kconv != 3 && cfg->kconv != 5) {
        return error_set(err, EXIT_USAGE, "--kconv: %d is none of 0, 3, 5", cfg->kconv);
    }
    bool speaks = cfg->prompt[0] || cfg->sample_every > 0;
    if (speaks && strcmp(cfg->tokenizer, "byte") == 0 && cfg->vocab < BYTE_VOCAB) {
        return error_set(err, EXIT_USAGE, "--vocab: %d is too small to sample with the byte tokenizer, which has %d tokens", cfg->vocab, BYTE_VOCAB);
    }
    return true;
}

static bool resolve_schedule(Config* cfg, Error* err) {
    if (cfg->warmup < 0) { cfg->warmup = min_int(cfg->steps / 10, 2000); }
    if (cfg->warmup > cfg->steps) { return error_set(err, EXIT_USAGE, "--warmup: %d is more than --steps %d", cfg->warmup, cfg->steps); }
    int after = cfg->steps - cfg->warmup;
    if (cfg->cooldown < 0) { cfg->cooldown = cfg->schedule == SCHEDULE_WSD ? min_int(cfg->steps / 5, after) : 0; }
    if (cfg->cooldown > 0 && cfg->schedule != SCHEDULE_WSD) {
        return error_set(err, EXIT_USAGE, "--cooldown: %d contradicts a --schedule other than wsd, which alone has a cool-down", cfg->cooldown);
    }
    if (cfg->cooldown > after) {
        return error_set(err, EXIT_USAGE, "--cooldown: %d is more than the %d steps left after --warmup %d", cfg->cooldown, after, cfg->warmup);
    }
    return true;
}

// The tokens of a pass are counted with an int.
static bool check_pass(const Config* cfg, const char* option, int row, Error* err) {
    int64_t tokens = (int64_t)cfg->micro_batch * row;
    return tokens <= INT32_MAX || error_set(err, EXIT_USAGE, "--micro-batch: %d rows of --%s %d are %" PRId64 " tokens; at most %d fit one pass",
                                            cfg->micro_batch, option, row, tokens, INT32_MAX);
}

// Who this process is among how many. --init says how they meet; the launcher's environment the numbers that are not given.
static bool find_ranks(Config* cfg, Error* err) {
    static const char* init_name[] = {"auto", "mpi", "tcp", "file"};
    int rank = 0, ranks = 1;
    if (cfg->dry_run) { cfg->ranks = max_int(cfg->ranks, 1); return true; }
    bool launched = launch_environment(cfg->init == INIT_TCP || cfg->init == INIT_FILE, &rank, &ranks);
    bool by_hand = cfg->ranks > 1 || cfg->rank >= 0 || cfg->meet[0];
    if (cfg->init == INIT_AUTO && launched && ranks > 1) { cfg->init = INIT_MPI; }
    if (cfg->init <= INIT_MPI && by_hand && !(cfg->ranks == ranks && cfg->rank == rank && !cfg->meet[0])) {
        return error_set(err, EXIT_USAGE, "--ranks, --rank and --meet are for --init tcp and file; with mpi it is mpirun that says them");
    }
    if (cfg->init > INIT_MPI) {
        if (!cfg->meet[0]) {
            return error_set(err, EXIT_USAGE, "--init %s needs --meet: %s", init_name[cfg->init],
                             cfg->init == INIT_TCP ? "HOST:PORT of rank 0, the same for all ranks" : "the path of a file that all hosts share");
        }
        if (cfg->ranks == 0 && launched) { cfg->ranks = ranks; }
        if (cfg->rank < 0 && launched)   { cfg->rank = rank; }
        if (cfg->ranks == 0 || cfg->rank < 0 || cfg->rank >= cfg->ranks) {
            return error_set(err, EXIT_USAGE, "--init %s: rank %d of %d ranks cannot be; give --rank and --ranks, or start with srun", init_name[cfg->init],
                             cfg->rank, cfg->ranks);
        }
        return true;
    }
    cfg->rank = cfg->init == INIT_MPI ? rank : 0;
    cfg->ranks = cfg->init == INIT_MPI ? ranks : 1;
    return true;
}

static bool resolve_ranks(Config* cfg, Error* err) {
    if (!find_ranks(cfg, err)) { return false; }
    if (cfg->ranks > 1 && needs_checkpoint(cfg)) {
        return error_set(err, EXIT_USAGE, "--%s runs in one process, and this is one of %d", cfg->eval_only ? "eval-only" : "prompt", cfg->ranks);
    }
    return true;
}

// --micro-batch auto: the trainer decides when it knows the device (fit.h); until then the steps alone are checked
static bool resolve_auto_batch(const Config* cfg, Error* err) {
    if (cfg->dry_run || needs_checkpoint(cfg)) {
        return error_set(err, EXIT_USAGE, "--micro-batch: auto asks the device what fits a training step; with --%s give a number",
                         cfg->dry_run ? "dry-run" : cfg->eval_only ? "eval-only" : "prompt");
    }
    if (!cfg->total_batch) { return error_set(err, EXIT_USAGE, "--micro-batch: auto needs --total-batch, or a step would depend on the device's memory"); }
    if (cfg->total_batch % ((int64_t)cfg->seq_len * cfg->ranks) == 0) { return true; }
    return error_set(err, EXIT_USAGE, "--total-batch: %" PRId64 " is not a multiple of --seq-len %d on each of %d ranks", cfg->total_batch, cfg->seq_len,
                     cfg->ranks);
}

// The tokens of a run are counted with 64 bits.
static bool check_run(const Config* cfg, Error* err) {
    return cfg->total_batch <= INT64_MAX / cfg->steps ||
           error_set(err, EXIT_USAGE, "--total-batch: %" PRId64 " tokens in each of %d steps are more than 64 bits count; at most %" PRId64,
                     cfg->total_batch, cfg->steps, INT64_MAX / cfg->steps);
}

static bool resolve_batch(Config* cfg, Error* err) {
    if (!cfg->micro_batch) { return check_run(cfg, err) && resolve_auto_batch(cfg, err); }
    int64_t unit = (int64_t)cfg->micro_batch * cfg->seq_len * cfg->ranks;
    if (!check_pass(cfg, "seq-len", cfg->seq_len, err)) { return false; }
    if (!cfg->total_batch) { cfg->total_batch = unit; }
    if (!check_run(cfg, err)) { return false; }
    if (needs_checkpoint(cfg) || cfg->total_batch % unit == 0) { return true; }      // those two take no steps
    int64_t nearest = (cfg->total_batch + unit / 2) / unit * unit;
    char ranks[32] = "", times[32] = "";
    if (cfg->ranks > 1) { snprintf(ranks, sizeof ranks, " x ranks"); snprintf(times, sizeof times, " x %d", cfg->ranks); }
    return error_set(err, EXIT_USAGE, "--total-batch: %" PRId64 " is not a multiple of micro-batch x seq-len%s = %d x %d%s; the nearest that is: %" PRId64,
                     cfg->total_batch, ranks, cfg->micro_batch, cfg->seq_len, times, nearest ? nearest : unit);
}

static bool resolve_eval(Config* cfg, Error* err) {
    if (!cfg->eval_context) { cfg->eval_context = cfg->seq_len; }
    if (!cfg->eval_stride) { cfg->eval_stride = max_int(cfg->eval_context / 2, 1); }
    if (cfg->eval_stride > cfg->eval_context) {
        return error_set(err, EXIT_USAGE, "--eval-stride: %d is more than the context, %d: tokens between two windows would not be scored",
                         cfg->eval_stride, cfg->eval_context);
    }
    if (cfg->eval_data[0] && cfg->eval_context < 2) {
        return error_set(err, EXIT_USAGE, "--eval-context: %d scores nothing, since a token needs another before it; at least 2", cfg->eval_context);
    }
    return !cfg->eval_only || check_pass(cfg, "eval-context", cfg->eval_context, err);
}

// after seq_len and eval_context are known: a block's index must fit 16 bits
static bool resolve_pattern(Config* cfg, Error* err) {
    LayerSpec* spec = (LayerSpec*)xcalloc((size_t)cfg->layers, sizeof *spec);
    bool good = pattern_parse(spec, cfg->layers, cfg->pattern, err);
    int longest = max_int(cfg->seq_len, cfg->eval_context);
    for (int l = 0; good && l < cfg->layers; l++) {
        if (spec[l].kind == LAYER_M && ceil_div(longest, spec[l].block) > UINT16_MAX) {
            good = error_set(err, EXIT_USAGE, "--pattern: blocks of %d make %d of a row of %d tokens; at most %d can be told apart",
                             spec[l].block, ceil_div(longest, spec[l].block), longest, UINT16_MAX);
        }
    }
    if (good) {
        free((char*)cfg->pattern);
        cfg->pattern = pattern_text(spec, cfg->layers);
    }
    free(spec);
    return good;
}

static bool resolve_all(Config* cfg, Error* err) {
    return check_uses(cfg, err) && resolve_ranks(cfg, err) && resolve_model(cfg, err) && resolve_schedule(cfg, err) && resolve_batch(cfg, err) &&
           resolve_eval(cfg, err) && resolve_pattern(cfg, err);
}

// What a checkpoint must be asked for waits until config_adopt.
bool config_resolve(Config* cfg, Error* err) {
    return needs_checkpoint(cfg) ? check_uses(cfg, err) && resolve_ranks(cfg, err) : resolve_all(cfg, err);
}

// ---- against a checkpoint --------------------------------------------------------------------------------------------
bool config_check_resume(const Config* now, const Config* saved, Error* err) {
    for (int i = 0; i < NUM_OPTIONS; i++) {
        const Option* option = &config_options[i];
        bool allowed = option->resume == RESUME_ALWAYS || (option->resume == RESUME_SCHEDULE && now->new_schedule);
        if (allowed || same_value(now, saved, option)) { continue; }
        char *ours = config_value_text(now, option), *theirs = config_value_text(saved, option);
        error_set(err, EXIT_USAGE, "--%s: the checkpoint has %.*s, this run %.*s; %s", option->name, shown(theirs), theirs, shown(ours), ours,
                  option->resume == RESUME_SCHEDULE ? "to change it from here on, add --new-schedule"
                                                    : "it cannot change on resume (a new run needs another --out)");
        free(ours);
        free(theirs);
        return false;
    }
    return true;
}

static void copy_value(Config* to, const Config* from, const Option* option) {
    char* text = config_value_text(from, option);
    REQUIRE(set_option(to, option, text, NULL), "--%s: its own value %s is refused", option->name, text);
    free(text);
}

bool config_adopt(Config* cfg, const Config* saved, Error* err) {
    bool sized = cfg->given[OPTION_preset];
    for (int i = 0; i < NUM_OPTIONS; i++) {
        const Option* option = &config_options[i];
        bool size = i == OPTION_layers || i == OPTION_channels || i == OPTION_heads || i == OPTION_mlp || i == OPTION_vocab;
        if (option->resume != RESUME_ALWAYS && !cfg->given[i] && !(size && sized)) { copy_value(cfg, saved, option); }
    }
    if (!resolve_all(cfg, err)) { return false; }
    Config compared = *cfg;
    compared.seed = saved->seed;                 // no step is taken: the seed draws samples, and any will do
    if (cfg->prompt[0]) { compared.tokenizer = saved->tokenizer; }      // the file may have moved; whether it fits is seen when it is opened
    return config_check_resume(&compared, saved, err);
}

// ---- JSON ------------------------------------------------------------------------------------------------------------
char* config_to_json(const Config* cfg) {
    Json json = json_begin();
    for (int i = 0; i < NUM_OPTIONS; i++) {
        const Option* option = &config_options[i];
        const void* field = const_field_of(cfg, option);
        switch (option->type) {
            case TYPE_INT:
                if (is_word(cfg, option)) { json_put_text(&json, option->name, option->choices); }
                else { json_put_int(&json, option->name, *(const int*)field); }
                break;
            case TYPE_TOKENS: json_put_int(&json, option->name, *(const int64_t*)field); break;
            case TYPE_REAL:   json_put_exact(&json, option->name, *(const double*)field); break;
            case TYPE_FLAG:   json_put_bool(&json, option->name, *(const int*)field); break;
            case TYPE_TEXT:   json_put_text(&json, option->name, *(const char* const*)field); break;
            case TYPE_ENUM: {
                char* word = config_value_text(cfg, option);
                json_put_text(&json, option->name, word);
                free(word);
            }
        }
    }
    return json_end(&json);
}

// A value as the command line would have it; NULL if its kind does not fit the option's type.
static char* value_as_given(const Option* option, JsonValue value) {
    char kind = json_kind(value);
    bool flag;
    switch (option->type) {
        case TYPE_TEXT: case TYPE_ENUM: return json_get_text(value);
        case TYPE_FLAG: return json_get_bool(value, &flag) ? xstrdup(flag ? "1" : "0") : NULL;
        case TYPE_INT:  if (option->choices[0] && kind == '"') { return json_get_text(value); }     // fall through
        default:        return kind == '0' ? xformat("%.*s", (int)(value.end - value.at), value.at) : NULL;
    }
}

bool config_from_json(Config* cfg, const char* json, size_t bytes, Error* err) {
    JsonValue object, key, value;
    if (bytes > INT32_MAX || !json_parse(&object, json, bytes, err) || json_kind(object) != '{') {
        return error_set(err, EXIT_DATA, "saved options: not a JSON object");
    }
    set_defaults(cfg);
    bool good = true;
    for (size_t place = 0; good && json_next(object, &place, &key, &value); ) {
        char* name = json_get_text(key);
        int index = name ? find_option(name, strlen(name)) : -1;
        char* text = index >= 0 ? value_as_given(&config_options[index], value) : NULL;
        if (index < 0) {
            good = error_set(err, EXIT_DATA, "saved options: '%.60s' is not an option of this program (saved by a newer one?)", name ? name : "");
        } else if (!text) {
            good = error_set(err, EXIT_DATA, "saved options: %s has a value of the wrong kind", name);
        } else if (!set_option(cfg, &config_options[index], text, err)) {
            good = false;
            if (err) { err->code = EXIT_DATA; }
        }
        free(name);
        free(text);
    }
    if (!good) { config_close(cfg); }
    return good;
}

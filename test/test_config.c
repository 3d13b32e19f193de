// Options: what is accepted, what is refused and how, what is derived, what a resumed run may change.
#include "config.h"
#include "test.h"

#include <sys/wait.h>
#include <unistd.h>

enum { MAX_ARGS = 32 };

// Parses a command line written with spaces; '~' stands for an empty argument.
static bool parse(Config* cfg, const char* line, Error* err) {
    static char words[1024];
    char* argv[MAX_ARGS] = { "train" };
    int argc = 1;
    *err = (Error){0};
    snprintf(words, sizeof words, "%s", line);
    for (char* word = strtok(words, " "); word && argc < MAX_ARGS; word = strtok(NULL, " ")) { argv[argc++] = strcmp(word, "~") ? word : ""; }
    return config_parse_into(cfg, argc, argv, err);
}

static Config resolved(const char* line) {
    Config cfg;
    Error err;
    CHECK(parse(&cfg, line, &err) && config_resolve(&cfg, &err), "'%s' is refused: %s", line, err.text);
    return cfg;
}

static void check_refused(const char* line, const char* expected) {
    Config cfg;
    Error err;
    bool parsed = parse(&cfg, line, &err);
    bool good = parsed && config_resolve(&cfg, &err);
    if (parsed) { config_close(&cfg); }
    CHECK(!good, "'%s' is accepted", line);
    CHECK(err.code == EXIT_USAGE && strstr(err.text, expected), "'%s': exit %d, \"%s\"; expected 64, \"...%s...\"", line, err.code, err.text, expected);
}

TEST(config_accepts_both_spellings) {
    Config cfg = resolved("--train-data a*.bin --steps 20 --lr=1e-3 --schedule=wsd --total-batch 16384 --new-schedule --tokenizer=x=y");
    CHECK_TEXT(cfg.train_data, "a*.bin");
    CHECK_TEXT(cfg.tokenizer, "x=y");
    CHECK_EQ(cfg.steps, 20);
    CHECK_EQ(cfg.total_batch, 16384);
    CHECK_EQ(cfg.schedule, SCHEDULE_WSD);
    CHECK_EQ(cfg.new_schedule, 1);
    CHECK(cfg.lr == 1e-3, "lr is %g", cfg.lr);
    CHECK(cfg.given[OPTION_steps] && !cfg.given[OPTION_seed], "what was given is not remembered");
    config_close(&cfg);
    cfg = resolved("--train-data a --steps 20 --steps=30");
    CHECK_EQ(cfg.steps, 30);
    config_close(&cfg);
}

TEST(config_names_what_is_wrong_with_an_option) {
    check_refused("--bach 3", "--bach: no such option; the nearest is --");
    check_refused("--step 3", "nearest is --steps");
    check_refused("--eval-evry=3", "nearest is --eval-every");
    check_refused("--Steps 3", "nearest is --steps");
    check_refused("--=3", "no such option");
    check_refused("-steps 3", "'-steps' is not an option");
    check_refused("steps", "'steps' is not an option");
    check_refused("--", "'--' is not an option");
    check_refused("~", "'' is not an option");
    check_refused("--dry-run yes", "'yes' is not an option");
    check_refused("--train-data a.bin b.bin c.bin", "'b.bin' is not an option, and --train-data takes one name; a pattern needs quotes");
    check_refused("--steps 3 --eval-data a.bin b.bin", "--eval-data 'data/*.bin'");
    check_refused("--train-data a.bin --steps 3 b.bin", "'b.bin' is not an option; options are --name value");
    check_refused("--dry-run=1", "--dry-run takes no value, found '1'");
    check_refused("--steps", "--steps needs a value");
    check_refused("--train-data --steps 5", "--train-data needs a value, found '--steps'");
    check_refused("--keep 1", "--keep: 1 is outside [2, 1000]");
    check_refused("--preset 7B", "--preset: '7B' is none of tiny|30M|124M|340M|1B");
}

// every option with an empty, negative, huge, textual, NaN and trailing-junk value: refused unless the table says otherwise
TEST(config_refuses_bad_values_of_every_option) {
    const char* values[] = { "", "-1000000007", "99999999999999999999999999", "1e999", "text", "nan", "NaN", "-nan", "inf", "-inf", "0x10", "1_000", "1,5",
                             "3 ", " 3", "3.5.1", "--", "1e", "e1", "+-1", "\xff\xfe", "3\n", "1e-999" };
    for (int i = 0; i < NUM_OPTIONS; i++) {
        const Option* option = &config_options[i];
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            char argument[128];
            snprintf(argument, sizeof argument, "--%s=%s", option->name, values[v]);
            char* argv[] = { "train", argument };
            Config cfg;
            Error err = {0};
            bool accepted = config_parse_into(&cfg, 2, argv, &err);
            bool expected = option->type == TYPE_TEXT && values[v][0];
            if (accepted) { config_close(&cfg); }
            CHECK(accepted == expected, "%s is %s (%s)", argument, accepted ? "accepted" : "refused", err.text);
            CHECK(accepted || (err.code == EXIT_USAGE && strstr(err.text, option->name) && strlen(err.text) > 20), "%s: \"%s\"", argument, err.text);
        }
    }
}

TEST(config_takes_each_option_at_its_limits_and_not_beyond) {
    for (int i = 0; i < NUM_OPTIONS; i++) {
        const Option* option = &config_options[i];
        bool whole = option->type == TYPE_INT || option->type == TYPE_TOKENS;
        if (!whole && option->type != TYPE_REAL) { continue; }
        const double values[] = { option->min, option->max, option->min - 1, option->max * 1.001 + 1 };
        for (int v = 0; v < 4; v++) {
            char argument[128];
            snprintf(argument, sizeof argument, whole ? "--%s=%.0f" : "--%s=%.17g", option->name, values[v]);
            char* argv[] = { "train", argument };
            Config cfg;
            Error err = {0};
            bool accepted = config_parse_into(&cfg, 2, argv, &err);
            if (accepted) { config_close(&cfg); }
            CHECK(accepted == (v < 2), "%s is %s (%s)", argument, accepted ? "accepted" : "refused", err.text);
        }
    }
}

TEST(config_derives_sizes_from_presets) {
    const struct { const char* preset; int L, C, H, F, V; } expected[] = {
        { "tiny", 4, 128, 2, 384, 257 }, { "30M", 6, 384, 6, 1024, 50257 }, { "124M", 12, 768, 12, 2048, 50257 },
        { "340M", 24, 1024, 16, 2816, 50257 }, { "1B", 16, 2048, 32, 8192, 50257 },
    };
    for (int i = 0; i < 5; i++) {
        char line[80];
        snprintf(line, sizeof line, "--dry-run --preset %s", expected[i].preset);
        Config cfg = resolved(line);
        CHECK_EQ(cfg.layers, expected[i].L);
        CHECK_EQ(cfg.channels, expected[i].C);
        CHECK_EQ(cfg.heads, expected[i].H);
        CHECK_EQ(cfg.mlp, expected[i].F);
        CHECK_EQ(cfg.vocab, expected[i].V);
        config_close(&cfg);
    }
    Config cfg = resolved("--dry-run --preset 30M --layers 3 --vocab 32000 --pattern S");
    CHECK_EQ(cfg.layers, 3);
    CHECK_EQ(cfg.vocab, 32000);
    CHECK_EQ(cfg.channels, 384);
    CHECK_TEXT(cfg.pattern, "S256");
    config_close(&cfg);
}

TEST(config_derives_schedule_batch_and_windows) {
    Config cfg = resolved("--dry-run --steps 50 --seq-len 1000 --micro-batch 4");
    CHECK_EQ(cfg.warmup, 5);
    CHECK_EQ(cfg.cooldown, 0);
    CHECK_EQ(cfg.total_batch, 4000);
    CHECK_EQ(cfg.eval_context, 1000);
    CHECK_EQ(cfg.eval_stride, 500);
    config_close(&cfg);
    cfg = resolved("--dry-run --steps 100000 --schedule wsd --eval-context 1");
    CHECK_EQ(cfg.warmup, 2000);
    CHECK_EQ(cfg.cooldown, 20000);
    CHECK_EQ(cfg.eval_stride, 1);
    config_close(&cfg);
    cfg = resolved("--dry-run --steps 10 --warmup 9 --schedule wsd");
    CHECK_EQ(cfg.cooldown, 1);
    config_close(&cfg);
    cfg = resolved("--dry-run --steps 10 --warmup 0");
    CHECK_EQ(cfg.warmup, 0);
    config_close(&cfg);
}

TEST(config_resolving_twice_changes_nothing) {
    const char* lines[] = { "--dry-run", "--train-data x --preset 340M --schedule wsd --pattern S,D,S256,D", "--dry-run --eval-context 77 --warmup 3 --steps 3" };
    for (int i = 0; i < 3; i++) {
        Config cfg = resolved(lines[i]);
        char* once = config_to_json(&cfg);
        Error err = {0};
        CHECK(config_resolve(&cfg, &err), "the second time '%s' is refused: %s", lines[i], err.text);
        char* twice = config_to_json(&cfg);
        CHECK_TEXT(twice, once);
        free(once); free(twice);
        config_close(&cfg);
    }
}

TEST(config_refuses_contradictions) {
    check_refused("--steps 5", "--train-data is needed");
    check_refused("--dry-run --heads 3", "--heads: 3 does not divide --channels 128");
    check_refused("--dry-run --heads 32", "head dim 4, which is not a multiple of 8");
    check_refused("--dry-run --mlp 100", "--mlp: 100 is not a multiple of 8");
    check_refused("--dry-run --kconv 4", "--kconv: 4 is none of 0, 3, 5");
    check_refused("--dry-run --channels 8256", "--channels: 8256 is outside [0, 8192]");     // rmsnorm holds a row in registers
    check_refused("--dry-run --kconv 1", "--kconv: 1 is none of 0, 3, 5");
    check_refused("--dry-run --warmup 11 --steps 10", "--warmup: 11 is more than --steps 10");
    check_refused("--dry-run --cooldown 5", "contradicts a --schedule other than wsd");
    check_refused("--dry-run --schedule wsd --steps 10 --warmup 5 --cooldown 6", "--cooldown: 6 is more than the 5 steps left");
    check_refused("--dry-run --total-batch 100000", "8192; the nearest that is: 98304");
    check_refused("--dry-run --total-batch 1", "the nearest that is: 8192");
    check_refused("--dry-run --seq-len 10 --micro-batch 3 --total-batch 76", "3 x 10; the nearest that is: 90");
    check_refused("--dry-run --micro-batch 65536 --seq-len 1048576", "--micro-batch: 65536 rows");
    check_refused("--dry-run --seq-len 1024 --steps 100000000 --total-batch 1099511627776", "at most 92233720368");
    check_refused("--train-data x --seq-len 1024 --steps 100000000 --total-batch 1099511627776 --micro-batch auto", "at most 92233720368");
    check_refused("--dry-run --eval-context 100 --eval-stride 101", "--eval-stride: 101 is more than the context, 100");
    check_refused("--dry-run --pattern S,D,S,D,S", "element 5 'S' has no layer, the model has 4");
    check_refused("--dry-run --pattern M8:1 --seq-len 1048576", "at most 65535");
    check_refused("--dry-run --pattern M8:1 --eval-context 1048576", "at most 65535");
    check_refused("--eval-only", "--eval-only needs --eval-data");
    check_refused("--eval-only --val-data x --prompt hello", "contradict each other");
    check_refused("--eval-only --val-data x --dry-run", "contradict each other");
    check_refused("--prompt hello --dry-run", "contradict each other");
    check_refused("--prompt hello --resume none", "--resume none contradicts --prompt");
    check_refused("--prompt hello --init file --meet m --ranks 2 --rank 1", "--prompt runs in one process, and this is one of 2");
    check_refused("--train-data x --eval-data y", "--eval-data is only used with --eval-only");
    check_refused("--train-data x --eval-attention dense", "only used with --eval-only");
    check_refused("--train-data x --resume none --new-schedule", "--new-schedule contradicts --resume none");
    check_refused("--train-data x --sample-every 5 --vocab 100", "--vocab: 100 is too small");
}

static void check_round_trip(const Config* cfg) {
    char* json = config_to_json(cfg);
    Config back;
    Error err = {0};
    CHECK(config_from_json(&back, json, strlen(json), &err), "%s is refused: %s", json, err.text);
    char* again = config_to_json(&back);
    CHECK_TEXT(again, json);
    CHECK(back.lr == cfg->lr && back.clip == cfg->clip && back.total_batch == cfg->total_batch, "a number changed on the way");
    CHECK_TEXT(back.train_data, cfg->train_data);
    free(json); free(again);
    config_close(&back);
}

TEST(config_json_reads_back_exactly) {
    char* argv[] = { "train", "--train-data", "a \"b\"\\\xff\n\xc3\xa9", "--lr", "0.1000000000000000055", "--clip=3.3333333333333335e-5", "--seed", "2147483647",
                     "--total-batch", "1099511627776", "--new-schedule", "--preset", "340M", "--eval-attention", "dense" };
    Config cfg;
    Error err = {0};
    CHECK(config_parse_into(&cfg, sizeof argv / sizeof argv[0], argv, &err), "refused: %s", err.text);
    check_round_trip(&cfg);
    config_close(&cfg);
    cfg = resolved("--dry-run --preset 1B --schedule wsd --pattern S,M512:2,D");
    check_round_trip(&cfg);
    config_close(&cfg);
}

TEST(config_json_of_random_numbers_reads_back_exactly) {
    uint64_t state = 11;
    for (int round = 0; round < 500; round++) {
        Config cfg = resolved("--dry-run");
        cfg.lr = test_uniform(&state) * 10;
        cfg.clip = exp(40 * test_uniform(&state) - 20);
        cfg.theta = 1 + test_uniform(&state) * 1e9;
        cfg.seed = (int)(test_bits(&state) >> 33);
        cfg.total_batch = (int64_t)(test_bits(&state) >> 24);
        check_round_trip(&cfg);
        config_close(&cfg);
    }
}

TEST(config_json_refuses_what_it_does_not_know) {
    const char* bad[] = { "", "[]", "{\"layers\":4", "{\"no-such\":1}", "{\"layers\":\"4\"}", "{\"layers\":4.5}", "{\"layers\":5000}", "{\"layers\":null}",
                          "{\"lr\":1e99}", "{\"preset\":\"7B\"}", "{\"preset\":3}", "{\"dry-run\":1}", "{\"out\":[\"a\"]}", "{\"out\":\"a\\u0000b\"}" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        Config cfg;
        Error err = {0};
        CHECK(!config_from_json(&cfg, bad[i], strlen(bad[i]), &err), "%s is accepted", bad[i]);
        CHECK(err.code == EXIT_DATA && err.text[0], "%s: exit %d, \"%s\"", bad[i], err.code, err.text);
    }
}

static bool resume_allowed(const char* saved_line, const char* now_line, Error* err) {
    Config saved = resolved(saved_line), now = resolved(now_line);
    *err = (Error){0};
    bool allowed = config_check_resume(&now, &saved, err);
    config_close(&saved);
    config_close(&now);
    return allowed;
}

TEST(config_resume_refuses_another_model) {
    const struct { const char *change, *option, *theirs, *ours; } changes[] = {
        { "--layers 6", "--layers", "4", "6" },        { "--heads 4", "--heads", "2", "4" },          { "--channels 256", "--channels", "128", "256" },
        { "--mlp 512", "--mlp", "384", "512" },        { "--vocab 300", "--vocab", "257", "300" },    { "--pattern D", "--pattern", "S256,M128:8", "D" },
        { "--kconv 5", "--kconv", "3", "5" },          { "--theta 5000", "--theta", "10000", "5000" }, { "--tokenizer t.bin", "--tokenizer", "byte", "t.bin" },
        { "--seq-len 16384", "--seq-len", "8192", "16384" }, { "--seed 1", "--seed", "1337", "1" },
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        char line[128], expected[128];
        snprintf(line, sizeof line, "--train-data x --new-schedule %s", changes[i].change);
        snprintf(expected, sizeof expected, "%s: the checkpoint has %s, this run %s;", changes[i].option, changes[i].theirs, changes[i].ours);
        Error err;
        CHECK(!resume_allowed("--train-data x", line, &err), "a resume with %s is allowed", changes[i].change);
        CHECK(err.code == EXIT_USAGE && strstr(err.text, expected), "%s: \"%s\", expected \"%s\"", changes[i].change, err.text, expected);
    }
}

TEST(config_resume_changes_the_schedule_only_when_told) {
    const char* changes[] = { "--steps 2000 --warmup 100", "--lr 0.001", "--warmup 7", "--schedule linear", "--total-batch 16384", "--schedule wsd --cooldown 3" };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        char line[128];
        Error err;
        snprintf(line, sizeof line, "--train-data x %s", changes[i]);
        CHECK(!resume_allowed("--train-data x", line, &err), "a resume with %s is allowed", changes[i]);
        CHECK(strstr(err.text, "the checkpoint has ") && strstr(err.text, "add --new-schedule"), "%s: \"%s\"", changes[i], err.text);
        snprintf(line, sizeof line, "--train-data x --new-schedule %s", changes[i]);
        CHECK(resume_allowed("--train-data x", line, &err), "a resume with %s is refused: %s", line, err.text);
    }
}

TEST(config_resume_allows_the_rest) {
    Error err;
    CHECK(resume_allowed("--train-data x --micro-batch 2", "--train-data y --val-data z --total-batch 16384 --micro-batch 1 --out o --keep 9 --recompute 3 "
                         "--log-every 5 --save-every 3 --eval-every 2", &err), "refused: %s", err.text);
    CHECK(resume_allowed("--train-data x --preset tiny", "--train-data x --preset 30M --layers 4 --channels 128 --heads 2 --mlp 384 --vocab 257", &err),
          "the same sizes under another preset's name are refused: %s", err.text);
    CHECK(resume_allowed("--train-data x --pattern S,M128:8", "--train-data x --pattern S256,M128:8,S256,M128:8", &err),
          "the same layers in another spelling are refused: %s", err.text);
}

TEST(config_adopts_the_model_of_a_checkpoint) {
    Config saved = resolved("--train-data x --preset 30M --layers 4 --seq-len 32768 --total-batch 65536 --schedule wsd --tokenizer t.bin");
    Config cfg = resolved("--prompt hello --eval-stride 20000 --temperature 0");
    Error err = {0};
    CHECK(config_adopt(&cfg, &saved, &err), "refused: %s", err.text);
    CHECK_EQ(cfg.channels, 384);
    CHECK_EQ(cfg.layers, 4);
    CHECK_EQ(cfg.vocab, 50257);
    CHECK_EQ(cfg.eval_context, 32768);
    CHECK_EQ(cfg.eval_stride, 20000);
    CHECK_EQ(cfg.total_batch, 65536);
    CHECK_TEXT(cfg.tokenizer, "t.bin");
    config_close(&cfg);
    cfg = resolved("--prompt hello --seed 5");
    CHECK(config_adopt(&cfg, &saved, &err), "another seed for samples is refused: %s", err.text);
    CHECK_EQ(cfg.seed, 5);
    config_close(&cfg);
    cfg = resolved("--prompt hello --tokenizer moved.bin");
    CHECK(config_adopt(&cfg, &saved, &err), "a tokenizer file of another name is refused for a prompt: %s", err.text);
    CHECK_TEXT(cfg.tokenizer, "moved.bin");
    config_close(&cfg);
    const char* contrary[] = { "--prompt hello --layers 6", "--prompt hello --preset tiny", "--eval-only --val-data x --kconv 0",
                               "--eval-only --val-data x --tokenizer byte" };
    for (int i = 0; i < 4; i++) {
        cfg = resolved(contrary[i]);
        CHECK(!config_adopt(&cfg, &saved, &err) && strstr(err.text, "the checkpoint has"), "'%s' is adopted, or \"%s\"", contrary[i], err.text);
        config_close(&cfg);
    }
    config_close(&saved);
}

TEST(config_help_names_every_option_within_100_columns) {
    char* text = NULL;
    size_t bytes = 0;
    FILE* out = open_memstream(&text, &bytes);
    config_help(out, "train_moba_cpu");
    fclose(out);
    for (int i = 0; i < NUM_OPTIONS; i++) {
        char name[64];
        snprintf(name, sizeof name, "  --%s ", config_options[i].name);
        CHECK(strstr(text, name), "--%s is not in the help", config_options[i].name);
    }
    char* options = strstr(text, "\nData\n");
    CHECK(options, "the groups are not there");
    for (char* line = strtok(options, "\n"); line; line = strtok(NULL, "\n")) {
        CHECK(strlen(line) <= 100, "a line has %zu columns: %s", strlen(line), line);
    }
    free(text);
}

TEST(config_markdown_has_a_row_for_every_option) {
    char* text = NULL;
    size_t bytes = 0;
    FILE* out = open_memstream(&text, &bytes);
    config_help_markdown(out);
    fclose(out);
    for (int i = 0; i < NUM_OPTIONS; i++) {
        char row[64];
        snprintf(row, sizeof row, "\n| `--%s` | ", config_options[i].name);
        CHECK(strstr(text, row), "--%s has no row", config_options[i].name);
    }
    CHECK(!strchr(text, '<'), "an unescaped '<' would be taken for HTML");
    int bars = 0;
    for (char* at = strstr(text, "| `--preset`"); *at != '\n'; at++) { bars += *at == '|'; }
    CHECK_EQ(bars, 6);
    free(text);
}

// config_parse in a child: its exit status, and what it printed on both outputs
static int parse_in_child(int argc, char** argv, char* output, size_t room) {
    int ends[2];
    CHECK(pipe(ends) == 0, "no pipe");
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        Config cfg = config_parse(argc, argv);
        config_close(&cfg);
        _exit(99);                                     // it came back
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got; used + 1 < room && (got = read(ends[0], output + used, room - 1 - used)) > 0; ) { used += (size_t)got; }
    output[used] = 0;
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(config_parse_ends_with_64_and_one_sentence) {
    static char output[65536];
    char* bad[] = { "train", "--keep", "1" };
    CHECK_EQ(parse_in_child(3, bad, output, sizeof output), 64);
    CHECK_TEXT(output, "error: --keep: 1 is outside [2, 1000]\n");
    char* contradiction[] = { "train", "--eval-only" };
    CHECK_EQ(parse_in_child(2, contradiction, output, sizeof output), 64);
    CHECK(strncmp(output, "error: --eval-only needs", 24) == 0 && strchr(output, '\n')[1] == 0, "not one sentence: %s", output);
    char* help[] = { "train", "--keep", "1", "--help" };
    CHECK_EQ(parse_in_child(4, help, output, sizeof output), 0);
    CHECK(strncmp(output, "usage: train ", 13) == 0, "the help begins with %.40s", output);
    char* good[] = { "train", "--train-data", "x" };
    CHECK_EQ(parse_in_child(3, good, output, sizeof output), 99);
}

TEST_MAIN()

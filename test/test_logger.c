// log.jsonl and the console line: the documented records, each step once after a resume, nothing lost while the disk is full.
#include "json.h"
#include "logger.h"
#include "tempdir.h"
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

static StepStats stats_of(int step) {
    return (StepStats){ .step = step, .loss = 3.21f, .norm = 0.9f, .lr = 6e-4f, .ms = 123.4, .tok_s = 412345.678, .mfu = 0.41,
                        .tokens = (int64_t)step * 524288, .mem_mib = 1234.5 };
}

// The console is not what is tested here: stdout goes to /dev/null (`quiet`) and comes back.
static int console = -1;
static void quiet(bool on) {
    fflush(stdout);
    if (on) {
        console = dup(STDOUT_FILENO);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        close(null);
    } else {
        dup2(console, STDOUT_FILENO);
        close(console);
    }
}

static Logger* opened(const char* dir, int64_t resume_step) {
    Error err = {0};
    Logger* logger = logger_open(dir, resume_step, 100, 1, &err);
    CHECK(logger, "%s", err.text);
    return logger;
}

static void closed(Logger* logger) {
    Error err = {0};
    CHECK(logger_close(logger, &err), "%s", err.text);
}

static void log_steps(const char* dir, int64_t resume_step, int to) {
    Logger* logger = opened(dir, resume_step);
    quiet(true);
    for (int step = (int)resume_step + 1; step <= to; step++) {
        StepStats s = stats_of(step);
        log_step(logger, &s);
    }
    quiet(false);
    closed(logger);
}

static char* log_text(const char* dir, size_t* bytes) {
    char path[700];
    snprintf(path, sizeof path, "%s/log.jsonl", dir);
    char* text = temp_read(path, bytes);
    CHECK(text, "%s cannot be read", path);
    return text;
}

// every line is JSON, the step records are exactly 1..last in order
static void check_steps(const char* dir, int last) {
    char* text = log_text(dir, NULL);
    int expected = 1;
    for (char* line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        JsonValue record, value;
        int64_t step = -1;
        CHECK(json_parse(&record, line, strlen(line), NULL), "not JSON: %s", line);
        char* kind = json_member(record, "kind", &value) ? json_get_text(value) : NULL;
        CHECK(kind, "no kind: %s", line);
        if (strcmp(kind, "step") == 0) {
            CHECK(json_member(record, "step", &value) && json_get_int(value, &step), "no step: %s", line);
            CHECK_EQ(step, expected);
            expected++;
        }
        free(kind);
    }
    CHECK_EQ(expected - 1, last);
    free(text);
}

TEST(logger_writes_the_documented_records) {
    const char* dir = temp_dir();
    Logger* logger = opened(dir, 0);
    StartRecord start = { .step = 0, .options = "{\"layers\":4}", .device = "cpu", .commit = "abc", .data = "a \"b\"", .data_tokens = 7, .params = 900000 };
    EndRecord end = { .step = 120, .status = 0, .why = "finished", .seconds = 12.5, .loss = 3.25, .tokens = 10 };
    StepStats s = stats_of(120);
    quiet(true);
    log_start(logger, &start);
    log_step(logger, &s);
    log_eval(logger, 120, "val", 1.0);
    log_save(logger, 120, "x/step_00000120", 4096, 15.5, 0.5);
    log_skip(logger, 121, "gradient norm is not finite");
    log_end(logger, &end);
    quiet(false);
    closed(logger);
    char* text = log_text(dir, NULL);
    char* time = strstr(text, "\"time\":\"");
    CHECK(time && strlen(time) > 30, "no time in %s", text);
    memcpy(time + 8, "2000-01-01T00:00:00Z", 20);
    CHECK_TEXT(text,
        "{\"kind\":\"start\",\"step\":0,\"time\":\"2000-01-01T00:00:00Z\",\"commit\":\"abc\",\"device\":\"cpu\",\"data\":\"a \\\"b\\\"\",\"data_tokens\":7,"
        "\"params\":900000,\"options\":{\"layers\":4}}\n"
        "{\"kind\":\"step\",\"step\":120,\"loss\":3.21000004,\"norm\":0.899999976,\"lr\":0.000600000028,\"ms\":123.4,\"tok_s\":412345.678,\"mfu\":0.41,"
        "\"tokens\":62914560,\"mem_mib\":1234.5}\n"
        "{\"kind\":\"eval\",\"step\":120,\"set\":\"val\",\"loss\":1,\"ppl\":2.71828183}\n"
        "{\"kind\":\"save\",\"step\":120,\"path\":\"x/step_00000120\",\"bytes\":4096,\"ms\":15.5,\"pause_ms\":0.5}\n"
        "{\"kind\":\"skip\",\"step\":121,\"why\":\"gradient norm is not finite\"}\n"
        "{\"kind\":\"end\",\"step\":120,\"status\":0,\"why\":\"finished\",\"seconds\":12.5,\"loss\":3.25,\"tokens\":10}\n");
    free(text);
}

TEST(logger_has_each_step_once_after_a_resume) {
    const char* dir = temp_dir();
    log_steps(dir, 0, 17);
    check_steps(dir, 17);
    size_t at_17, at_10;
    char* first = log_text(dir, &at_17);
    log_steps(dir, 10, 10);                            // resumed, and stopped before a step
    char* cut = log_text(dir, &at_10);
    CHECK(at_10 < at_17 && memcmp(first, cut, at_10) == 0, "steps 1..10 were rewritten");
    check_steps(dir, 10);
    log_steps(dir, 10, 30);
    check_steps(dir, 30);
    log_steps(dir, 0, 2);
    check_steps(dir, 2);
    free(first); free(cut);
}

TEST(logger_survives_a_log_cut_at_any_byte) {
    const char* dir = temp_dir();
    log_steps(dir, 0, 5);
    size_t bytes = 0;
    char* text = log_text(dir, &bytes);
    char path[700];
    snprintf(path, sizeof path, "%s/log.jsonl", dir);
    for (size_t cut = 0; cut <= bytes; cut += 7) {
        temp_write(path, text, cut);
        int whole = 0;                                 // steps whose line is complete
        for (size_t i = 0; i < cut; i++) { whole += text[i] == '\n'; }
        log_steps(dir, whole, 9);
        check_steps(dir, 9);
    }
    temp_write(path, "\0\0\0\0not json", 12);          // what a power cut can leave
    log_steps(dir, 0, 3);
    check_steps(dir, 3);
    free(text);
}

TEST(logger_keeps_lines_while_the_disk_is_full) {
    const char* dir = temp_dir();
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, tight;
    getrlimit(RLIMIT_FSIZE, &before);
    tight = before;
    int errors = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);                         // its warnings
    Logger* logger = opened(dir, 0);
    quiet(true);
    bool refused = false, whole = true;
    for (int step = 1; step <= 40; step++) {
        tight.rlim_cur = step > 10 && step < 30 ? 2000 : before.rlim_cur;
        setrlimit(RLIMIT_FSIZE, &tight);
        StepStats s = stats_of(step);
        log_step(logger, &s);
        if (step == 20) {
            Error err = {0};
            refused = !logger_sync(logger, &err) && err.code == EXIT_IO;
            size_t bytes = 0;
            char* text = log_text(dir, &bytes);
            whole = bytes > 0 && text[bytes - 1] == '\n';
            free(text);
        }
    }
    setrlimit(RLIMIT_FSIZE, &before);
    quiet(false);
    closed(logger);
    dup2(errors, STDERR_FILENO);
    close(errors); close(null);
    CHECK(refused, "logger_sync was content with a full disk");
    CHECK(whole, "half a line was left in the file");
    check_steps(dir, 40);
}

TEST(logger_without_a_directory_is_an_error) {
    Error err = {0};
    CHECK(!logger_open("/nonexistent/run", 0, 10, 1, &err) && err.code == EXIT_NO_OUTPUT, "exit %d, \"%s\"", err.code, err.text);
}

TEST(logger_console_line_reads_as_documented) {
    StepStats s = stats_of(120);
    char text[256];
    log_step_text(text, sizeof text, &s, 1000, 7380e3, true);
    CHECK_TEXT(text, "step   120/1000 | #----------- | loss 3.2100 | norm 0.900 | lr 6.00e-04 | 123 ms | 412k tok/s | MFU 41% | ETA 2h03m");
    log_step_text(text, sizeof text, &s, 1000, 7380e3, false);
    CHECK_TEXT(text, "step   120/1000 | loss 3.2100 | norm 0.900 | lr 6.00e-04 | 123 ms | 412k tok/s | MFU 41% | ETA 2h03m");
    s = (StepStats){ .step = 8, .loss = NAN, .norm = INFINITY, .ms = 2.25, .tok_s = 9999 };
    log_step_text(text, sizeof text, &s, 8, 0, true);
    CHECK_TEXT(text, "step     8/8 | ############ | loss nan | norm inf | lr 0.00e+00 | 2.2 ms | 9999 tok/s | ETA 0s");
    const struct { double ms; const char* expected; } times[] = { { 59e3, "ETA 59s" }, { 125e3, "ETA 2m05s" }, { 6000e3, "ETA 1h40m" },
                                                                { 47.5 * 3600e3, "ETA 47h30m" }, { 50 * 3600e3, "ETA 2d02h" } };
    for (int i = 0; i < 5; i++) {
        log_step_text(text, sizeof text, &s, 8, times[i].ms, false);
        CHECK_TEXT(strstr(text, "ETA"), times[i].expected);
    }
}

TEST(logger_prints_every_nth_step_and_the_last) {
    const char* dir = temp_dir();
    char path[700];
    snprintf(path, sizeof path, "%s/console", dir);
    fflush(stdout);
    int saved = dup(STDOUT_FILENO), file = open(path, O_WRONLY | O_CREAT, 0666);
    Error err = {0};
    dup2(file, STDOUT_FILENO);
    Logger* logger = logger_open(dir, 0, 25, 10, &err);
    for (int step = 1; logger && step <= 25; step++) {
        StepStats s = stats_of(step);
        log_step(logger, &s);
    }
    if (logger) { logger_close(logger, &err); }
    dup2(saved, STDOUT_FILENO);
    close(saved); close(file);
    CHECK(logger, "%s", err.text);
    char* text = temp_read(path, NULL);
    int lines = 0;
    for (char* at = text; *at; at++) { lines += *at == '\n'; }
    CHECK_EQ(lines, 3);
    CHECK(strstr(text, "step    10/25 | loss") && strstr(text, "step    20/25 |") && strstr(text, "step    25/25 |"), "the console has %s", text);
    check_steps(dir, 25);
    free(text);
}

TEST_MAIN()

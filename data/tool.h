// What the data tools share: option values as checked numbers.
#ifndef TOOL_H
#define TOOL_H

#include "common.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <time.h>

// a whole number in [low, high], or exit 64
static inline int64_t tool_int(const char* option, const char* text, int64_t low, int64_t high) {
    char* end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno) {
        FAIL(EXIT_USAGE, "--%s: '%s' is not a whole number; expected one in [%lld, %lld]", option, text, (long long)low, (long long)high);
    }
    if (value < low || value > high) { FAIL(EXIT_USAGE, "--%s: %lld is outside [%lld, %lld]", option, value, (long long)low, (long long)high); }
    return value;
}

// a number strictly between low and high, or exit 64
static inline double tool_real(const char* option, const char* text, double low, double high) {
    char* end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value > low && value < high)) {
        FAIL(EXIT_USAGE, "--%s: '%s' is not a number between %g and %g", option, text, low, high);
    }
    return value;
}

// which of `count` words the text is, or exit 64
static inline int tool_word(const char* option, const char* text, const char* const* words, int count) {
    char all[200] = "";
    for (int i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0) { return i; }
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", words[i]);
    }
    FAIL(EXIT_USAGE, "--%s: '%s' is none of %s", option, text, all);
}

// shards end in .bin, so that the sidecar of NAME.bin is NAME.json
static inline const char* tool_shard_name(const char* option, const char* text) {
    size_t n = strlen(text);
    if (n < 5 || strcmp(text + n - 4, ".bin") != 0) { FAIL(EXIT_USAGE, "--%s: '%s' does not end in .bin", option, text); }
    return text;
}

// NAME.json of NAME.bin (of any other name: with .json added); the caller frees it
static inline char* tool_sidecar_name(const char* shard) {
    size_t n = strlen(shard);
    if (n >= 4 && strcmp(shard + n - 4, ".bin") == 0) { n -= 4; }
    char* name = (char*)xmalloc(n + 6);
    memcpy(name, shard, n);
    memcpy(name + n, ".json", 6);
    return name;
}

// bytes of the line end at text[at]: "\n" or "\r\n", 0: there is none
static inline size_t tool_line_end(const char* text, size_t n, size_t at) {
    size_t carriage = at < n && text[at] == '\r';
    return at + carriage < n && text[at + carriage] == '\n' ? carriage + 1 : 0;
}

// Is the line that begins at text[at] one that holds only <|endoftext|>?
static inline bool tool_separates(const char* text, size_t n, size_t at) {
    static const char mark[] = "<|endoftext|>";
    const size_t length = sizeof mark - 1;
    return n - at >= length && memcmp(text + at, mark, length) == 0 && (n - at == length || tool_line_end(text, n, at + length) > 0);
}

// where text[begin, end) ends without the line end that is its last, if one is
static inline size_t tool_without_line_end(const char* text, size_t begin, size_t end) {
    if (end == begin || text[end - 1] != '\n') { return end; }
    return end - 1 - (end - 1 > begin && text[end - 2] == '\r');
}

// The next document of a file's text: *begin and *bytes; *at is where to look on, 0 at first. False: there is none. Lines that hold only
// <|endoftext|> separate documents; the line end before one, and in a file that has any the last, belong to none.
static inline bool tool_next_document(const char* text, size_t n, size_t* at, size_t* begin, size_t* bytes) {
    while (tool_separates(text, n, *at)) {
        const char* end = (const char*)memchr(text + *at, '\n', n - *at);
        *at = end ? (size_t)(end - text) + 1 : n;
    }
    if (*at == n) { return false; }
    *begin = *at;
    for (const char* end; (end = (const char*)memchr(text + *at, '\n', n - *at)) != NULL;) {
        *at = (size_t)(end - text) + 1;
        if (!tool_separates(text, n, *at)) { continue; }
        *bytes = tool_without_line_end(text, *begin, *at) - *begin;
        return true;
    }
    *at = n;
    *bytes = (*begin > 0 ? tool_without_line_end(text, *begin, n) : n) - *begin;
    return true;
}

// A line on stderr every few seconds: how far a tool is, and how fast.
typedef struct { const char* label; double total; struct timespec start; double said; } ToolProgress;      // said: seconds after start

static inline double tool_seconds(const ToolProgress* p) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - p->start.tv_sec) + (double)(now.tv_nsec - p->start.tv_nsec) * 1e-9;
}

static inline ToolProgress tool_progress_open(const char* label, double total_bytes) {
    ToolProgress p = { label, total_bytes, { 0, 0 }, 0 };
    clock_gettime(CLOCK_MONOTONIC, &p.start);
    return p;
}

static inline void tool_progress(ToolProgress* p, double done_bytes) {
    double seconds = tool_seconds(p);
    if (seconds - p->said < 10) { return; }
    p->said = seconds;
    fprintf(stderr, "%s: %.0f of %.0f MB (%.0f%%), %.1f MB/s\n", p->label, done_bytes / 1e6, p->total / 1e6, 100 * done_bytes / p->total, done_bytes / 1e6 / seconds);
}

#endif

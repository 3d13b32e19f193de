// What the data tools share: option values as checked numbers.
#ifndef TOOL_H
#define TOOL_H

#include "common.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

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

#endif

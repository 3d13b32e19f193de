#include "pattern.h"

#include <string.h>

// Reads digits at *at into *value; false if there are none, or the number is outside [min, max].
static bool read_number(const char** at, const char* end, int min, int max, int* value) {
    const char* start = *at;
    long number = 0;
    while (*at < end && **at >= '0' && **at <= '9') {
        if (number <= max) { number = number * 10 + (**at - '0'); }     // beyond max it stays beyond
        (*at)++;
    }
    *value = (int)number;
    return *at > start && number >= min && number <= max;
}

// One element, text[0..length). `ordinal` counts from 1.
static bool parse_element(LayerSpec* spec, const char* text, size_t length, int ordinal, Error* err) {
    const char* at = text + 1;
    const char* end = text + length;
    int shown = length > 40 ? 40 : (int)length;
    *spec = (LayerSpec){0};
    if (length == 0) { return error_set(err, EXIT_USAGE, "--pattern: element %d is empty", ordinal); }
    if (text[0] == 'D') {
        *spec = (LayerSpec){ .kind = LAYER_D, .window = WINDOW_ALL };
        if (length != 1) { return error_set(err, EXIT_USAGE, "--pattern: element %d '%.*s': D stands alone", ordinal, shown, text); }
    } else if (text[0] == 'S') {
        *spec = (LayerSpec){ .kind = LAYER_S, .window = PATTERN_WINDOW };
        if (length > 1 && (!read_number(&at, end, 1, PATTERN_MAX_WINDOW, &spec->window) || at != end)) {
            return error_set(err, EXIT_USAGE, "--pattern: element %d '%.*s' is not S<window> with a window in [1, %d]",
                             ordinal, shown, text, PATTERN_MAX_WINDOW);
        }
    } else if (text[0] == 'M') {
        spec->kind = LAYER_M;
        bool good = read_number(&at, end, PATTERN_MIN_BLOCK, PATTERN_MAX_BLOCK, &spec->block) && at < end && *at++ == ':' &&
                    read_number(&at, end, 1, PATTERN_MAX_TOPK, &spec->topk) && at == end;
        if (!good) {
            return error_set(err, EXIT_USAGE, "--pattern: element %d '%.*s' is not M<block>:<topk> with a block in [%d, %d] and a topk in [1, %d]",
                             ordinal, shown, text, PATTERN_MIN_BLOCK, PATTERN_MAX_BLOCK, PATTERN_MAX_TOPK);
        }
    } else {
        return error_set(err, EXIT_USAGE, "--pattern: element %d '%.*s' is none of S<window>, M<block>:<topk>, D", ordinal, shown, text);
    }
    return true;
}

bool pattern_parse(LayerSpec* spec, int layers, const char* text, Error* err) {
    int cycle = 0;
    for (const char* at = text; ; ) {
        size_t length = strcspn(at, ",");
        LayerSpec element;
        if (!parse_element(&element, at, length, cycle + 1, err)) { return false; }
        if (cycle >= layers) {
            return error_set(err, EXIT_USAGE, "--pattern: element %d '%.*s' has no layer, the model has %d",
                             cycle + 1, length > 40 ? 40 : (int)length, at, layers);
        }
        spec[cycle++] = element;
        if (at[length] == 0) { break; }
        at += length + 1;
    }
    for (int l = cycle; l < layers; l++) { spec[l] = spec[l - cycle]; }
    return true;
}

static bool same_layer(LayerSpec a, LayerSpec b) {
    return a.kind == b.kind && a.window == b.window && a.block == b.block && a.topk == b.topk;
}

static int shortest_cycle(const LayerSpec* spec, int layers) {
    for (int cycle = 1; cycle < layers; cycle++) {
        int l = cycle;
        while (l < layers && same_layer(spec[l], spec[l - cycle])) { l++; }
        if (l == layers) { return cycle; }
    }
    return layers;
}

char* pattern_text(const LayerSpec* spec, int layers) {
    enum { ELEMENT = 24 };                      // "M65536:32," and "S1048576," fit
    int cycle = shortest_cycle(spec, layers);
    size_t room = (size_t)cycle * ELEMENT + 1, used = 0;
    char* text = (char*)xcalloc(room, 1);
    for (int l = 0; l < cycle; l++) {
        const char* comma = l ? "," : "";
        LayerSpec s = spec[l];
        int wrote = s.kind == LAYER_D ? snprintf(text + used, room - used, "%sD", comma)
                  : s.kind == LAYER_S ? snprintf(text + used, room - used, "%sS%d", comma, s.window)
                  :                     snprintf(text + used, room - used, "%sM%d:%d", comma, s.block, s.topk);
        used += (size_t)wrote;
    }
    return text;
}

#include "json.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

// ---- writer ----------------------------------------------------------------------------------------------------------
static void append(Json* json, const char* bytes, size_t count) {
    if (json->room - json->used < count + 1) {
        json->room = (json->used + count + 1) * 2;
        json->text = (char*)realloc(json->text, json->room);
        REQUIRE(json->text, "out of host memory: %zu bytes asked for", json->room);
    }
    memcpy(json->text + json->used, bytes, count);
    json->used += count;
    json->text[json->used] = 0;
}

static void append_text(Json* json, const char* text) { append(json, text, strlen(text)); }

// Bytes of the UTF-8 sequence at s, 0 if there is none (shortest form only, no surrogates, at most U+10FFFF).
static size_t utf8_length(const unsigned char* s) {
    if (s[0] < 0x80) { return 1; }
    size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) { return 0; }
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) { return 0; }                       // the ending zero stops here too
    }
    bool bad = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f);
    return bad ? 0 : length;
}

static void append_quoted(Json* json, const char* text) {
    append(json, "\"", 1);
    for (const unsigned char* s = (const unsigned char*)text; *s; ) {
        char escape[8];
        size_t length = utf8_length(s);
        if (*s == '"' || *s == '\\') {
            snprintf(escape, sizeof escape, "\\%c", *s);
        } else if (*s < 0x20 || *s == 0x7f) {
            snprintf(escape, sizeof escape, "\\u%04x", *s);
        } else if (length == 0) {
            snprintf(escape, sizeof escape, "\\udc%02x", *s);
        } else {
            append(json, (const char*)s, length);
            s += length;
            continue;
        }
        append_text(json, escape);
        s++;
    }
    append(json, "\"", 1);
}

static void append_key(Json* json, const char* key) {
    if (json->used > 1) { append(json, ",", 1); }
    append_quoted(json, key);
    append(json, ":", 1);
}

Json json_begin(void) {
    Json json = { NULL, 0, 0 };
    append(&json, "{", 1);
    return json;
}

void json_put_text(Json* json, const char* key, const char* value) {
    append_key(json, key);
    append_quoted(json, value);
}

void json_put_raw(Json* json, const char* key, const char* value) {
    append_key(json, key);
    append_text(json, value);
}

void json_put_int(Json* json, const char* key, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, value);
    json_put_raw(json, key, text);
}

static void put_real(Json* json, const char* key, double value, const char* format) {
    char text[40] = "null";
    if (isfinite(value)) { snprintf(text, sizeof text, format, value); }
    json_put_raw(json, key, text);
}

void  json_put_real(Json* json, const char* key, double value)  { put_real(json, key, value, "%.9g"); }
void  json_put_exact(Json* json, const char* key, double value) { put_real(json, key, value, "%.17g"); }
void  json_put_bool(Json* json, const char* key, bool value)    { json_put_raw(json, key, value ? "true" : "false"); }

char* json_end(Json* json) {
    append(json, "}", 1);
    char* text = json->text;
    *json = (Json){ NULL, 0, 0 };
    return text;
}

// ---- reader: checking ------------------------------------------------------------------------------------------------
// Each skip_* returns the place after what it skips, NULL if it is not there.
static const char* skip_space(const char* at, const char* end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) { at++; }
    return at;
}

static const char* skip_word(const char* at, const char* end, const char* word) {
    size_t length = strlen(word);
    return (size_t)(end - at) >= length && memcmp(at, word, length) == 0 ? at + length : NULL;
}

static const char* skip_text(const char* at, const char* end) {
    for (at++; at < end && *at != '"'; at++) {
        if ((unsigned char)*at < 0x20) { return NULL; }
        if (*at != '\\') { continue; }
        if (++at == end || !strchr("\"\\/bfnrtu", *at) || *at == 0) { return NULL; }
        if (*at == 'u') {
            for (int i = 0; i < 4; i++) {
                if (++at == end || !isxdigit((unsigned char)*at)) { return NULL; }
            }
        }
    }
    return at < end ? at + 1 : NULL;
}

static const char* skip_digits(const char* at, const char* end) {
    const char* start = at;
    while (at < end && *at >= '0' && *at <= '9') { at++; }
    return at > start ? at : NULL;
}

static const char* skip_number(const char* at, const char* end) {
    if (at < end && *at == '-') { at++; }
    if (at + 1 < end && *at == '0' && at[1] >= '0' && at[1] <= '9') { return NULL; }      // 007 is not JSON
    at = skip_digits(at, end);
    if (at && at < end && *at == '.') { at = skip_digits(at + 1, end); }
    if (at && at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-')) { at++; }
        at = skip_digits(at, end);
    }
    return at;
}

static const char* skip_value(const char* at, const char* end, int depth);

// members or items between brackets; `at` is on the opening one
static const char* skip_group(const char* at, const char* end, int depth) {
    bool object = *at == '{';
    char close = object ? '}' : ']';
    at = skip_space(at + 1, end);
    if (at < end && *at == close) { return at + 1; }
    while (at < end) {
        if (object) {
            if (*at != '"' || !(at = skip_text(at, end))) { return NULL; }
            at = skip_space(at, end);
            if (at == end || *at != ':') { return NULL; }
            at = skip_space(at + 1, end);
        }
        if (!(at = skip_value(at, end, depth + 1))) { return NULL; }
        at = skip_space(at, end);
        if (at == end) { return NULL; }
        if (*at == close) { return at + 1; }
        if (*at != ',') { return NULL; }
        at = skip_space(at + 1, end);
    }
    return NULL;
}

static const char* skip_value(const char* at, const char* end, int depth) {
    if (at == end || depth > JSON_MAX_DEPTH) { return NULL; }
    switch (*at) {
        case '{': case '[': return skip_group(at, end, depth);
        case '"': return skip_text(at, end);
        case 't': return skip_word(at, end, "true");
        case 'f': return skip_word(at, end, "false");
        case 'n': return skip_word(at, end, "null");
        default:  return skip_number(at, end);
    }
}

bool json_parse(JsonValue* value, const char* text, size_t bytes, Error* err) {
    const char* end = text + bytes;
    value->at = skip_space(text, end);
    value->end = skip_value(value->at, end, 0);
    if (!value->end || skip_space(value->end, end) != end) {
        return error_set(err, EXIT_DATA, "not one JSON value: '%.*s'%s", bytes > 60 ? 60 : (int)bytes, text, bytes > 60 ? "..." : "");
    }
    return true;
}

// ---- reader: values, checked above -----------------------------------------------------------------------------------
char json_kind(JsonValue value) { return *value.at == '-' || (*value.at >= '0' && *value.at <= '9') ? '0' : *value.at; }

bool json_next(JsonValue parent, size_t* place, JsonValue* key, JsonValue* value) {
    char kind = json_kind(parent);
    if (kind != '{' && kind != '[') { return false; }
    const char* at = skip_space(parent.at + (*place ? *place : 1), parent.end);
    if (*place && *at == ',') { at = skip_space(at + 1, parent.end); }
    if (*at == '}' || *at == ']') { return false; }
    if (kind == '{') {
        const char* after = skip_text(at, parent.end);
        if (key) { *key = (JsonValue){ at, after }; }
        at = skip_space(skip_space(after, parent.end) + 1, parent.end);
    }
    *value = (JsonValue){ at, skip_value(at, parent.end, 0) };
    *place = (size_t)(value->end - parent.at);
    return true;
}

bool json_member(JsonValue object, const char* key, JsonValue* value) {
    size_t place = 0;
    JsonValue name;
    if (json_kind(object) != '{') { return false; }
    while (json_next(object, &place, &name, value)) {
        char* text = json_get_text(name);
        bool same = text && strcmp(text, key) == 0;
        free(text);
        if (same) { return true; }
    }
    return false;
}

// The number's text with an ending zero; false if it is none, or longer than any number written with care.
static bool number_text(JsonValue value, char text[64]) {
    size_t length = (size_t)(value.end - value.at);
    if (json_kind(value) != '0' || length >= 64) { return false; }
    memcpy(text, value.at, length);
    text[length] = 0;
    return true;
}

bool json_get_int(JsonValue value, int64_t* number) {
    char text[64];
    if (!number_text(value, text) || strpbrk(text, ".eE")) { return false; }
    errno = 0;
    *number = strtoll(text, NULL, 10);
    return errno == 0;
}

bool json_get_real(JsonValue value, double* number) {
    char text[64];
    if (!number_text(value, text)) { return false; }
    *number = strtod(text, NULL);
    return isfinite(*number);
}

bool json_get_bool(JsonValue value, bool* flag) {
    *flag = *value.at == 't';
    return *value.at == 't' || *value.at == 'f';
}

static uint32_t hex4(const char* at) {
    char text[5] = { at[0], at[1], at[2], at[3], 0 };
    return (uint32_t)strtoul(text, NULL, 16);
}

// code point -> UTF-8 at out; returns bytes. U+DC80..U+DCFF are raw bytes 80..ff.
static size_t put_code(char* out, uint32_t code) {
    if (code < 0x80) { out[0] = (char)code; return 1; }
    if (code >= 0xdc80 && code <= 0xdcff) { out[0] = (char)(code & 0xff); return 1; }
    if (code < 0x800) { out[0] = (char)(0xc0 | code >> 6); out[1] = (char)(0x80 | (code & 63)); return 2; }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12); out[1] = (char)(0x80 | (code >> 6 & 63)); out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18); out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63)); out[3] = (char)(0x80 | (code & 63));
    return 4;
}

char* json_get_text(JsonValue value) {
    if (json_kind(value) != '"') { return NULL; }
    char* text = (char*)xmalloc((size_t)(value.end - value.at));       // an escape is never shorter than its bytes
    char* out = text;
    for (const char* at = value.at + 1; at < value.end - 1; at++) {
        if (*at != '\\') { *out++ = *at; continue; }
        at++;
        if (*at != 'u') {
            const char* names = "\"\\/bfnrt";
            *out++ = "\"\\/\b\f\n\r\t"[strchr(names, *at) - names];
            continue;
        }
        uint32_t code = hex4(at + 1);
        at += 4;
        bool pair = code >= 0xd800 && code < 0xdc00 && value.end - at > 6 && at[1] == '\\' && at[2] == 'u' && (hex4(at + 3) & 0xfc00) == 0xdc00;
        if (pair) {
            code = 0x10000 + ((code & 0x3ff) << 10 | (hex4(at + 3) & 0x3ff));
            at += 6;
        }
        out += put_code(out, code);
    }
    *out = 0;
    if (memchr(text, 0, (size_t)(out - text))) { free(text); return NULL; }
    return text;
}

// Any bytes as log.jsonl: what a resumed run keeps of it, and every value of its first line.
#include <string.h>

#include "json.h"
#include "logger.h"

static void walk(JsonValue value, int depth) {
    JsonValue key, inner;
    int64_t whole;
    double real;
    bool flag;
    char* text = json_get_text(value);
    free(text);
    json_get_int(value, &whole);
    json_get_real(value, &real);
    json_get_bool(value, &flag);
    for (size_t place = 0; depth < JSON_MAX_DEPTH && json_next(value, &place, &key, &inner); ) { walk(inner, depth + 1); }
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    JsonValue value;
    const char* end = (const char*)memchr(data, '\n', size);
    if (json_parse(&value, (const char*)data, end ? (size_t)(end - (const char*)data) : size, NULL)) { walk(value, 0); }
    if (size == 0) { return 0; }
    FILE* file = fmemopen((void*)data, size, "r");
    int64_t kept = log_bytes_to_keep(file, 5);
    fclose(file);
    if (kept < 0 || kept > (int64_t)size || (kept > 0 && data[kept - 1] != '\n')) { abort(); }
    return 0;
}

// Level 0: small JSON. A writer for records and a bounded reader for config.json, log lines and sidecars.
#ifndef JSON_H
#define JSON_H

#include "common.h"

// ---- writer: Json j = json_begin(); json_put_int(&j, "step", 3); char* text = json_end(&j); --------------------------
// One object a writer. Bytes that are not UTF-8 are written \udc80..\udcff (as Python's surrogateescape does) and read back the same.
typedef struct { char* text; size_t used, room; } Json;

// ---- reader: a value is a span of checked text, nothing is copied ----------------------------------------------------
typedef struct { const char* at; const char* end; } JsonValue;
enum { JSON_MAX_DEPTH = 16 };

#ifdef __cplusplus
extern "C" {
#endif

Json  json_begin(void);
void  json_put_text(Json* json, const char* key, const char* value);
void  json_put_int(Json* json, const char* key, int64_t value);
void  json_put_real(Json* json, const char* key, double value);        // %.9g, enough for a float; not finite: null
void  json_put_exact(Json* json, const char* key, double value);       // %.17g, enough for a double; not finite: null
void  json_put_bool(Json* json, const char* key, bool value);
void  json_put_raw(Json* json, const char* key, const char* value);    // value is JSON already
char* json_end(Json* json);                                            // the text, the caller's to free

// Checks that text[0..bytes) is one JSON value and nothing else. The value points into text; the functions below take only such values.
bool  json_parse(JsonValue* value, const char* text, size_t bytes, Error* err);
char  json_kind(JsonValue value);                                      // '{' '[' '"' '0' (number) 't' 'f' 'n'
bool  json_member(JsonValue object, const char* key, JsonValue* value);   // false: not an object, or no such key. The first of equal keys
// Walks an object or array: *place starts at 0; false at the end. `key` is set for objects, may be NULL.
bool  json_next(JsonValue parent, size_t* place, JsonValue* key, JsonValue* value);
bool  json_get_int(JsonValue value, int64_t* number);                  // false: not a whole number, or beyond 64 bits
bool  json_get_real(JsonValue value, double* number);
bool  json_get_bool(JsonValue value, bool* flag);
char* json_get_text(JsonValue value);                                  // NULL: not a text, or holds a zero byte; else the caller's to free

#ifdef __cplusplus
}
#endif
#endif

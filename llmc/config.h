// Level 3: options to a checked Config. The table is options.h.
#ifndef CONFIG_H
#define CONFIG_H

#include "common.h"
#include "options.h"

#define FIELD_TYPE_INT    int
#define FIELD_TYPE_TOKENS int64_t
#define FIELD_TYPE_REAL   double
#define FIELD_TYPE_TEXT   const char*
#define FIELD_TYPE_ENUM   int
#define FIELD_TYPE_FLAG   int
#define OPTION_FIELD(type, field, ...) FIELD_TYPE_##type field;

enum { PRESET_TINY, PRESET_30M, PRESET_124M, PRESET_340M, PRESET_1B };
enum { SCHEDULE_COSINE, SCHEDULE_WSD, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };
enum { EVAL_SPARSE, EVAL_DENSE };

typedef struct {
    OPTIONS(OPTION_FIELD)
} Config;

#endif

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
#define OPTION_INDEX(type, field, ...) OPTION_##field,

enum { PRESET_TINY, PRESET_30M, PRESET_124M, PRESET_340M, PRESET_1B };
enum { SCHEDULE_COSINE, SCHEDULE_WSD, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };
enum { EVAL_SPARSE, EVAL_DENSE };
enum { INIT_AUTO, INIT_MPI, INIT_TCP, INIT_FILE };

enum { OPTIONS(OPTION_INDEX) NUM_OPTIONS };
typedef enum { TYPE_INT, TYPE_TOKENS, TYPE_REAL, TYPE_TEXT, TYPE_ENUM, TYPE_FLAG } OptionType;
typedef enum { RESUME_NEVER, RESUME_SCHEDULE, RESUME_ALWAYS } ResumeRule;

// One line of the table, for those who walk it (parser, help, JSON, resume check, tests).
typedef struct {
    const char* name;          // without the dashes
    OptionType  type;
    size_t      offset;        // of the field in Config
    const char* preset;        // default, as text
    double      min, max;
    const char* choices;       // "a|b|c" for ENUM
    ResumeRule  resume;
    const char* group;
    const char* help;
} Option;

typedef struct {
    OPTIONS(OPTION_FIELD)          // texts belong to the Config
    bool given[NUM_OPTIONS];       // on the command line, by OPTION_<field>
} Config;

#ifdef __cplusplus
extern "C" {
#endif

extern const Option config_options[NUM_OPTIONS];

// Parses and resolves. --help prints and exits 0; anything wrong prints one sentence and exits 64.
Config config_parse(int argc, char** argv);

// argv[1..] into *cfg, defaults elsewhere; nothing derived yet. On false *cfg holds nothing to close. argv needs no ending NULL.
bool config_parse_into(Config* cfg, int argc, char** argv, Error* err);

// Fills what is derived (rank and ranks from the launcher's environment, preset sizes, warmup, cooldown, total_batch, eval_context, eval_stride; the pattern in its shortest spelling),
// then checks options against each other. Resolving twice changes nothing. On false *cfg is still to be closed.
// With --eval-only or --prompt the model is the checkpoint's, and so nothing is derived before config_adopt.
bool config_resolve(Config* cfg, Error* err);

void config_close(Config* cfg);

// May a run with the resolved options `now` continue a checkpoint of a run with `saved`? Else the sentence has option and both values.
bool config_check_resume(const Config* now, const Config* saved, Error* err);

// For --eval-only and --prompt: what a resumed run may not change (model, tokenizer, ...) and was not given on the command line is taken
// from the checkpoint; what was given must agree with it, but for --seed, which draws samples. Then resolves.
bool config_adopt(Config* cfg, const Config* saved, Error* err);

// One flat JSON object, every option by name. Reads back to the same values exactly. The text is the caller's to free.
char* config_to_json(const Config* cfg);
bool  config_from_json(Config* cfg, const char* json, size_t bytes, Error* err);

// config_print.c
void config_print(const Config* cfg, FILE* out);              // start-up print: every option and its value
void config_help(FILE* out, const char* program);
void config_help_markdown(FILE* out);                         // README's option section
char* config_value_text(const Config* cfg, const Option* option);   // as it would be given; the caller's to free

#ifdef __cplusplus
}
#endif
#endif

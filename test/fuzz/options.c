// Any bytes as a command line, one word a line, and as the options that a checkpoint saved.
#include <string.h>

#include "config.h"

enum { MAX_WORDS = 64 };

static void as_command_line(const uint8_t* data, size_t size) {
    char* words[MAX_WORDS] = { "fuzz" };
    char* text = (char*)xcalloc(size + 1, 1);
    int count = 1;
    memcpy(text, data, size);
    for (char* at = text; count < MAX_WORDS && at < text + size; count++) {
        words[count] = at;
        at += strcspn(at, "\n");
        *at++ = 0;
    }
    Config cfg;
    Error err = {0};
    if (!config_parse_into(&cfg, count, words, &err)) {
        if (err.code != EXIT_USAGE || !err.text[0]) { abort(); }
    } else {
        if (config_resolve(&cfg, &err)) {
            char* json = config_to_json(&cfg);                                             // what is accepted can be saved and read back
            Config back;
            if (!config_from_json(&back, json, strlen(json), &err) || !config_check_resume(&cfg, &back, &err)) { abort(); }
            config_close(&back);
            free(json);
        } else if (err.code != EXIT_USAGE) {
            abort();
        }
        config_close(&cfg);
    }
    free(text);
}

static void as_saved(const uint8_t* data, size_t size) {
    Config cfg;
    Error err = {0};
    if (config_from_json(&cfg, (const char*)data, size, &err)) {
        config_resolve(&cfg, &err);
        config_close(&cfg);
    } else if (err.code != EXIT_DATA) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    as_command_line(data, size);
    as_saved(data, size);
    return 0;
}

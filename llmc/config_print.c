// What people read of the options table: --help, README's section, the start-up print.
#include "config.h"

#include <string.h>

enum { HELP_WIDTH = 100, HELP_COLUMN = 34 };

static const struct { const char *name, *title; } groups[] = {
    { "data", "Data" }, { "model", "Model" }, { "optimizer", "Optimizer" }, { "run", "Run" },
    { "memory", "Memory and speed" }, { "ranks", "Many GPUs" }, { "safety", "Safety" }, { "other", "Other uses" },
};
enum { NUM_GROUPS = sizeof groups / sizeof groups[0] };

// "N", "tiny|30M", ... after the option's name; "" for a flag
static const char* value_word(const Option* option) {
    switch (option->type) {
        case TYPE_INT: return option->choices[0] ? "N|auto" : "N";
        case TYPE_TOKENS: return "N";
        case TYPE_REAL: return "X";
        case TYPE_TEXT: return "TEXT";
        case TYPE_ENUM: return option->choices;
        default:        return "";
    }
}

// "1 to 1000", "tiny, 30M", "text", "flag"
static void allowed_text(const Option* option, char* text, size_t room) {
    if (option->type == TYPE_TEXT) { snprintf(text, room, "text"); }
    else if (option->type == TYPE_FLAG) { snprintf(text, room, "flag"); }
    else if (option->type != TYPE_ENUM) {
        int used = snprintf(text, room, option->type == TYPE_REAL ? "%g to %g" : "%.17g to %.17g", option->min, option->max);
        if (option->choices[0]) { snprintf(text + used, room - (size_t)used, ", %s", option->choices); }
    }
    else {
        size_t used = 0;
        for (const char *word = option->choices, *end; used + 1 < room; word = end + 1) {
            end = word + strcspn(word, "|");
            used += (size_t)snprintf(text + used, room - used, "%.*s%s", (int)(end - word), word, *end ? ", " : "");
            if (*end == 0) { break; }
        }
    }
}

// Words of `text` from column `column` on, wrapped, each further line indented to HELP_COLUMN.
static void print_wrapped(FILE* out, const char* text, int column) {
    if (column > HELP_COLUMN - 2) { fprintf(out, "\n"); column = 0; }
    fprintf(out, "%*s", HELP_COLUMN - column, "");
    column = HELP_COLUMN;
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + length > HELP_WIDTH) {
            fprintf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        int space = column > HELP_COLUMN;
        fprintf(out, "%s%.*s", space ? " " : "", length, text);
        column += space + length;
        text += length + (text[length] == ' ');
    }
    fprintf(out, "\n");
}

static void help_line(FILE* out, const Option* option) {
    char allowed[160];
    allowed_text(option, allowed, sizeof allowed);
    bool number = option->type == TYPE_INT || option->type == TYPE_TOKENS || option->type == TYPE_REAL;
    char* facts = number                              ? xformat(" [%s; %s]", option->preset, allowed)
                : option->type == TYPE_FLAG           ? xstrdup("")
                : option->preset[0]                   ? xformat(" [%s]", option->preset)
                :                                       xstrdup("");
    char* text = xformat("%s%s", option->help, facts);
    int column = fprintf(out, "  --%s %s", option->name, value_word(option));
    print_wrapped(out, text, column);
    free(facts);
    free(text);
}

void config_help(FILE* out, const char* program) {
    fprintf(out, "usage: %s --train-data GLOB [--option value]...\n", program);
    fprintf(out, "Pre-trains a language model with Mixture of Block Attention. [default; range] follow the text.\n");
    fprintf(out, "--name value and --name=value are the same; of an option given twice the last counts.\n"
                 "--version alone says which commit this is.\n");
    for (int g = 0; g < NUM_GROUPS; g++) {
        fprintf(out, "\n%s\n", groups[g].title);
        for (int i = 0; i < NUM_OPTIONS; i++) {
            if (strcmp(config_options[i].group, groups[g].name) == 0) { help_line(out, &config_options[i]); }
        }
    }
    fprintf(out, "\nExit status: 0 finished, 64 usage, 65 bad data or checkpoint, 66 input missing, 70 internal or GPU\n"
                 "error, 71 lost a rank, 73 and 74 output cannot be written, 75 stopped by a signal after saving: run\n"
                 "the same command again.\n");
}

// "S<window>" would be taken for an HTML tag
static void print_escaped(FILE* out, const char* text) {
    for (; *text; text++) {
        if (*text == '<') { fputs("&lt;", out); } else { fputc(*text, out); }
    }
}

void config_help_markdown(FILE* out) {
    const char* rules[] = { [RESUME_NEVER] = "no", [RESUME_SCHEDULE] = "with `--new-schedule`", [RESUME_ALWAYS] = "yes" };
    for (int g = 0; g < NUM_GROUPS; g++) {
        fprintf(out, "%s**%s**\n\n| option | default | allowed | may change on resume | |\n|---|---|---|---|---|\n", g ? "\n" : "", groups[g].title);
        for (int i = 0; i < NUM_OPTIONS; i++) {
            const Option* option = &config_options[i];
            if (strcmp(option->group, groups[g].name) != 0) { continue; }
            char allowed[160];
            allowed_text(option, allowed, sizeof allowed);
            const char* tick = option->preset[0] && option->type != TYPE_FLAG ? "`" : "";
            fprintf(out, "| `--%s` | %s%s%s | %s | %s | ", option->name, tick, option->type == TYPE_FLAG ? "off" : option->preset, tick,
                    allowed, rules[option->resume]);
            print_escaped(out, option->help);
            fprintf(out, " |\n");
        }
    }
}

void config_print(const Config* cfg, FILE* out) {
    for (int i = 0; i < NUM_OPTIONS; i++) {
        const Option* option = &config_options[i];
        char* value = config_value_text(cfg, option);
        const char* set = option->type == TYPE_FLAG ? (value[0] == '1' ? "on" : "off") : value[0] ? value : "-";
        fprintf(out, "  %-16s %s\n", option->name, set);
        free(value);
    }
}

#include "common.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

static void (*fail_listener)(void*, const Error*);
static void* fail_argument;

void fail_listen(void (*listener)(void* argument, const Error* err), void* argument) {
    fail_listener = listener;
    fail_argument = argument;
}

static void (*work_listener)(void*);
static void* work_argument;

void work_listen(void (*listener)(void* argument), void* argument) {
    work_argument = argument;
    work_listener = listener;
}

void work_done(void) {
    if (work_listener) { work_listener(work_argument); }
}

// A sentence that is too long loses its middle, where a path stands: what to do is said at its end.
static void set_sentence(Error* err, const char* format, va_list args) {
    static const char gap[] = " ... ";
    enum { ROOM = sizeof err->text, HEAD = ROOM / 3, TAIL = ROOM - HEAD - (sizeof gap - 1) };    // the tail's bytes with the final zero
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(err->text, ROOM, format, args);
    if (length >= ROOM) {
        char* whole = (char*)xmalloc((size_t)length + 1);
        vsnprintf(whole, (size_t)length + 1, format, again);
        memcpy(err->text + HEAD, gap, sizeof gap - 1);
        memcpy(err->text + ROOM - TAIL, whole + length + 1 - TAIL, TAIL);
        free(whole);
    }
    va_end(again);
}

void fail_at(int code, const char* file, int line, const char* format, ...) {
    fflush(stdout);
    va_list args;
    va_start(args, format);
    if (fail_listener) {
        Error err;
        set_sentence(&err, format, args);
        err.code = code;
        fail_listener(fail_argument, &err);
    }
    fprintf(stderr, "error: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "  [%s:%d]\n", file, line);
    va_end(args);
    exit(code);
}

bool error_set(Error* err, int code, const char* format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        set_sentence(err, format, args);
        va_end(args);
        err->code = code;
    }
    return false;
}

void program_start(void) {
    int file;
    do { file = open("/dev/null", O_RDWR); } while (file >= 0 && file <= STDERR_FILENO);
    if (file >= 0) { close(file); }
    signal(SIGXFSZ, SIG_IGN);
}

void require_printed(void) {
    bool printed = fflush(stdout) == 0 && !ferror(stdout);
    if (!printed) { FAIL(EXIT_IO, "standard output cannot be written (disk full?): what was asked for is not all there"); }
}

int open_to_read(const char* path) { return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); }

void* xmalloc(size_t bytes) {
    void* memory = malloc(bytes ? bytes : 1);
    if (!memory) { FAIL(EXIT_INTERNAL, "out of host memory: %zu bytes asked for", bytes); }
    return memory;
}

void* xcalloc(size_t count, size_t size) {
    void* memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory) { FAIL(EXIT_INTERNAL, "out of host memory: %zu x %zu bytes asked for", count, size); }
    return memory;
}

char* xstrdup(const char* text) {
    size_t bytes = strlen(text) + 1;
    return (char*)memcpy(xmalloc(bytes), text, bytes);
}

char* xformat(const char* format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    REQUIRE(length >= 0, "a text could not be formatted: %s", format);
    char* text = (char*)xmalloc((size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    va_end(args);
    return text;
}

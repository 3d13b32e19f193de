// Level 0: what every file may use. Exit codes, errors as sentences, small arithmetic.
#ifndef COMMON_H
#define COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// exit status, after sysexits.h; scripts rely on these
enum {
    EXIT_USAGE     = 64,   // bad option
    EXIT_DATA      = 65,   // input data or checkpoint is bad
    EXIT_NO_INPUT  = 66,   // input missing
    EXIT_INTERNAL  = 70,   // internal or GPU error
    EXIT_LOST_RANK = 71,   // lost a rank, or a collective timed out
    EXIT_NO_OUTPUT = 73,   // output cannot be created
    EXIT_IO        = 74,   // output cannot be written
    EXIT_STOPPED   = 75,   // stopped by a signal after saving: run the same command again
};

// An error a caller can look at: parsers over untrusted bytes return false and fill it, so that tests and fuzzers reach them.
typedef struct {
    int  code;         // exit status this would end the program with
    char text[480];    // one sentence: what, which, expected, found, what to do
} Error;

#ifdef __cplusplus
extern "C" {
#endif

// Prints "error: <sentence>  [file:line]" on stderr and exits with `code`.
__attribute__((noreturn, format(printf, 4, 5)))
void fail_at(int code, const char* file, int line, const char* format, ...);

// While set, fail_at gives its sentence to the listener instead of ending the program by itself: where several processes must end together
// (ranks.h). The listener does not return. NULL: none.
void fail_listen(void (*listener)(void* argument, const Error* err), void* argument);

// Whoever does long work calls work_done after each piece (a chunk read or written): a listener tells those who wait for this process (ranks.h).
// NULL: none.
void work_listen(void (*listener)(void* argument), void* argument);
void work_done(void);

// Fills *err and returns false, for `return error_set(err, EXIT_DATA, "...", ...)`. err may be NULL. What is too long for it loses its middle.
__attribute__((format(printf, 3, 4)))
bool error_set(Error* err, int code, const char* format, ...);

// First in every main. A standard stream that was closed reads and writes nothing: else the next file opened gets its number, and what is printed goes
// into that file. And what goes beyond a limit of file size (ulimit -f) fails and is reported where it is written, instead of ending the program.
void program_start(void);
// Last in a main whose result is what it printed: ends the program with 74 if that is not all there.
void require_printed(void);

// The file, open for reading, or -1 and errno. A named pipe without a writer does not hang the start: what it is, is the caller's to ask.
int open_to_read(const char* path);

void* xmalloc(size_t bytes);               // never NULL
void* xcalloc(size_t count, size_t size);  // zeroed, never NULL
char* xstrdup(const char* text);           // never NULL
__attribute__((nonnull(1), format(printf, 1, 2)))
char* xformat(const char* format, ...);    // printf into memory of its own; never NULL

#ifdef __cplusplus
}
#endif

#define FAIL(code, ...) fail_at(code, __FILE__, __LINE__, __VA_ARGS__)
// a failed call that filled the Error `err` ends the program with the Error's own exit status
#define TRY(call) do { if (!(call)) { FAIL(err.code, "%s", err.text); } } while (0)
// The launcher checks, the kernel trusts: a broken REQUIRE is a programming error or a shape that has no kernel.
#define REQUIRE(condition, ...) do { if (!(condition)) { FAIL(EXIT_INTERNAL, __VA_ARGS__); } } while (0)

static inline int    min_int(int a, int b)          { return a < b ? a : b; }
static inline int    max_int(int a, int b)          { return a > b ? a : b; }
static inline size_t min_size(size_t a, size_t b)   { return a < b ? a : b; }
static inline size_t max_size(size_t a, size_t b)   { return a > b ? a : b; }
static inline int    ceil_div(int a, int b)         { return (a + b - 1) / b; }
static inline size_t round_up(size_t x, size_t to)  { return (x + to - 1) / to * to; }

#endif

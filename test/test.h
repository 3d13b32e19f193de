// A test is one named case with assertions that can fail. In the common subset of C11 and C++17.
//
//   TEST(rmsnorm_of_ones_is_the_weight) { ... CHECK_NEAR(out[0], 2.0, 1e-6); }      runs in every build
//   GPU_TEST(rmsnorm_within_budget)     { ... check_budget("out", ...); }           inside #ifndef LLMC_CPU; counted as skipped without a GPU
//   TEST_MAIN()                                                                     ends the file
//
// Output: one line a case, "ok NAME" or "FAIL NAME why". Names are unique in the tree. argv[1], if given, selects cases by substring.
#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { const char* name; void (*run)(void); } TestCase;

static TestCase test_cases[256];
static int      test_count;
static long     test_checks;          // assertions of the running case
static jmp_buf  test_escape;
static char     test_why[1024];

static inline void test_register(const char* name, void (*run)(void)) { test_cases[test_count].name = name; test_cases[test_count++].run = run; }

__attribute__((noreturn, format(printf, 3, 4)))
static inline void test_failed(const char* file, int line, const char* format, ...) {
    va_list args;
    va_start(args, format);
    int used = snprintf(test_why, sizeof test_why, "%s:%d: ", file, line);
    vsnprintf(test_why + used, sizeof test_why - (size_t)used, format, args);
    va_end(args);
    longjmp(test_escape, 1);
}

#define TEST(name) \
    static void name(void); \
    __attribute__((constructor)) static void name##_register(void) { test_register(#name, name); } \
    static void name(void)
#define GPU_TEST(name) TEST(name)

#define CHECK(condition, ...) do { test_checks++; if (!(condition)) { test_failed(__FILE__, __LINE__, __VA_ARGS__); } } while (0)
#define CHECK_NEAR(found, expected, tolerance) do { double f_ = (double)(found), e_ = (double)(expected); \
    CHECK(fabs(f_ - e_) <= (double)(tolerance), "%s is %.9g, expected %.9g within %.3g", #found, f_, e_, (double)(tolerance)); } while (0)
#define CHECK_EQ(found, expected) do { long long f_ = (long long)(found), e_ = (long long)(expected); \
    CHECK(f_ == e_, "%s is %lld, expected %lld", #found, f_, e_); } while (0)
#define CHECK_TEXT(found, expected) CHECK(strcmp((found), (expected)) == 0, "%s is \"%s\", expected \"%s\"", #found, (found), (expected))

// A kernel may be at most twice as far from the exact result as honest bf16 rounding of the same algorithm is:
// in the 2-norm, and in its largest element. `rounded` comes from the LLMC_ROUND twin of the reference.
// fp32 outputs have no bf16 rounding of their own, so both budgets get a floor of 1e-6 of the exact tensor's norm / largest element
// times sqrt(terms), the growth of fp32 rounding in a sum of that many terms.
static inline void check_budget_at(const char* file, int line, const char* what, const float* kernel, const float* exact, const float* rounded,
                                   size_t n, double terms) {
    double kernel2 = 0, rounded2 = 0, exact2 = 0, kernel_max = 0, rounded_max = 0, exact_max = 0;
    size_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        double dk = fabs((double)kernel[i] - (double)exact[i]), dr = fabs((double)rounded[i] - (double)exact[i]), e = fabs((double)exact[i]);
        if (!(dk <= kernel_max)) { kernel_max = dk; worst = i; }          // NaN lands here too
        if (dr > rounded_max) { rounded_max = dr; }
        if (e > exact_max) { exact_max = e; }
        kernel2 += dk * dk; rounded2 += dr * dr; exact2 += e * e;
    }
    double floor = 1e-6 * sqrt(terms);
    double budget2 = 2 * sqrt(rounded2) + floor * sqrt(exact2), budget_max = 2 * rounded_max + floor * exact_max;
    test_checks++;
    if (!(sqrt(kernel2) <= budget2) || !(kernel_max <= budget_max)) {
        test_failed(file, line, "%s: 2-norm error %.4g (budget %.4g), largest error %.4g (budget %.4g) at %zu: kernel %.8g, exact %.8g, rounded %.8g",
                    what, sqrt(kernel2), budget2, kernel_max, budget_max, worst, (double)kernel[worst], (double)exact[worst], (double)rounded[worst]);
    }
}
#define check_budget(what, kernel, exact, rounded, n, terms) check_budget_at(__FILE__, __LINE__, what, kernel, exact, rounded, n, terms)

// Deterministic standard normals and integers for inputs; the seed is printed by a failing case that varies it.
static inline uint64_t test_bits(uint64_t* state) {            // splitmix64
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
static inline double test_uniform(uint64_t* state) { return ((double)(test_bits(state) >> 11) + 0.5) / 9007199254740992.0; }
static inline double test_normal(uint64_t* state) {
    double u = test_uniform(state), v = test_uniform(state);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}
static inline float* test_normals(size_t n, uint64_t seed, double scale) {
    float* x = (float*)malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) { x[i] = (float)(scale * test_normal(&seed)); }
    return x;
}

// apart from the loop, whose variables a longjmp back into this frame could otherwise lose
static inline bool test_run_case(const TestCase* test) {
    test_checks = 0;
    if (setjmp(test_escape) != 0) { return false; }
    test->run();
    snprintf(test_why, sizeof test_why, "no assertion was reached");
    return test_checks > 0;
}

static inline int test_run_all(int argc, char** argv) {
    volatile int failed = 0;                                   // lives across longjmp
    for (volatile int i = 0; i < test_count; i++) {
        if (argc > 1 && !strstr(test_cases[i].name, argv[1])) { continue; }
        bool ok = test_run_case(&test_cases[i]);
        if (ok) { printf("ok %s\n", test_cases[i].name); }
        else { printf("FAIL %s %s\n", test_cases[i].name, test_why); failed++; }
        fflush(stdout);
    }
    return failed ? 1 : 0;
}

#define TEST_MAIN() int main(int argc, char** argv) { return test_run_all(argc, argv); }

#endif

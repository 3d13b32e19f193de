// Holds what generate wrote against each other: prints "ok NAME" or "FAIL NAME why".
//
//   compare_generated NAME EXACT ROUNDED KERNEL        directories (.../step_00000001); ROUNDED and KERNEL on EXACT's routing
//
// Logits: in one pass and through the cache alike, KERNEL may be at most twice as far from EXACT's one pass as ROUNDED's one pass is, in the
// 2-norm over all tokens of a pass and for the token that is farthest off. So the two ways through KERNEL are held to the truth and not to each
// other, and a token whose routing was a near-tie is judged on the same blocks as all others.
// Picks: scores may be off by twice the largest rounding of one, so where KERNEL prefers another block than EXACT, EXACT's scores of the two
// are within twice that: what is farther apart was no near-tie.
#include "dumps.h"
#include "ops.h"

typedef struct {
    int    passes, out;
    long   others;             // queries that picked other blocks than EXACT's
    double worst;              // share of its budget that the nearest uses
    char   first[256];         // what is wrong with the first that is out
} Verdict;

static void judge(Verdict* v, double error, double budget, const char* what) {
    if (error / budget > v->worst) { v->worst = error / budget; }
    if (!(error <= budget) && v->out++ == 0) { snprintf(v->first, sizeof v->first, "%s by %.3g, budget %.3g", what, error, budget); }
}

// ---- logits ---------------------------------------------------------------------------------------------------------------------

// off[t]: the 2-norm by which the last `rows` tokens' logits are off
static void distances(double* off, const float* logits, const float* exact, size_t rows, size_t V) {
    for (size_t t = 0; t < rows; t++) { off[t] = distance(logits + t * V, exact + t * V, V); }
}

static double total_of(const double* off, size_t rows) {
    double sum = 0;
    for (size_t t = 0; t < rows; t++) { sum += off[t] * off[t]; }
    return sqrt(sum);
}

static size_t farthest_of(const double* off, size_t rows) {
    size_t at = 0;
    for (size_t t = 1; t < rows; t++) { if (!(off[t] <= off[at])) { at = t; } }
    return at;
}

// A pass of `rows` tokens, the last of the row.
static void judge_logits(Verdict* v, const char* name, const float* kernel, const float* exact, const double* rounding, size_t T, size_t rows, size_t V) {
    char what[128];
    double* off = (double*)xmalloc(rows * sizeof *off);
    const float* truth = exact + (T - rows) * V;
    double size = norm(truth, rows * V);
    distances(off, kernel, truth, rows, V);
    snprintf(what, sizeof what, "%s is off", name);
    judge(v, total_of(off, rows), 2 * total_of(rounding + (T - rows), rows) + 1e-6 * size, what);
    size_t at = farthest_of(off, rows);
    snprintf(what, sizeof what, "%s: token %zu is off", name, T - rows + at);
    judge(v, off[at], 2 * rounding[farthest_of(rounding, T)] + 1e-6 * size, what);
    v->passes++;
    free(off);
}

// ---- picks ----------------------------------------------------------------------------------------------------------------------

typedef struct { uint16_t* exact; float* score; double rounding; size_t queries; int slots, blocks; } Picks;     // of one layer

static bool holds(const uint16_t* sel, int slots, uint16_t block) {
    for (int s = 0; s < slots; s++) { if (sel[s] == block) { return true; } }
    return false;
}

// EXACT's largest lead of a block that it picked and KERNEL did not over one that KERNEL picked instead; -1: the same picks
static double lead_of(const uint16_t* kernel, const uint16_t* exact, const float* score, int slots, int blocks) {
    double best = -INFINITY, worst = INFINITY;
    for (int s = 0; s < slots; s++) {
        if (exact[s] != MOBA_NONE && !holds(kernel, slots, exact[s])) { best = fmax(best, score[exact[s]]); }
        if (kernel[s] != MOBA_NONE && !holds(exact, slots, kernel[s])) {
            if (kernel[s] >= blocks) { return INFINITY; }
            worst = fmin(worst, score[kernel[s]]);
        }
    }
    if (isinf(best) && isinf(worst)) { return -1; }
    return fmax(0, best - worst);                                     // infinite where one picked more blocks than the other
}

// Reads layer l of EXACT's routing; false: there are not so many layers that pick.
static bool picks_open(Picks* p, const Checkpoint* exact, const Checkpoint* rounded, int l) {
    char name[CHECKPOINT_NAME];
    snprintf(name, sizeof name, "scores/%d", l);
    const CheckpointRecord* record = checkpoint_find(exact, name);
    if (!record) { return false; }
    size_t n, same, picks;
    p->queries = record->shape[0];
    p->blocks = (int)record->shape[1];
    p->score = read_floats(exact, name, &n);
    p->rounding = 0;
    float* other = read_floats(rounded, name, &same);
    REQUIRE(n == same, "%s has %zu scores in one dump and %zu in another", name, n, same);
    for (size_t i = 0; i < n; i++) { p->rounding = fmax(p->rounding, fabs((double)other[i] - p->score[i])); }
    free(other);
    snprintf(name, sizeof name, "sel/%d/whole", l);
    p->exact = read_picks(exact, name, &picks);
    p->slots = (int)(picks / p->queries);
    return true;
}

static void judge_picks(Verdict* v, const char* name, const Checkpoint* kernel, const Picks* p) {
    char what[128];
    size_t n;
    uint16_t* sel = read_picks(kernel, name, &n);
    REQUIRE(n == p->queries * (size_t)p->slots, "%s has %zu picks, expected %zu", name, n, p->queries * (size_t)p->slots);
    for (size_t i = 0; i < p->queries; i++) {
        double lead = lead_of(sel + i * p->slots, p->exact + i * p->slots, p->score + i * p->blocks, p->slots, p->blocks);
        snprintf(what, sizeof what, "%s: query %zu picks a block that scores less", name, i);
        if (lead >= 0) { v->others++; judge(v, lead, 4 * p->rounding, what); }
    }
    free(sel);
}

// ---- all of it --------------------------------------------------------------------------------------------------------------------

// "logits/PASS" and the picks of that pass
static void judge_pass(Verdict* v, const Checkpoint* kernel, const char* pass, const float* exact, const double* rounding, size_t T, size_t V,
                       const Picks* layer, int layers) {
    char name[CHECKPOINT_NAME];
    size_t n;
    snprintf(name, sizeof name, "logits/%s", pass);
    float* logits = read_floats(kernel, name, &n);
    judge_logits(v, name, logits, exact, rounding, T, n / V, V);
    for (int l = 0; l < layers; l++) {
        snprintf(name, sizeof name, "sel/%d/%s", l, pass);
        judge_picks(v, name, kernel, &layer[l]);
    }
    free(logits);
}

int main(int argc, char** argv) {
    enum { MAX_LAYERS = 16 };
    Error err;
    if (argc != 5) { FAIL(EXIT_USAGE, "usage: compare_generated NAME EXACT ROUNDED KERNEL"); }
    Checkpoint* dump[3];
    for (int i = 0; i < 3; i++) {
        dump[i] = checkpoint_open(argv[2 + i], &err);
        TRY(dump[i]);
    }
    const Checkpoint* kernel = dump[2];
    const CheckpointRecord* record = checkpoint_find(dump[0], "logits/whole");
    REQUIRE(record, "%s holds no logits/whole", argv[2]);
    size_t T = record->shape[0], V = record->shape[1], n;
    float *exact = read_floats(dump[0], "logits/whole", &n), *rounded = read_floats(dump[1], "logits/whole", &n);
    double* rounding = (double*)xmalloc(T * sizeof *rounding);
    distances(rounding, rounded, exact, T, V);
    Picks layer[MAX_LAYERS];
    int layers = 0;
    while (layers < MAX_LAYERS && picks_open(&layer[layers], dump[0], dump[1], layers)) { layers++; }
    Verdict v = {0};
    for (int i = 0; i < kernel->num_records; i++) {
        const char* name = kernel->records[i].name;
        if (strncmp(name, "logits/", 7) == 0 && kernel->records[i].first == 0) { judge_pass(&v, kernel, name + 7, exact, rounding, T, V, layer, layers); }
    }
    if (v.passes < 2) { printf("FAIL %s holds %d passes, expected one pass and cached ones\n", argv[1], v.passes); }
    else if (v.out)   { printf("FAIL %s %s (%d out of budget)\n", argv[1], v.first, v.out); }
    else              { printf("ok %s\n", argv[1]); }
    fprintf(stderr, "%s: %d passes, the nearest to its budget at %.0f %%; %ld queries picked other blocks\n", argv[1], v.passes, 100 * v.worst, v.others);
    return v.out || v.passes < 2;
}

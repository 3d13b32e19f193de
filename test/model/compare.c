// Holds dumps against each other: prints "ok NAME" or "FAIL NAME why".
//
//   compare NAME EXACT ROUNDED KERNEL        directories that dump wrote (…/step_00000001)
//   compare NAME DUMP DUMP                   the two have the same fp32 tensors, to the bit; they may be checkpoints
//
// Of EXACT, ROUNDED and KERNEL (all on the same routing) every loss and gradient of KERNEL may be at most twice as far from EXACT as ROUNDED
// is, in the 2-norm of its tensor; ROUNDED is the reference with bf16 rounding wherever the GPU stores bf16. The first tensor out of budget,
// in the model's order, is named, and how many are.
#include "dumps.h"

typedef struct {
    int    compared, out;      // tensors; those that differ
    double worst;              // share of its budget that the nearest of them uses
    char   first[256];         // what is wrong with the first of those out
} Verdict;

static void compare_budget(Verdict* v, Checkpoint* const* dump, const CheckpointRecord* record) {
    size_t n;
    float *exact = read_floats(dump[0], record->name, &n), *rounded = read_floats(dump[1], record->name, &n), *kernel = read_floats(dump[2], record->name, &n);
    double error = distance(kernel, exact, n), budget = 2 * distance(rounded, exact, n) + 1e-6 * norm(exact, n);
    if (error / budget > v->worst) { v->worst = error / budget; }
    if (!(error <= budget) && v->out++ == 0) {
        snprintf(v->first, sizeof v->first, "%s is %.3g from the reference, budget %.3g (its norm %.3g)", record->name, error, budget, norm(exact, n));
    }
    free(exact);
    free(rounded);
    free(kernel);
}

static void compare_bits(Verdict* v, Checkpoint* const* dump, const CheckpointRecord* record) {
    size_t n, i = 0;
    float *a = read_floats(dump[0], record->name, &n), *b = read_floats(dump[1], record->name, &n);
    while (i < n && memcmp(&a[i], &b[i], sizeof(float)) == 0) { i++; }
    if (i < n && v->out++ == 0) {
        snprintf(v->first, sizeof v->first, "%s differs at %zu: %.9g and %.9g", record->name, i, (double)a[i], (double)b[i]);
    }
    free(a);
    free(b);
}

int main(int argc, char** argv) {
    Error err;
    if (argc != 4 && argc != 5) { FAIL(EXIT_USAGE, "usage: compare NAME EXACT ROUNDED KERNEL, or compare NAME DUMP DUMP"); }
    Checkpoint* dump[3];
    for (int i = 0; i < argc - 2; i++) {
        dump[i] = checkpoint_open(argv[2 + i], &err);
        TRY(dump[i]);
    }
    Verdict v = {0};
    for (int i = 0; i < dump[0]->num_records; i++) {
        const CheckpointRecord* record = &dump[0]->records[i];
        bool computed = strncmp(record->name, "grad/", 5) == 0 || strcmp(record->name, "losses") == 0;
        if (record->first != 0 || record->dtype != CHECKPOINT_F32 || (argc == 5 && !computed)) { continue; }
        if (argc == 5) { compare_budget(&v, dump, record); }
        else           { compare_bits(&v, dump, record); }
        v.compared++;
    }
    if (v.compared == 0) { printf("FAIL %s nothing to compare\n", argv[1]); }
    else if (v.out)      { printf("FAIL %s %d of %d tensors are out, the first: %s\n", argv[1], v.out, v.compared, v.first); }
    else                 { printf("ok %s\n", argv[1]); }
    if (argc == 5) { fprintf(stderr, "%s: %d tensors, the nearest to its budget at %.0f %%\n", argv[1], v.compared, 100 * v.worst); }
    return v.out || !v.compared;
}

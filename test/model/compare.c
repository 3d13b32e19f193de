// Holds a dump of the kernels against two of the reference (all on the same routing): prints "ok NAME" or "FAIL NAME why".
//
//   compare NAME EXACT ROUNDED KERNEL        directories that dump wrote (…/step_00000001)
//
// Budget of every tensor, from the first in the model's order: at most twice as far from EXACT as ROUNDED is, in the 2-norm; ROUNDED is the
// reference with bf16 rounding wherever the GPU stores bf16. The first tensor out of budget is named, and how many are.
#include <math.h>
#include <string.h>

#include "checkpoint.h"

#define TRY(call) do { if (!(call)) { FAIL(err.code, "%s", err.text); } } while (0)

static float* read_floats(const Checkpoint* dump, const CheckpointRecord* record) {
    Error err;
    float* values = (float*)xmalloc(record->bytes);
    TRY(checkpoint_read(dump, record->name, CHECKPOINT_F32, values, record->bytes, &err));
    return values;
}

static double distance(const float* a, const float* b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]); }
    return sqrt(sum);
}

int main(int argc, char** argv) {
    Error err;
    if (argc != 5) { FAIL(EXIT_USAGE, "usage: compare NAME EXACT ROUNDED KERNEL"); }
    Checkpoint* dump[3];
    for (int i = 0; i < 3; i++) {
        dump[i] = checkpoint_open(argv[2 + i], &err);
        TRY(dump[i]);
    }
    int compared = 0, out = 0;
    double worst = 0;
    char first[256] = "";
    for (int i = 0; i < dump[0]->num_records; i++) {
        const CheckpointRecord* record = &dump[0]->records[i];
        if (strncmp(record->name, "grad/", 5) != 0 && strcmp(record->name, "loss") != 0) { continue; }
        size_t n = record->bytes / sizeof(float);
        float *exact = read_floats(dump[0], record), *rounded = read_floats(dump[1], record), *kernel = read_floats(dump[2], record);
        double norm = 0;
        for (size_t j = 0; j < n; j++) { norm += (double)exact[j] * exact[j]; }
        double error = distance(kernel, exact, n), budget = 2 * distance(rounded, exact, n) + 1e-6 * sqrt(norm);
        if (error / budget > worst) { worst = error / budget; }
        if (!(error <= budget) && out++ == 0) {
            snprintf(first, sizeof first, "%s is %.3g from the reference, budget %.3g (its norm %.3g)", record->name, error, budget, sqrt(norm));
        }
        compared++;
        free(exact);
        free(rounded);
        free(kernel);
    }
    if (compared == 0)  { printf("FAIL %s nothing to compare\n", argv[1]); }
    else if (out)       { printf("FAIL %s %d of %d tensors out of budget, the first: %s\n", argv[1], out, compared, first); }
    else                { printf("ok %s\n", argv[1]); fprintf(stderr, "%s: %d tensors, the nearest to its budget at %.0f %%\n", argv[1], compared, 100 * worst); }
    return out || !compared;
}

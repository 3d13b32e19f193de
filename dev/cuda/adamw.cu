#include "bench.h"

typedef struct { float *master, *m, *v, *grad; floatX* copy; size_t n; UpdateDecision* decision; } Adamw;

static void update(void* context) {
    Adamw* a = (Adamw*)context;
    adamw_update(a->master, a->m, a->v, a->copy, NULL, a->grad, a->n, 1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, a->decision, NULL);
}

static void copy(void* context) {
    Adamw* a = (Adamw*)context;
    adamw_copy(a->copy, NULL, a->master, a->n, NULL);
}

int main(void) {
    const size_t n = 359800000;
    Adamw a = {bench_f32(n, 1, 0.02f), bench_f32(n, 2, 1), bench_f32(n, 3, 1), bench_f32(n, 4, 1), bench_bf16(n, 5, 1), n,
               (UpdateDecision*)device_malloc(sizeof(UpdateDecision))};
    const UpdateDecision apply = {1, 1, 0, 1, 0.1f, 0.05f, 1};
    device_upload(a.decision, &apply, sizeof apply, NULL);
    device_zero(a.v, n * sizeof(float), NULL);                           // second moments are not negative
    bench_row("adamw_update", "\"n\":359800000", update, &a, 30.0 * n, 0);
    bench_row("adamw_copy", "\"n\":359800000", copy, &a, 6.0 * n, 0);
    return 0;
}

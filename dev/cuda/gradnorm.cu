#include "bench.h"

typedef struct { double* sumsq; float* grad; void* scratch; size_t n; } Gradnorm;

static void sumsq(void* context) {
    Gradnorm* g = (Gradnorm*)context;
    gradnorm_sumsq(g->sumsq, g->grad, g->n, g->scratch, NULL);
}

int main(void) {
    const size_t n = 359800000;
    Gradnorm g = {(double*)device_malloc(sizeof(double)), bench_f32(n, 1, 1), device_malloc(gradnorm_scratch(n)), n};
    bench_row("gradnorm_sumsq", "\"n\":359800000", sumsq, &g, 4.0 * n, 0);
    return 0;
}

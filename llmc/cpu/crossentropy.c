#include "ops.h"

// log sum exp of a row over its V real columns
static double log_sum_exp(const floatX* logits, int V) {
    double max = logits[0], sum = 0;
    for (int v = 1; v < V; v++) { max = logits[v] > max ? logits[v] : max; }
    for (int v = 0; v < V; v++) { sum += exp(logits[v] - max); }
    return max + log(sum);
}

void crossentropy_forward(float* losses, const floatX* logits, const int* targets, int N, int V, int Vp, stream_t stream) {
    (void)stream;
    #pragma omp parallel for
    for (int i = 0; i < N; i++) {
        const floatX* row = logits + (size_t)i * Vp;
        losses[i] = targets[i] < 0 ? 0 : log_sum_exp(row, V) - row[targets[i]];
    }
}

void crossentropy_forward_backward(float* losses, floatX* logits, const int* targets, float scale, int N, int V, int Vp, stream_t stream) {
    (void)stream;
    #pragma omp parallel for
    for (int i = 0; i < N; i++) {
        floatX* row = logits + (size_t)i * Vp;
        int target = targets[i];
        losses[i] = 0;
        if (target < 0) {
            memset(row, 0, (size_t)Vp * sizeof(floatX));
            continue;
        }
        double lse = log_sum_exp(row, V);
        losses[i] = lse - row[target];
        for (int v = 0; v < V; v++) { row[v] = ROUND(scale * (exp(row[v] - lse) - (v == target))); }
        for (int v = V; v < Vp; v++) { row[v] = 0; }
    }
}

void crossentropy_total(double* total, const float* losses, int N, stream_t stream) {
    (void)stream;
    double sum = 0;
    for (int i = 0; i < N; i++) { sum += losses[i]; }
    *total += sum;
}

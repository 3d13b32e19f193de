#include "ops.h"

void embedding_forward(floatX* out, const floatX* wte, const int* tokens, int N, int C, stream_t stream) {
    (void)stream;
    #pragma omp parallel for
    for (int i = 0; i < N; i++) {
        memcpy(out + (size_t)i * C, wte + (size_t)tokens[i] * C, (size_t)C * sizeof(floatX));
    }
}

// scratch: begin (V + 1), then rows (N), the rows of token v being rows[begin[v]] .. rows[begin[v+1]-1], ascending
size_t embedding_backward_scratch(int N, int C, int V) {
    (void)C;
    return ((size_t)V + 1 + N) * sizeof(int);
}

static void list_rows_by_token(int* begin, int* rows, const int* tokens, int N, int V) {
    memset(begin, 0, ((size_t)V + 1) * sizeof(int));
    for (int i = 0; i < N; i++) { begin[tokens[i] + 1]++; }
    for (int v = 0; v < V; v++) { begin[v + 1] += begin[v]; }
    for (int i = 0; i < N; i++) { rows[begin[tokens[i]]++] = i; }       // begin[v] walks to the end of v's list,
    memmove(begin + 1, begin, (size_t)V * sizeof(int));                 // which is the start of the next one's
    begin[0] = 0;
}

void embedding_backward(float* dwte, const floatX* dout, const int* tokens, int N, int C, int V, void* scratch, stream_t stream) {
    (void)stream;
    int* begin = (int*)scratch;
    int* rows = begin + V + 1;
    list_rows_by_token(begin, rows, tokens, N, V);
    #pragma omp parallel for schedule(dynamic, 16)
    for (int v = 0; v < V; v++) {
        if (begin[v] == begin[v + 1]) { continue; }
        for (int c = 0; c < C; c += 8) {
            double sum[8] = {0};
            for (int r = begin[v]; r < begin[v + 1]; r++) {
                const floatX* from = dout + (size_t)rows[r] * C + c;
                for (int j = 0; j < 8; j++) { sum[j] += from[j]; }
            }
            for (int j = 0; j < 8; j++) { dwte[(size_t)v * C + c + j] += sum[j]; }
        }
    }
}

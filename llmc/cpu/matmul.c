// One blocked product serves all three: a matrix is a pointer and two strides, so a transpose costs nothing but packing.
// An output tile belongs to one thread, which walks the inner dimension from 0 up: the number of threads cannot show in the result.
#include "ops.h"

typedef struct { const floatX* x; size_t row, column; } Strided;      // element (i, j) at x[i * row + j * column]

enum {
    TILE = 64, DEPTH = 256,                // output tile TILE x TILE, inner dimension in pieces: two 128 KiB panels stay in L2
    ROWS = 4, COLUMNS = 8, LANES = 4,      // a register block of ROWS x COLUMNS sums, LANES to a vector
};
typedef double Vector __attribute__((vector_size(LANES * sizeof(double))));

// one way to multiply: nothing to plan
struct MatmulPlans* matmul_open(void* workspace, size_t workspace_bytes) { (void)workspace; (void)workspace_bytes; return NULL; }
void matmul_close(struct MatmulPlans* plans) { (void)plans; }
size_t matmul_workspace(void) { return 0; }
void matmul_measure(struct MatmulPlans* plans, int on) { (void)plans; (void)on; }
size_t matmul_plans_take(struct MatmulPlans* plans, const char* text) { (void)plans; (void)text; return 0; }
size_t matmul_plans_count(const struct MatmulPlans* plans) { (void)plans; return 0; }
size_t matmul_plans_text(char* text, size_t room, const struct MatmulPlans* plans) {
    (void)plans;
    if (room > 0) { text[0] = 0; }
    return 0;
}

// Strips of `width` rows of a, depth-major within a strip, zeros beyond `rows`: panel[strip][k][width].
static void pack(double* panel, Strided a, int rows, int depth, int width) {
    for (int strip = 0; strip < rows; strip += width) {
        for (int k = 0; k < depth; k++) {
            for (int i = 0; i < width; i++) {
                *panel++ = strip + i < rows ? a.x[(size_t)(strip + i) * a.row + (size_t)k * a.column] : 0;
            }
        }
    }
}

// sums (ROWS x COLUMNS, row stride TILE) += a strip of A times a strip of B
static void multiply_strips(double* sums, const double* a, const double* b, int depth) {
    Vector acc[ROWS][COLUMNS / LANES] = {0};
    for (int k = 0; k < depth; k++, a += ROWS, b += COLUMNS) {
        const Vector* bk = (const Vector*)b;
        for (int i = 0; i < ROWS; i++) {
            for (int j = 0; j < COLUMNS / LANES; j++) { acc[i][j] += a[i] * bk[j]; }
        }
    }
    for (int i = 0; i < ROWS; i++) {
        for (int j = 0; j < COLUMNS; j++) { sums[i * TILE + j] += acc[i][j / LANES][j % LANES]; }
    }
}

// sums (rows x columns, row stride TILE) = the tile of A B^T at (0, 0);  a: (rows, K)  b: (columns, K)
static void multiply_tile(double* sums, Strided a, Strided b, int rows, int columns, int K) {
    _Alignas(64) double a_panel[TILE * DEPTH], b_panel[TILE * DEPTH];
    memset(sums, 0, TILE * TILE * sizeof(double));
    for (int k = 0; k < K; k += DEPTH) {
        int depth = K - k < DEPTH ? K - k : DEPTH;
        pack(a_panel, (Strided){a.x + (size_t)k * a.column, a.row, a.column}, rows, depth, ROWS);
        pack(b_panel, (Strided){b.x + (size_t)k * b.column, b.row, b.column}, columns, depth, COLUMNS);
        for (int i = 0; i < rows; i += ROWS) {
            for (int j = 0; j < columns; j += COLUMNS) {
                multiply_strips(sums + i * TILE + j, a_panel + i * depth, b_panel + j * depth, depth);
            }
        }
    }
}

typedef enum { ROUNDED, UNROUNDED } Store;                            // to floatX, or fp32 gradients

// out = add + A B^T      out, add: (M, N) row-major   a: (M, K)   b: (N, K)      add may be out, or NULL for 0
__attribute__((nonnull(1)))
static void product(float* out, const float* add, Strided a, Strided b, int M, int N, int K, Store store) {
    #pragma omp parallel for collapse(2) schedule(static)
    for (int i = 0; i < M; i += TILE) {
        for (int j = 0; j < N; j += TILE) {
            _Alignas(64) double sums[TILE * TILE];
            int rows = M - i < TILE ? M - i : TILE, columns = N - j < TILE ? N - j : TILE;
            multiply_tile(sums, (Strided){a.x + i * a.row, a.row, a.column}, (Strided){b.x + j * b.row, b.row, b.column}, rows, columns, K);
            for (int r = 0; r < rows; r++) {
                size_t at = (size_t)(i + r) * N + j;
                for (int c = 0; c < columns; c++) {
                    double sum = (add ? (double)add[at + c] : 0) + sums[r * TILE + c];
                    out[at + c] = store == ROUNDED ? ROUND(sum) : sum;
                }
            }
        }
    }
}

void matmul_forward(floatX* out, const floatX* inp, const floatX* weight, int N, int C, int OC, struct MatmulPlans* plans, stream_t stream) {
    (void)plans; (void)stream;
    product(out, NULL, (Strided){inp, C, 1}, (Strided){weight, C, 1}, N, OC, C, ROUNDED);
}

void matmul_forward_add(floatX* out, const floatX* inp, const floatX* weight, const floatX* add, int N, int C, int OC,
                        struct MatmulPlans* plans, stream_t stream) {
    (void)plans; (void)stream;
    product(out, add, (Strided){inp, C, 1}, (Strided){weight, C, 1}, N, OC, C, ROUNDED);
}

void matmul_backward_input(floatX* dinp, const floatX* dout, const floatX* weight, int N, int C, int OC,
                           struct MatmulPlans* plans, stream_t stream) {
    (void)plans; (void)stream;
    product(dinp, NULL, (Strided){dout, OC, 1}, (Strided){weight, 1, C}, N, C, OC, ROUNDED);
}

void matmul_backward_weight(float* dweight, const floatX* dout, const floatX* inp, int N, int C, int OC, int add,
                            struct MatmulPlans* plans, stream_t stream) {
    (void)plans; (void)stream;
    product(dweight, add ? dweight : NULL, (Strided){dout, 1, OC}, (Strided){inp, 1, C}, OC, C, N, UNROUNDED);
}

// Step 1: the formula. One thread per query takes the keys of its blocks one after another, everything in fp32.
// Threads of a warp read different rows, 16 bytes here and there: a key is fetched from L2 for every query that looks at it.
#include "ladder.h"

enum { THREADS = 128 };

// one thread per query, grid (queries, heads)
__global__ __launch_bounds__(THREADS)
static void naive_kernel(Problem p) {
    int t = blockIdx.x * THREADS + threadIdx.x, head = blockIdx.y;
    if (t >= p.T) { return; }
    float q[D], acc[D], max = -INFINITY, sum = 0;
    for (int d = 0; d < D; d++) {
        q[d] = __bfloat162float(p.q[row_at(p, head, t) + d]) * p.scale;
        acc[d] = 0;
    }
    const uint16_t* picks = picks_of(p.route.sel, p, head, t);
    for (int i = 0; i <= SLOTS; i++) {
        int j = i < SLOTS ? picks[i] : t / BLOCK;                        // the own block comes last
        if (j == MOBA_NONE) { continue; }
        for (int u = j * BLOCK; u < min((j + 1) * BLOCK, t + 1); u++) {
            const floatX *key = p.k + row_at(p, head, u), *value = p.v + row_at(p, head, u);
            float score = 0;
            for (int d = 0; d < D; d += 8) {
                Pack8 part = load8(key + d);
                for (int e = 0; e < 8; e++) { score += q[d + e] * __bfloat162float(part.x[e]); }
            }
            // online softmax: sum and acc are relative to the largest score so far
            float top = fmaxf(max, score), shrink = expf(max - top), weight = expf(score - top);
            max = top;
            sum = sum * shrink + weight;
            for (int d = 0; d < D; d += 8) {
                Pack8 part = load8(value + d);
                for (int e = 0; e < 8; e++) { acc[d + e] = acc[d + e] * shrink + weight * __bfloat162float(part.x[e]); }
            }
        }
    }
    for (int d = 0; d < D; d++) { p.out[row_at(p, head, t) + d] = __float2bfloat16(acc[d] / sum); }
}

static void naive(const Problem* p) {
    dim3 grid(ceil_div(p->T, THREADS), p->heads);
    naive_kernel<<<grid, THREADS, 0, 0>>>(*p);
    LAUNCH_CHECK();
}

int main(int argc, char** argv) {
    Step step = {"1_naive", "a thread per query loops over its keys", 1, naive, NULL};
    return ladder_main(argc, argv, &step, 1);
}

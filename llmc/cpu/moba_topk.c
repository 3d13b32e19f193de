// Routing, reference: which past blocks a query reads.
#include "common.h"
#include "ops.h"

static float score(const floatX* q, const float* centroid, int D) {
    double sum = 0;
    #pragma omp simd reduction(+:sum)
    for (int d = 0; d < D; d++) { sum += (double)q[d] * centroid[d]; }
    return sum != sum ? -INFINITY : (float)sum;              // NaN is the worst score, not an unordered one
}

// Writes the `slots` best of `past` blocks to picked, best first, and returns how many there are.
// Blocks come in ascending order and pass only what they beat, so a tie leaves the lower index in front.
static int best_blocks(int* picked, const floatX* q, const float* centroid, int past, int slots, int D) {
    float best[MOBA_MAX_TOPK];
    int count = 0;
    for (int j = 0; j < past; j++) {
        float s = score(q, centroid + (size_t)j * D, D);
        // cppcheck-suppress uninitvar ; slots >= 1, so that a full list has its last
        if (count == slots && !(s > best[slots - 1])) { continue; }
        int at = count < slots ? count++ : slots - 1;
        for (; at > 0 && s > best[at - 1]; at--) {
            best[at] = best[at - 1];
            picked[at] = picked[at - 1];
        }
        best[at] = s;
        picked[at] = j;
    }
    return count;
}

static void sort_ascending(int* x, int n) {
    for (int i = 1; i < n; i++) {
        int value = x[i], at = i;
        for (; at > 0 && x[at - 1] > value; at--) { x[at] = x[at - 1]; }
        x[at] = value;
    }
}

void moba_topk(uint16_t* sel, const floatX* q, const float* centroid, AttnShape shape, int block, int topk, void* scratch,
               stream_t stream) {
    (void)scratch; (void)stream;
    int T = shape.T, H = shape.H, D = shape.D, n = ceil_div(T, block), slots = topk - 1;
    REQUIRE(topk >= 1 && topk <= MOBA_MAX_TOPK, "moba_topk: topk=%d is outside [1, %d]", topk, MOBA_MAX_TOPK);
    REQUIRE(n <= MOBA_NONE, "moba_topk: %d blocks do not fit in 16 bits; use longer blocks", n);
    if (slots == 0) { return; }
    #pragma omp parallel for collapse(3) schedule(dynamic, 64)
    for (int b = 0; b < shape.B; b++) {
        for (int h = 0; h < H; h++) {
            for (int t = 0; t < T; t++) {
                const float* centroids = centroid + ((size_t)b * H + h) * n * D;
                uint16_t* to = sel + (((size_t)b * H + h) * T + t) * slots;
                int picked[MOBA_MAX_TOPK];
                int count = best_blocks(picked, q + ((size_t)b * T + t) * shape.ldq + (size_t)h * D, centroids, t / block, slots, D);
                sort_ascending(picked, count);
                for (int i = 0; i < slots; i++) { to[i] = (uint16_t)(i < count ? picked[i] : MOBA_NONE); }
            }
        }
    }
}

size_t moba_topk_scratch(AttnShape shape, int block, int topk) {
    (void)shape; (void)block; (void)topk;
    return 0;
}

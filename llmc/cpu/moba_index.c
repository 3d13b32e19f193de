// From "which blocks does a query read" to "which queries read a block", reference: count, scan, stable scatter.
#include "common.h"
#include "ops.h"

static void index_head(int* offset, int* list, const uint16_t* sel, int* cursor, int T, int n, int slots) {
    size_t entries = (size_t)T * slots;
    memset(cursor, 0, n * sizeof(int));
    for (size_t e = 0; e < entries; e++) {
        if (sel[e] != MOBA_NONE) { cursor[sel[e]]++; }
    }
    offset[0] = 0;
    for (int j = 0; j < n; j++) {
        offset[j + 1] = offset[j] + cursor[j];
        cursor[j] = offset[j];
    }
    for (size_t e = 0; e < entries; e++) {                   // ascending t, so each list ascends
        if (sel[e] != MOBA_NONE) { list[cursor[sel[e]]++] = (int)(e / slots) * MOBA_MAX_TOPK + (int)(e % slots); }
    }
}

void moba_index(int* offset, int* list, const uint16_t* sel, int B, int H, int T, int block, int topk, void* scratch, stream_t stream) {
    (void)stream;
    int n = ceil_div(T, block), slots = topk - 1;
    REQUIRE(topk >= 1 && topk <= MOBA_MAX_TOPK, "moba_index: topk=%d is outside [1, %d]", topk, MOBA_MAX_TOPK);
    REQUIRE((size_t)T * slots < ((size_t)1 << 31), "moba_index: T=%d with %d slots overflows 32-bit offsets", T, slots);
    #pragma omp parallel for
    for (int bh = 0; bh < B * H; bh++) {
        size_t at = (size_t)bh * T * slots;
        index_head(offset + (size_t)bh * (n + 1), list + at, sel + at, (int*)scratch + (size_t)bh * n, T, n, slots);
    }
}

size_t moba_index_scratch(int B, int H, int T, int block, int topk) {
    (void)topk;
    return (size_t)B * H * ceil_div(T, block) * sizeof(int);
}

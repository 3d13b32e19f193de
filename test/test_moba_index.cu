#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "ref.h"
#endif

typedef struct { int *offset, *list; } Index;     // (B*H, n+1) and (B*H, T*slots) on the host

static Index index_run(const uint16_t* sel, int B, int H, int T, int block, int topk) {
    size_t offsets = (size_t)B * H * ((T + block - 1) / block + 1) * sizeof(int), entries = (size_t)B * H * T * (topk - 1);
    Index index;
#ifdef LLMC_CPU
    index.offset = (int*)malloc(offsets);
    index.list = (int*)malloc(entries * sizeof(int) + 1);
    void* scratch = malloc(moba_index_scratch(B, H, T, block, topk) + 1);
    moba_index(index.offset, index.list, sel, B, H, T, block, topk, scratch, NULL);
    free(scratch);
#else
    int *offset = (int*)device_poisoned(offsets), *list = (int*)device_poisoned(entries * sizeof(int) + 4);
    uint16_t* device_sel = (uint16_t*)device_from(sel, entries * 2 + 2);
    void* scratch = device_poisoned(moba_index_scratch(B, H, T, block, topk) + 4);
    moba_index(offset, list, device_sel, B, H, T, block, topk, scratch, NULL);
    index.offset = (int*)host_from(offset, offsets);
    index.list = (int*)host_from(list, entries * sizeof(int) + 4);
    device_free(offset); device_free(list); device_free(device_sel); device_free(scratch);
#endif
    return index;
}

// The lists hold every picked (query, slot) exactly once: each entry names a slot of sel that picked this very block, lists ascend
// (so no entry twice), and there are as many entries as picks.
static void index_check(Index index, const uint16_t* sel, int heads, int T, int block, int topk) {
    int n = (T + block - 1) / block, slots = topk - 1;
    for (int head = 0; head < heads; head++) {
        const int *offset = index.offset + (size_t)head * (n + 1), *list = index.list + (size_t)head * T * slots;
        const uint16_t* picked = sel + (size_t)head * T * slots;
        long picks = 0;
        for (size_t e = 0; e < (size_t)T * slots; e++) { picks += picked[e] != MOBA_NONE; }
        CHECK_EQ(offset[0], 0);
        CHECK_EQ(offset[n], picks);
        for (int j = 0; j < n; j++) {
            CHECK(offset[j] <= offset[j + 1] && offset[j + 1] <= picks, "head %d: block %d's list is [%d, %d)", head, j, offset[j], offset[j + 1]);
            for (int i = offset[j]; i < offset[j + 1]; i++) {
                int t = list[i] / MOBA_MAX_TOPK, slot = list[i] % MOBA_MAX_TOPK;
                CHECK(list[i] >= 0 && t < T && slot < slots && picked[(size_t)t * slots + slot] == j,
                      "head %d, block %d: entry %d is query %d slot %d", head, j, i, t, slot);
                CHECK(i == offset[j] || list[i] > list[i - 1], "head %d, block %d: entry %d is %d after %d", head, j, i, list[i], list[i - 1]);
            }
        }
    }
}

typedef enum { RANDOM_BLOCKS, FIRST_BLOCKS, RECENT_BLOCKS } Routing;

// what moba_topk would write: min(slots, past) distinct past blocks, ascending, then MOBA_NONE
static uint16_t* index_routes(int heads, int T, int block, int topk, Routing routing, uint64_t seed) {
    int slots = topk - 1;
    uint16_t* sel = (uint16_t*)malloc((size_t)heads * T * slots * 2 + 2);
    for (size_t row = 0; row < (size_t)heads * T; row++) {
        int past = (int)(row % T) / block, want = past < slots ? past : slots, from = 0;
        for (int i = 0; i < slots; i++) {
            int spare = past - from - (want - i);                        // blocks that may be skipped before this slot
            int skip = 0;
            if (routing == RECENT_BLOCKS) { skip = spare; }
            if (routing == RANDOM_BLOCKS && i < want) { skip = (int)(test_bits(&seed) % (2 * spare / (want - i) + 1)); }
            if (skip > spare) { skip = spare; }
            sel[row * slots + i] = (uint16_t)(i < want ? from + skip : MOBA_NONE);
            from += skip + 1;
        }
    }
    return sel;
}

static void index_check_shape(int B, int H, int T, int block, int topk, Routing routing) {
    uint16_t* sel = index_routes(B * H, T, block, topk, routing, (uint64_t)T);
    Index index = index_run(sel, B, H, T, block, topk);
    index_check(index, sel, B * H, T, block, topk);
    free(sel); free(index.offset); free(index.list);
}

static void index_check_shapes(void) {
    int lengths[] = {1, 63, 64, 65, 129, 1000, 2047};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (int topk = 1; topk <= MOBA_MAX_TOPK; topk += topk < 3 ? 1 : 29) {
            index_check_shape(2, 3, lengths[i], 64, topk, RANDOM_BLOCKS);
            index_check_shape(1, 2, lengths[i], 128, topk, FIRST_BLOCKS);
            index_check_shape(1, 1, lengths[i], 64, topk, RECENT_BLOCKS);
        }
    }
}

static void index_check_by_hand(void) {
    enum { T = 6, BLOCK = 2, TOPK = 3, N = 3 };
    uint16_t sel[T * 2 + 1] = {MOBA_NONE, MOBA_NONE, MOBA_NONE, MOBA_NONE, 0, MOBA_NONE, 0, MOBA_NONE, 0, 1, 1, MOBA_NONE, 0};
    Index index = index_run(sel, 1, 1, T, BLOCK, TOPK);
    int offset[N + 1] = {0, 3, 5, 5}, list[] = {2 * 32, 3 * 32, 4 * 32, 4 * 32 + 1, 5 * 32};
    for (int j = 0; j <= N; j++) { CHECK_EQ(index.offset[j], offset[j]); }
    for (int i = 0; i < offset[N]; i++) { CHECK_EQ(index.list[i], list[i]); }
    free(index.offset); free(index.list);
}

#ifdef LLMC_CPU
TEST(moba_index_by_hand)             { index_check_by_hand(); }
TEST(moba_index_lists_every_pick)    { index_check_shapes(); }
#endif

#ifndef LLMC_CPU
GPU_TEST(moba_index_kernel_by_hand)          { index_check_by_hand(); }
GPU_TEST(moba_index_kernel_lists_every_pick) { index_check_shapes(); }

GPU_TEST(moba_index_kernel_at_length) {                                  // chunks longer than their minimum, lists of all lengths
    index_check_shape(2, 2, 8191, 128, 8, RANDOM_BLOCKS);
    index_check_shape(1, 2, 65536, 64, 8, RANDOM_BLOCKS);
    index_check_shape(1, 1, 65536, 64, 2, RANDOM_BLOCKS);
    index_check_shape(1, 1, 1 << 20, 64, 8, RANDOM_BLOCKS);
    index_check_shape(1, 1, 1 << 20, 1024, 8, FIRST_BLOCKS);
}

GPU_TEST(moba_index_kernel_repeats_to_the_bit) {
    enum { B = 2, H = 3, T = 5000, BLOCK = 64, TOPK = 8, N = (T + BLOCK - 1) / BLOCK };
    uint16_t* sel = index_routes(B * H, T, BLOCK, TOPK, RANDOM_BLOCKS, 9);
    Index first = index_run(sel, B, H, T, BLOCK, TOPK);
    for (int repeat = 1; repeat <= 30; repeat++) {                        // what lies behind the lists keeps its poison, and compares too
        Index again = index_run(sel, B, H, T, BLOCK, TOPK);
        CHECK(memcmp(again.offset, first.offset, B * H * (N + 1) * sizeof(int)) == 0, "offsets differ in repeat %d", repeat);
        CHECK(memcmp(again.list, first.list, (size_t)B * H * T * (TOPK - 1) * sizeof(int)) == 0, "lists differ in repeat %d", repeat);
        free(again.offset); free(again.list);
    }
    free(sel); free(first.offset); free(first.list);
}
#endif

TEST_MAIN()

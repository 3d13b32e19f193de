// The order of swa_order.h: every block once, a tile's additions in the order in which blocks are taken.
#include "swa_order.h"
#include "test.h"

static const int ctas_of[] = {1, 2, 3, 4, 7, 64, 114, 132};
enum { CTAS = sizeof ctas_of / sizeof *ctas_of, MOST_BLOCKS = 600 };

TEST(swa_order_takes_every_block_once) {
    for (int c = 0; c < CTAS; c++) {
        for (int blocks = 1; blocks <= MOST_BLOCKS; blocks++) {
            int taken[MOST_BLOCKS] = {0};
            for (int rank = 0; rank < blocks; rank++) {
                OrderedBlock b = ordered_block(rank, blocks, ctas_of[c]);
                CHECK(b.block >= 0 && b.block < blocks, "block %d of %d", b.block, blocks);
                CHECK(b.low <= b.block && b.block <= b.high && b.high - b.low < ctas_of[c], "block %d in a group %d to %d", b.block, b.low, b.high);
                taken[b.block]++;
            }
            for (int b = 0; b < blocks; b++) { CHECK(taken[b] == 1, "block %d of %d is taken %d times by %d CTAs", b, blocks, taken[b], ctas_of[c]); }
        }
    }
}

// Counted out: when a block comes to be taken, exactly blocks_before of those that see the tile have been taken. So who waits for them waits
// for CTAs that have begun, and the sums have one order.
TEST(swa_order_adds_as_blocks_are_taken) {
    for (int c = 0; c < CTAS; c++) {
        for (int blocks = 1; blocks <= MOST_BLOCKS; blocks += blocks < 140 ? 1 : 23) {
            int added[TILES_OF_BLOCK * MOST_BLOCKS] = {0};
            for (int rank = 0; rank < blocks; rank++) {
                OrderedBlock b = ordered_block(rank, blocks, ctas_of[c]);
                for (int tile = TILES_OF_BLOCK * b.block; tile < TILES_OF_BLOCK * blocks; tile++) {
                    CHECK(blocks_before(b, tile) == added[tile], "block %d of %d adds to tile %d as number %d, with %d CTAs it is %d", b.block, blocks, tile,
                          blocks_before(b, tile), ctas_of[c], added[tile]);
                    added[tile]++;
                }
            }
        }
    }
}

TEST(swa_order_of_seven_blocks_and_three_ctas) {
    const int blocks[7] = {6, 5, 4, 1, 2, 3, 0};                 // down, up, down
    for (int rank = 0; rank < 7; rank++) { CHECK_EQ(ordered_block(rank, 7, 3).block, blocks[rank]); }
    CHECK_EQ(blocks_before(ordered_block(3, 7, 3), 2), 0);       // block 1: the only one so far that sees tile 2
    CHECK_EQ(blocks_before(ordered_block(3, 7, 3), 13), 3);      // after 6, 5, 4
    CHECK_EQ(blocks_before(ordered_block(5, 7, 3), 13), 5);      // block 3, after 6, 5, 4, 1, 2
    CHECK_EQ(blocks_before(ordered_block(6, 7, 3), 0), 0);
}

TEST_MAIN()

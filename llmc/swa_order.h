// Level 1: the order in which swa_dense.cuh goes over blocks of keys, and in which they add to dQ.
//
// Block b of `blocks` has 128 keys; the tiles of 64 queries 2b, 2b + 1, .. see them. CTAs take blocks in the order of this file; block by
// block each of them goes over its tiles from the first one on. A tile's sum of dQ is added up in the same order: the result is the same
// whoever takes which block, and a CTA only ever waits for blocks that were taken before its own.
//
// Heads follow each other; a head's blocks, from the last one down, come in groups of ORDER_GROUP, about as many as there are CTAs. Groups
// 0, 2, .. of a head go down: taken at about the same time, each block is at a tile two tiles' time after the one above it. They end one
// after another, the highest, which has the fewest tiles, first. Groups 1, 3, .. go up: the lowest, which has most tiles, starts where the
// group before it first ends, and what starts later starts as much further on. So CTAs stay near each other, and find q, dout and the sums
// that others use in the L2 cache. (In groups that go up each one waits, at its first tile, for those below it to have added there.)
#ifndef SWA_ORDER_H
#define SWA_ORDER_H

#ifdef __CUDACC__
#define ORDER_CODE static inline __host__ __device__
#else
#define ORDER_CODE static inline
#endif

enum { TILES_OF_BLOCK = 2, ORDER_GROUP = 128 };

// A block, the lowest and highest one of its group, and whether that goes up
typedef struct { int block, low, high, up; } OrderedBlock;

// the rank-th block that is taken of a head
ORDER_CODE OrderedBlock ordered_block(int rank, int blocks, int group) {
    int high = blocks - 1 - rank / group * group, low = high - group + 1, at = rank % group, up = rank / group % 2;
    if (low < 0) { low = 0; }
    OrderedBlock b = {up ? low + at : high - at, low, high, up};
    return b;
}

// how many blocks add to a tile before this one, which sees it
ORDER_CODE int blocks_before(OrderedBlock b, int tile) {
    int newest = tile / TILES_OF_BLOCK;                     // of those that see the tile
    if (!b.up) { return newest - b.block; }
    return (newest > b.high ? newest - b.high : 0) + b.block - b.low;
}

#endif

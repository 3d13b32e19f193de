// One block of keys in shared memory, and a warp that holds one query against it: the inner piece of steps 2 and 3, on CUDA cores.
#ifndef WARP_BLOCK_CUH
#define WARP_BLOCK_CUH

#include "ladder.h"

enum { WARPS = 4, THREADS = WARPS * WARP, PADDED = D + 8 };              // 8 more: lanes on consecutive rows meet different banks

struct alignas(16) BlockKeys { floatX k[BLOCK][PADDED], v[BLOCK][PADDED]; };

// all threads of the CTA; keys beyond T become zeros
__device__ inline void load_block(BlockKeys& keys, const Problem& p, int head, int j) {
    for (int i = threadIdx.x; i < BLOCK * (D / 8); i += THREADS) {
        int row = i / (D / 8), column = i % (D / 8) * 8, u = j * BLOCK + row;
        Pack8 zero = {};
        store8(&keys.k[row][column], u < p.T ? load8(p.k + row_at(p, head, u) + column) : zero);
        store8(&keys.v[row][column], u < p.T ? load8(p.v + row_at(p, head, u) + column) : zero);
    }
}

// What a query has of some keys: acc = sum of exp(score - max) v in the lane's dims 2*lane, 2*lane + 1; sum of the same weights.
struct Part { float2 acc; float max, sum; };

__device__ inline void part_open(Part& part) { part.acc = make_float2(0, 0); part.max = -INFINITY; part.sum = 0; }

__device__ inline void part_add(Part& to, const Part& from) {
    float top = fmaxf(to.max, from.max), a = __expf(to.max - top), b = __expf(from.max - top);
    to.acc.x = to.acc.x * a + from.acc.x * b;
    to.acc.y = to.acc.y * a + from.acc.y * b;
    to.sum = to.sum * a + from.sum * b;
    to.max = top;
}

// The warp's query (q in global memory) against the first `live` keys of the block, at least one. Lane l scores keys l, l + 32, l + 64, l + 96.
__device__ inline Part attend_block(const BlockKeys& keys, const floatX* q, int live, float scale) {
    const int KEYS = BLOCK / WARP, lane = threadIdx.x % WARP;
    float score[KEYS] = {};
    for (int column = 0; column < D; column += 8) {
        Pack8 query = load8(q + column);
        #pragma unroll
        for (int i = 0; i < KEYS; i++) {
            Pack8 key = load8(&keys.k[i * WARP + lane][column]);
            #pragma unroll
            for (int e = 0; e < 8; e++) { score[i] += __bfloat162float(query.x[e]) * __bfloat162float(key.x[e]); }
        }
    }
    Part part;
    part_open(part);
    #pragma unroll
    for (int i = 0; i < KEYS; i++) {
        score[i] = i * WARP + lane < live ? score[i] * scale : -INFINITY;
        part.max = fmaxf(part.max, score[i]);
    }
    part.max = warp_max(part.max);
    #pragma unroll
    for (int i = 0; i < KEYS; i++) {
        score[i] = __expf(score[i] - part.max);
        part.sum += score[i];
    }
    part.sum = warp_sum(part.sum);
    #pragma unroll
    for (int i = 0; i < KEYS; i++) {
        for (int from = 0; from < WARP; from++) {
            float weight = __shfl_sync(0xffffffffu, score[i], from);
            const floatX* value = &keys.v[i * WARP + from][2 * lane];
            part.acc.x += weight * __bfloat162float(value[0]);
            part.acc.y += weight * __bfloat162float(value[1]);
        }
    }
    return part;
}

#endif

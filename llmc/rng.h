// Level 1: random numbers as a pure function. Nothing to seed, save or restore: a value is named by (seed, stream, index),
// so that any element of any tensor can be drawn alone, in any order, on any number of ranks.
//
//   rng_normal(seed, rng_stream("layer.03.wqkv"), 17)        element 17 of that tensor's initial values
//   shuffled_index(i, rows, shuffle_key(seed, epoch))        the row at place i of that epoch
#ifndef RNG_H
#define RNG_H

#include <math.h>
#include <stdint.h>

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): ten rounds of two 32x32 -> 64 bit
// products; the low halves move on, the high halves are mixed with their neighbours and the key, which grows by a constant a round.
static inline void philox4x32(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * x0, b = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(b >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)b;
        x2 = (uint32_t)(a >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)a;
        k0 += 0x9E3779B9u;      // golden ratio
        k1 += 0xBB67AE85u;      // sqrt(3) - 1
    }
    out[0] = x0; out[1] = x1; out[2] = x2; out[3] = x3;
}

typedef struct { uint64_t a, b; } RngBits;    // 128 random bits

// the stream of a name: its 64-bit FNV-1a hash
static inline uint64_t rng_stream(const char* name) {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (; *name; name++) { hash = (hash ^ (uint8_t)*name) * 0x100000001b3ull; }
    return hash;
}

// key = seed, counter = (index, stream): distinct for distinct (stream, index)
static inline RngBits rng_bits(uint64_t seed, uint64_t stream, uint64_t index) {
    const uint32_t key[2]     = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const uint32_t counter[4] = { (uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32) };
    uint32_t word[4];
    philox4x32(word, counter, key);
    RngBits bits = { word[0] | (uint64_t)word[1] << 32, word[2] | (uint64_t)word[3] << 32 };
    return bits;
}

// In (0, 1), both ends excluded. 52 bits and a half: with 53 the largest would round to 1.
static inline double rng_unit(uint64_t bits) { return ((double)(bits >> 12) + 0.5) * (1.0 / 4503599627370496.0); }

static inline double rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) { return rng_unit(rng_bits(seed, stream, index).a); }

// standard normal: Box-Muller on both halves of one counter, the cosine branch alone, so that an element needs no neighbour
static inline double rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    RngBits bits = rng_bits(seed, stream, index);
    return sqrt(-2.0 * log(rng_unit(bits.a))) * cos(6.283185307179586476925 * rng_unit(bits.b));
}

// a bijection of 64 bits that mixes well (the finalizer of splitmix64)
static inline uint64_t rng_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline uint64_t shuffle_key(uint64_t seed, uint64_t epoch) { return rng_bits(seed, rng_stream("shuffle"), epoch).a; }

// A permutation of [0, n) for 1 <= n <= 2^63 - 1: where i goes. A Feistel network permutes [0, 4^h), the next such domain that holds n;
// a value outside [0, n) is sent through again until it lands inside ("cycle walking"), which keeps it a permutation. 4^h < 4n: under
// four passes on average. Small n use 64 values: on fewer, the network reaches too few of the n! orders equally often.
static inline int64_t shuffled_index(int64_t i, int64_t n, uint64_t key) {
    int half = 3;
    while (half < 32 && (UINT64_C(1) << (2 * half)) < (uint64_t)n) { half++; }
    const uint64_t mask = (UINT64_C(1) << half) - 1;
    uint64_t x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < 10; round++) {
            uint64_t next = left ^ (rng_mix(right ^ rng_mix(key + round)) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

#endif

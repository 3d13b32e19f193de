// What both top-k kernels do with scores: each lane's query has a sorted list in registers; scores above its threshold are marked, wait in
// shared memory, and are inserted one after another.
#ifndef MOBA_TOPK_COMMON_CUH
#define MOBA_TOPK_COMMON_CUH

#include <float.h>

#include "attn_ptx.cuh"

enum { TOPK_WARPS   = 8,
       TOPK_QUERIES = TOPK_WARPS * WARP,   // of one thread block, 32 consecutive ones a warp
       TOPK_PANEL   = 32 };                // centroids of a panel

// ---- tiles of centroids -----------------------------------------------------------------------------------------------------------
enum { TILE_ELEMENTS = 4096 };             // of one half, high or low
template<int D> __host__ __device__ constexpr int tile_rows() { return TILE_ELEMENTS / D; }

// Eight numbers of a centroid as pairs of bf16: high + low leaves at most 2^-18 of each out.
__device__ inline void split_eight(uint32_t (&high)[4], uint32_t (&low)[4], const float4* from) {
    float4 a = from[0], b = from[1];
    float value[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    #pragma unroll
    for (int e = 0; e < 4; e++) {
        float x = value[2 * e], y = value[2 * e + 1];
        high[e] = pack_bf16(x, y);
        float x_left = x - __uint_as_float(high[e] << 16), y_left = y - __uint_as_float(high[e] & 0xffff0000u);
        low[e] = pack_bf16(fabsf(x) < INFINITY ? x_left : 0.0f, fabsf(y) < INFINITY ? y_left : 0.0f);     // inf - inf would score NaN
    }
}

// Rows g, g+8, g+16, g+24 of the warp's 32 queries, from row `row` of sequence b on: lane 4g + i reads eight elements in one 16-byte load,
// chunks i, i+4, ... of the head. What the instructions call columns 2i, 2i+1, 2i+8, 2i+9 of two successive products is one lane's eight:
// a dot product does not mind the order of its terms, as long as the centroids' elements follow it.
template<int D>
__device__ inline void load_queries(uint4 (&query)[D / 32][4], const floatX* q, const AttnShape& s, int bh, int row) {
    int lane = threadIdx.x % WARP;
    #pragma unroll
    for (int r = 0; r < 4; r++) {
        size_t t = (size_t)(bh / s.H) * s.T + min(row + lane / 4 + 8 * r, s.T - 1);
        const uint4* from = reinterpret_cast<const uint4*>(q + t * s.ldq + (size_t)(bh % s.H) * D);
        #pragma unroll
        for (int p = 0; p < D / 32; p++) { query[p][r] = from[4 * p + lane % 4]; }
    }
}

// They as the left operand of a product over 16 elements, the `half` of the lane's eight: queries 16m + g and the eighth behind it.
__device__ inline void left_operand(uint32_t (&a)[4], const uint4 (&q)[4], int m, int half) {
    uint4 x = q[2 * m], y = q[2 * m + 1];
    a[0] = half ? x.z : x.x; a[1] = half ? y.z : y.x; a[2] = half ? x.w : x.y; a[3] = half ? y.w : y.y;
}

// ---- one query's list -----------------------------------------------------------------------------------------------------------
// A key is a score as an integer of the same order, its lowest bits replaced by a tag. Tags are given in rising order, so that of equal
// scores the one inserted last, the lower block, is the larger key; tag -> block is a column of a small table in shared memory, in which
// tags 2i and 2i + 1 are the halves of word i.
// One integer an entry is what makes insertion cheap: two instructions each.
template<int K> __host__ __device__ constexpr int tag_mask() { return K < 16 ? 31 : 63; }
// 56 of the 64: so the tables leave the kernel within the 99 KB of shared memory that an L40 or 4090 gives
template<int K> __host__ __device__ constexpr int tag_lowest() { return K < 16 ? 0 : 8; }
template<int K> __host__ __device__ constexpr int tag_count() { return tag_mask<K>() + 1 - tag_lowest<K>(); }

// Signed integers in the order of the floats, -0 with 0, of what is no NaN; the same, NaN with -inf; and back.
__device__ inline int ordered_number(float score) {
    int bits = __float_as_int(score + 0.0f);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}
__device__ inline int ordered(float score) { return ordered_number(fmaxf(score, -INFINITY)); }
__device__ inline float unordered(int key) { return __int_as_float(key ^ ((key >> 31) & 0x7fffffff)); }

// where in a lane's column a tag's block is
template<int K> __device__ inline int table_at(int tag) { return ((tag - tag_lowest<K>()) & ~1) * WARP + (tag & 1); }

// The K best keys of one query so far, best first. Every index is a compile-time constant after unrolling, which keeps them in registers.
template<int K>
struct Best {
    int key[K];
    int tag;          // the next insertion's, even, the same for all of a warp
};

// Below every score that enters: -FLT_MAX, the lowest float whose predecessor is -inf.
template<int K>
__device__ inline int empty_key() { return ordered(-FLT_MAX) & ~tag_mask<K>(); }

template<int K>
__device__ inline void best_clear(Best<K>& best) {
    #pragma unroll
    for (int i = 0; i < K; i++) { best.key[i] = empty_key<K>() | tag_lowest<K>(); }
    best.tag = tag_lowest<K>();
}

// Scores above `unordered` of this may enter: it is the key before those that tie with the list's last, or with `key`.
template<int K>
__device__ inline int key_below(int key) { return (key & ~tag_mask<K>()) - 1; }

// Two scores, the first one's block higher, both below all before. A score that does not enter, as -inf, changes nothing. `table` is this
// lane's column. The i-th of a list and a pair is the best of its i-th, the worse of i-1 and the pair's better, the
// worse of i-2 and the pair's worse.
template<int K>
__device__ inline void best_insert(Best<K>& best, uint16_t* table, float score_a, int block_a, float score_b, int block_b) {
    int a = (ordered_number(score_a) & ~tag_mask<K>()) | best.tag, b = (ordered_number(score_b) & ~tag_mask<K>()) | (best.tag + 1);
    int high = max(a, b), low = min(a, b);
    *reinterpret_cast<uint32_t*>(table + (best.tag - tag_lowest<K>()) * WARP) = (uint32_t)(block_a & 0xffff) | (uint32_t)block_b << 16;
    best.tag += 2;
    #pragma unroll
    for (int i = K - 1; i > 0; i--) {
        best.key[i] = __vimax3_s32(best.key[i], min(best.key[i - 1], high), i > 1 ? min(best.key[i - 2], low) : low);
    }
    best.key[0] = max(best.key[0], high);
}

// A warp's room in shared memory: panel[centroid][query], then the table.
template<int K> __host__ __device__ constexpr int room_floats(int columns) { return columns * WARP + tag_count<K>() * WARP / 2; }
__device__ inline uint16_t* table_of(float* room, int columns) { return reinterpret_cast<uint16_t*>(room + columns * WARP + threadIdx.x % WARP); }

// Tags are used up: the entries take the lowest ones, in the order of the list.
template<int K>
__device__ inline void best_renumber(Best<K>& best, uint16_t* table) {
    const int mask = tag_mask<K>(), lowest = tag_lowest<K>();
    uint16_t block[K];
    #pragma unroll
    for (int i = 0; i < K; i++) { block[i] = table[table_at<K>(best.key[i] & mask)]; }
    #pragma unroll
    for (int i = 0; i < K; i++) {
        table[table_at<K>(lowest + K - 1 - i)] = block[i];
        best.key[i] = (best.key[i] & ~mask) | (lowest + K - 1 - i);
    }
    best.tag = lowest + (K + 1) / 2 * 2;
}

// The `want` picks into block[], MOBA_NONE behind them. Only scores above -inf are in the list; what is missing are the lowest blocks
// not in it (-inf and NaN tie).
template<int K>
__device__ inline void best_blocks(int (&block)[K], const Best<K>& best, const uint16_t* table, int slots, int want) {
    int found = 0;
    #pragma unroll
    for (int i = 0; i < K; i++) {
        bool used = i < slots && (best.key[i] & ~tag_mask<K>()) != empty_key<K>();
        block[i] = used ? table[table_at<K>(best.key[i] & tag_mask<K>())] : (int)MOBA_NONE;
        found += used;
    }
    for (int j = 0; found < want; j++) {
        bool taken = false;
        #pragma unroll
        for (int i = 0; i < K; i++) { taken = taken || block[i] == j; }
        if (taken) { continue; }
        #pragma unroll
        for (int i = 0; i < K; i++) {
            if (i == found) { block[i] = j; }
        }
        found++;
    }
}

// Odd-even transposition: K rounds sort K blocks, MOBA_NONE ends last.
template<int K>
__device__ inline void sort_blocks(int (&block)[K]) {
    #pragma unroll
    for (int round = 0; round < K; round++) {
        #pragma unroll
        for (int i = round % 2; i + 1 < K; i += 2) {
            int low = min(block[i], block[i + 1]), high = max(block[i], block[i + 1]);
            block[i]     = low;
            block[i + 1] = high;
        }
    }
}

// ---- from scores to the list ------------------------------------------------------------------------------------------------------
// A warp's scores of 32 queries lie in the accumulators of two products of 16 queries: lane 4g + i has of product m, eight e of a panel,
// d[m][4e + 2h + b]: query 16m + 8h + g, centroid 8i + 2e + b of the panel. So a lane has eight neighbours of four queries, query g + 8r at
// d[r/2][2 * (r % 2) ..]; eights 4 and up are the next panel's. panel[] below has a row of 32 queries for each centroid.
template<int COUNT> __device__ inline float& score_of(float (&d)[2][COUNT], int r, int c) { return d[r / 2][c / 2 * 4 + r % 2 * 2 + c % 2]; }
__device__ inline int centroid_of(int c) { return c / 8 * TOPK_PANEL + threadIdx.x % 4 * 8 + c % 8; }

// Scores of centroids that are not in the past become -inf.
template<int COUNT>
__device__ inline void mask_scores(float (&d)[2][COUNT], int columns) {
    #pragma unroll
    for (int c = 0; c < COUNT / 2; c++) {
        bool past = centroid_of(c) < columns;
        #pragma unroll
        for (int r = 0; r < 4; r++) { score_of(d, r, c) = past ? score_of(d, r, c) : -INFINITY; }
    }
}

// Descending, by bitonic merges.
__device__ inline void sort_eight(float (&x)[8]) {
    #pragma unroll
    for (int size = 2; size <= 8; size *= 2) {
        #pragma unroll
        for (int step = size / 2; step > 0; step /= 2) {
            #pragma unroll
            for (int i = 0; i < 8; i++) {
                if ((i & step) != 0) { continue; }
                float high = fmaxf(x[i], x[i + step]), low = fminf(x[i], x[i + step]);
                bool ascends = (i & size) != 0 && size < 8;
                x[i]        = ascends ? low : high;
                x[i + step] = ascends ? high : low;
            }
        }
    }
}

// A score that at least K of this lane's query's scores reach, found without inserting any: the centroids in 16 groups, and of the groups'
// highest the eighth, or the last. Where lists are empty this keeps most scores out. top: of this lane's four groups of its queries g + 8r.
template<int K>
__device__ inline float reached_by(float* panel, const float (&top)[4][4]) {
    int lane = threadIdx.x % WARP;
    #pragma unroll
    for (int i = 0; i < 16; i++) { panel[(lane % 4 * 4 + i % 4) * WARP + lane / 4 + 8 * (i / 4)] = top[i / 4][i % 4]; }
    __syncwarp();
    float a[8], b[8], reached = INFINITY;
    #pragma unroll
    for (int i = 0; i < 8; i++) { a[i] = panel[i * WARP + lane]; b[i] = panel[(8 + i) * WARP + lane]; }
    if (K <= 8) { sort_eight(a); sort_eight(b); }
    #pragma unroll
    for (int i = 0; i < 8; i++) { reached = fminf(reached, K <= 8 ? fmaxf(a[i], b[7 - i]) : fminf(a[i], b[i])); }
    __syncwarp();                                                        // the panel is free again
    return reached;
}

// The groups' highest of one set of scores.
template<int COUNT>
__device__ inline void group_tops(float (&top)[4][4], float (&d)[2][COUNT]) {
    const int MEMBERS = COUNT / 8;
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        top[i / 4][i % 4] = score_of(d, i / 4, i % 4 * MEMBERS);
        #pragma unroll
        for (int c = 1; c < MEMBERS; c++) { top[i / 4][i % 4] = fmaxf(top[i / 4][i % 4], score_of(d, i / 4, i % 4 * MEMBERS + c)); }
    }
}

// The thresholds of this lane's four queries g + 8r; `key` is that of the lane's own.
__device__ inline void share_thresholds(float (&threshold)[4], int key) {
    float own = unordered(key);
    #pragma unroll
    for (int r = 0; r < 4; r++) { threshold[r] = __shfl_sync(0xffffffffu, own, threadIdx.x % WARP / 4 + 8 * r); }
}

// A score above its query's threshold goes to panel[centroid][query], and its bit to found[its panel]: byte r for query g + 8r, bit c % 8.
// The bits are the signs of the differences, shifted in from the right: short chains, and no predicate for each score.
template<int COUNT, int WORDS>
__device__ inline void mark_scores(unsigned (&found)[WORDS], float* panel, const float (&threshold)[4], float (&d)[2][COUNT]) {
    panel += centroid_of(0) * WARP + threadIdx.x % WARP / 4;
    #pragma unroll
    for (int w = 0; w < WORDS; w++) {
        unsigned bits[4] = {0, 0, 0, 0};
        #pragma unroll
        for (int c = 7; c >= 0; c--) {
            #pragma unroll
            for (int r = 0; r < 4; r++) { bits[r] = __funnelshift_l(__float_as_uint(threshold[r] - score_of(d, r, 8 * w + c)), bits[r], 1); }
        }
        #pragma unroll
        for (int r = 0; r < 4; r++) {
            #pragma unroll
            for (int c = 0; c < 8; c++) {
                if (bits[r] & (1u << c)) { panel[(w * TOPK_PANEL + c) * WARP + 8 * r] = score_of(d, r, 8 * w + c); }
            }
        }
        found[w] = bits[0] | bits[1] << 8 | bits[2] << 16 | bits[3] << 24;
    }
}

// What the quads found, for the lane of each query: bit c is set if the panel's centroid c scores above the threshold.
__device__ inline unsigned gather_marks(unsigned found) {
    int lane = threadIdx.x % WARP;
    unsigned marks = 0;                                                  // query g + 8r is lane 8r + g's: its bytes lie in lanes 4g .. 4g + 3
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        unsigned bytes = __shfl_sync(0xffffffffu, found, lane % 8 * 4 + i);
        marks |= (bytes >> (lane / 8 * 8) & 0xff) << (8 * i);
    }
    return marks;
}

// Takes the highest column out of the marks; its score, or -inf if there is none.
template<int WORDS>
__device__ inline float take_mark(unsigned (&marks)[WORDS], int& column, const float* score) {
    bool upper = WORDS == 2 && marks[WORDS - 1] != 0;
    unsigned word = upper ? marks[WORDS - 1] : marks[0];
    int bit = WARP - 1 - __clz((int)word);
    column = upper ? bit | TOPK_PANEL : bit;                             // or, which leaves the bit as the instruction finds it
    float taken = word != 0 ? score[column * WARP] : -INFINITY;
    word &= ~(1u << (bit & (WARP - 1)));
    if (upper) { marks[WORDS - 1] = word; } else { marks[0] = word; }
    return taken;
}

template<int WORDS> __device__ inline bool any_marks(const unsigned (&marks)[WORDS]) {
    return __any_sync(0xffffffffu, (marks[0] | marks[WORDS - 1]) != 0);
}

// One lane a query: insert the marked columns, the highest first. A warp takes as many rounds as its busiest lane has pairs of marks: 64
// columns at a time take fewer than twice 32.
template<int K, int WORDS>
__device__ inline void insert_marked(Best<K>& best, uint16_t* table, const float* panel, const unsigned (&found)[WORDS], int first_block) {
    const float* score = panel + threadIdx.x % WARP;
    if (!any_marks(found)) { return; }
    unsigned marks[WORDS];
    #pragma unroll
    for (int w = 0; w < WORDS; w++) { marks[w] = gather_marks(found[w]); }
    __syncwarp();                                                        // the scores are in the panel
    while (any_marks(marks)) {
        int a, b;
        float score_a = take_mark(marks, a, score), score_b = take_mark(marks, b, score);     // both loads under way before the insertion
        best_insert(best, table, score_a, first_block + a, score_b, first_block + b);
        if (best.tag >= tag_mask<K>()) { best_renumber(best, table); }
    }
    __syncwarp();                                                        // the panel is read
}

// What the scores of COUNT / 2 eights of centroids, of which `columns` are in the past, add to the lists.
template<int K, int COUNT>
__device__ inline void visit_scores(Best<K>& best, uint16_t* table, float* panel, float (&d)[2][COUNT], int first_block, int columns) {
    const int WORDS = COUNT / 16;
    if (columns < WORDS * TOPK_PANEL) { mask_scores(d, columns); }
    int key = best.key[K - 1];
    if (K <= 16 && __any_sync(0xffffffffu, (key & ~tag_mask<K>()) == empty_key<K>())) {
        float top[4][4];
        group_tops(top, d);
        key = max(key, ordered(reached_by<K>(panel, top)));
    }
    float threshold[4];
    share_thresholds(threshold, key_below<K>(key));
    unsigned found[WORDS];
    mark_scores(found, panel, threshold, d);
    insert_marked(best, table, panel, found, first_block);
}

// ---- the picks --------------------------------------------------------------------------------------------------------------------
// The warp's picks to sel, of `rows` queries from sel's first on; `past` blocks lie before them. Over shared memory (32 * slots), so that the
// warp writes whole lines.
template<int K>
__device__ inline void store_picks(uint16_t* sel, uint16_t* staged, const Best<K>& best, const uint16_t* table, int slots, int past, int rows) {
    int lane = threadIdx.x % WARP, picked[K];
    best_blocks(picked, best, table, slots, min(slots, past));
    sort_blocks(picked);
    #pragma unroll
    for (int i = 0; i < K; i++) {
        if (i < slots) { staged[lane * slots + i] = (uint16_t)picked[i]; }
    }
    __syncwarp();
    for (int i = lane; i < min(WARP, rows) * slots; i += WARP) { sel[i] = staged[i]; }
}

#endif

// Routing as a layer does it, centroids and top-k together, against fp64 from the same bf16 q and k': at least 99.9 % of the picked
// (query, block) pairs agree, and every pick that does not is a near-tie. Random queries of all heads, 8K and 64K tokens,
// on every path and as ATTN_AUTO chooses.
#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "attn_problem.h"
#endif
#include "attn_case.h"
#include "attn_spot.h"

enum { MAX_D = 128, MAX_SLOTS = MOBA_MAX_TOPK };

// sel of the two ops, (H, T, topk - 1); q, k: (T, H*D) as bits of bf16
static uint16_t* routing_run(const uint16_t* q, const uint16_t* k, AttnShape shape, int block, int topk) {
    size_t n = (size_t)shape.T * shape.ldq, picks = (size_t)shape.H * shape.T * (topk - 1);
    size_t centroids = (size_t)shape.H * ((shape.T + block - 1) / block) * shape.D;
#ifdef LLMC_CPU
    float *q_floats = (float*)malloc(n * sizeof(float)), *k_floats = (float*)malloc(n * sizeof(float));
    float* centroid = (float*)malloc(centroids * sizeof(float));
    uint16_t* sel = (uint16_t*)malloc(picks * sizeof(uint16_t));
    for (size_t i = 0; i < n; i++) { q_floats[i] = bf16_to_float(q[i]); k_floats[i] = bf16_to_float(k[i]); }
    moba_centroid(centroid, k_floats, shape, block, NULL);
    moba_topk(sel, q_floats, centroid, shape, block, topk, NULL, NULL);
    free(q_floats); free(k_floats); free(centroid);
#else
    floatX *q_device = (floatX*)device_from(q, n * 2), *k_device = (floatX*)device_from(k, n * 2);
    float* centroid = (float*)device_poisoned(centroids * sizeof(float));
    uint16_t* sel_device = (uint16_t*)device_malloc(picks * sizeof(uint16_t));
    moba_centroid(centroid, k_device, shape, block, NULL);
    void* scratch = device_poisoned(moba_topk_scratch(shape, block, topk) + 4);
    moba_topk(sel_device, q_device, centroid, shape, block, topk, scratch, NULL);
    uint16_t* sel = (uint16_t*)host_from(sel_device, picks * sizeof(uint16_t));
    device_free(q_device); device_free(k_device); device_free(centroid); device_free(sel_device); device_free(scratch);
#endif
    return sel;
}

// One head's blocks in fp64: means of k (n, D), and per block the 2-norms of the mean and of the mean of |k|.
typedef struct { double *mean, *norm, *norm_abs; } Blocks;

static Blocks blocks_open(const uint16_t* k, AttnShape s, int head, int block) {
    int n = (s.T + block - 1) / block, D = s.D;
    Blocks b = {(double*)calloc((size_t)n * D, sizeof(double)), (double*)calloc(n, sizeof(double)), (double*)calloc(n, sizeof(double))};
    for (int j = 0; j < n; j++) {
        double size[MAX_D] = {0}, *mean = b.mean + (size_t)j * D;
        int end = (j + 1) * block < s.T ? (j + 1) * block : s.T, count = end - j * block;
        for (int t = j * block; t < end; t++) {
            const uint16_t* row = k + (size_t)t * s.ldk + head * D;
            for (int d = 0; d < D; d++) { mean[d] += bf16_to_float(row[d]); size[d] += fabs(bf16_to_float(row[d])); }
        }
        for (int d = 0; d < D; d++) {
            mean[d] /= count;
            b.norm[j] += mean[d] * mean[d];
            b.norm_abs[j] += size[d] / count * size[d] / count;
        }
        b.norm[j] = sqrt(b.norm[j]);
        b.norm_abs[j] = sqrt(b.norm_abs[j]);
    }
    return b;
}
static void blocks_close(Blocks* b) { free(b->mean); free(b->norm); free(b->norm_abs); }

// How wrong a kernel's score of block j may be, over |q|: the mean is `block` fp32 additions in some order, each wrong by at most 2^-24 of
// the sum of |k|; of the mean 2^-18 is left out by the split into two bf16; 2D products are added in fp32, each addition wrong by 2^-23.
static double score_error(const Blocks* b, int j, int D, int block) {
    return block * ldexp(1, -24) * b->norm_abs[j] + (ldexp(1, -18) + 2 * D * ldexp(1, -23)) * b->norm[j];
}

// One query, and the `count` past blocks it should pick, best first, with their scores.
typedef struct { int t, count, block[MAX_SLOTS]; double score[MAX_SLOTS], q[MAX_D], norm; } Query;

static double routing_score(const Query* query, const Blocks* b, int j, int D) {
    double score = 0;
    for (int d = 0; d < D; d++) { score += query->q[d] * b->mean[(size_t)j * D + d]; }
    return score;
}

static Query routing_expect(const uint16_t* q, const Blocks* b, int t, int D, int block, int slots) {
    Query query;
    query.t = t;
    query.count = 0;
    query.norm = 0;
    for (int d = 0; d < D; d++) { query.q[d] = bf16_to_float(q[d]); query.norm += query.q[d] * query.q[d]; }
    query.norm = sqrt(query.norm);
    for (int j = 0; j < t / block; j++) {                                // insertion into a list kept best first; equal scores stay in order
        double score = routing_score(&query, b, j, D);
        int at = query.count < slots ? query.count++ : score > query.score[slots - 1] ? slots - 1 : slots;
        if (at == slots) { continue; }
        for (; at > 0 && score > query.score[at - 1]; at--) { query.score[at] = query.score[at - 1]; query.block[at] = query.block[at - 1]; }
        query.score[at] = score;
        query.block[at] = j;
    }
    return query;
}

// Every pick scores within a near-tie of the lowest that belongs to the top; returns how many do not belong to it.
static int routing_compare(const uint16_t* found, const Query* query, const Blocks* b, int D, int block, int slots, const char* path) {
    int differ = 0, t = query->t, count = query->count;
    for (int i = 0; i < count; i++) {
        CHECK(found[i] < t / block && (i == 0 || found[i] > found[i - 1]), "%s: query %d, slot %d: block %d", path, t, i, found[i]);
        bool agrees = false;
        for (int e = 0; e < count; e++) { agrees |= query->block[e] == found[i]; }
        if (agrees) { continue; }
        differ++;
        double score = routing_score(query, b, found[i], D), last = query->score[count - 1];
        double gap = query->norm * (score_error(b, found[i], D, block) + score_error(b, query->block[count - 1], D, block));
        CHECK(score >= last - gap, "%s: query %d: block %d scores %.9g, %.9g belongs to the top (a near-tie is %.3g)", path, t, found[i],
              score, last, gap);
    }
    for (int i = count; i < slots; i++) { CHECK(found[i] == MOBA_NONE, "%s: query %d, slot %d: block %d, expected none", path, t, i, found[i]); }
    return differ;
}

// The choice by size first (portable up to 128 blocks), then each path that is here.
static int routing_paths(AttnPath path[3]) {
    path[0] = ATTN_AUTO;
#ifdef LLMC_CPU
    return 1;
#else
    return 1 + attn_paths(path + 1);
#endif
}

static void routing_case(int T, int H, int D, int block, int topk, int samples) {
    const int C = H * D, slots = topk - 1;
    AttnShape shape = {1, T, H, D, C, C, C, C, ATTN_AUTO};
    uint16_t *q = spot_normals((size_t)T * C, 21), *k = spot_normals((size_t)T * C, 22), *sel[3];
    AttnPath path[3];
    int paths = routing_paths(path);
    for (int p = 0; p < paths; p++) {
        shape.path = path[p];
        sel[p] = routing_run(q, k, shape, block, topk);
    }
    uint64_t random = 23;
    long differ[3] = {0}, pairs = 0;
    for (int head = 0; head < H; head++) {
        Blocks b = blocks_open(k, shape, head, block);
        for (int i = 0; i < samples; i++) {
            int first = slots * block, t = i == 0 ? T - 1 : i == 1 ? first - 1 : first + (int)(test_bits(&random) % (uint64_t)(T - first));
            Query query = routing_expect(q + (size_t)t * C + head * D, &b, t, D, block, slots);
            pairs += query.count;
            for (int p = 0; p < paths; p++) {
                differ[p] += routing_compare(sel[p] + ((size_t)head * T + t) * slots, &query, &b, D, block, slots, attn_path_name(path[p]));
            }
        }
        blocks_close(&b);
    }
    for (int p = 0; p < paths; p++) {
        CHECK(differ[p] * 1000 <= pairs, "T=%d D=%d block=%d, %s: %ld of %ld pairs differ", T, D, block, attn_path_name(path[p]), differ[p], pairs);
        free(sel[p]);
    }
    free(q); free(k);
}

#ifdef LLMC_CPU
TEST(moba_routing_of_the_cpu_agrees_with_fp64) {
    routing_case(2000, 2, 64, 128, 8, 300);
    routing_case(3000, 1, 128, 512, 3, 300);
}
#endif

#ifndef LLMC_CPU
GPU_TEST(moba_routing_agrees_on_ragged_shapes) {
    routing_case(1300, 2, 64, 128, 8, 200);
    routing_case(2000, 1, 128, 512, 3, 200);
}
GPU_TEST(moba_routing_agrees_D64_8k)   { routing_case(8192, 16, 64, 128, 8, 256);   routing_case(8192, 16, 64, 512, 8, 256); }
GPU_TEST(moba_routing_agrees_D128_8k)  { routing_case(8192, 16, 128, 128, 8, 256);  routing_case(8192, 16, 128, 512, 8, 256); }
GPU_TEST(moba_routing_agrees_D64_64k)  { routing_case(65536, 16, 64, 128, 8, 256);  routing_case(65536, 16, 64, 512, 8, 256); }
GPU_TEST(moba_routing_agrees_D128_64k) { routing_case(65536, 16, 128, 128, 8, 256); routing_case(65536, 16, 128, 512, 8, 256); }
#endif

TEST_MAIN()

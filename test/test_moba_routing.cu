// Routing as a layer does it, centroids and top-k together, against fp64 from the same bf16 q and k': at least 99.9 % of the picked
// (query, block) pairs agree, and every pick that does not is a near-tie. Random queries of all heads, 8K and 64K tokens.
#include "test.h"
#ifdef LLMC_CPU
#include "ops.h"
#else
#include "ref.h"
#endif
#include "attn_case.h"
#include "moba_spot.h"

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

// One query: every pick scores within a near-tie of the lowest that belongs to the top; returns how many do not belong to it.
static int routing_compare(const uint16_t* found, const uint16_t* q, const Blocks* b, int t, int D, int block, int slots) {
    double query[MAX_D], best[MAX_SLOTS], norm = 0;
    int expected[MAX_SLOTS], count = 0, differ = 0, past = t / block;
    for (int d = 0; d < D; d++) { query[d] = bf16_to_float(q[d]); norm += query[d] * query[d]; }
    norm = sqrt(norm);
    for (int j = 0; j < past; j++) {                                     // insertion into a list kept best first; equal scores stay in order
        double score = 0;
        for (int d = 0; d < D; d++) { score += query[d] * b->mean[(size_t)j * D + d]; }
        int at = count < slots ? count++ : score > best[slots - 1] ? slots - 1 : slots;
        if (at == slots) { continue; }
        for (; at > 0 && score > best[at - 1]; at--) { best[at] = best[at - 1]; expected[at] = expected[at - 1]; }
        best[at] = score;
        expected[at] = j;
    }
    for (int i = 0; i < count; i++) {
        CHECK(found[i] < past && (i == 0 || found[i] > found[i - 1]), "query %d, slot %d: block %d", t, i, found[i]);
        bool agrees = false;
        for (int e = 0; e < count; e++) { agrees |= expected[e] == found[i]; }
        if (agrees) { continue; }
        differ++;
        double score = 0, last = best[count - 1];
        for (int d = 0; d < D; d++) { score += query[d] * b->mean[(size_t)found[i] * D + d]; }
        double gap = norm * (score_error(b, found[i], D, block) + score_error(b, expected[count - 1], D, block));
        CHECK(score >= last - gap, "query %d: block %d scores %.9g, %.9g belongs to the top (a near-tie is %.3g)", t, found[i], score, last, gap);
    }
    for (int i = count; i < slots; i++) { CHECK_EQ(found[i], MOBA_NONE); }
    return differ;
}

static void routing_case(int T, int H, int D, int block, int topk, int samples) {
    const int C = H * D, slots = topk - 1;
    AttnShape shape = {1, T, H, D, C, C, C, C, ATTN_AUTO};
    uint16_t *q = spot_normals((size_t)T * C, 21), *k = spot_normals((size_t)T * C, 22), *sel = routing_run(q, k, shape, block, topk);
    uint64_t random = 23;
    long differ = 0, pairs = 0;
    for (int head = 0; head < H; head++) {
        Blocks b = blocks_open(k, shape, head, block);
        for (int i = 0; i < samples; i++) {
            int first = slots * block, t = i == 0 ? T - 1 : i == 1 ? first - 1 : first + (int)(test_bits(&random) % (uint64_t)(T - first));
            differ += routing_compare(sel + ((size_t)head * T + t) * slots, q + (size_t)t * C + head * D, &b, t, D, block, slots);
            pairs += t / block < slots ? t / block : slots;
        }
        blocks_close(&b);
    }
    CHECK(differ * 1000 <= pairs, "T=%d D=%d block=%d: %ld of %ld pairs differ", T, D, block, differ, pairs);
    free(q); free(k); free(sel);
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

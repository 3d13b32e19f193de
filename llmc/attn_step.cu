// Generation: one new query a head against cached keys and values. Bound by the bytes of the rows it reads, so no tensor cores: the rows are
// dealt out over the device in parts, each with its own softmax, and a second kernel merges the parts by their log-sum-exp.
#include "cuda_common.cuh"
#include "ops.h"

enum { STEP_THREADS = 128,
       STEP_ROWS  = 256,            // rows of a part, more in a run too long for
       STEP_PARTS = 64,             // this many
       PICK_THREADS = 256 };

// how the run of rows is cut: a function of its length alone, so that the order of sums is
static int part_rows(int rows)  { return max_int(STEP_ROWS, ceil_div(rows, STEP_PARTS)); }
static int run_parts(int rows)  { return ceil_div(rows, part_rows(rows)); }

// ---- attention ----------------------------------------------------------------------------------------------------------

// Softmax over some rows: max, and relative to exp(max) the sum of P and of P v, 8 columns a thread.
struct Partial { float max, sum, out[8]; };

__device__ inline void add_row(Partial& p, float score, const Pack8& value) {
    float max = fmaxf(p.max, score), shrink = __expf(p.max - max), weight = __expf(score - max);
    p.max = max;
    p.sum = p.sum * shrink + weight;
    for (int i = 0; i < 8; i++) { p.out[i] = p.out[i] * shrink + weight * __bfloat162float(value.x[i]); }
}

// one thread block per (part, head); a part is one piece of the run [from, to), or after those a picked block.
// Groups of D/8 lanes take every GROUPS-th row, 8 columns a lane. part_out: (H, parts, D)   part_lse: (H, parts), -inf for a part without rows
template<int D>
__global__ void part_kernel(float* part_out, float* part_lse, const floatX* q, const floatX* k, const floatX* v, const uint16_t* sel,
                            int from, int to, int rows, int run, int block, int slots, float scale) {
    enum { LANES = D / 8, GROUPS = STEP_THREADS / LANES };
    __shared__ float group_max[GROUPS], group_sum[GROUPS], group_out[GROUPS][D];
    int part = blockIdx.x, h = blockIdx.y, ld = gridDim.y * D, group = threadIdx.x / LANES, column = threadIdx.x % LANES * 8;
    int first = from + part * rows, end = min(first + rows, to);
    if (part >= run) {
        int picked = sel[h * slots + part - run];
        first = picked * block;
        end = picked == MOBA_NONE ? first : first + block;
    }

    float query[8];
    Pack8 loaded = load8(q + h * D + column);
    for (int i = 0; i < 8; i++) { query[i] = scale * __bfloat162float(loaded.x[i]); }
    Partial p = {-INFINITY, 0, {}};
    #pragma unroll 4
    for (int base = first; base < end; base += GROUPS) {
        size_t u = min(base + group, end - 1);                      // the last rows' idle groups read one row twice
        Pack8 key = load8(k + u * ld + h * D + column), value = load8(v + u * ld + h * D + column);
        float score = 0;
        for (int i = 0; i < 8; i++) { score += query[i] * __bfloat162float(key.x[i]); }
        for (int step = LANES / 2; step > 0; step /= 2) { score += __shfl_xor_sync(0xffffffffu, score, step); }
        if (base + group < end) { add_row(p, score, value); }
    }
    if (column == 0) { group_max[group] = p.max; group_sum[group] = p.sum; }
    for (int i = 0; i < 8; i++) { group_out[group][column + i] = p.out[i]; }
    __syncthreads();

    int d = threadIdx.x;
    if (d >= D) { return; }
    float max = -INFINITY, sum = 0, out = 0;
    for (int g = 0; g < GROUPS; g++) { max = fmaxf(max, group_max[g]); }
    for (int g = 0; g < GROUPS; g++) {
        float weight = group_sum[g] == 0 ? 0 : __expf(group_max[g] - max);
        sum += weight * group_sum[g];
        out += weight * group_out[g][d];
    }
    size_t at = (size_t)h * gridDim.x + part;
    part_out[at * D + d] = sum == 0 ? 0 : out / sum;
    if (d == 0) { part_lse[at] = sum == 0 ? -INFINITY : max + logf(sum); }
}

// one thread block per head, one thread per column: the parts in ascending order
__global__ void merge_kernel(floatX* out, const float* part_out, const float* part_lse, int parts) {
    int h = blockIdx.x, d = threadIdx.x, D = blockDim.x;
    const float* lse = part_lse + (size_t)h * parts;
    float max = -INFINITY, sum = 0, total = 0;
    for (int i = 0; i < parts; i++) { max = fmaxf(max, lse[i]); }
    for (int i = 0; i < parts; i++) {
        float weight = __expf(lse[i] - max);
        sum += weight;
        total += weight * part_out[((size_t)h * parts + i) * D + d];
    }
    out[h * D + d] = __float2bfloat16(total / sum);
}

template<int D>
static void launch(floatX* out, const floatX* q, const floatX* k, const floatX* v, const uint16_t* sel, int H, int from, int to,
                   int block, int slots, float* scratch, stream_t stream) {
    int run = run_parts(to - from), parts = run + slots;
    float *part_out = scratch, *part_lse = scratch + (size_t)H * parts * D;
    part_kernel<D><<<dim3(parts, H), STEP_THREADS, 0, stream>>>(part_out, part_lse, q, k, v, sel, from, to, part_rows(to - from), run,
                                                                block, slots, 1 / sqrtf((float)D));
    LAUNCH_CHECK();
    merge_kernel<<<H, D, 0, stream>>>(out, part_out, part_lse, parts);
    LAUNCH_CHECK();
}

extern "C" void attn_step_forward(floatX* out, const floatX* q, const floatX* k, const floatX* v, const uint16_t* sel, int H, int D,
                                  int from, int to, int block, int slots, void* scratch, stream_t stream) {
    REQUIRE(from >= 0 && from < to, "attn_step_forward: the run of rows [%d, %d) is empty", from, to);
    REQUIRE(H <= 65535, "attn_step_forward: %d heads exceed the grid's 65535", H);
    switch (D) {
        case  64: launch< 64>(out, q, k, v, sel, H, from, to, block, slots, (float*)scratch, stream); break;
        case 128: launch<128>(out, q, k, v, sel, H, from, to, block, slots, (float*)scratch, stream); break;
        default:  REQUIRE(0, "attn_step_forward: head_dim=%d has no kernel (64 and 128 do)", D);
    }
}

extern "C" size_t attn_step_forward_scratch(int H, int D, int rows, int slots) {
    int parts = min_int(STEP_PARTS, ceil_div(rows, STEP_ROWS)) + slots;
    return (size_t)H * parts * (D + 1) * sizeof(float);
}

// ---- routing --------------------------------------------------------------------------------------------------------------

// one warp per (block, head), lane i owns columns i, i+32, ...      score: (H, past)
__global__ void score_kernel(float* score, const floatX* q, const float* centroid, int H, int D, int past) {
    int index = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (index >= past * H) { return; }
    int j = index / H, h = index % H;
    float sum = 0;
    for (int d = lane; d < D; d += WARP) { sum += __bfloat162float(q[h * D + d]) * centroid[(size_t)index * D + d]; }
    sum = warp_sum(sum);
    if (lane == 0) { score[(size_t)h * past + j] = isnan(sum) ? -INFINITY : sum; }
}

// Larger for a higher score, among equals for a lower index, and never 0. -0 counts as 0.
__device__ inline unsigned long long rank_of(float score, int j) {
    unsigned bits = __float_as_uint(score + 0.0f);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (unsigned long long)bits << 32 | (0xffffffffu - (unsigned)j);
}

// one thread block per head: `count` times the best block that is left; a picked block's score becomes NaN
__global__ void pick_kernel(uint16_t* sel, float* scores, int past, int slots, int count) {
    __shared__ unsigned long long warp_best[PICK_THREADS / WARP];
    __shared__ int picked[MOBA_MAX_TOPK];
    int h = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float* score = scores + (size_t)h * past;
    for (int round = 0; round < count; round++) {
        unsigned long long best = 0;
        for (int j = threadIdx.x; j < past; j += PICK_THREADS) {
            if (!isnan(score[j])) { best = max(best, rank_of(score[j], j)); }
        }
        for (int step = WARP / 2; step > 0; step /= 2) { best = max(best, __shfl_xor_sync(0xffffffffu, best, step)); }
        if (lane == 0) { warp_best[warp] = best; }
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int w = 1; w < PICK_THREADS / WARP; w++) { best = max(best, warp_best[w]); }
            picked[round] = (int)(0xffffffffu - (unsigned)best);
            score[picked[round]] = NAN;
        }
        __syncthreads();
    }
    int slot = threadIdx.x;
    if (slot >= slots) { return; }
    int place = slot, value = MOBA_NONE;
    if (slot < count) {                                             // in ascending order: as many are before it as are smaller
        value = picked[slot];
        place = 0;
        for (int i = 0; i < count; i++) { place += picked[i] < value; }
    }
    sel[h * slots + place] = (uint16_t)value;
}

extern "C" void attn_step_topk(uint16_t* sel, const floatX* q, const float* centroid, int H, int D, int past, int topk, void* scratch,
                               stream_t stream) {
    REQUIRE(topk >= 2 && topk <= MOBA_MAX_TOPK, "attn_step_topk: topk=%d is outside [2, %d]", topk, MOBA_MAX_TOPK);
    REQUIRE(past >= 0 && past <= MOBA_NONE, "attn_step_topk: %d blocks do not fit in 16 bits; use longer blocks", past);
    float* score = (float*)scratch;
    if (past > 0) {
        score_kernel<<<ceil_div(past * H, PICK_THREADS / WARP), PICK_THREADS, 0, stream>>>(score, q, centroid, H, D, past);
        LAUNCH_CHECK();
    }
    pick_kernel<<<H, PICK_THREADS, 0, stream>>>(sel, score, past, topk - 1, min_int(topk - 1, past));
    LAUNCH_CHECK();
}

extern "C" size_t attn_step_topk_scratch(int H, int past) { return (size_t)H * max_int(past, 1) * sizeof(float); }

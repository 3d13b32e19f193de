// The pieces that sliding-window, dense and MoBA attention are built from, on tensor cores of sm_80 and up: tiles of rows in shared memory,
// their products, the online softmax, and the backward of a tile. The kernels differ only in which rows they bring together.
//
// A CTA is 4 warps. A warp owns 16 rows (or 16*MT) of the tile that stays, "its rows", with the accumulators in registers; the other operand
// comes by in tiles of 64 rows. Forward and dQ: its rows are queries, keys come by. dK and dV: its rows are keys, queries come by, so that
// P^T and dS^T are at once accumulators of one product and left operands of the next.
// In comments g = lane/4 and c = lane%4: a thread holds rows g, g+8 and columns 8n + 2c, 8n + 2c + 1 of an accumulator (attn_ptx.cuh).
#ifndef ATTN_TILE_CUH
#define ATTN_TILE_CUH

#include "attn_ptx.cuh"

enum { TILE = 64, WARPS = 4, THREADS = WARPS * WARP };

#define LOG2E 1.4426950408889634f
#define LN2   0.6931471805599453f

// A query that no mask concerns, because every key is before it: in past blocks. Its window is EVERYTHING.
enum { AFTER_ALL = 1 << 30, EVERYTHING = 0x7fffffff };

// Queries of a forward CTA whose keys are many: at D = 64 a warp owns two register tiles, which share each K and V fragment;
// at D = 128 the registers allow one.
template <int D> struct Queries { static const int MT = D == 64 ? 2 : 1, ROWS = MT * 16 * WARPS; };

// CTAs a multiprocessor should hold of the kernels whose warps own 16 rows: as many as the accumulators leave registers for
template <int D> struct Resident { static const int FORWARD = D == 64 ? 4 : 2, BACKWARD = D == 64 ? 3 : 2; };

template <typename Kernel>
static inline void allow_shared(Kernel* kernel, size_t bytes) {          // more than 48 KB of dynamic shared memory has to be asked for
    CUDA_CHECK(cudaFuncSetAttribute((const void*)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

// rows of head `head` (= b*H + h) of a tensor with row stride ld
template <typename T>
__device__ inline T* head_rows(T* x, int ld, const AttnShape& s, int head) {
    return x + (size_t)(head / s.H) * s.T * ld + (size_t)(head % s.H) * s.D;
}

// ---- tiles ----------------------------------------------------------------------------------------------------------
// A tile is rows of D bf16, in chunks of 8 (16 bytes). Chunk c of row r lies where chunk c^(r%8) would, so that the 8 rows of one ldmatrix
// matrix, and the rows that one warp copies, meet all 32 banks.
template <int D> __device__ inline int tile_at(int row, int chunk) { return row * D + ((chunk ^ (row & 7)) << 3); }

// How a CTA copies tiles: a thread takes chunk chunk() of rows first(), first() + STEP, ...
template <int D, int CTA = THREADS> struct Copy {
    static const int CHUNKS = D / 8, STEP = CTA / CHUNKS;
    static __device__ inline int chunk() { return threadIdx.x % CHUNKS; }
    static __device__ inline int first() { return threadIdx.x / CHUNKS; }
};

// tile row r = matrix row first + r, zeros from row `end` on
template <int D, int ROWS, int CTA = THREADS>
__device__ inline void load_tile(floatX* tile, const floatX* matrix, int ld, int first, int end) {
    typedef Copy<D, CTA> Copy;
    #pragma unroll
    for (int i = 0; i < ROWS / Copy::STEP; i++) {
        int r = Copy::first() + i * Copy::STEP;
        bool live = first + r < end;
        cp_async_16(tile + tile_at<D>(r, Copy::chunk()), matrix + (size_t)(live ? first + r : 0) * ld + Copy::chunk() * 8, live);
    }
}

// The same with gathered rows: rows[i] is the matrix row of this thread's i-th tile row, -1 for zeros.
template <int D, int ROWS>
__device__ inline void gather_tile(floatX* tile, const floatX* matrix, int ld, const int (&rows)[ROWS / Copy<D>::STEP]) {
    #pragma unroll
    for (int i = 0; i < ROWS / Copy<D>::STEP; i++) {
        int r = Copy<D>::first() + i * Copy<D>::STEP;
        bool live = rows[i] >= 0;
        cp_async_16(tile + tile_at<D>(r, Copy<D>::chunk()), matrix + (size_t)(live ? rows[i] : 0) * ld + Copy<D>::chunk() * 8, live);
    }
}

// ---- fragments and products -----------------------------------------------------------------------------------------
// left operand: rows row..row+15, columns 16k..16k+15 of the tile
template <int D>
__device__ inline void fragment_a(uint32_t (&a)[4], const floatX* tile, int row, int k) {
    int lane = threadIdx.x % WARP;
    ldmatrix_x4(a, tile + tile_at<D>(row + lane % 16, 2 * k + lane / 16));
}

// right operand of A B^T, 16 x 16: tile rows row..row+15 are columns of the result; b[0], b[1] belong to the first 8 of them
template <int D>
__device__ inline void fragment_bt(uint32_t (&b)[4], const floatX* tile, int row, int k) {
    int lane = threadIdx.x % WARP;
    ldmatrix_x4(b, tile + tile_at<D>(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
}

// right operand of A B, 16 x 16: tile rows row..row+15 are summed over, columns 16n..16n+15; b[0], b[1] belong to the first 8 columns
template <int D>
__device__ inline void fragment_b(uint32_t (&b)[4], const floatX* tile, int row, int n) {
    int lane = threadIdx.x % WARP;
    ldmatrix_x4_trans(b, tile + tile_at<D>(row + lane % 16, 2 * n + lane / 16));
}

// the warp's rows of a tile as left operand, kept in registers
template <int D, int MT>
__device__ inline void load_fragments(uint32_t (&a)[MT][D / 16][4], const floatX* tile, int row) {
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int k = 0; k < D / 16; k++) { fragment_a<D>(a[m][k], tile, row + 16 * m, k); }
    }
}

// s += A B^T over D; A in registers, B = tile rows row .. row + 8*NT - 1
template <int D, int MT, int NT>
__device__ inline void multiply_abt(float (&s)[MT][NT][4], const uint32_t (&a)[MT][D / 16][4], const floatX* tile, int row) {
    #pragma unroll
    for (int k = 0; k < D / 16; k++) {
        #pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t b[4];
            fragment_bt<D>(b, tile, row + 8 * n, k);
            #pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_16816(s[m][n], a[m][k], b[0], b[1]);
                mma_16816(s[m][n + 1], a[m][k], b[2], b[3]);
            }
        }
    }
}

// the same with A = rows a_row .. a_row + 16*MT - 1 of a tile, where registers are short
template <int D, int MT, int NT>
__device__ inline void multiply_tiles_abt(float (&s)[MT][NT][4], const floatX* a_tile, int a_row, const floatX* b_tile, int b_row) {
    #pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[MT][4];
        #pragma unroll
        for (int m = 0; m < MT; m++) { fragment_a<D>(a[m], a_tile, a_row + 16 * m, k); }
        #pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t b[4];
            fragment_bt<D>(b, b_tile, b_row + 8 * n, k);
            #pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_16816(s[m][n], a[m], b[0], b[1]);
                mma_16816(s[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// acc += bf16(p) B with p the accumulators of an earlier product: its columns are B's rows row .. row + 8*NT - 1
template <int D, int MT, int NT>
__device__ inline void multiply_ab(float (&acc)[MT][D / 8][4], const float (&p)[MT][NT][4], const floatX* tile, int row) {
    #pragma unroll
    for (int k = 0; k < NT / 2; k++) {
        uint32_t a[MT][4];
        #pragma unroll
        for (int m = 0; m < MT; m++) {
            a[m][0] = pack_bf16(p[m][2 * k][0], p[m][2 * k][1]);
            a[m][1] = pack_bf16(p[m][2 * k][2], p[m][2 * k][3]);
            a[m][2] = pack_bf16(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
            a[m][3] = pack_bf16(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
        }
        #pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            fragment_b<D>(b, tile, row + 16 * k, n);
            #pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_16816(acc[m][2 * n], a[m], b[0], b[1]);
                mma_16816(acc[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// ---- who sees whom --------------------------------------------------------------------------------------------------
// Query t sees key u if u <= t and u > t - window. For `queries` consecutive ones from `query` and `keys` from `key`:
__device__ inline bool sees_nothing(int query, int queries, int window, int key, int keys) {
    return key > query + queries - 1 || key + keys - 1 <= query - window;
}
__device__ inline bool sees_everything(int query, int queries, int window, int key, int keys) {
    return key + keys - 1 <= query && key > query + queries - 1 - window;
}

// Scores of unseen pairs become -inf. Accumulator rows are queries from `query`, columns keys from `key`.
template <int MT, int NT>
__device__ inline void mask_queries(float (&s)[MT][NT][4], int query, int window, int key) {
    int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int n = 0; n < NT; n++) {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                int t = query + 16 * m + g + i / 2 * 8, u = key + 8 * n + 2 * c + i % 2;
                if (u > t || u <= t - window) { s[m][n][i] = -INFINITY; }
            }
        }
    }
}

// the transposed case: rows are keys, columns queries
template <int MT, int NT>
__device__ inline void mask_keys(float (&s)[MT][NT][4], int query, int window, int key) {
    int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int n = 0; n < NT; n++) {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                int u = key + 16 * m + g + i / 2 * 8, t = query + 8 * n + 2 * c + i % 2;
                if (u > t || u <= t - window) { s[m][n][i] = -INFINITY; }
            }
        }
    }
}

// ---- forward --------------------------------------------------------------------------------------------------------
// The running state of the warp's queries: acc = sum of exp(s - max) v, max of the raw scores, this thread's share of the sum of exponentials.
template <int D, int MT>
struct Attended {
    float acc[MT][D / 8][4];
    float max[MT][2], sum[MT][2];     // of rows 16m + g and 16m + g + 8
};

template <int D, int MT>
__device__ inline void attended_open(Attended<D, MT>& r) {
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        r.max[m][0] = r.max[m][1] = -INFINITY;
        r.sum[m][0] = r.sum[m][1] = 0;
        #pragma unroll
        for (int n = 0; n < D / 8; n++) { r.acc[m][n][0] = r.acc[m][n][1] = r.acc[m][n][2] = r.acc[m][n][3] = 0; }
    }
}

// Scores become P relative to the row's new maximum, the old state is brought to it. scale2 = log2(e)/sqrt(D): exponentials are powers of 2.
template <int D, int MT, int NT>
__device__ inline void online_softmax(Attended<D, MT>& r, float (&s)[MT][NT][4], float scale2) {
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = r.max[m][half];
            #pragma unroll
            for (int n = 0; n < NT; n++) { top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1])); }
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));              // the 4 threads of a row
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            float base = top == -INFINITY ? 0.0f : top * scale2;                 // a row that has seen no key yet
            float shrink = exp2_approx(r.max[m][half] * scale2 - base), sum = 0;
            #pragma unroll
            for (int n = 0; n < NT; n++) {
                #pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale2, -base));
                    sum += s[m][n][i];
                }
            }
            r.max[m][half] = top;
            r.sum[m][half] = r.sum[m][half] * shrink + sum;
            #pragma unroll
            for (int n = 0; n < D / 8; n++) { r.acc[m][n][2 * half] *= shrink; r.acc[m][n][2 * half + 1] *= shrink; }
        }
    }
}

// The keys [from, to) that a CTA walks over, with pointers to their head's row 0.
struct Keys {
    const floatX *k, *v;
    int ldk, ldv, from, to;
};

// the K tile and, behind it, the V tile of 64 keys from `key`
template <int D>
__device__ inline void load_keys(floatX* tiles, const Keys& keys, int key) {
    load_tile<D, TILE>(tiles, keys.k, keys.ldk, key, keys.to);
    load_tile<D, TILE>(tiles + TILE * D, keys.v, keys.ldv, key, keys.to);
}

// The whole walk of a CTA's queries (consecutive from position `query`, or AFTER_ALL).
// kv: room for two pairs of K and V tiles, so that the next pair loads while this one is used.
// The caller has begun the copies of q_tile and of the first pair, uncommitted.
template <int D, int MT>
__device__ inline void attend(Attended<D, MT>& r, const floatX* q_tile, floatX* kv, const Keys& keys, int query, int window, float scale2) {
    int row = threadIdx.x / WARP * 16 * MT;                                      // the warp's first
    uint32_t q[MT][D / 16][4];
    attended_open(r);
    cp_async_commit();
    for (int key = keys.from, stage = 0; key < keys.to; key += TILE, stage ^= 1) {
        floatX *here = kv + stage * 2 * TILE * D, *next = kv + (stage ^ 1) * 2 * TILE * D;
        if (key + TILE < keys.to) { load_keys<D>(next, keys, key + TILE); }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (key == keys.from) { load_fragments<D, MT>(q, q_tile, row); }
        if (!sees_nothing(query + row, 16 * MT, window, key, TILE)) {
            float s[MT][TILE / 8][4] = {};
            multiply_abt<D, MT, TILE / 8>(s, q, here, 0);
            if (!sees_everything(query + row, 16 * MT, window, key, TILE)) { mask_queries(s, query + row, window, key); }
            online_softmax(r, s, scale2);
            multiply_ab<D, MT, TILE / 8>(r.acc, s, here + TILE * D, 0);
        }
        __syncthreads();                                                         // the next round's copies land in `here`
    }
}

// Normalises acc; lse2 = log2 of the sum of exponentials. Rows that saw no key hold garbage.
template <int D, int MT>
__device__ inline void attended_close(Attended<D, MT>& r, float (&lse2)[MT][2], float scale2) {
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = r.sum[m][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            lse2[m][half] = r.max[m][half] * scale2 + log2f(sum);
            float factor = 1 / sum;
            #pragma unroll
            for (int n = 0; n < D / 8; n++) { r.acc[m][n][2 * half] *= factor; r.acc[m][n][2 * half + 1] *= factor; }
        }
    }
}

// ---- rotary positions ------------------------------------------------------------------------------------------------
// A pair (i, i + D/2) of a row has both its members in one thread. {cos, sin} of its columns 8n + 2c and the next, n < D/16, of rows g and g+8:
template <int D> struct Angles { float4 x[2][D / 16]; };

// t0, t1: positions of rows g and g + 8
template <int D>
__device__ inline void load_angles(Angles<D>& angles, const float* rope, int t0, int t1) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        const float4* from = reinterpret_cast<const float4*>(rope + (size_t)(half ? t1 : t0) * D) + threadIdx.x % 4;
        #pragma unroll
        for (int n = 0; n < D / 16; n++) { angles.x[half][n] = from[4 * n]; }
    }
}

__device__ inline void turn_pair(float& first, float& second, float cosine, float sine) {
    float x = first, y = second;
    first  = x * cosine - y * sine;
    second = x * sine + y * cosine;
}

// Accumulators of D columns turn: forward with direction 1, back with -1.
template <int D>
__device__ inline void turn(float* acc, const Angles<D>& angles, int direction) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        #pragma unroll
        for (int n = 0; n < D / 16; n++) {
            float4 angle = angles.x[half][n];
            float *first = acc + 4 * n + 2 * half, *second = first + D / 4;
            turn_pair(first[0], second[0], angle.x, direction * angle.y);
            turn_pair(first[1], second[1], angle.z, direction * angle.w);
        }
    }
}

// t: position of row g. Rows from T on do not exist and get the last one's angles.
template <int D>
__device__ inline void turn_rows_back(float* acc, const float* rope, int t, int T) {
    Angles<D> angles;
    load_angles(angles, rope, min(t, T - 1), min(t + 8, T - 1));
    turn(acc, angles, -1);
}

// ---- from accumulators to rows --------------------------------------------------------------------------------------
// Fragments make 4-byte stores; through shared memory they become 16-byte ones. A staged row is D fp32 and 8 of padding (bank conflicts).
// Each warp has its own room: stage + stage_at<D>(first row of the warp).
template <int D> __host__ __device__ inline int stage_at(int row) { return row * (D + 8); }

template <int D, int MT>
__device__ inline void stage_rows(float* stage, const float (&acc)[MT][D / 8][4], float factor) {
    int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int n = 0; n < D / 8; n++) {
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                float2 pair = make_float2(acc[m][n][2 * half] * factor, acc[m][n][2 * half + 1] * factor);
                *reinterpret_cast<float2*>(stage + stage_at<D>(16 * m + g + 8 * half) + 8 * n + 2 * c) = pair;
            }
        }
    }
    __syncwarp();
}

// eight columns of a staged row
template <int D>
__device__ inline void staged8(float (&x)[8], const float* stage, int row, int chunk) {
    const float4* from = reinterpret_cast<const float4*>(stage + stage_at<D>(row) + 8 * chunk);
    float4 low = from[0], high = from[1];
    x[0] = low.x; x[1] = low.y; x[2] = low.z; x[3] = low.w; x[4] = high.x; x[5] = high.y; x[6] = high.z; x[7] = high.w;
}

__device__ inline void store8_rounded(floatX* to, const float (&x)[8]) {
    Pack8 p;
    #pragma unroll
    for (int i = 0; i < 8; i++) { p.x[i] = __float2bfloat16(x[i]); }
    store8(to, p);
}

// the warp's `rows` staged rows to consecutive rows of a matrix, as far as they exist: to = matrix row of the first, `live` of them
template <int D>
__device__ inline void store_staged(floatX* to, int ld, const float* stage, int rows, int live) {
    for (int i = threadIdx.x % WARP; i < rows * (D / 8); i += WARP) {
        int row = i / (D / 8), chunk = i % (D / 8);
        if (row >= live) { continue; }
        float x[8];
        staged8<D>(x, stage, row, chunk);
        store8_rounded(to + (size_t)row * ld + 8 * chunk, x);
    }
}

// Lanes of a pair, `step` apart: the lower gives `high` for the upper's `low`.
__device__ inline void pair_exchange(uint32_t& low, uint32_t& high, int step) {
    bool upper = threadIdx.x & step;
    uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? low : high, step);
    if (upper) { low = other; } else { high = other; }
}

// Lane c of four holds word c of chunks 0..3 of a row in x[0..3]; afterwards words 0..3 of chunk c.
__device__ inline void quad_transpose(uint32_t (&x)[4]) {
    pair_exchange(x[0], x[1], 1);
    pair_exchange(x[2], x[3], 1);
    pair_exchange(x[0], x[2], 2);
    pair_exchange(x[1], x[3], 2);
}

// 32 columns of row g + 8*half from accumulators of four times 8 columns, times factor: the lane's 16 bytes of 64
__device__ inline uint4 row_chunk(const float* acc, int half, float factor) {
    uint32_t u[4];
    #pragma unroll
    for (int n = 0; n < 4; n++) { u[n] = pack_bf16(acc[4 * n + 2 * half] * factor, acc[4 * n + 2 * half + 1] * factor); }
    quad_transpose(u);
    return make_uint4(u[0], u[1], u[2], u[3]);
}

// ---- backward -------------------------------------------------------------------------------------------------------
__device__ inline float dot8(const Pack8& a, const Pack8& b) {
    float sum = 0;
    #pragma unroll
    for (int i = 0; i < 8; i++) { sum += __bfloat162float(a.x[i]) * __bfloat162float(b.x[i]); }
    return sum;
}

// The product of two rows, for each of the D/8 lanes that call with their eight columns
template <int D>
__device__ inline float row_dot(const floatX* a, const floatX* b) {
    float sum = dot8(load8(a), load8(b));
    #pragma unroll
    for (int step = D / 16; step > 0; step /= 2) { sum += __shfl_xor_sync(0xffffffffu, sum, step); }
    return sum;
}

// delta[head][t] = sum over d of dout * out.   D/8 lanes per query, grid (queries, heads)
template <int D>
__global__ __launch_bounds__(THREADS)
void attn_delta_kernel(float* delta, const floatX* dout, const floatX* out, AttnShape shape) {
    int t = (blockIdx.x * THREADS + threadIdx.x) / (D / 8), chunk = threadIdx.x % (D / 8), head = blockIdx.y;
    size_t at = (size_t)min(t, shape.T - 1) * shape.ldo + 8 * chunk;
    float sum = row_dot<D>(head_rows(dout, shape.ldo, shape, head) + at, head_rows(out, shape.ldo, shape, head) + at);
    if (chunk == 0 && t < shape.T) { delta[(size_t)head * shape.T + t] = sum; }
}

// One stage of the query pipeline in shared memory.
template <int D> struct QueryTile {
    floatX q[TILE * D], dout[TILE * D];
    float lse[TILE], delta[TILE];
};

// One head's tensors as the backward reads them: pointers to the head's first row, scalars per row.
struct HeadIn {
    const floatX *q, *k, *v, *dout;
    const float *lse, *delta;
    int ldq, ldk, ldv, ldo;
};

// The 64 queries from `query` on. Those from `end` on become zeros: then P = 1 meets dout = 0 and dS = 1 * (0 - 0).
template <int D>
__device__ inline void load_queries(QueryTile<D>& tile, const HeadIn& in, int query, int end) {
    load_tile<D, TILE>(tile.q, in.q, in.ldq, query, end);
    load_tile<D, TILE>(tile.dout, in.dout, in.ldo, query, end);
    int r = threadIdx.x % TILE;
    bool is_lse = threadIdx.x < TILE, live = query + r < end;
    cp_async_4((is_lse ? tile.lse : tile.delta) + r, (is_lse ? in.lse : in.delta) + (live ? query + r : 0), live);
}

// How many keys (dQ) or queries (dK, dV) are multiplied at a time: bounded by registers.
template <int D> struct Part { static const int NT = D == 64 ? 8 : 4; };

// dV += P^T dout and dK += dS^T q for the warp's 16 keys (rows `row` of the K and V tiles, position `key`) and one tile of queries.
// dK is still to be multiplied by 1/sqrt(D).
template <int D>
__device__ inline void add_queries(float (&dk)[1][D / 8][4], float (&dv)[1][D / 8][4], const floatX* k_tile, const floatX* v_tile, int row,
                                   const QueryTile<D>& tile, int query, int window, int key, float scale2) {
    const int NT = Part<D>::NT, c = threadIdx.x % 4;
    if (sees_nothing(query, TILE, window, key, 16)) { return; }
    bool masked = !sees_everything(query, TILE, window, key, 16);
    #pragma unroll 1                                       // both parts at once would spill at D = 128
    for (int part = 0; part < TILE; part += 8 * NT) {
        float p[1][NT][4] = {}, ds[1][NT][4] = {};
        multiply_tiles_abt<D, 1, NT>(p, k_tile, row, tile.q, part);
        if (masked) { mask_keys(p, query + part, window, key); }
        multiply_tiles_abt<D, 1, NT>(ds, v_tile, row, tile.dout, part);
        #pragma unroll
        for (int n = 0; n < NT; n++) {
            float2 lse = *reinterpret_cast<const float2*>(tile.lse + part + 8 * n + 2 * c);
            float2 delta = *reinterpret_cast<const float2*>(tile.delta + part + 8 * n + 2 * c);
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                p[0][n][i] = exp2_approx(fmaf(p[0][n][i], scale2, -LOG2E * (i % 2 ? lse.y : lse.x)));
                ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - (i % 2 ? delta.y : delta.x));
            }
        }
        multiply_ab<D, 1, NT>(dv, p, tile.dout, part);
        multiply_ab<D, 1, NT>(dk, ds, tile.q, part);
    }
}

// Shared memory of a dK, dV kernel.
template <int D> struct KeysShared {
    floatX k[TILE * D], v[TILE * D];
    QueryTile<D> queries[2];
};

// dK and dV of the 64 keys from `key` (rows from `key_end` on do not exist), summed over the queries [query, query_end) in order.
template <int D>
__device__ inline void accumulate_keys(float (&dk)[1][D / 8][4], float (&dv)[1][D / 8][4], KeysShared<D>& shared, const HeadIn& in,
                                       int query, int query_end, int key, int key_end, int window, float scale2) {
    int row = threadIdx.x / WARP * 16;
    load_tile<D, TILE>(shared.k, in.k, in.ldk, key, key_end);
    load_tile<D, TILE>(shared.v, in.v, in.ldv, key, key_end);
    load_queries(shared.queries[0], in, query, query_end);
    cp_async_commit();
    for (int stage = 0; query < query_end; query += TILE, stage ^= 1) {
        if (query + TILE < query_end) { load_queries(shared.queries[stage ^ 1], in, query + TILE, query_end); }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        add_queries<D>(dk, dv, shared.k, shared.v, row, shared.queries[stage], query, window, key + row, scale2);
        __syncthreads();                                   // in the end, shared memory is free for staging
    }
}

// dQ of the CTA's 64 queries, to be multiplied by 1/sqrt(D); a walk as in attend(), with dout behind q in q_tile.
// lse, delta: of this thread's rows g, g+8
template <int D>
__device__ inline void accumulate_queries(float (&dq)[1][D / 8][4], const floatX* q_tile, floatX* kv, const Keys& keys,
                                          const float (&lse)[2], const float (&delta)[2], int query, int window, float scale2) {
    const int NT = Part<D>::NT, row = threadIdx.x / WARP * 16;
    uint32_t q[1][D / 16][4], dout[1][D / 16][4];
    cp_async_commit();
    for (int key = keys.from, stage = 0; key < keys.to; key += TILE, stage ^= 1) {
        floatX *here = kv + stage * 2 * TILE * D, *next = kv + (stage ^ 1) * 2 * TILE * D;
        if (key + TILE < keys.to) { load_keys<D>(next, keys, key + TILE); }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (key == keys.from) {
            load_fragments<D, 1>(q, q_tile, row);
            load_fragments<D, 1>(dout, q_tile + TILE * D, row);
        }
        if (!sees_nothing(query + row, 16, window, key, TILE)) {
            bool masked = !sees_everything(query + row, 16, window, key, TILE);
            #pragma unroll
            for (int part = 0; part < TILE; part += 8 * NT) {
                float p[1][NT][4] = {}, ds[1][NT][4] = {};
                multiply_abt<D, 1, NT>(p, q, here, part);
                if (masked) { mask_queries(p, query + row, window, key + part); }
                multiply_abt<D, 1, NT>(ds, dout, here + TILE * D, part);
                #pragma unroll
                for (int n = 0; n < NT; n++) {
                    #pragma unroll
                    for (int i = 0; i < 4; i++) {
                        ds[0][n][i] = exp2_approx(fmaf(p[0][n][i], scale2, -LOG2E * lse[i / 2])) * (ds[0][n][i] - delta[i / 2]);
                    }
                }
                multiply_ab<D, 1, NT>(dq, ds, here, part);
            }
        }
        __syncthreads();
    }
}

#endif

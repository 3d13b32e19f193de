#include "rmsnorm_hopper.cuh"

// A row belongs to a team of threads, a warp or a block, at a time: team t of n walks rows t, t + n, ... with its weights in registers.
// A thread keeps P packs of 8 columns: pack p of lane i is at column (p * lanes + i) * 8.
enum { BLOCK_PACKS = 2, MAX_THREADS = 512, WARP_PACKS = 4, TEAMS = 4,    // TEAMS: warps of a block, where a warp is a team
       COLUMNS = 32, LINES = 32,
       FORWARD_THREADS = 132 * 1024, BACKWARD_THREADS = 132 * 512 };      // at once; constants, so that sums do not depend on the device

// blocks of TEAMS warps that a multiprocessor holds without spilling, by the packs of a lane
__host__ __device__ constexpr int blocks_at_once(int packs) { return packs == 1 ? 8 : packs == 2 ? 5 : packs == 3 ? 4 : 3; }

static int threads_for(int C) {
    REQUIRE(C % 8 == 0 && C <= 8 * BLOCK_PACKS * MAX_THREADS, "rmsnorm: C=%d is not a multiple of 8 up to %d (16-byte loads, a row in registers)",
            C, 8 * BLOCK_PACKS * MAX_THREADS);
    return (int)round_up(ceil_div(C / 8, BLOCK_PACKS), WARP);
}

template<int P> struct RowPacks { Pack8 pack[P]; };

// zeros beyond the row and beyond the last row
template<int P>
__device__ inline RowPacks<P> load_packs(const floatX* x, int i, int N, int C, int lane, int lanes) {
    RowPacks<P> r = {};
    #pragma unroll
    for (int p = 0; p < P; p++) {
        int c = (p * lanes + lane) * 8;
        if (i < N && c < C) { r.pack[p] = load8(x + (size_t)i * C + c); }
    }
    return r;
}

template<int P>
__device__ inline void load_weights(float w[P][8], const float* weight, int C, int lane, int lanes) {
    #pragma unroll
    for (int p = 0; p < P; p++) {
        int c = (p * lanes + lane) * 8;
        for (int j = 0; j < 8; j++) { w[p][j] = c < C ? weight[c + j] : 0.0f; }
    }
}

template<int P>
__device__ inline void store_packs(floatX* x, const RowPacks<P>& r, int i, int C, int lane, int lanes) {
    #pragma unroll
    for (int p = 0; p < P; p++) {
        int c = (p * lanes + lane) * 8;
        if (c < C) { store8(x + (size_t)i * C + c, r.pack[p]); }
    }
}

// a team is a block; the next row is on its way while this one is worked on
__global__ void __launch_bounds__(MAX_THREADS) rmsnorm_forward_kernel(floatX* out, float* rstd, const floatX* inp, const float* weight, int N, int C,
                                                                      float eps) {
    const int P = BLOCK_PACKS;
    int lane = threadIdx.x, lanes = blockDim.x;
    float w[P][8];
    load_weights<P>(w, weight, C, lane, lanes);
    RowPacks<P> next = load_packs<P>(inp, blockIdx.x, N, C, lane, lanes);
    for (int i = blockIdx.x; i < N; i += gridDim.x) {
        RowPacks<P> x = next;
        next = load_packs<P>(inp, i + gridDim.x, N, C, lane, lanes);
        float sumsq = 0;
        for (int p = 0; p < P; p++) {
            for (int j = 0; j < 8; j++) { sumsq += __bfloat162float(x.pack[p].x[j]) * __bfloat162float(x.pack[p].x[j]); }
        }
        float r = 1.0f / sqrtf(block_sum(sumsq) / C + eps);
        if (lane == 0) { rstd[i] = r; }
        for (int p = 0; p < P; p++) {
            for (int j = 0; j < 8; j++) { x.pack[p].x[j] = __float2bfloat16(__bfloat162float(x.pack[p].x[j]) * r * w[p][j]); }
        }
        store_packs<P>(out, x, i, C, lane, lanes);
    }
}

extern "C" void rmsnorm_forward(floatX* out, float* rstd, const floatX* inp, const float* weight, int N, int C, float eps, stream_t stream) {
    int threads = threads_for(C);
    rmsnorm_forward_kernel<<<min_int(N, FORWARD_THREADS / threads), threads, 0, stream>>>(out, rstd, inp, weight, N, C, eps);
    LAUNCH_CHECK();
}

// Beside dinp each team leaves its own sum of dweight in partial[team]. BY_WARP: a team is a warp, and nobody waits for another; with four packs
// of each operand and of dweight in registers, the weights have room in shared memory only.
template<int P, bool BY_WARP>
__global__ void __launch_bounds__(BY_WARP ? TEAMS * WARP : MAX_THREADS, BY_WARP ? blocks_at_once(P) : 1)
rmsnorm_backward_kernel(floatX* dinp, float* partial, const floatX* dout, const floatX* inp, const float* weight, const float* rstd, int N, int C,
                        int teams) {
    int lanes = BY_WARP ? WARP : blockDim.x, lane = threadIdx.x % lanes;
    int team = BY_WARP ? blockIdx.x * TEAMS + threadIdx.x / WARP : blockIdx.x;
    extern __shared__ float weights[];                                   // (lanes * P * 8), zeros beyond the row
    for (int c = threadIdx.x; c < lanes * P * 8; c += blockDim.x) { weights[c] = c < C ? weight[c] : 0.0f; }
    __syncthreads();
    if (team >= teams) { return; }
    float dw[P][8] = {};
    for (int i = team; i < N; i += teams) {
        RowPacks<P> d = load_packs<P>(dout, i, N, C, lane, lanes), x = load_packs<P>(inp, i, N, C, lane, lanes);
        RowPacks<P> total = load_packs<P>(dinp, i, N, C, lane, lanes);   // dinp so far
        float r = rstd[i], mean = 0;                                     // mean of g * inp, g = dout * weight
        #pragma unroll
        for (int p = 0; p < P; p++) {
            const float* w = weights + (p * lanes + lane) * 8;
            for (int j = 0; j < 8; j++) {
                float product = __bfloat162float(d.pack[p].x[j]) * __bfloat162float(x.pack[p].x[j]);
                mean += product * w[j];
                dw[p][j] += product * r;
            }
        }
        mean = (BY_WARP ? warp_sum(mean) : block_sum(mean)) / C;
        #pragma unroll
        for (int p = 0; p < P; p++) {
            const float* w = weights + (p * lanes + lane) * 8;
            for (int j = 0; j < 8; j++) {
                float g = __bfloat162float(d.pack[p].x[j]) * w[j], normal = __bfloat162float(x.pack[p].x[j]) * r;
                total.pack[p].x[j] = __float2bfloat16(__bfloat162float(total.pack[p].x[j]) + r * (g - normal * r * mean));
            }
        }
        store_packs<P>(dinp, total, i, C, lane, lanes);
    }
    #pragma unroll
    for (int p = 0; p < P; p++) {
        int c = (p * lanes + lane) * 8;
        for (int j = 0; j < 8 && c < C; j++) { partial[(size_t)team * C + c + j] = dw[p][j]; }
    }
}

// one block of COLUMNS x LINES threads per COLUMNS columns: line l adds partial rows l, l + LINES, ..., then the lines are added in order
__global__ void rmsnorm_dweight_kernel(float* dweight, const float* partial, int rows, int C) {
    __shared__ float lines[LINES][COLUMNS];
    int c = blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0;
    for (int i = threadIdx.y; i < rows && c < C; i += LINES) { sum += partial[(size_t)i * C + c]; }
    lines[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) { return; }
    for (int line = 1; line < LINES; line++) { sum += lines[line][threadIdx.x]; }
    dweight[c] += sum;
}

static void add_partials_to(float* dweight, const float* partial, int rows, int C, stream_t stream) {
    rmsnorm_dweight_kernel<<<ceil_div(C, COLUMNS), dim3(COLUMNS, LINES), 0, stream>>>(dweight, partial, rows, C);
    LAUNCH_CHECK();
}

// rows of at most 1024 columns go to warps
static int warp_packs(int C) { return ceil_div(C, WARP * 8); }
static int backward_teams(int N, int C) {
    int packs = warp_packs(C);
    return min_int(N, packs <= WARP_PACKS ? 132 * TEAMS * blocks_at_once(packs) : BACKWARD_THREADS / threads_for(C));
}

// scratch: one row of partial sums of dweight per team
extern "C" size_t rmsnorm_backward_scratch(int N, int C) { return (size_t)backward_teams(N, C) * C * sizeof(float); }

extern "C" void rmsnorm_backward(floatX* dinp, float* dweight, const floatX* dout, const floatX* inp, const float* weight, const float* rstd,
                                 int N, int C, void* scratch, stream_t stream) {
    float* partial = (float*)scratch;
    int threads = threads_for(C), teams = backward_teams(N, C), blocks = ceil_div(teams, TEAMS);
    #define BY_WARPS(P) \
        rmsnorm_backward_kernel<P, true><<<blocks, TEAMS * WARP, P * WARP * 8 * sizeof(float), stream>>>(dinp, partial, dout, inp, weight, rstd, N, C, teams)
    switch (warp_packs(C)) {
        case 1: BY_WARPS(1); break;
        case 2: BY_WARPS(2); break;
        case 3: BY_WARPS(3); break;
        case WARP_PACKS: BY_WARPS(WARP_PACKS); break;
        default: rmsnorm_backward_kernel<BLOCK_PACKS, false><<<teams, threads, BLOCK_PACKS * threads * 8 * sizeof(float), stream>>>(
                     dinp, partial, dout, inp, weight, rstd, N, C, teams);
    }
    #undef BY_WARPS
    LAUNCH_CHECK();
    add_partials_to(dweight, partial, teams, C, stream);
}

extern "C" size_t matmul_rmsnorm_backward_scratch(int N, int C) {
    return max_size(rmsnorm_backward_scratch(N, C), (size_t)ceil_div(N, FINISH_ROWS) * C * sizeof(float));
}

extern "C" void matmul_rmsnorm_backward(floatX* dinp, float* dweight, floatX* dnorm, const floatX* dout, const floatX* product_weight, const floatX* inp,
                                        const float* weight, const float* rstd, const float* sums, int parts, int N, int C, int OC, void* scratch,
                                        struct MatmulPlans* plans, stream_t stream) {
    REQUIRE(C % 8 == 0 && OC % 8 == 0, "matmul_rmsnorm_backward: C=%d or OC=%d is not a multiple of 8 (16-byte rows)", C, OC);
    if (parts > 0 && product_serves<NormBackward>(N, C)) {
        float* partial = (float*)scratch;
        hopper_norm_product(dinp, dout, product_weight, inp, weight, rstd, sums, parts, N, C, OC, partial, stream);
        add_partials_to(dweight, partial, ceil_div(N, FINISH_ROWS), C, stream);
        return;
    }
    matmul_backward_input(dnorm, dout, product_weight, N, C, OC, plans, stream);
    rmsnorm_backward(dinp, dweight, dnorm, inp, weight, rstd, N, C, scratch, stream);
}

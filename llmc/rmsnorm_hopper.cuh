// The product that makes a norm's gradient, with the norm's backward at its end (product_hopper.cuh): dnorm does not go to memory.
//
// A norm's backward wants, for each row, the sum over its columns of dnorm * norm, and a tile sees but 256 of them. That sum is known before:
// the product forward was out = norm w^T, the one here is dnorm = dout w, so that  sum_c dnorm_c norm_c = sum_j dout_j out_j,  both of which the
// op before had at hand (matmul_swiglu_backward leaves that sum, in parts). What is left is a row's own affair:
//   dinp += rstd * (dnorm * weight - inp * rstd * that sum / C)
#ifndef RMSNORM_HOPPER_CUH
#define RMSNORM_HOPPER_CUH

#include "product_hopper.cuh"

// 256 columns of dnorm. A warp's 32 rows make a row of partial sums of dweight.
struct NormBackward {
    static const int WIDTH = PRODUCT_COLUMNS, TRANS_B = 1;
    typedef struct {
        CUtensorMap a, b;                                                       // b: (OC, C)
        const floatX* inp;                                                      // (N, C)
        floatX* dinp;
        const float *weight, *rstd, *sums;                                      // (C), (N), (N, parts)
        float* partial;                                                         // (ceil(N/32), C)
        int N, C, parts;
    } Arguments;
    typedef struct { } Ahead;

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        fetch_half_rows(b, &x.b, column, k, rank, full);
    }

    static __device__ void look_ahead(Ahead&, const Arguments&, ProductTile) { }        // tiles are long: a panel's loads need no company

    // rstd of a row, and what of its inp goes away
    static __device__ float2 factors(const Arguments& x, int row) {
        if (row >= x.N) { return make_float2(0, 0); }
        float sum = 0, r = x.rstd[row];
        #pragma unroll 4
        for (int i = 0; i < x.parts; i++) { sum += x.sums[(size_t)row * x.parts + i]; }
        return make_float2(r, r * r * sum / x.C);
    }

    // dinp becomes the new one; products: += what a row gives to dweight
    static __device__ void turn(uint4& dinps, float (&products)[8], uint4 dnorms, uint4 inps, const float4 (&weights)[2], float2 factor) {
        float dnorm[8], inp[8], dinp[8];
        unpack8(dnorm, dnorms);
        unpack8(inp, inps);
        unpack8(dinp, dinps);
        const float weight[8] = {weights[0].x, weights[0].y, weights[0].z, weights[0].w, weights[1].x, weights[1].y, weights[1].z, weights[1].w};
        #pragma unroll
        for (int e = 0; e < 8; e++) {
            float scaled = factor.x * dnorm[e];
            products[e] += scaled * inp[e];
            dinp[e] += scaled * weight[e] - factor.y * inp[e];
        }
        dinps = pack8(dinp);
    }

    // the warp's sum for dweight: over lanes of one chunk; lanes of the first row write it
    static __device__ void put_partial(float (&products)[8], const Arguments& x, int row, int column) {
        #pragma unroll
        for (int e = 0; e < 8; e++) {
            for (int step = ROW_CHUNKS; step < WARP; step *= 2) { products[e] += __shfl_xor_sync(0xffffffffu, products[e], step); }
        }
        if (lane_row() > 0 || row >= x.N || column >= x.C) { return; }
        float4* to = reinterpret_cast<float4*>(x.partial + (size_t)(row / FINISH_ROWS) * x.C + column);
        to[0] = make_float4(products[0], products[1], products[2], products[3]);
        to[1] = make_float4(products[4], products[5], products[6], products[7]);
    }

    static __device__ void finish(Ahead&, const floatX* corners, const Arguments& x, ProductTile at, ProductTile) {
        const int HALF = FINISH_ROWS / 2, TURNS = FINISH_TURNS / 2;             // rows whose loads are on their way together
        float2 mine = factors(x, at.row + threadIdx.x % WARP);                  // of the lane-th of the 32 rows
        for (int column = at.column + 8 * lane_chunk(), panel = 0; panel < PRODUCT_PANELS; panel++, column += PANEL) {
            float4 weight[2] = {};
            float products[8] = {0};
            if (column < x.C) { for (int half = 0; half < 2; half++) { weight[half] = reinterpret_cast<const float4*>(x.weight + column)[half]; } }
            for (int within = lane_row(); within < FINISH_ROWS; within += HALF) {
                uint4 inp[TURNS], dinp[TURNS];
                size_t first = (size_t)(at.row + within) * x.C + column, step = (size_t)ROWS_AT_ONCE * x.C;
                int live = column < x.C ? x.N - at.row - within : 0;            // rows from this one on that are there
                #pragma unroll
                for (int i = 0; i < TURNS; i++) {
                    inp[i] = load_16(x.inp + first + i * step, i * ROWS_AT_ONCE < live);
                    dinp[i] = load_16(x.dinp + first + i * step, i * ROWS_AT_ONCE < live);
                }
                #pragma unroll
                for (int i = 0; i < TURNS; i++) {
                    int row = within + i * ROWS_AT_ONCE;
                    float2 factor = {__shfl_sync(0xffffffffu, mine.x, row), __shfl_sync(0xffffffffu, mine.y, row)};
                    turn(dinp[i], products, corner_chunk(corners, panel, row, lane_chunk()), inp[i], weight, factor);
                    if (i * ROWS_AT_ONCE < live) { store_16(x.dinp + first + i * step, dinp[i]); }
                }
            }
            put_partial(products, x, at.row, column);
        }
    }
};

static void hopper_norm_product(floatX* dinp, const floatX* dout, const floatX* product_weight, const floatX* inp, const float* weight, const float* rstd,
                                const float* sums, int parts, int N, int C, int OC, float* partial, stream_t stream) {
    NormBackward::Arguments x = {rows_map(dout, 1, N, OC, OC, PRODUCT_ROWS), rows_map(product_weight, 1, OC, C, C, PANEL),
                                 inp, dinp, weight, rstd, sums, partial, N, C, parts};
    product_launch<NormBackward>(x, N, C, OC, stream);
}

#endif

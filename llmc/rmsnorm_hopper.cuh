// The product that makes a norm's gradient, with the norm's backward at its end (product_hopper.cuh): dnorm does not go to memory.
//
// A norm's backward wants, for each row, the sum over its columns of dnorm * norm, and a tile sees but 256 of them. That sum is known before:
// the product forward was out = norm w^T, the one here is dnorm = dout w, so that  sum_c dnorm_c norm_c = sum_j dout_j out_j  (but for out's
// rounding), both of which the op before had at hand (matmul_swiglu_backward leaves that sum, in parts). What is left is a row's own affair:
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

    typedef struct { float rstd, inp; } Factors;                                // of a row: dinp += rstd * dnorm * weight - inp * its inp

    static __device__ Factors factors(const Arguments& x, int row) {
        Factors factor = {0, 0};
        if (row >= x.N) { return factor; }
        float sum = 0;
        factor.rstd = x.rstd[row];
        #pragma unroll 4
        for (int i = 0; i < x.parts; i++) { sum += x.sums[(size_t)row * x.parts + i]; }
        factor.inp = factor.rstd * factor.rstd * sum / x.C;
        return factor;
    }

    // dinp becomes the new one; products: += what a row gives to dweight
    static __device__ void add_gradient(uint4& dinps, float (&products)[8], uint4 dnorms, uint4 inps, const float4 (&weights)[2], Factors factor) {
        float dnorm[8], inp[8], dinp[8];
        floats8(dnorm, dnorms);
        floats8(inp, inps);
        floats8(dinp, dinps);
        const float weight[8] = {weights[0].x, weights[0].y, weights[0].z, weights[0].w, weights[1].x, weights[1].y, weights[1].z, weights[1].w};
        #pragma unroll
        for (int e = 0; e < 8; e++) {
            float scaled = factor.rstd * dnorm[e];
            products[e] += scaled * inp[e];
            dinp[e] += scaled * weight[e] - factor.inp * inp[e];
        }
        dinps = round8(dinp);
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
        const int HALF = FINISH_ROWS / 2, ROUNDS = FINISH_ROUNDS / 2;             // rows whose loads are on their way together
        Factors mine = factors(x, at.row + threadIdx.x % WARP);                  // of the lane-th of the 32 rows
        for (int column = at.column + 8 * lane_chunk(), panel = 0; panel < PRODUCT_PANELS; panel++, column += PANEL) {
            float4 weight[2] = {};
            float products[8] = {0};
            if (column < x.C) { for (int half = 0; half < 2; half++) { weight[half] = reinterpret_cast<const float4*>(x.weight + column)[half]; } }
            for (int within = lane_row(); within < FINISH_ROWS; within += HALF) {
                uint4 inp[ROUNDS], dinp[ROUNDS];
                size_t first = (size_t)(at.row + within) * x.C + column, step = (size_t)ROWS_AT_ONCE * x.C;
                int live = column < x.C ? x.N - at.row - within : 0;            // rows from this one on that are there
                #pragma unroll
                for (int i = 0; i < ROUNDS; i++) {
                    inp[i] = load_16(x.inp + first + i * step, i * ROWS_AT_ONCE < live);
                    dinp[i] = load_16(x.dinp + first + i * step, i * ROWS_AT_ONCE < live);
                }
                #pragma unroll
                for (int i = 0; i < ROUNDS; i++) {
                    int row = within + i * ROWS_AT_ONCE;
                    Factors factor = {__shfl_sync(0xffffffffu, mine.rstd, row), __shfl_sync(0xffffffffu, mine.inp, row)};
                    add_gradient(dinp[i], products, corner_chunk(corners, panel, row, lane_chunk()), inp[i], weight, factor);
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

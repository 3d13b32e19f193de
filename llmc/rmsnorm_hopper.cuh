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
    typedef struct { uint4 inp[FINISH_TURNS], dinp[FINISH_TURNS]; } Ahead;      // a panel of both

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        fetch_half_rows(b, &x.b, column, k, rank, full);
    }

    static __device__ void ask(Ahead& ahead, int i, const Arguments& x, int row, int column) {
        bool live = row < x.N && column < x.C;
        size_t at = (size_t)row * x.C + column;
        ahead.inp[i] = load_16(x.inp + at, live);
        ahead.dinp[i] = load_16(x.dinp + at, live);
    }

    static __device__ void look_ahead(Ahead& ahead, const Arguments& x, ProductTile at) {
        #pragma unroll
        for (int i = 0; i < FINISH_TURNS; i++) { ask(ahead, i, x, at.row + i * ROWS_AT_ONCE + lane_row(), at.column + 8 * lane_chunk()); }
    }

    // rstd of a row, and what of its inp goes away
    static __device__ float2 factors(const Arguments& x, int row) {
        if (row >= x.N) { return make_float2(0, 0); }
        float sum = 0, r = x.rstd[row];
        #pragma unroll 4
        for (int i = 0; i < x.parts; i++) { sum += x.sums[(size_t)row * x.parts + i]; }
        return make_float2(r, r * r * sum / x.C);
    }

    // dinp becomes the new one; products: += what a row gives to dweight
    static __device__ void turn(uint4& dinps, float (&products)[8], uint4 dnorms, uint4 inps, const float (&weight)[8], float2 factor) {
        float dnorm[8], inp[8], dinp[8];
        unpack8(dnorm, dnorms);
        unpack8(inp, inps);
        unpack8(dinp, dinps);
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

    static __device__ void finish(Ahead& ahead, const floatX* corners, const Arguments& x, ProductTile at, ProductTile next) {
        float2 mine = factors(x, at.row + threadIdx.x % WARP);                  // of the lane-th of the 32 rows
        for (int panel = 0; panel < PRODUCT_PANELS; panel++) {
            bool last = panel == PRODUCT_PANELS - 1;
            int column = at.column + panel * PANEL + 8 * lane_chunk(), later_column = last ? next.column + 8 * lane_chunk() : column + PANEL;
            float weight[8], products[8] = {0};
            #pragma unroll
            for (int e = 0; e < 8; e++) { weight[e] = column < x.C ? x.weight[column + e] : 0; }
            #pragma unroll
            for (int i = 0; i < FINISH_TURNS; i++) {
                int within = i * ROWS_AT_ONCE + lane_row(), row = at.row + within;
                float2 factor = {__shfl_sync(0xffffffffu, mine.x, within), __shfl_sync(0xffffffffu, mine.y, within)};
                turn(ahead.dinp[i], products, corner_chunk(corners, panel, within, lane_chunk()), ahead.inp[i], weight, factor);
                if (row < x.N && column < x.C) { store_16(x.dinp + (size_t)row * x.C + column, ahead.dinp[i]); }
                ask(ahead, i, x, (last ? next.row : at.row) + within, later_column);
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

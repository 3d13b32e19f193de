// The product that makes q, k and v, with the turn of q and k at its end (product_hopper.cuh): a lane takes the columns i and i + D/2 of a head.
#ifndef ROPE_HOPPER_CUH
#define ROPE_HOPPER_CUH

#include "product_hopper.cuh"

template <int D> struct RopeProduct {
    static const int WIDTH = PRODUCT_COLUMNS, TRANS_B = 0, HALF = D / 16;       // chunks of half a head
    typedef struct { CUtensorMap a, b; const float* table; floatX* out; int N, T, OC, turned; } Arguments;     // b: weight (OC, C); columns below `turned` turn
    typedef struct { } Ahead;

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        const int ROWS = WIDTH / 2;
        tma_load_to(BOTH, b + rank * ROWS * PANEL, &x.b, k, column + rank * ROWS, 0, full);
    }

    static __device__ void look_ahead(Ahead&, const Arguments&, ProductTile) { }

    // angles: {cos, sin} of eight pairs
    static __device__ void turn(uint4& firsts, uint4& seconds, const float4 (&angles)[4]) {
        float first[8], second[8];
        floats8(first, firsts);
        floats8(second, seconds);
        #pragma unroll
        for (int n = 0; n < 4; n++) {
            turn_pair(first[2 * n], second[2 * n], angles[n].x, angles[n].y);
            turn_pair(first[2 * n + 1], second[2 * n + 1], angles[n].z, angles[n].w);
        }
        firsts = round8(first);
        seconds = round8(second);
    }

    static __device__ void finish(Ahead&, const floatX* corners, const Arguments& x, ProductTile at, ProductTile) {
        const int ROWS = WARP / HALF;                                           // at once; D 64: eight lanes have rows r and r + 4, whose banks differ
        int lane = threadIdx.x % WARP, chunk = lane % HALF, first_row = HALF < ROW_CHUNKS ? lane / 8 + lane / 4 % 2 * 4 : lane / 8;
        #pragma unroll 2
        for (int within = first_row; within < FINISH_ROWS; within += ROWS) {
            int row = at.row + within;
            float4 angles[4];
            #pragma unroll
            for (int n = 0; n < 4; n++) { angles[n] = reinterpret_cast<const float4*>(x.table + (size_t)(row % x.T) * D)[4 * chunk + n]; }
            #pragma unroll
            for (int head = 0; head < WIDTH / D; head++) {
                const int first = head * (D / 8), second = first + HALF;        // their first chunks
                int column = at.column + head * D + 8 * chunk;
                uint4 a = corner_chunk(corners, first / ROW_CHUNKS, within, first % ROW_CHUNKS + chunk);
                uint4 b = corner_chunk(corners, second / ROW_CHUNKS, within, second % ROW_CHUNKS + chunk);
                if (at.column + head * D < x.turned) { turn(a, b, angles); }
                if (row >= x.N) { continue; }
                floatX* to = x.out + (size_t)row * x.OC + column;
                if (column < x.OC)         { store_16(to, a); }
                if (column + D / 2 < x.OC) { store_16(to + D / 2, b); }
            }
        }
    }
};

template <int D>
static void hopper_rope_product(floatX* out, const floatX* inp, const floatX* weight, const float* table, int N, int T, int heads, int C, int OC,
                                stream_t stream) {
    typename RopeProduct<D>::Arguments x = {rows_map(inp, 1, N, C, C, PRODUCT_ROWS), rows_map(weight, 1, OC, C, C, PRODUCT_COLUMNS / 2),
                                            table, out, N, T, OC, heads * D};
    product_launch<RopeProduct<D>>(x, N, OC, C, stream);
}

#endif

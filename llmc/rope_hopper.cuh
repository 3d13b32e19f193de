// The product that makes q, k and v, with the turn of q and k as its epilogue (product_hopper.cuh): a pair of columns i, i + D/2 of a head is
// in one thread's accumulators.
#ifndef ROPE_HOPPER_CUH
#define ROPE_HOPPER_CUH

#include "product_hopper.cuh"

template <int D> struct RopeProduct {
    static const int STEPS = 4, WIDTH = PRODUCT_COLUMNS, TRANS_B = 0;
    typedef floatX Corner[2][CORNER];
    typedef struct { CUtensorMap a, b, out; const float* table; int T, turned; } Arguments;      // b: weight (OC, C); columns below `turned` turn

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        const int HALF = WIDTH / 2;
        tma_load_to(BOTH, b + rank * HALF * PANEL, &x.b, k, column + rank * HALF, 0, full);
    }

    static __device__ void prologue(Corner&, uint64_t (&)[2], const Arguments&, int, int) { }

    static __device__ void epilogue(Corner& corner, uint64_t (&)[2], float (&d)[128], const Arguments& x, int row, int column) {
        if (column < x.turned) {
            Angles<D> angles;
            int g = row + threadIdx.x % WARP / 4;
            load_angles(angles, x.table, g % x.T, (g + 8) % x.T);
            #pragma unroll
            for (int head = 0; head < WIDTH / D; head++) {
                if (column + head * D < x.turned) { turn(d + head * (D / 2), angles, 1); }
            }
        }
        #pragma unroll
        for (int panel = 0; panel < WIDTH / PANEL; panel++) {
            uint32_t words[16];
            #pragma unroll
            for (int i = 0; i < 16; i++) { words[i] = pack_bf16(d[32 * panel + 2 * i], d[32 * panel + 2 * i + 1]); }
            put_panel(corner[panel % 2], words, &x.out, row, column + panel * PANEL);
        }
    }
};

template <int D>
static void hopper_rope_product(floatX* out, const floatX* inp, const floatX* weight, const float* table, int N, int T, int heads, int C, int OC,
                                stream_t stream) {
    typename RopeProduct<D>::Arguments x = {rows_map(inp, 1, N, C, C, PRODUCT_ROWS), rows_map(weight, 1, OC, C, C, PRODUCT_COLUMNS / 2),
                                            rows_map(out, 1, N, OC, OC, CORNER_ROWS), table, T, heads * D};
    product_launch<RopeProduct<D>>(x, N, OC, C, stream);
}

#endif

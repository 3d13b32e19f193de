// The two products of the MLP beside SwiGLU, with SwiGLU at their end (product_hopper.cuh):
//
//   forward    gate, up = inp w13^T   (gate: F columns, up: F columns)          -> gate_up and out = silu(gate) * up
//   backward   dproduct = dout w2                                                -> dgate_up, from gate_up, which may be the same memory,
//              and parts of each row's sum of dgate_up * gate_up, for rmsnorm_hopper.cuh
#ifndef SWIGLU_HOPPER_CUH
#define SWIGLU_HOPPER_CUH

#include "product_hopper.cuh"
#include "swiglu_math.cuh"

// 128 columns of gate beside the same 128 of up
struct SwigluForward {
    static const int WIDTH = PRODUCT_COLUMNS / 2, TRANS_B = 0;
    typedef struct { CUtensorMap a, b; floatX *gate_up, *out; int N, F; } Arguments;        // b: w13 as (2, F, C)
    typedef struct { } Ahead;

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        tma_load_to(BOTH, b + rank * WIDTH * PANEL, &x.b, k, column, rank, full);           // rows of w1 (gate) or of w3 (up)
    }

    static __device__ void look_ahead(Ahead&, const Arguments&, ProductTile) { }

    static __device__ void finish(Ahead&, const floatX* corners, const Arguments& x, ProductTile at, ProductTile) {
        for (int half = 0; half < WIDTH / PANEL; half++) {
            int column = at.column + half * PANEL + 8 * lane_chunk();
            #pragma unroll
            for (int i = 0; i < FINISH_ROUNDS; i++) {
                int within = i * ROWS_AT_ONCE + lane_row(), row = at.row + within;
                uint4 gates = corner_chunk(corners, half, within, lane_chunk()), ups = corner_chunk(corners, WIDTH / PANEL + half, within, lane_chunk());
                float gate[8], up[8];
                floats8(gate, gates);
                floats8(up, ups);
                #pragma unroll
                for (int e = 0; e < 8; e++) { gate[e] = swiglu(gate[e], up[e]); }
                if (row >= x.N || column >= x.F) { continue; }
                floatX* to = x.gate_up + (size_t)row * 2 * x.F + column;
                store_16(to, gates);
                store_16(to + x.F, ups);
                store_16(x.out + (size_t)row * x.F + column, round8(gate));
            }
        }
    }
};

// 256 columns of dproduct
struct SwigluBackward {
    static const int WIDTH = PRODUCT_COLUMNS, TRANS_B = 1;
    typedef struct { CUtensorMap a, b; const floatX* gate_up; floatX* dgate_up; float* sums; int N, F, parts; } Arguments;  // b: w2 (C, F)
    typedef struct { uint4 gate[FINISH_ROUNDS], up[FINISH_ROUNDS]; } Ahead;       // of a panel, one half on its way while the other is worked on

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        fetch_half_rows(b, &x.b, column, k, rank, full);
    }

    // the panel at (row, column), rounds from `first` on to half of all
    static __device__ void ask(Ahead& ahead, int first, const Arguments& x, int row, int column) {
        column += 8 * lane_chunk();
        #pragma unroll
        for (int i = first; i < first + FINISH_ROUNDS / 2; i++) {
            int mine = row + i * ROWS_AT_ONCE + lane_row();
            const floatX* from = x.gate_up + (size_t)mine * 2 * x.F + column;
            bool live = mine < x.N && column < x.F;
            ahead.gate[i] = load_16(from, live);
            ahead.up[i] = load_16(from + x.F, live);
        }
    }

    static __device__ void look_ahead(Ahead& ahead, const Arguments& x, ProductTile at) { ask(ahead, 0, x, at.row, at.column); }

    // gate and up become their gradients; the return value: this lane's part of the sum of their products, of what is stored
    static __device__ float gradients(uint4 dproduct, uint4& gates, uint4& ups) {
        float d[8], gate[8], up[8], sum = 0;
        floats8(d, dproduct);
        floats8(gate, gates);
        floats8(up, ups);
        float dgate[8], dup[8];
        #pragma unroll
        for (int e = 0; e < 8; e++) {
            SwigluGradient gradient = swiglu_gradient(d[e], gate[e], up[e]);
            dgate[e] = gradient.gate;
            dup[e] = gradient.up;
        }
        gates = round8(dgate);
        ups = round8(dup);
        floats8(dgate, gates);
        floats8(dup, ups);
        #pragma unroll
        for (int e = 0; e < 8; e++) { sum += dgate[e] * gate[e] + dup[e] * up[e]; }
        return sum;
    }

    static __device__ void finish(Ahead& ahead, const floatX* corners, const Arguments& x, ProductTile at, ProductTile next) {
        float sums[FINISH_ROUNDS] = {0};
        for (int panel = 0; panel < PRODUCT_PANELS; panel++) {
            ProductTile here = {at.row, at.column + panel * PANEL}, later = {at.row, here.column + PANEL};
            if (panel == PRODUCT_PANELS - 1) { later = next; }
            int column = here.column + 8 * lane_chunk();
            #pragma unroll
            for (int i = 0; i < FINISH_ROUNDS; i++) {
                if (i == 0) { ask(ahead, FINISH_ROUNDS / 2, x, here.row, here.column); }
                if (i == FINISH_ROUNDS / 2) { ask(ahead, 0, x, later.row, later.column); }
                int within = i * ROWS_AT_ONCE + lane_row(), row = at.row + within;
                sums[i] += gradients(corner_chunk(corners, panel, within, lane_chunk()), ahead.gate[i], ahead.up[i]);
                if (row < x.N && column < x.F) {
                    floatX* to = x.dgate_up + (size_t)row * 2 * x.F + column;
                    store_16(to, ahead.gate[i]);
                    store_16(to + x.F, ahead.up[i]);
                }
            }
        }
        #pragma unroll
        for (int i = 0; i < FINISH_ROUNDS; i++) {
            int row = at.row + i * ROWS_AT_ONCE + lane_row();
            for (int step = 1; step < ROW_CHUNKS; step *= 2) { sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], step); }
            if (lane_chunk() == 0 && row < x.N) { x.sums[(size_t)row * x.parts + at.column / WIDTH] = sums[i]; }
        }
    }
};

static void hopper_swiglu_forward(floatX* out, floatX* gate_up, const floatX* inp, const floatX* weight, int N, int C, int F, stream_t stream) {
    SwigluForward::Arguments x = {rows_map(inp, 1, N, C, C, PRODUCT_ROWS), rows_map(weight, 2, F, C, C, SwigluForward::WIDTH), gate_up, out, N, F};
    product_launch<SwigluForward>(x, N, F, C, stream);
}

static void hopper_swiglu_backward(floatX* dgate_up, float* sums, const floatX* dout, const floatX* weight, const floatX* gate_up, int N, int F, int OC,
                                   stream_t stream) {
    SwigluBackward::Arguments x = {rows_map(dout, 1, N, OC, OC, PRODUCT_ROWS), rows_map(weight, 1, OC, F, F, PANEL),
                                   gate_up, dgate_up, sums, N, F, ceil_div(F, SwigluBackward::WIDTH)};
    product_launch<SwigluBackward>(x, N, F, OC, stream);
}

#endif

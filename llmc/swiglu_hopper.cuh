// The two products of the MLP beside SwiGLU, with SwiGLU as their epilogue (product_hopper.cuh).
//
//   forward    gate, up = inp w13^T   (two columns of F from one row of inp)     -> gate_up and out = silu(gate) * up
//   backward   dproduct = dout w2     (stays in registers, fp32)                 -> dgate_up, from gate_up, which may be the same memory,
//              and parts of each row's sum of dgate_up * gate_up, for rmsnorm_hopper.cuh
#ifndef SWIGLU_HOPPER_CUH
#define SWIGLU_HOPPER_CUH

#include "product_hopper.cuh"
#include "swiglu_math.cuh"

// 128 columns of gate beside the same 128 of up
struct SwigluForward {
    static const int STEPS = 4, WIDTH = PRODUCT_COLUMNS / 2, TRANS_B = 0;
    typedef floatX Corner[2][CORNER];
    typedef struct { CUtensorMap a, b, gate, up, out; } Arguments;              // b: w13 as (2, F, C)

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        tma_load_to(BOTH, b + rank * WIDTH * PANEL, &x.b, k, column, rank, full);           // rows of w1 (gate) or of w3 (up)
    }

    static __device__ void prologue(Corner&, uint64_t (&)[2], const Arguments&, int, int) { }

    static __device__ void epilogue(Corner& corner, uint64_t (&)[2], float (&d)[128], const Arguments& x, int row, int column) {
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t gate[16], up[16], out[16];
            #pragma unroll
            for (int i = 0; i < 16; i++) {
                gate[i] = pack_bf16(d[32 * half + 2 * i], d[32 * half + 2 * i + 1]);
                up[i] = pack_bf16(d[64 + 32 * half + 2 * i], d[64 + 32 * half + 2 * i + 1]);
                out[i] = pack_bf16(swiglu(low_half(gate[i]), low_half(up[i])), swiglu(high_half(gate[i]), high_half(up[i])));
            }
            put_panel(corner[half], gate, &x.gate, row, column + half * PANEL);             // slots 0 1 0, 1 0 1
            put_panel(corner[half ^ 1], up, &x.up, row, column + half * PANEL);
            put_panel(corner[half], out, &x.out, row, column + half * PANEL);
        }
    }
};

// 256 columns of dproduct; gate and up come to the corner, panel by panel, and leave as their gradients
struct SwigluBackward {
    static const int STEPS = 3, WIDTH = PRODUCT_COLUMNS, TRANS_B = 1;
    typedef floatX Slot[2][CORNER];                                             // gate, up
    typedef Slot Corner[2];
    typedef struct { CUtensorMap a, b, gate, up, dgate, dup; float* sums; int N, parts; } Arguments;       // b: w2 (C, F); sums: (N, parts)

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        fetch_half_rows(b, &x.b, column, k, rank, full);
    }

    // the first two panels
    static __device__ void prologue(Corner& corner, uint64_t (&loaded)[2], const Arguments& x, int row, int column) {
        if (threadIdx.x % WARP > 0) { return; }
        tma_store_wait_read<0>();
        for (int i = 0; i < 2; i++) { ask_for_panels(corner[i], &loaded[i], &x.gate, &x.up, row, column + i * PANEL); }
    }

    // the two products of a word's halves
    static __device__ float dot(uint32_t a, uint32_t b) { return low_half(a) * low_half(b) + high_half(a) * high_half(b); }

    static __device__ void put_sums(const float (&sum)[2], const Arguments& x, int row, int column) {
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            int mine = row + threadIdx.x % WARP / 4 + 8 * half;
            float all = sum[half] + __shfl_xor_sync(0xffffffffu, sum[half], 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            if (threadIdx.x % 4 == 0 && mine < x.N) { x.sums[(size_t)mine * x.parts + column / WIDTH] = all; }
        }
    }

    static __device__ void epilogue(Corner& corner, uint64_t (&loaded)[2], float (&d)[128], const Arguments& x, int row, int column) {
        float sum[2] = {0, 0};
        #pragma unroll
        for (int panel = 0; panel < WIDTH / PANEL; panel++) {
            Slot& slot = corner[panel % 2];
            uint32_t gate[16], up[16];
            mbarrier_wait(&loaded[panel % 2], panel / 2);                       // a slot is filled twice a tile
            read_corner(gate, slot[0]);
            read_corner(up, slot[1]);
            #pragma unroll
            for (int i = 0; i < 16; i++) {
                SwigluGradient low = swiglu_gradient(d[32 * panel + 2 * i], low_half(gate[i]), low_half(up[i]));
                SwigluGradient high = swiglu_gradient(d[32 * panel + 2 * i + 1], high_half(gate[i]), high_half(up[i]));
                uint32_t dgate = pack_bf16(low.gate, high.gate), dup = pack_bf16(low.up, high.up);
                sum[i % 2] += dot(gate[i], dgate) + dot(up[i], dup);            // of what is stored
                gate[i] = dgate;
                up[i] = dup;
            }
            write_corner(slot[0], gate);
            write_corner(slot[1], up);
            fence_proxy_async();
            __syncwarp();
            if (threadIdx.x % WARP == 0) {
                tma_store(&x.dgate, column + panel * PANEL, row, 0, slot[0]);
                tma_store(&x.dup, column + panel * PANEL, row, 0, slot[1]);
                tma_store_commit();
                if (panel < 2) {
                    tma_store_wait_read<0>();
                    ask_for_panels(slot, &loaded[panel], &x.gate, &x.up, row, column + (panel + 2) * PANEL);
                }
            }
            __syncwarp();
        }
        put_sums(sum, x, row, column);
    }
};

// gate or up of a (N, 2F) tensor, for panels of a corner
static CUtensorMap half_map(const floatX* x, int N, int F) { return rows_map(x, 1, N, F, 2 * F, CORNER_ROWS); }

static void hopper_swiglu_forward(floatX* out, floatX* gate_up, const floatX* inp, const floatX* weight, int N, int C, int F, stream_t stream) {
    SwigluForward::Arguments x = {rows_map(inp, 1, N, C, C, PRODUCT_ROWS), rows_map(weight, 2, F, C, C, SwigluForward::WIDTH),
                                  half_map(gate_up, N, F), half_map(gate_up + F, N, F), rows_map(out, 1, N, F, F, CORNER_ROWS)};
    product_launch<SwigluForward>(x, N, F, C, stream);
}

static void hopper_swiglu_backward(floatX* dgate_up, float* sums, const floatX* dout, const floatX* weight, const floatX* gate_up, int N, int F, int OC,
                                   stream_t stream) {
    SwigluBackward::Arguments x = {rows_map(dout, 1, N, OC, OC, PRODUCT_ROWS), rows_map(weight, 1, OC, F, F, PANEL),
                                   half_map(gate_up, N, F), half_map(gate_up + F, N, F), half_map(dgate_up, N, F), half_map(dgate_up + F, N, F),
                                   sums, N, ceil_div(F, SwigluBackward::WIDTH)};
    product_launch<SwigluBackward>(x, N, F, OC, stream);
}

#endif

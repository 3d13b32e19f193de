// The product that makes a norm's gradient, with the norm's backward as its epilogue (product_hopper.cuh): dnorm stays in registers.
//
// A norm's backward wants, for each row, the sum over its columns of dnorm * norm, and a tile sees but 256 of them. That sum is known before:
// the product forward was out = norm w^T, the one here is dnorm = dout w, so that  sum_c dnorm_c norm_c = sum_j dout_j out_j,  both of which the
// op before had in its registers (matmul_swiglu_backward leaves that sum, in parts). What is left is a row's own affair:
//   dinp += rstd * (dnorm * weight - inp * rstd * that sum / C)
#ifndef RMSNORM_HOPPER_CUH
#define RMSNORM_HOPPER_CUH

#include "product_hopper.cuh"

// 256 columns of dnorm; inp and dinp come to the corner, panel by panel, dinp leaves. A warp's 16 rows make a row of partial sums of dweight.
struct NormBackward {
    static const int STEPS = 3, WIDTH = PRODUCT_COLUMNS, TRANS_B = 1;
    typedef floatX Slot[2][CORNER];                                             // inp, dinp
    typedef Slot Corner[2];
    typedef struct {
        CUtensorMap a, b, inp, dinp;                                            // b: (OC, C)
        const float *weight, *rstd, *sums;                                      // (C), (N), (N, parts)
        float* partial;                                                         // (ceil(N/16), C)
        int N, C, parts;
    } Arguments;

    static __device__ void fetch_half(floatX* b, const Arguments& x, int column, int k, int rank, uint64_t* full) {
        fetch_half_rows(b, &x.b, column, k, rank, full);
    }

    static __device__ void prologue(Corner& corner, uint64_t (&loaded)[2], const Arguments& x, int row, int column) {
        if (threadIdx.x % WARP > 0) { return; }
        tma_store_wait_read<0>();
        for (int i = 0; i < 2; i++) { ask_for_panels(corner[i], &loaded[i], &x.inp, &x.dinp, row, column + i * PANEL); }
    }

    // rstd of a row, and what of its inp goes away
    static __device__ float2 factors(const Arguments& x, int row) {
        if (row >= x.N) { return make_float2(0, 0); }
        float sum = 0, r = x.rstd[row];
        #pragma unroll 4
        for (int i = 0; i < x.parts; i++) { sum += x.sums[(size_t)row * x.parts + i]; }
        return make_float2(r, r * r * sum / x.C);
    }

    // One of three steps of sum_of_rows: of 2 * COUNT numbers a lane keeps half, those of columns that belong to its bit STEP, and gets the other's.
    template <int COUNT, int STEP> static __device__ void halve(float (&v)[16]) {
        bool upper = threadIdx.x & STEP;
        #pragma unroll
        for (int i = 0; i < COUNT; i++) {
            float mine = upper ? v[i + COUNT] : v[i], other = upper ? v[i] : v[i + COUNT];
            v[i] = mine + __shfl_xor_sync(0xffffffffu, other, STEP);
        }
    }

    // v: of this lane's two rows together, columns 8n + 2c + e in v[2n + e]. Summed over the warp's rows; a lane gets columns 8g + 2c and the next.
    static __device__ float2 sum_of_rows(float (&v)[16]) {
        halve<8, 16>(v);
        halve<4, 8>(v);
        halve<2, 4>(v);
        return make_float2(v[0], v[1]);
    }

    // dnorm, 32 accumulators of a panel: slot's dinp becomes the new one; the return value: this lane's two columns of the rows' sum for dweight
    static __device__ float2 turn_panel(Slot& slot, const float* d, const Arguments& x, const float2 (&row)[2], int column) {
        uint32_t inp[16], dinp[16];
        float products[16];
        read_corner(inp, slot[0]);
        read_corner(dinp, slot[1]);
        #pragma unroll
        for (int n = 0; n < 8; n++) {
            int c = column + 8 * n + threadIdx.x % 4 * 2;
            float2 weight = c < x.C ? *reinterpret_cast<const float2*>(x.weight + c) : make_float2(0, 0);
            products[2 * n] = products[2 * n + 1] = 0;
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                int i = 2 * n + half;
                float left = row[half].x * d[2 * i], right = row[half].x * d[2 * i + 1], x0 = low_half(inp[i]), x1 = high_half(inp[i]);
                products[2 * n] += left * x0;
                products[2 * n + 1] += right * x1;
                dinp[i] = pack_bf16(low_half(dinp[i]) + left * weight.x - row[half].y * x0, high_half(dinp[i]) + right * weight.y - row[half].y * x1);
            }
        }
        write_corner(slot[1], dinp);
        return sum_of_rows(products);
    }

    static __device__ void epilogue(Corner& corner, uint64_t (&loaded)[2], float (&d)[128], const Arguments& x, int row, int column) {
        int lane = threadIdx.x % WARP;
        const float2 factor[2] = {factors(x, row + lane / 4), factors(x, row + lane / 4 + 8)};
        #pragma unroll
        for (int panel = 0; panel < WIDTH / PANEL; panel++) {
            Slot& slot = corner[panel % 2];
            int first = column + panel * PANEL, c = first + lane * 2;           // lane 4g + c has columns 8g + 2c and the next
            mbarrier_wait(&loaded[panel % 2], panel / 2);                       // a slot is filled twice a tile
            float2 sums = turn_panel(slot, d + 32 * panel, x, factor, first);
            if (row < x.N && c < x.C) { *reinterpret_cast<float2*>(x.partial + (size_t)(row / CORNER_ROWS) * x.C + c) = sums; }
            fence_proxy_async();
            __syncwarp();
            if (lane == 0) {
                tma_store(&x.dinp, first, row, 0, slot[1]);
                tma_store_commit();
                if (panel < 2) {
                    tma_store_wait_read<0>();
                    ask_for_panels(slot, &loaded[panel], &x.inp, &x.dinp, row, first + 2 * PANEL);
                }
            }
            __syncwarp();
        }
    }
};

static void hopper_norm_product(floatX* dinp, const floatX* dout, const floatX* product_weight, const floatX* inp, const float* weight, const float* rstd,
                                const float* sums, int parts, int N, int C, int OC, float* partial, stream_t stream) {
    NormBackward::Arguments x = {rows_map(dout, 1, N, OC, OC, PRODUCT_ROWS), rows_map(product_weight, 1, OC, C, C, PANEL),
                                 rows_map(inp, 1, N, C, C, CORNER_ROWS), rows_map(dinp, 1, N, C, C, CORNER_ROWS), weight, rstd, sums, partial, N, C, parts};
    product_launch<NormBackward>(x, N, C, OC, stream);
}

#endif

// Rotary position embedding, in place. Su et al. 2021 (RoFormer), half-split pairs: (i, i + D/2).
#include "rope_hopper.cuh"

enum { ROPE_HEADS = 4,        // heads a thread turns with the angles it loaded: the table is twice as wide as the data
       ROPE_BLOCK = 256 };

// one thread per (row, group of heads, 8 pairs): it turns pairs i .. i+7 of heads g, g + groups, g + 2 groups, ...
__global__ void rope_kernel(floatX* x, const float* table, size_t threads, int T, int heads, int groups, int D, int ld) {
    size_t index = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= threads) { return; }
    int half = D / 2, packs = half / 8;
    int i = (int)(index % packs) * 8, group = (int)(index / packs % groups);
    size_t row = index / packs / groups;

    const float4* angle = reinterpret_cast<const float4*>(table + (row % T * half + i) * 2);
    float cosine[8], sine[8];
    for (int p = 0; p < 4; p++) {
        float4 two = angle[p];
        cosine[2 * p]     = two.x; sine[2 * p]     = two.y;
        cosine[2 * p + 1] = two.z; sine[2 * p + 1] = two.w;
    }
    floatX* at = x + row * ld + i;
    Pack8 a[ROPE_HEADS], b[ROPE_HEADS];
    for (int j = 0; j < ROPE_HEADS; j++) {
        int head = group + j * groups;
        if (head < heads) {
            a[j] = load8(at + head * D);
            b[j] = load8(at + head * D + half);
        }
    }
    for (int j = 0; j < ROPE_HEADS; j++) {
        int head = group + j * groups;
        if (head >= heads) { continue; }
        for (int e = 0; e < 8; e++) {
            float first = __bfloat162float(a[j].x[e]), second = __bfloat162float(b[j].x[e]);
            turn_pair(first, second, cosine[e], sine[e]);
            a[j].x[e] = __float2bfloat16(first);
            b[j].x[e] = __float2bfloat16(second);
        }
        store8(at + head * D, a[j]);
        store8(at + head * D + half, b[j]);
    }
}

extern "C" void rope_forward(floatX* x, const float* table, int N, int T, int heads, int D, int ld, stream_t stream) {
    REQUIRE(D % 16 == 0, "rope: D=%d is not a multiple of 16 (16-byte loads of each half)", D);
    REQUIRE(ld % 8 == 0 && (size_t)heads * D <= (size_t)ld, "rope: %d heads of %d in rows of %d (needs a multiple of 8 that holds them)",
            heads, D, ld);
    int groups = ceil_div(heads, ROPE_HEADS);
    size_t threads = (size_t)N * groups * (D / 16), blocks = (threads + ROPE_BLOCK - 1) / ROPE_BLOCK;
    if (threads == 0) { return; }
    rope_kernel<<<(unsigned)blocks, ROPE_BLOCK, 0, stream>>>(x, table, threads, T, heads, groups, D, ld);
    LAUNCH_CHECK();
}

extern "C" void matmul_rope_forward(floatX* out, const floatX* inp, const floatX* weight, const float* table, int N, int T, int heads, int D,
                                    int C, int OC, struct MatmulPlans* plans, stream_t stream) {
    REQUIRE(C % 8 == 0 && OC % 8 == 0 && (size_t)heads * D <= (size_t)OC,
            "matmul_rope_forward: C=%d, OC=%d, %d heads of %d (needs multiples of 8 that hold them)", C, OC, heads, D);
    if (D == 64 && product_serves<RopeProduct<64>>(N, OC))   { hopper_rope_product<64>(out, inp, weight, table, N, T, heads, C, OC, stream); return; }
    if (D == 128 && product_serves<RopeProduct<128>>(N, OC)) { hopper_rope_product<128>(out, inp, weight, table, N, T, heads, C, OC, stream); return; }
    matmul_forward(out, inp, weight, N, C, OC, plans, stream);
    rope_forward(out, table, N, T, heads, D, OC, stream);
}

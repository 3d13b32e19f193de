// Key convolution, reference: k' = k + silu(z), z a depthwise causal convolution of k over time.
#include "common.h"
#include "ops.h"

enum { LANES = 64 };   // channels whose tap gradients one thread sums at a time

// z of channel c at time t of one sequence k (rows of stride ldk)
static double conv(const floatX* k, const float* w, int t, int c, int C, int W, int ldk) {
    double z = 0;
    for (int i = 0; i < W && i <= t; i++) {                  // never looks ahead, nor before the sequence
        z += (double)w[i * C + c] * k[(size_t)(t - i) * ldk + c];
    }
    return z;
}

static void check(int C, int W, int ldk) {
    REQUIRE(W == 3 || W == 5, "kconv: width %d has no kernel (3 and 5 do)", W);
    REQUIRE(C % 8 == 0 && ldk >= C, "kconv: C=%d must be a multiple of 8 and fit in rows of %d", C, ldk);
}

void kconv_forward(floatX* out, const floatX* k, const float* w, int B, int T, int C, int W, int ldk, stream_t stream) {
    (void)stream;
    check(C, W, ldk);
    #pragma omp parallel for collapse(2)
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < T; t++) {
            const floatX* sequence = k + (size_t)b * T * ldk;
            floatX* to = out + ((size_t)b * T + t) * C;
            for (int c = 0; c < C; c++) {
                double z = conv(sequence, w, t, c, C, W, ldk);
                to[c] = ROUND(sequence[(size_t)t * ldk + c] + z / (1 + exp(-z)));
            }
        }
    }
}

void kconv_centroid_forward(floatX* out, float* centroid, const floatX* k, const float* w, int B, int T, int H, int D, int W, int ldk, int block,
                            stream_t stream) {
    int C = H * D;
    AttnShape shape = {B, T, H, D, C, C, C, C, ATTN_AUTO};
    kconv_forward(out, k, w, B, T, C, W, ldk, stream);
    moba_centroid(centroid, out, shape, block, stream);
}

// dz = dout * silu'(z), silu'(z) = s (1 + z (1 - s)) with s = sigmoid(z)
static void gradient_of_z(float* dz, const floatX* dout, const floatX* k, const float* w, int B, int T, int C, int W, int ldk) {
    #pragma omp parallel for collapse(2)
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < T; t++) {
            size_t row = ((size_t)b * T + t) * C;
            for (int c = 0; c < C; c++) {
                double z = conv(k + (size_t)b * T * ldk, w, t, c, C, W, ldk), s = 1 / (1 + exp(-z));
                dz[row + c] = dout[row + c] * s * (1 + z * (1 - s));
            }
        }
    }
}

static void gradient_of_k(floatX* dk, const floatX* dout, const float* dz, const float* w, int B, int T, int C, int W, int ldk) {
    #pragma omp parallel for collapse(2)
    for (int b = 0; b < B; b++) {
        for (int t = 0; t < T; t++) {
            size_t row = (size_t)b * T + t;
            for (int c = 0; c < C; c++) {
                double sum = dout[row * C + c];              // residual
                for (int i = 0; i < W && t + i < T; i++) {
                    sum += (double)w[i * C + c] * dz[(row + i) * C + c];
                }
                dk[row * ldk + c] = ROUND(sum);
            }
        }
    }
}

static void gradient_of_w(float* dw, const float* dz, const floatX* k, int B, int T, int C, int W, int ldk) {
    #pragma omp parallel for collapse(2)
    for (int i = 0; i < W; i++) {
        for (int c0 = 0; c0 < C; c0 += LANES) {
            int lanes = min_int(LANES, C - c0);
            double sum[LANES] = {0};
            for (int b = 0; b < B; b++) {
                for (int t = i; t < T; t++) {
                    const float*  dz_row = dz + ((size_t)b * T + t) * C + c0;
                    const floatX* k_row  = k + ((size_t)b * T + t - i) * ldk + c0;
                    for (int c = 0; c < lanes; c++) { sum[c] += (double)dz_row[c] * k_row[c]; }
                }
            }
            for (int c = 0; c < lanes; c++) { dw[i * C + c0 + c] += sum[c]; }
        }
    }
}

void kconv_backward(floatX* dk, float* dw, const floatX* dout, const floatX* k, const float* w, int B, int T, int C, int W, int ldk,
                    void* scratch, stream_t stream) {
    (void)stream;
    check(C, W, ldk);
    float* dz = (float*)scratch;                             // (B*T, C)
    gradient_of_z(dz, dout, k, w, B, T, C, W, ldk);
    gradient_of_k(dk, dout, dz, w, B, T, C, W, ldk);
    gradient_of_w(dw, dz, k, B, T, C, W, ldk);
}

size_t kconv_backward_scratch(int B, int T, int C, int W) {
    (void)W;
    return (size_t)B * T * C * sizeof(float);
}

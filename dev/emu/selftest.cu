// Tests of the emulator itself:  dev/emu/run --file dev/emu/selftest.cu
#include "selftest.h"

// ---- instructions -----------------------------------------------------------------------------------------------------
__device__ inline uint32_t shared_at(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ inline void ldmatrix_x4(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ inline void ldmatrix_x2_trans(uint32_t r[2], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n\t" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
}
__device__ inline void mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void copy16(uint32_t to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(bytes) : "memory");
}
template <int LEFT> __device__ inline void wait_for_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}

// one warp: out (16, 8) = a (16, 16) b (16, 8), b row-major, so that it needs the transposed load; `direct`: fragments without ldmatrix
__global__ void product_kernel(float* out, const floatX* a, const floatX* b, bool direct) {
    __shared__ __align__(16) floatX sa[16][16];
    __shared__ __align__(16) floatX sb[16][8];
    int lane = threadIdx.x, g = lane / 4, t = lane % 4;
    copy16(shared_at(&sa[lane / 2][lane % 2 * 8]), a + lane * 8, 16);
    if (lane < 16) { copy16(shared_at(sb[lane]), b + lane * 8, 16); }
    wait_for_copies<0>();
    __syncwarp();
    uint32_t fa[4], fb[2];
    if (direct) {
        for (int i = 0; i < 4; i++) { fa[i] = *(const uint32_t*)&sa[g + i % 2 * 8][2 * t + i / 2 * 8]; }
        for (int i = 0; i < 2; i++) {
            __nv_bfloat162 pair = __halves2bfloat162(sb[2 * t + 8 * i][g], sb[2 * t + 8 * i + 1][g]);
            fb[i] = *(const uint32_t*)&pair;
        }
    } else {
        ldmatrix_x4(fa, shared_at(&sa[lane % 16][lane / 16 * 8]));
        ldmatrix_x2_trans(fb, shared_at(sb[lane % 16]));
    }
    float d[4] = {};
    mma(d, fa, fb);
    for (int i = 0; i < 4; i++) { out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d[i]; }
}

TEST(emu_mma_is_the_product) {
    uint64_t seed = 1;
    floatX a[256], b[128];
    float expected[128], found[128];
    for (int i = 0; i < 256; i++) { a[i] = __float2bfloat16((float)test_normal(&seed)); }
    for (int i = 0; i < 128; i++) { b[i] = __float2bfloat16((float)test_normal(&seed)); }
    for (int r = 0; r < 16; r++) {
        for (int c = 0; c < 8; c++) {
            double sum = 0;
            for (int k = 0; k < 16; k++) { sum += (double)(float)a[16 * r + k] * (double)(float)b[8 * k + c]; }
            expected[8 * r + c] = (float)sum;
        }
    }
    floatX *da = upload(a, 256), *db = upload(b, 128);
    for (int direct = 0; direct < 2; direct++) {
        float* out = upload(expected, 128);
        CUDA_CHECK(cudaMemset(out, 0xff, sizeof found));
        product_kernel<<<1, 32>>>(out, da, db, direct);
        LAUNCH_CHECK();
        CUDA_CHECK(cudaMemcpy(found, out, sizeof found, cudaMemcpyDeviceToHost));
        for (int i = 0; i < 128; i++) { CHECK_NEAR(found[i], expected[i], 1e-5); }
    }
}

// ---- collectives ------------------------------------------------------------------------------------------------------
__global__ void collectives_kernel(int* out) {
    int lane = threadIdx.x % 32, t = threadIdx.x;
    out += blockIdx.x * blockDim.x * 9 + t;
    int stride = blockDim.x;
    out[0 * stride] = __shfl_sync(0xffffffffu, lane, 5);
    out[1 * stride] = __shfl_xor_sync(0xffffffffu, lane, 16);
    out[2 * stride] = __shfl_up_sync(0xffffffffu, lane, 3);
    out[3 * stride] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
    out[4 * stride] = (int)__ballot_sync(0xffffffffu, lane % 3 == 0);
    out[5 * stride] = __reduce_add_sync(0xffffffffu, lane);
    out[6 * stride] = (int)__match_any_sync(0xffffffffu, lane / 4);
    out[7 * stride] = lane < 16 ? __shfl_sync(0x0000ffffu, lane, 2) : __any_sync(0xffff0000u, lane == 20);
    out[8 * stride] = __syncthreads_count(t % 2);
}

TEST(emu_collectives) {
    enum { THREADS = 96, BLOCKS = 3, N = THREADS * BLOCKS * 9 };
    static int found[N];
    int* out = upload(found, N);
    collectives_kernel<<<BLOCKS, THREADS>>>(out);
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(found, out, sizeof found, cudaMemcpyDeviceToHost));
    for (int i = 0; i < BLOCKS * THREADS; i++) {
        const int* at = found + i / THREADS * THREADS * 9 + i % THREADS;
        int lane = i % 32;
        CHECK_EQ(at[0 * THREADS], 5);
        CHECK_EQ(at[1 * THREADS], lane ^ 16);
        CHECK_EQ(at[2 * THREADS], lane < 3 ? lane : lane - 3);
        CHECK_EQ(at[3 * THREADS], lane % 8 < 5 ? lane + 3 : lane);
        CHECK_EQ((unsigned)at[4 * THREADS], 0x49249249u);
        CHECK_EQ(at[5 * THREADS], 496);
        CHECK_EQ((unsigned)at[6 * THREADS], 0xfu << (lane / 4 * 4));
        CHECK_EQ(at[7 * THREADS], lane < 16 ? 2 : 1);
        CHECK_EQ(at[8 * THREADS], THREADS / 2);
    }
}

__global__ void sums_kernel(float* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = block_sum((float)threadIdx.x) + block_sum(1.0f); }

TEST(emu_block_sum_of_any_block_size) {
    for (int threads = 32; threads <= 1024; threads *= 2) {
        static float found[2048];
        float* out = upload(found, 2048);
        sums_kernel<<<2, threads>>>(out);
        LAUNCH_CHECK();
        CUDA_CHECK(cudaMemcpy(found, out, sizeof found, cudaMemcpyDeviceToHost));
        for (int i = 0; i < 2 * threads; i++) { CHECK_EQ(found[i], threads * (threads - 1) / 2 + threads); }
    }
}

// cp.async: a source size below 16 fills with zeros, and data are there only after the wait
__global__ void copy_kernel(uint16_t* out, const uint16_t* in) {
    __shared__ __align__(16) uint16_t buffer[2][8];
    copy16(shared_at(buffer[0]), in, 6);
    asm volatile("cp.async.commit_group;" ::: "memory");
    copy16(shared_at(buffer[1]), in + 8, 16);
    wait_for_copies<1>();
    for (int i = 0; i < 8; i++) { out[i] = buffer[0][i]; out[8 + i] = buffer[1][i]; }
    asm volatile("cp.async.wait_all;" ::: "memory");
    for (int i = 0; i < 8; i++) { out[16 + i] = buffer[1][i]; }
}

TEST(emu_cp_async_arrives_with_its_group) {
    uint16_t in[16], found[24];
    for (int i = 0; i < 16; i++) { in[i] = (uint16_t)(i + 1); }
    uint16_t *from = upload(in, 16), *out = upload(found, 24);
    copy_kernel<<<1, 1>>>(out, from);
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(found, out, sizeof found, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(found[i], i < 3 ? i + 1 : 0);
        CHECK_EQ(found[8 + i], 0xffff);
        CHECK_EQ(found[16 + i], i + 9);
    }
}

// ---- mistakes ---------------------------------------------------------------------------------------------------------
enum Mistake { DIVERGED, HALF_A_WARP, BEYOND_DEVICE, BEYOND_SHARED, MISALIGNED, LARGE_SHARED, EMPTY_GRID, HOST_TOUCHES, NO_BARRIER, TWO_BLOCKS };

__global__ void mistaken_kernel(float* out, Mistake what) {
    extern __shared__ __align__(16) unsigned char dynamic[];
    float* shared = (float*)dynamic;
    int t = threadIdx.x;
    shared[t] = 1.0f;
    if (what == NO_BARRIER) { out[t] = shared[63 - t]; }
    __syncthreads();
    if (what == DIVERGED) {
        if (t < 40) { __syncthreads(); }
        else { __syncthreads(); }
    }
    if (what == HALF_A_WARP && t < 16) { out[0] = warp_sum(1.0f); }
    if (what == BEYOND_DEVICE) { out[t + 1] = 1.0f; }
    if (what == BEYOND_SHARED) { shared[t + 1] = 1.0f; }
    if (what == MISALIGNED && t % 4 == 1 && t < 60) { *(float4*)(shared + t) = float4{}; }
    if (what == TWO_BLOCKS) { out[t] = 1.0f; }
}

static void make(int what) {
    float zeros[64] = {};
    float* out = upload(zeros, 64);
    dim3 grid(what == EMPTY_GRID ? 0 : what == TWO_BLOCKS ? 2 : 1);
    mistaken_kernel<<<grid, 64, what == LARGE_SHARED ? 50000 : 256>>>(out, (Mistake)what);
    if (what == HOST_TOUCHES) { out[0] = 1.0f; }
}

TEST(emu_reports_mistakes) {
    CHECK(is_reported(make, DIVERGED, "of the block is in the one at"), "a barrier in a branch");
    CHECK(is_reported(make, HALF_A_WARP, "threads    0..  15 wait in __shfl_xor_sync"), "a shuffle of half a warp");
    CHECK(is_reported(make, BEYOND_DEVICE, "256 bytes from the start of the nearest device buffer"), "a write behind a buffer");
    CHECK(is_reported(make, BEYOND_SHARED, "in shared memory, 256 bytes"), "a write behind shared memory");
    CHECK(is_reported(make, MISALIGNED, "misaligned address"), "a misaligned vector");
    CHECK(is_reported(make, LARGE_SHARED, "50000 bytes of dynamic shared memory"), "too much shared memory");
    CHECK(is_reported(make, EMPTY_GRID, "invalid grid"), "an empty grid");
    CHECK(is_reported(make, HOST_TOUCHES, "by the host"), "the host in device memory");
}

TEST(emu_reports_races) {
    if (!emu_race_check) { printf("skip emu_reports_races (needs --race)\n"); test_checks++; return; }
    CHECK(is_reported(make, NO_BARRIER, "race: "), "shared memory without a barrier");
    CHECK(is_reported(make, TWO_BLOCKS, "another block"), "two blocks at one place");
}

TEST_MAIN()

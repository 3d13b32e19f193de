// Tests of the emulator's Hopper part:  dev/emu/run --file dev/emu/selftest_hopper.cu
#include "selftest_hopper.h"

// ---- wgmma ------------------------------------------------------------------------------------------------------------
struct Form { Swizzle a, b; bool a_mn, b_mn, registers, negative; int keep; };

template <int N, int TA, int TB, int SIGN> __device__ inline void product(float* d, const floatX* a, uint32_t sa, uint32_t sb, Form form) {
    int w = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    for (int step = 0; step < DEPTH / 16; step++) {
        uint64_t db = describe(sb, form.b, TB, N, step);
        int keep = step > 0 || form.keep;
        if (form.registers) {
            uint32_t f[4];
            for (int i = 0; i < 4; i++) { f[i] = *(const uint32_t*)&a[(16 * w + g + i % 2 * 8) * DEPTH + 16 * step + 2 * c + i / 2 * 8]; }
            Wgmma<N, TA, TB, SIGN>::registers(d, f, db, keep);
        } else {
            Wgmma<N, TA, TB, SIGN>::shared(d, describe(sa, form.a, TA, 64, step), db, keep);
        }
    }
}

// out (64, N) = 2 or (out = a b^T) or with keep: 3 + a b^T
template <int N> __global__ void wgmma_kernel(float* out, const floatX* a, const floatX* b, Form form) {
    extern __shared__ __align__(1024) unsigned char room[];
    for (int i = threadIdx.x; i < 64 * DEPTH; i += 128) { *(floatX*)(room + place(form.a, form.a_mn, 64, i / DEPTH, i % DEPTH)) = a[i]; }
    for (int i = threadIdx.x; i < N * DEPTH; i += 128) { *(floatX*)(room + 8192 + place(form.b, form.b_mn, N, i / DEPTH, i % DEPTH)) = b[i]; }
    fence_async();
    __syncthreads();
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) { d[i] = 3.0f; }
    uint32_t sa = shared_at(room), sb = shared_at(room + 8192);
    wgmma_fence();
    if (form.negative) { product<N, 0, 0, -1>(d, a, sa, sb, form); }
    else if (form.a_mn && form.b_mn) { product<N, 1, 1, 1>(d, a, sa, sb, form); }
    else if (form.a_mn) { product<N, 1, 0, 1>(d, a, sa, sb, form); }
    else if (form.b_mn) { product<N, 0, 1, 1>(d, a, sa, sb, form); }
    else { product<N, 0, 0, 1>(d, a, sa, sb, form); }
    wgmma_commit();
    wgmma_wait<0>();
    int w = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    for (int i = 0; i < N / 2; i++) { out[(16 * w + g + i % 4 / 2 * 8) * N + i / 4 * 8 + 2 * c + i % 2] = d[i]; }
}

static floatX small[256 * DEPTH], other[256 * DEPTH];

template <int N> static void check_form(Form form) {
    static float found[64 * N];
    uint64_t seed = 5;
    for (int i = 0; i < 256 * DEPTH; i++) {                       // small integers: sums are exact
        small[i] = __float2bfloat16(floorf((float)test_normal(&seed) * 2));
        other[i] = __float2bfloat16(floorf((float)test_normal(&seed) * 2));
    }
    floatX *a = upload(small, 64 * DEPTH), *b = upload(other, N * DEPTH);
    float* out = upload(found, 64 * N);
    int bytes = 8192 + N * DEPTH * 2;
    CUDA_CHECK(cudaFuncSetAttribute(wgmma_kernel<N>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    wgmma_kernel<N><<<1, 128, bytes>>>(out, a, b, form);
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(found, out, sizeof found, cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (int r = 0; r < 64; r++) {
        for (int c = 0; c < N; c++) {
            float sum = 0;
            for (int k = 0; k < DEPTH; k++) { sum += (float)small[r * DEPTH + k] * (float)other[c * DEPTH + k]; }
            wrong += found[r * N + c] != (form.negative ? -sum : sum) + (form.keep ? 3.0f : 0.0f);
        }
    }
    CHECK(wrong == 0, "n %d, A swizzle %d mn %d registers %d, B swizzle %d mn %d: %d wrong", N, form.a, form.a_mn, form.registers, form.b, form.b_mn, wrong);
    CUDA_CHECK(cudaFree(a)); CUDA_CHECK(cudaFree(b)); CUDA_CHECK(cudaFree(out));
}

template <int N> static void check_shape() {
    for (int mn = 0; mn < 2; mn++) {
        for (int s = 0; s < 4; s++) {
            int width = s == SW128 ? 64 : s == SW64 ? 32 : s == SW32 ? 16 : 8;
            if (mn && N % width) { continue; }
            check_form<N>({SW128, (Swizzle)s, false, mn == 1, false, false, 0});
            check_form<N>({SW128, (Swizzle)s, false, mn == 1, true, false, 1});
        }
    }
}

TEST(emu_wgmma_of_every_layout) {
    for (int a = 0; a < 8; a++) {
        for (int b = 0; b < 8; b++) { check_form<64>({(Swizzle)(a / 2), (Swizzle)(b / 2), a % 2 == 1, b % 2 == 1, false, false, a % 2}); }
    }
    check_form<64>({SW128, SW128, false, false, false, true, 1});
    check_form<64>({SW128, SW128, false, false, true, true, 1});
}

TEST(emu_wgmma_of_every_shape) {
    check_shape<8>(); check_shape<16>(); check_shape<32>(); check_shape<64>(); check_shape<96>(); check_shape<128>(); check_shape<192>(); check_shape<256>();
}

// ---- TMA --------------------------------------------------------------------------------------------------------------
// A producer warp loads tiles of K and V (64 rows of the tensor) into two stages; a warpgroup makes P = A K^T of each, from which bf16 go to memory by TMA,
// and O = sum over tiles of (P / 64) V with V MN-major.
struct Stage { floatX k[64 * 64], v[64 * 64]; };
struct Rooms { Stage stage[2]; floatX a[64 * 64]; floatX p[64 * 64]; uint64_t full[2], empty[2], a_full; };
enum TmaMistake { CORRECT, WRONG_PARITY, NO_RELEASE, TOO_MANY_ARRIVALS, WRONG_BYTES, NO_INIT_FENCE, NO_STORE_FENCE, NO_STORE_WAIT, EARLY_REFILL };

__device__ inline void wait_for_warpgroup() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

__device__ void produce(Rooms* s, const CUtensorMap* a, const CUtensorMap* k, const CUtensorMap* v, int tiles, TmaMistake mistake) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (!elected()) { return; }
    mbarrier_expect(&s->a_full, sizeof s->a);
    tma_load(s->a, a, 0, 0, &s->a_full);
    for (int i = 0; i < tiles; i++) {
        Stage* stage = &s->stage[i % 2];
        if (i >= 2 && mistake != EARLY_REFILL) { mbarrier_wait(&s->empty[i % 2], (i / 2 - 1) % 2); }
        mbarrier_expect(&s->full[i % 2], (int)sizeof(Stage) + (mistake == WRONG_BYTES ? 16 : 0));
        tma_load(stage->k, k, 0, 64 * i - 8, &s->full[i % 2]);         // the first 8 rows lie before the tensor, the last ones behind it
        tma_load(stage->v, v, 0, 64 * i - 8, &s->full[i % 2]);
    }
}

__device__ void consume(Rooms* s, float* out, const CUtensorMap* p_map, int tiles, TmaMistake mistake) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    int w = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    float o[32] = {};
    mbarrier_wait(&s->a_full, 0);
    for (int i = 0; i < tiles; i++) {
        Stage* stage = &s->stage[i % 2];
        mbarrier_wait(&s->full[i % 2], (i / 2 + (mistake == WRONG_PARITY)) % 2);
        float d[32];
        wgmma_fence();
        for (int step = 0; step < 4; step++) {
            Wgmma<64, 0, 0, 1>::shared(d, describe(shared_at(s->a), SW128, false, 64, step), describe(shared_at(stage->k), SW128, false, 64, step), step > 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        uint32_t f[16];
        for (int j = 0; j < 16; j++) {
            __nv_bfloat162 pair = __floats2bfloat162_rn(d[2 * j] / 64, d[2 * j + 1] / 64);
            f[j] = *(uint32_t*)&pair;
        }
        wgmma_fence();
        for (int step = 0; step < 4; step++) { Wgmma<64, 0, 1, 1>::registers(o, f + 4 * step, describe(shared_at(stage->v), SW128, true, 64, step), 1); }
        wgmma_commit();
        for (int h = 0; h < 4; h++) {                                  // 16 x 16 of P by one stmatrix
            int l = threadIdx.x % 32, r = 16 * w + l % 16, chunk = 2 * h + l / 16;
            asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};"
                         :: "r"(shared_at(s->p) + r * 128 + ((chunk ^ r % 8) * 16)), "r"(f[4 * h]), "r"(f[4 * h + 1]), "r"(f[4 * h + 2]), "r"(f[4 * h + 3]) : "memory");
        }
        if (mistake != NO_STORE_FENCE) { fence_async(); }
        wait_for_warpgroup();
        if (threadIdx.x == 0) {
            tma_store(p_map, 0, 64 * i - 8, s->p);
            if (mistake != NO_STORE_WAIT) { bulk_commit_and_wait(); }
        }
        wgmma_wait<0>();
        wait_for_warpgroup();
        if (mistake != NO_RELEASE && threadIdx.x % 32 == 0) { mbarrier_arrive(&s->empty[i % 2]); }
        if (mistake == TOO_MANY_ARRIVALS && threadIdx.x < 5) { mbarrier_arrive(&s->empty[i % 2]); }
    }
    for (int i = 0; i < 32; i++) { out[(16 * w + g + i % 4 / 2 * 8) * 64 + i / 4 * 8 + 2 * c + i % 2] = o[i]; }
}

__global__ void __launch_bounds__(256, 1) tma_kernel(float* out, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v,
                                                     const __grid_constant__ CUtensorMap p, int tiles, TmaMistake mistake) {
    extern __shared__ __align__(1024) unsigned char room[];
    Rooms* s = (Rooms*)room;
    if (threadIdx.x == 0) {
        asm volatile("prefetch.tensormap [%0];" :: "l"(&a) : "memory");
        for (int i = 0; i < 2; i++) { mbarrier_init(&s->full[i], 1); mbarrier_init(&s->empty[i], 4); }
        mbarrier_init(&s->a_full, 1);
        if (mistake != NO_INIT_FENCE) { mbarrier_fence(); }
    }
    __syncthreads();
    if (threadIdx.x >= 128) { if (threadIdx.x < 160) { produce(s, &a, &k, &v, tiles, mistake); } }
    else { consume(s, out, &p, tiles, mistake); }
}

enum { TILES = 5, ROWS = 64 * TILES - 30 };

static void run_tma(int mistake, float* found, floatX* p_found, const floatX* ha, const floatX* hk, const floatX* hv) {
    floatX *a = upload(ha, 64 * 64), *k = upload(hk, ROWS * 64), *v = upload(hv, ROWS * 64), *p = upload(hk, ROWS * 64);
    float* out = upload(found, 64 * 64);
    CUtensorMap ma = map_of(a, 64, 64, 64, 64, CU_TENSOR_MAP_SWIZZLE_128B), mk = map_of(k, ROWS, 64, 64, 64, CU_TENSOR_MAP_SWIZZLE_128B),
                mv = map_of(v, ROWS, 64, 64, 64, CU_TENSOR_MAP_SWIZZLE_128B), mp = map_of(p, ROWS, 64, 64, 64, CU_TENSOR_MAP_SWIZZLE_128B);
    CUDA_CHECK(cudaFuncSetAttribute(tma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Rooms)));
    cudaLaunchConfig_t config = {};
    config.gridDim = 1; config.blockDim = 256; config.dynamicSmemBytes = sizeof(Rooms);
    CUDA_CHECK(cudaLaunchKernelEx(&config, tma_kernel, out, ma, mk, mv, mp, (int)TILES, (TmaMistake)mistake));
    CUDA_CHECK(cudaMemcpy(found, out, 64 * 64 * sizeof(float), cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(p_found, p, ROWS * 64 * sizeof(floatX), cudaMemcpyDeviceToHost));
}

static floatX host_a[64 * 64], host_k[ROWS * 64], host_v[ROWS * 64], host_p[ROWS * 64];
static float host_out[64 * 64];

static void fill_host(void) {
    uint64_t seed = 9;
    for (int i = 0; i < 64 * 64; i++) { host_a[i] = __float2bfloat16((float)(int)(test_normal(&seed) * 1.5)); }
    for (int i = 0; i < ROWS * 64; i++) {
        host_k[i] = __float2bfloat16((float)(int)(test_normal(&seed) * 1.5));
        host_v[i] = __float2bfloat16((float)(int)(test_normal(&seed) * 1.5));
    }
}

TEST(emu_tma_pipeline) {
    fill_host();
    for (int again = 0; again < 3; again++) {
        run_tma(CORRECT, host_out, host_p, host_a, host_k, host_v);
        static float o[64 * 64];
        memset(o, 0, sizeof o);
        int wrong = 0, wrong_p = 0;
        for (int row = 0; row < ROWS; row++) {
            int tile = (row + 8) / 64, line = (row + 8) % 64;
            for (int q = 0; q < 64; q++) {
                float sum = 0;
                for (int x = 0; x < 64; x++) { sum += (float)host_a[q * 64 + x] * (float)host_k[row * 64 + x]; }
                float p = (float)__float2bfloat16(sum / 64);
                for (int x = 0; x < 64; x++) { o[q * 64 + x] += p * (float)host_v[row * 64 + x]; }
                int at = 64 * tile - 8 + q;                            // P's row q of this tile went to tensor row 64 tile - 8 + q, column `line`
                if (at >= 0 && at < ROWS) { wrong_p += (float)host_p[at * 64 + line] != p; }
            }
        }
        for (int i = 0; i < 64 * 64; i++) { wrong += fabsf(host_out[i] - o[i]) > 1e-3f * (1 + fabsf(o[i])); }
        CHECK(wrong == 0, "%d of O wrong", wrong);
        CHECK(wrong_p == 0, "%d of P wrong", wrong_p);
    }
}

static void make_tma(int mistake) {
    fill_host();
    run_tma(mistake, host_out, host_p, host_a, host_k, host_v);
}

TEST(emu_reports_mistakes_of_tma) {
    CHECK(is_reported(make_tma, WRONG_PARITY, "emu: "), "a wrong parity");
    CHECK(is_reported(make_tma, NO_RELEASE, "wait in mbarrier.try_wait.parity"), "stages that are never released");
    CHECK(is_reported(make_tma, TOO_MANY_ARRIVALS, "emu: "), "too many arrivals");
    CHECK(is_reported(make_tma, WRONG_BYTES, "16 bytes missing"), "bytes that never come");
    CHECK(is_reported(make_tma, NO_INIT_FENCE, "initialised the mbarrier and did not fence"), "no fence after mbarrier.init");
    CHECK(is_reported(make_tma, NO_STORE_FENCE, "fence.proxy.async belongs"), "no proxy fence before a TMA store");
    CHECK(is_reported(make_tma, NO_STORE_WAIT, "bulk store"), "a store's room written again");
    CHECK(is_reported(make_tma, EARLY_REFILL, "emu: "), "a stage filled while it is read");
}

// ---- small instructions -----------------------------------------------------------------------------------------------
__global__ void small_kernel(int* out, const int* in, int* flags) {
    __shared__ __align__(128) int room[2][64];
    __shared__ uint64_t bar, copied;
    int t = threadIdx.x;
    if (t == 0) { mbarrier_init(&bar, 1); mbarrier_init(&copied, 64); asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
    __syncthreads();
    if (t == 0) { mbarrier_expect(&bar, 256); bulk_load(room[0], in, 256, &bar); }
    if (t >= 32) { while (!mbarrier_test(&bar, 0)) { __nanosleep(20); } }
    else { mbarrier_wait(&bar, 0); }
    if (blockIdx.x == 0) { out[t] = room[0][t]; }
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(shared_at(&room[1][t])), "l"(in + 64 + t) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(shared_at(&copied)) : "memory");
    mbarrier_wait(&copied, 0);
    if (blockIdx.x == 0) { out[64 + t] = room[1][63 - t]; }
    if (t < 32) { asm volatile("bar.arrive 2, 64;" ::: "memory"); }
    else { asm volatile("bar.sync 2, 64;" ::: "memory"); }
    __syncthreads();
    if (t == 0) {                                            // blocks hand a number on, in order
        int seen, b = blockIdx.x;
        do { asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(flags) : "memory"); } while (seen < b);
        asm volatile("st.release.gpu.global.s32 [%0], %1;" :: "l"(flags), "r"(seen + 1) : "memory");
        asm volatile("red.release.gpu.global.add.s32 [%0], %1;" :: "l"(flags + 1), "r"(2) : "memory");
        asm volatile("fence.proxy.async;" ::: "memory");
        bulk_store(flags + 4, room[0], 16);
        bulk_commit_and_wait();
    }
}

TEST(emu_small_instructions) {
    int in[128], found[128], flags[8] = {};
    for (int i = 0; i < 128; i++) { in[i] = 1000 + i; }
    int *from = upload(in, 128), *out = upload(found, 128), *f = upload(flags, 8);
    small_kernel<<<3, 64>>>(out, from, f);
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(found, out, sizeof found, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(flags, f, sizeof flags, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 64; i++) { CHECK_EQ(found[i], 1000 + i); CHECK_EQ(found[64 + i], 1064 + 63 - i); }
    CHECK_EQ(flags[0], 3);
    CHECK_EQ(flags[1], 6);
    for (int i = 0; i < 4; i++) { CHECK_EQ(flags[4 + i], 1000 + i); }
}

// ---- mistakes with wgmma ----------------------------------------------------------------------------------------------
enum Mistake { NO_PROXY_FENCE, CP_ASYNC_NO_FENCE, FENCE_BEFORE_WAIT, NO_WGMMA_FENCE, SCALED, WRITTEN_IN_FLIGHT, NEVER_WAITED, TOUCHED, READ_EARLY, THREE_WARPS, OTHER_SHAPE, OTHER_DESCRIPTORS,
               BEHIND_THE_END, BARRIER_COUNT, SPINS_FOREVER };

__global__ void mistaken_kernel(float* out, const floatX* in, Mistake what) {
    extern __shared__ __align__(1024) unsigned char room[];
    int t = threadIdx.x;
    for (int i = t; i < 2 * 64 * 64 / 8; i += 128) {
        if (what == CP_ASYNC_NO_FENCE || what == FENCE_BEFORE_WAIT) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_at(room + i * 16)), "l"(in + i * 8) : "memory");
        } else { *(uint4*)(room + i * 16) = *(const uint4*)(in + i * 8); }
    }
    if (what == FENCE_BEFORE_WAIT) { fence_async(); }
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (what != NO_PROXY_FENCE && what != CP_ASYNC_NO_FENCE && what != FENCE_BEFORE_WAIT) { fence_async(); }
    __syncthreads();
    if (what == SPINS_FOREVER && t == 0) { while (((volatile float*)out)[0] != 7.0f) { __nanosleep(10); } }
    if (what == BARRIER_COUNT) { if (t < 64) { asm volatile("bar.sync 3, 128;" ::: "memory"); } else { asm volatile("bar.sync 3, 64;" ::: "memory"); } }
    float d[32] = {};
    uint64_t a = describe(shared_at(room), SW128, false, 64, 0), b = describe(shared_at(room + 8192 + (what == BEHIND_THE_END ? 1024 : 0)), SW128, false, 64, 0);
    if (what == OTHER_DESCRIPTORS) { b += t / 32; }
    if (what != NO_WGMMA_FENCE) { wgmma_fence(); }
    if (what != THREE_WARPS || t < 96) { Wgmma<64, 0, 0, 1>::shared(d, a, b, 1); }
    if (what == OTHER_SHAPE) { Wgmma<32, 0, 0, 1>::shared(d, a, b, 1); }
    wgmma_commit();
    if (what == WRITTEN_IN_FLIGHT && t == 0) { *(float*)(room + 8192) = 1.5f; }
    if (what == TOUCHED) { d[3] = 0.0f; }
    if (what == READ_EARLY) { out[t] = d[5]; }
    if (what == NEVER_WAITED) { return; }
    wgmma_wait<0>();
    if (what == SCALED) {
        for (int i = 0; i < 32; i++) { d[i] *= 2.0f; }
        Wgmma<64, 0, 0, 1>::shared(d, a, b, 1);
        wgmma_commit();
        wgmma_wait<0>();
    }
    if (what != READ_EARLY) { out[t] = d[5]; }
}

static float mistaken_out[128];

static void make(int what) {
    static floatX in[2 * 64 * 64];
    for (int i = 0; i < 2 * 64 * 64; i++) { in[i] = __float2bfloat16(1.0f); }
    floatX* from = upload(in, 2 * 64 * 64);
    float* out = upload(mistaken_out, 128);
    mistaken_kernel<<<1, 128, 16384>>>(out, from, (Mistake)what);
    CUDA_CHECK(cudaMemcpy(mistaken_out, out, sizeof mistaken_out, cudaMemcpyDeviceToHost));
}

TEST(emu_reports_mistakes_of_wgmma) {
    CHECK(is_reported(make, NO_PROXY_FENCE, "fence.proxy.async belongs"), "stores without a proxy fence");
    CHECK(is_reported(make, CP_ASYNC_NO_FENCE, "fence.proxy.async belongs"), "cp.async without a proxy fence");
    CHECK(is_reported(make, FENCE_BEFORE_WAIT, "fence.proxy.async belongs"), "a proxy fence before the wait for cp.async");
    CHECK(is_reported(make, NO_WGMMA_FENCE, "no wgmma.fence at all"), "no wgmma.fence");
    CHECK(is_reported(make, SCALED, "written after the last wgmma.fence"), "accumulators scaled without a wgmma.fence");
    CHECK(is_reported(make, WRITTEN_IN_FLIGHT, emu_race_check ? "race" : "operand B"), "an operand written in flight");
    CHECK(is_reported(make, NEVER_WAITED, "no wgmma.wait_group"), "no wait");
    CHECK(is_reported(make, TOUCHED, "accumulator 3 was written"), "an accumulator written in flight");
    CHECK(is_reported(make, THREE_WARPS, "in wgmma.mma_async"), "three warps");
    CHECK(is_reported(make, OTHER_SHAPE, "of another shape"), "two shapes in one accumulator");
    CHECK(is_reported(make, OTHER_DESCRIPTORS, "other descriptors"), "warps with different descriptors");
    CHECK(is_reported(make, BEHIND_THE_END, "outside this kernel's shared memory"), "an operand behind the end");
    CHECK(is_reported(make, BARRIER_COUNT, "named barrier 3"), "different counts");
    CHECK(is_reported(make, SPINS_FOREVER, "spin in __nanosleep"), "a spin without end");
    make(READ_EARLY);
    for (int t = 0; t < 128; t++) { CHECK(isnan(mistaken_out[t]), "an accumulator read before the wait is %f", mistaken_out[t]); }
}

TEST_MAIN()

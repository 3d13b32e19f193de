// Tests of the emulator's clusters:  dev/emu/run --file dev/emu/selftest_cluster.cu
#include "selftest_hopper.h"

__device__ inline uint32_t cluster_rank() { uint32_t r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
__device__ inline uint32_t in_cta(const void* p, uint32_t rank) {
    uint32_t address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_at(p)), "r"(rank));
    return address;
}
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ inline void arrive_at(uint32_t address) { asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" :: "r"(address) : "memory"); }
__device__ inline void load_box(void* to, const CUtensorMap* map, int x, int y, uint64_t* b) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
                 :: "r"(shared_at(to)), "l"(map), "r"(x), "r"(y), "r"(0), "r"(shared_at(b)) : "memory");
}
__device__ inline void load_box_for_all(void* to, const CUtensorMap* map, int x, int y, uint64_t* b, uint16_t mask) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;"
                 :: "r"(shared_at(to)), "l"(map), "r"(x), "r"(y), "r"(0), "r"(shared_at(b)), "h"(mask) : "memory");
}
__device__ inline void store_box(const CUtensorMap* map, int x, int y, const void* from) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];"
                 :: "l"(map), "r"(x), "r"(y), "r"(0), "r"(shared_at(from)) : "memory");
}

// ---- which CTA is which, remote arrivals, the cluster's barrier -----------------------------------------------------------
enum { MESSAGE = 1000 };

__device__ void talk(int* out, int* mail, bool relaxed) {
    __shared__ uint64_t bar;
    __shared__ int own;
    uint32_t rank = cluster_rank(), count, id, nid, place;
    int t = threadIdx.x;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(count));
    asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(id));
    asm volatile("mov.u32 %0, %%nclusterid.x;" : "=r"(nid));
    asm volatile("mov.u32 %0, %%cluster_ctaid.x;" : "=r"(place));
    if (t == 0) {
        mbarrier_init(&bar, 64 + 64);
        mbarrier_fence();
        own = (int)rank + 5;
        mail[blockIdx.x] = MESSAGE + blockIdx.x;
    }
    if (relaxed) { cluster_arrive_relaxed(); }
    else { cluster_arrive(); }
    if (rank == 1) { __syncthreads(); __syncthreads(); }                // a block's barriers are its own
    cluster_wait();
    int letter = mail[blockIdx.x ^ 1];
    for (uint32_t r = 0; r < 2; r++) { arrive_at(in_cta(&bar, r)); }
    mbarrier_wait(&bar, 0);
    int* to = out + (blockIdx.x * 64 + t) * 7;
    to[0] = rank; to[1] = count; to[2] = id; to[3] = nid; to[4] = place; to[5] = own; to[6] = letter;
    cluster_arrive_relaxed();
    cluster_wait();
}

template <int> __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(64) talking_kernel(int* out, int* mail, bool relaxed) { talk(out, mail, relaxed); }
__global__ void asked_to_talk_kernel(int* out, int* mail) { talk(out, mail, false); }

template <class... P, class... A> static void launch_in_clusters(int blocks, int threads, size_t shared, int cluster, void (*kernel)(P...), A... arguments) {
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster; attribute.val.clusterDim.y = 1; attribute.val.clusterDim.z = 1;
    config.gridDim = blocks; config.blockDim = threads; config.dynamicSmemBytes = shared;
    config.attrs = &attribute; config.numAttrs = 1;
    CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

enum { BLOCKS = 6, N_FOUND = BLOCKS * 64 * 7 };
static int found[N_FOUND];

TEST(emu_cluster_of_two) {
    for (int way = 0; way < 4; way++) {
        int mail[BLOCKS] = {}, *out = upload(found, N_FOUND), *letters = upload(mail, BLOCKS);
        if (way < 2) { talking_kernel<3><<<BLOCKS, 64>>>(out, letters, false); }
        else { launch_in_clusters(BLOCKS, 64, 0, 2, asked_to_talk_kernel, out, letters); }
        LAUNCH_CHECK();
        CUDA_CHECK(cudaMemcpy(found, out, sizeof found, cudaMemcpyDeviceToHost));
        for (int i = 0; i < BLOCKS * 64; i++) {
            int block = i / 64, expected[7] = {block % 2, 2, block / 2, BLOCKS / 2, block % 2, block % 2 + 5, MESSAGE + (block ^ 1)};
            for (int j = 0; j < 7; j++) { CHECK_EQ(found[7 * i + j], expected[j]); }
        }
    }
}

// ---- a product with multicast ---------------------------------------------------------------------------------------------
// out (64 blocks, 256) = a (64 blocks, depth) b (256, depth)^T. Each CTA loads its rows of a, and half of b for both CTAs.
enum { DEPTH_STEPS = 5, K_ALL = DEPTH * DEPTH_STEPS, N_ALL = 256, STAGES = 2, PAIRS = 2, M_ALL = 64 * 2 * PAIRS, THREADS = 160 };
struct Tiles { floatX a[64 * DEPTH], b[N_ALL * DEPTH]; };
struct Rooms { Tiles stage[STAGES]; floatX out[4][64 * 64]; uint64_t full[STAGES], empty[STAGES]; };
enum Mistake { CORRECT, WAITS_FOR_RELEASES, LOCAL_RELEASE, NO_RELEASE, NO_WAIT_FOR_RELEASE, NO_BARRIER_AT_START, NO_BARRIER_AT_END, EARLY_RETURN, OWN_MASK, LARGE_MASK, HALF_THE_BYTES, TWO_LOADS, UNREAD,
               WAIT_OF_MAPA, TWO_ARRIVALS, HALF_A_WARP, ODD_GRID, LARGE_CLUSTER, OTHER_CLUSTER, RELAXED };

__device__ void produce(Rooms* s, const CUtensorMap* a, const CUtensorMap* b, Mistake mistake) {
    uint32_t rank = cluster_rank();
    uint16_t mask = mistake == OWN_MASK ? 1 << rank : mistake == LARGE_MASK ? 7 : 3;
    int steps = DEPTH_STEPS + (mistake == UNREAD && rank == 1);
    for (int i = 0; i < steps; i++) {
        Tiles* stage = &s->stage[i % STAGES];
        uint64_t* full = &s->full[i % STAGES];
        if (i >= STAGES && mistake != NO_WAIT_FOR_RELEASE) { mbarrier_wait(&s->empty[i % STAGES], (i / STAGES - 1) % 2); }
        mbarrier_expect(full, mistake == HALF_THE_BYTES ? (int)sizeof(Tiles) / 2 : (int)sizeof(Tiles));
        load_box(stage->a, a, DEPTH * i, 64 * blockIdx.x, full);
        if (mistake == TWO_LOADS) { load_box(stage->a, a, DEPTH * i, 64 * blockIdx.x, full); }
        load_box_for_all(stage->b + rank * 128 * DEPTH, b, DEPTH * i, 128 * rank, full, mask);
    }
    if (mistake == WAITS_FOR_RELEASES) {                               // instead of the cluster's barrier at the end
        for (int i = steps; i < steps + STAGES; i++) { mbarrier_wait(&s->empty[i % STAGES], (i / STAGES - 1) % 2); }
    }
}

__device__ void release(Rooms* s, int stage, Mistake mistake) {
    if (mistake == NO_RELEASE && cluster_rank() == 1) { return; }
    if (threadIdx.x % 32 != 0) { return; }
    for (uint32_t r = 0; r < 2; r++) {
        if (mistake == LOCAL_RELEASE) { mbarrier_arrive(&s->empty[stage]); }
        else { arrive_at(in_cta(&s->empty[stage], r)); }
    }
}

__device__ void consume(Rooms* s, const CUtensorMap* out, Mistake mistake) {
    int w = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    float d[128];
    for (int i = 0; i < DEPTH_STEPS; i++) {
        Tiles* stage = &s->stage[i % STAGES];
        if (mistake == WAIT_OF_MAPA) { asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0; }" :: "r"(in_cta(&s->full[0], 0)) : "memory"); }
        mbarrier_wait(&s->full[i % STAGES], i / STAGES % 2);
        wgmma_fence();
        for (int step = 0; step < DEPTH / 16; step++) {
            Wgmma<256, 0, 0, 1>::shared(d, describe(shared_at(stage->a), SW128, false, 64, step), describe(shared_at(stage->b), SW128, false, 256, step), i > 0 || step > 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        release(s, i % STAGES, mistake);
    }
    for (int i = 0; i < 128; i += 2) {                                  // four tiles of 64 columns, as TMA stores them
        int row = 16 * w + g + i % 4 / 2 * 8, column = i / 4 * 8 + 2 * c;
        *(__nv_bfloat162*)((char*)s->out[column / 64] + place(SW128, false, 64, row, column % 64)) = __floats2bfloat162_rn(d[i], d[i + 1]);
    }
    fence_async();
    asm volatile("bar.sync 1, 128;" ::: "memory");
    if (threadIdx.x == 0) {
        for (int tile = 0; tile < 4; tile++) {
            store_box(out, 64 * tile, 64 * blockIdx.x, s->out[tile]);
            asm volatile("cp.async.bulk.commit_group;" ::: "memory");
            asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
        }
        asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    }
}

__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1)
product_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, const __grid_constant__ CUtensorMap out, Mistake mistake) {
    extern __shared__ __align__(1024) unsigned char room[];
    Rooms* s = (Rooms*)room;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) { mbarrier_init(&s->full[i], 1); mbarrier_init(&s->empty[i], 4 * 2); }
        mbarrier_fence();
    }
    __syncthreads();
    if (mistake != NO_BARRIER_AT_START) {
        if (mistake != HALF_A_WARP || threadIdx.x >= 16) { cluster_arrive(); }
        if (mistake == TWO_ARRIVALS) { cluster_arrive(); }
        cluster_wait();
    }
    if (mistake == EARLY_RETURN && cluster_rank() == 1) { return; }
    if (threadIdx.x < 128) { consume(s, &out, mistake); }
    else if (threadIdx.x == 128) { produce(s, &a, &b, mistake); }
    if (mistake == NO_BARRIER_AT_END || mistake == WAITS_FOR_RELEASES) { return; }
    __syncwarp();
    cluster_arrive();
    cluster_wait();
}

static CUtensorMap map_of_matrix(void* start, int rows, int columns, int box_rows) {
    PFN_cuTensorMapEncodeTiled_v12000 encode = NULL;
    cudaDriverEntryPointQueryResult found;
    CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void**)&encode, 12000, cudaEnableDefault, &found));
    CUtensorMap map;
    cuuint64_t size[3] = {(cuuint64_t)columns, (cuuint64_t)rows, 1}, stride[2] = {(cuuint64_t)columns * 2, (cuuint64_t)rows * columns * 2};
    cuuint32_t box[3] = {64, (cuuint32_t)box_rows, 1}, ones[3] = {1, 1, 1};
    CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, start, size, stride, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS) { fprintf(stderr, "no tensor map\n"); abort(); }
    return map;
}

static floatX host_a[M_ALL * K_ALL], host_b[N_ALL * K_ALL], host_out[M_ALL * N_ALL];

static void run_product(int mistake) {
    uint64_t seed = 3;
    for (int i = 0; i < M_ALL * K_ALL; i++) { host_a[i] = __float2bfloat16((float)(int)test_normal(&seed)); }
    for (int i = 0; i < N_ALL * K_ALL; i++) { host_b[i] = __float2bfloat16((float)(int)test_normal(&seed)); }
    floatX *a = upload(host_a, M_ALL * K_ALL), *b = upload(host_b, N_ALL * K_ALL), *out = upload(host_out, M_ALL * N_ALL);
    CUtensorMap ma = map_of_matrix(a, M_ALL, K_ALL, 64), mb = map_of_matrix(b, N_ALL, K_ALL, 128), mo = map_of_matrix(out, M_ALL, N_ALL, 64);
    CUDA_CHECK(cudaFuncSetAttribute(product_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Rooms)));
    product_kernel<<<mistake == ODD_GRID ? 3 : 2 * PAIRS, THREADS, sizeof(Rooms)>>>(ma, mb, mo, (Mistake)mistake);
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpy(host_out, out, sizeof host_out, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaFree(a)); CUDA_CHECK(cudaFree(b)); CUDA_CHECK(cudaFree(out));
}

static int wrong_products(void) {
    int wrong = 0;
    for (int r = 0; r < M_ALL; r++) {
        for (int c = 0; c < N_ALL; c++) {
            float sum = 0;
            for (int k = 0; k < K_ALL; k++) { sum += (float)host_a[r * K_ALL + k] * (float)host_b[c * K_ALL + k]; }
            wrong += (float)host_out[r * N_ALL + c] != (float)__float2bfloat16(sum);
        }
    }
    return wrong;
}

TEST(emu_cluster_multicast) {
    for (int again = 0; again < 8; again++) {
        run_product(again % 4 < 3 ? CORRECT : WAITS_FOR_RELEASES);
        int wrong = wrong_products();
        CHECK(wrong == 0, "%d of %d products wrong", wrong, M_ALL * N_ALL);
    }
}

// ---- mistakes -------------------------------------------------------------------------------------------------------------
static void make(int mistake) {
    if (mistake < LARGE_CLUSTER) { run_product(mistake); }
    int *out = upload(found, N_FOUND), *mail = upload(found, BLOCKS);
    if (mistake == RELAXED) { talking_kernel<0><<<BLOCKS, 64>>>(out, mail, true); }
    if (mistake == LARGE_CLUSTER) { launch_in_clusters(BLOCKS, 64, 0, 3, asked_to_talk_kernel, out, mail); }
    if (mistake == OTHER_CLUSTER) {
        talking_kernel<0><<<BLOCKS, 64>>>(out, mail, false);
        launch_in_clusters(BLOCKS, 64, 0, 1, talking_kernel<0>, out, mail, false);
    }
}

// A stage that is filled before the other CTA has read it is a race, or wrong numbers.
static void make_early(int) {
    for (int again = 0; again < 4; again++) {
        run_product(LOCAL_RELEASE);
        int wrong = wrong_products();
        if (wrong) {
            fprintf(stderr, "%d products wrong\n", wrong);
            _exit(1);
        }
    }
}

TEST(emu_reports_mistakes_of_clusters) {
    CHECK(is_reported(make_early, 0, emu_race_check ? "the cluster's other CTA" : "products wrong"), "a stage released to the own CTA alone");
    CHECK(is_reported(make, NO_WAIT_FOR_RELEASE, "emu: "), "a stage filled without a wait");
    CHECK(is_reported(make, TWO_LOADS, "is still in flight"), "two loads to one place");
    CHECK(is_reported(make, NO_RELEASE, "mbarrier of CTA 0 at shared address"), "a stage that CTA 1 does not release");
    CHECK(is_reported(make, NO_RELEASE, "4 of 8 arrivals"), "a stage that CTA 1 does not release");
    CHECK(is_reported(make, NO_BARRIER_AT_START, "before this thread has waited at a barrier.cluster"), "no barrier at the start");
    CHECK(is_reported(make, NO_BARRIER_AT_END, "a barrier.cluster belongs before"), "no barrier at the end");
    CHECK(is_reported(make, EARLY_RETURN, "emu: "), "a CTA that ends at once");
    CHECK(is_reported(make, OWN_MASK, "16384 bytes missing"), "a multicast to the own CTA alone");
    CHECK(is_reported(make, LARGE_MASK, "mask 0x7 in a cluster of 2"), "a multicast to more CTAs than there are");
    CHECK(is_reported(make, HALF_THE_BYTES, "20480 bytes too many"), "more bytes than expected");
    CHECK(is_reported(make, UNREAD, "a bulk copy in flight"), "a stage filled once too often");
    CHECK(is_reported(make, WAIT_OF_MAPA, "comes from mapa (CTA 0)"), "a wait for another CTA's mbarrier");
    CHECK(is_reported(make, TWO_ARRIVALS, "has arrived and did not wait"), "two arrivals at the cluster's barrier");
    CHECK(is_reported(make, HALF_A_WARP, "barrier.cluster"), "half a warp at the cluster's barrier");
    CHECK(is_reported(make, ODD_GRID, "invalid grid"), "an odd number of blocks");
    CHECK(is_reported(make, LARGE_CLUSTER, "the emulator has room for 2"), "a cluster of 3");
    CHECK(is_reported(make, OTHER_CLUSTER, "the kernel is compiled for (2,1,1)"), "two sizes of the cluster");
    if (emu_race_check) { CHECK(is_reported(make, RELAXED, "the cluster's other CTA"), "a relaxed arrival"); }
}

TEST_MAIN()

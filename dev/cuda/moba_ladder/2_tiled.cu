// Step 2: shared memory. A CTA has 64 queries; every block that any of them picked comes into shared memory once, and the warps hold
// their queries that picked it against it.
// Keys are read 64 times less often. But 64 queries with 7 picks each want nearly every block there is, a seventh of the tile at a time:
// the number of blocks a tile walks grows with T, and so does the time per query.
#include "warp_block.cuh"

enum { TILE = 64, PER_WARP = TILE / WARPS };

struct TileShared {
    BlockKeys keys;
    Part state[TILE][WARP];                                              // of each query and lane
};

// which of the warp's queries, t0 .. t0 + PER_WARP - 1, attend to block j: bit i for query t0 + i
__device__ inline uint32_t takers(const Problem& p, int head, int t0, int j) {
    uint32_t mask = 0;
    for (int i = 0; i < PER_WARP; i++) {
        int t = t0 + i, lane = threadIdx.x % WARP;
        bool picked = t < p.T && (t / BLOCK == j || (lane < SLOTS && picks_of(p.route.sel, p, head, t)[lane] == j));
        mask |= (uint32_t)(__any_sync(0xffffffffu, picked) != 0) << i;
    }
    return mask;
}

// one CTA per (64 queries, head)
__global__ __launch_bounds__(THREADS)
static void tiled_kernel(Problem p) {
    extern __shared__ __align__(16) unsigned char tiled_shared[];
    TileShared& shared = *reinterpret_cast<TileShared*>(tiled_shared);
    int head = blockIdx.y, lane = threadIdx.x % WARP, local = threadIdx.x / WARP * PER_WARP, t0 = blockIdx.x * TILE + local;
    for (int i = 0; i < PER_WARP; i++) { part_open(shared.state[local + i][lane]); }
    for (int j = 0; j <= (int)blockIdx.x * TILE / BLOCK; j++) {          // all past blocks and the own one
        uint32_t mask = takers(p, head, t0, j);
        if (!__syncthreads_or(mask != 0)) { continue; }
        load_block(shared.keys, p, head, j);
        __syncthreads();
        for (int i = 0; i < PER_WARP; i++) {
            if (!(mask >> i & 1)) { continue; }
            Part part = attend_block(shared.keys, p.q + row_at(p, head, t0 + i), min((int)BLOCK, t0 + i - j * BLOCK + 1), p.scale);
            part_add(shared.state[local + i][lane], part);
        }
        __syncthreads();                                                 // before the next block's keys land
    }
    for (int i = 0; i < PER_WARP && t0 + i < p.T; i++) {
        const Part& part = shared.state[local + i][lane];
        floatX* out = p.out + row_at(p, head, t0 + i) + 2 * lane;
        out[0] = __float2bfloat16(part.acc.x / part.sum);
        out[1] = __float2bfloat16(part.acc.y / part.sum);
    }
}

static void tiled(const Problem* p) {
    dim3 grid(ceil_div(p->T, TILE), p->heads);
    CUDA_CHECK(cudaFuncSetAttribute((const void*)tiled_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sizeof(TileShared)));
    tiled_kernel<<<grid, THREADS, sizeof(TileShared), 0>>>(*p);
    LAUNCH_CHECK();
}

int main(int argc, char** argv) {
    Step step = {"2_tiled", "64 queries share each block in shared memory", 1, tiled, NULL};
    return ladder_main(argc, argv, &step, 1);
}

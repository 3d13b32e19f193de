// Step 4: tensor cores. The same two kernels, but 64 gathered queries meet the block at once: S = Q K^T, softmax in registers, P V, all by
// mma.sync with fp32 accumulators; the pieces are llmc/attn_tile.cuh. P and the parts are rounded to bf16, which halves the traffic of slots.
#include "attn_tile.cuh"
#include "key_major.cuh"

struct alignas(16) BlockTiles { floatX k[BLOCK * D], v[BLOCK * D], q[TILE * D]; };

// Scores of unseen keys become -inf: an own-block query sees the keys up to itself. seen: of this thread's rows g, g+8; key: of column 0
__device__ inline void mask_own(float (&s)[1][TILE / 8][4], const int (&seen)[2], int key) {
    #pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            if (key + 8 * n + 2 * (int)(threadIdx.x % 4) + i % 2 > seen[i / 2]) { s[0][n][i] = -INFINITY; }
        }
    }
}

// The warp's 16 queries against the block. entry: of this thread's rows g, g+8, -1 where there is none
__device__ inline void attend_and_store(const Problem& p, floatX* partial, float* lse, const BlockTiles& tiles, const uint32_t (&q)[1][D / 16][4],
                                        const int (&entry)[2], int head, int j) {
    Attended<D, 1> r;
    float lse2[1][2];
    int seen[2] = {entry[0] / MOBA_MAX_TOPK, entry[1] / MOBA_MAX_TOPK};  // a past block's keys are all before the query
    attended_open(r);
    #pragma unroll 1
    for (int key = 0; key < BLOCK; key += TILE) {
        float s[1][TILE / 8][4] = {};
        multiply_abt<D, 1, TILE / 8>(s, q, tiles.k, key);
        mask_own(s, seen, j * BLOCK + key);
        online_softmax(r, s, p.scale * LOG2E);
        multiply_ab<D, 1, TILE / 8>(r.acc, s, tiles.v, key);
    }
    attended_close(r, lse2, p.scale * LOG2E);
    for (int half = 0; half < 2; half++) {
        if (entry[half] < 0) { continue; }
        size_t slot = slot_at(p, head, seen[half], entry[half] % MOBA_MAX_TOPK);
        uint32_t* to = reinterpret_cast<uint32_t*>(partial + slot * D) + threadIdx.x % 4;
        #pragma unroll
        for (int n = 0; n < D / 8; n++) { to[4 * n] = pack_bf16(r.acc[0][n][2 * half], r.acc[0][n][2 * half + 1]); }
        if (threadIdx.x % 4 == 0) { lse[slot] = lse2[0][half] * LN2; }
    }
}

// one CTA per (block, share of its tiles of 64 queries, head)
__global__ __launch_bounds__(THREADS)
static void tensor_core_kernel(Problem p, floatX* partial, float* lse) {
    __shared__ BlockTiles tiles;
    int j = blockIdx.x, head = blockIdx.z, row = threadIdx.x / WARP * 16, g = threadIdx.x % WARP / 4;
    const AttnShape& s = p.shape;
    Callers callers = callers_of(p, head, j);
    load_tile<D, BLOCK>(tiles.k, head_rows(p.k, s.ldk, s, head), s.ldk, j * BLOCK, p.T);
    load_tile<D, BLOCK>(tiles.v, head_rows(p.v, s.ldv, s, head), s.ldv, j * BLOCK, p.T);
    for (int first = blockIdx.y * TILE; first < callers.count; first += SPLIT * TILE) {
        int rows[TILE / Copy<D>::STEP], entry[2];
        uint32_t q[1][D / 16][4];
        for (int i = 0; i < TILE / Copy<D>::STEP; i++) {
            int at = first + Copy<D>::first() + i * Copy<D>::STEP;
            rows[i] = at < callers.count ? entry_of(callers, at) / MOBA_MAX_TOPK : -1;
        }
        for (int half = 0; half < 2; half++) {
            int at = first + row + g + 8 * half;
            entry[half] = at < callers.count ? entry_of(callers, at) : -1;
        }
        gather_tile<D, TILE>(tiles.q, head_rows(p.q, s.ldq, s, head), s.ldq, rows);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        load_fragments<D, 1>(q, tiles.q, row);
        __syncthreads();                                                 // the next gather may land
        attend_and_store(p, partial, lse, tiles, q, entry, head, j);
    }
}

static size_t scratch(const Problem* p) { return (size_t)p->heads * p->T * TOPK * (D * sizeof(floatX) + sizeof(float)); }

static void tensor_cores(const Problem* p) {
    floatX* partial = (floatX*)p->scratch;
    float* lse = (float*)(partial + (size_t)p->heads * p->T * TOPK * D);
    dim3 grid(p->blocks, SPLIT, p->heads);
    tensor_core_kernel<<<grid, THREADS, 0, 0>>>(*p, partial, lse);
    LAUNCH_CHECK();
    merge(p, partial, lse);
}

int main(int argc, char** argv) {
    Step step = {"4_tensor_cores", "64 gathered queries at a time on mma.sync, parts in bf16", 3, tensor_cores, scratch};
    return ladder_main(argc, argv, &step, 1);
}

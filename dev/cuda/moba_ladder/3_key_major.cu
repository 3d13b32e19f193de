// Step 3: the loop turned inside out. A block's keys stay in shared memory and its queries come by, named by the block's list; what each
// gets is a part of its softmax, written to a slot of its own. A second kernel merges a query's slots by their log-sum-exp.
// Every load of keys is used by all who want them, however long the sequence: the work is linear in T. The price is traffic: 8 parts a query.
#include "key_major.cuh"
#include "warp_block.cuh"

// one CTA per (block, share of its queries, head); one warp per query
__global__ __launch_bounds__(THREADS)
static void key_major_kernel(Problem p, float* partial, float* lse) {
    __shared__ BlockKeys keys;
    int j = blockIdx.x, head = blockIdx.z, lane = threadIdx.x % WARP;
    Callers callers = callers_of(p, head, j);
    load_block(keys, p, head, j);
    __syncthreads();
    for (int i = blockIdx.y * WARPS + threadIdx.x / WARP; i < callers.count; i += SPLIT * WARPS) {
        int entry = entry_of(callers, i), t = entry / MOBA_MAX_TOPK;
        Part part = attend_block(keys, p.q + row_at(p, head, t), min((int)BLOCK, t - j * BLOCK + 1), p.scale);
        size_t slot = slot_at(p, head, t, entry % MOBA_MAX_TOPK);
        partial[slot * D + 2 * lane]     = part.acc.x / part.sum;
        partial[slot * D + 2 * lane + 1] = part.acc.y / part.sum;
        if (lane == 0) { lse[slot] = part.max + logf(part.sum); }
    }
}

static size_t scratch(const Problem* p) { return (size_t)p->heads * p->T * TOPK * (D + 1) * sizeof(float); }

static void key_major(const Problem* p) {
    float *partial = (float*)p->scratch, *lse = partial + (size_t)p->heads * p->T * TOPK * D;
    dim3 grid(p->blocks, SPLIT, p->heads);
    key_major_kernel<<<grid, THREADS, 0, 0>>>(*p, partial, lse);
    LAUNCH_CHECK();
    merge(p, partial, lse);
}

int main(int argc, char** argv) {
    Step step = {"3_key_major", "blocks stay, their queries come by; parts are merged", 1, key_major, scratch};
    return ladder_main(argc, argv, &step, 1);
}

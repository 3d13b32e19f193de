// Step 5: the product, llmc/moba_attn.cu. What it adds to step 4: copies in flight while tensor cores work, the own block fused with the
// merge, 16-byte stores, any shape, memory capped; and on Hopper, wgmma and TMA. Prints a line for each path this device has.
#include "ladder.h"

static float* lse;

static void product(const Problem* p, int path) {
    AttnShape shape = p->shape;
    shape.path = path;
    moba_attn_forward(p->out, lse, p->q, p->k, p->v, p->route, shape, BLOCK, TOPK, p->scratch, p->scratch_bytes, NULL);
}

static void portable(const Problem* p) { product(p, ATTN_PORTABLE); }
static void hopper(const Problem* p)   { product(p, ATTN_HOPPER); }

static size_t scratch(const Problem* p) {
    if (lse == NULL) { lse = (float*)device_malloc((size_t)p->heads * p->T * sizeof(float)); }
    return moba_attn_forward_scratch(p->shape, BLOCK, TOPK, SIZE_MAX);
}

int main(int argc, char** argv) {
    Step steps[] = {{"5_product (portable)", "the product on mma.sync: copies in flight, own block and merge in one kernel", 3, portable, scratch},
                    {"5_product (hopper)",   "the product on wgmma and TMA", 3, hopper, scratch}};
    return ladder_main(argc, argv, steps, device_open(0).capability == 90 ? 2 : 1);
}

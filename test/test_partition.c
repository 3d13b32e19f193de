// How parameters are divided among ranks, and what the scaling estimate says.
#include "dryrun.h"
#include "partition.h"
#include "test.h"

static LayerSpec layers[3] = {{.kind = LAYER_S, .window = 16}, {.kind = LAYER_M, .block = 16, .topk = 2}, {.kind = LAYER_S, .window = 16}};

// sizes that no number of ranks divides
static ParamTable table_for(int ranks) {
    ModelShape s = {.L = 3, .C = 24, .H = 3, .D = 8, .F = 40, .V = 57, .Vp = 128, .W = 3, .theta = 1e4, .ranks = ranks, .layer = layers};
    return param_table(&s);
}

TEST(partition_covers_everything_once) {
    for (int world = 1; world <= 9; world++) {
        for (int sharded = 0; sharded < 2; sharded++) {
            ParamTable table = table_for(world);
            int* owners = (int*)calloc(table.elements, sizeof(int));
            for (int rank = 0; rank < world; rank++) {
                Partition p = partition_make(&table, rank, world, sharded, 1000);
                size_t local = 0, matrices = 0;
                for (int i = 0; i < p.spans; i++) {
                    CHECK(p.span[i].local == local, "%d ranks: span %d begins at %zu, not %zu", world, i, p.span[i].local, local);
                    for (size_t e = 0; e < p.span[i].count; e++) { owners[p.span[i].flat + e]++; }
                    local += p.span[i].count;
                    matrices += p.span[i].flat < p.matrix_elements ? p.span[i].count : 0;
                }
                CHECK_EQ(local, p.local_elements);
                CHECK_EQ(matrices, p.local_matrix_elements);
                CHECK_EQ(p.local_elements, table.elements / (size_t)(sharded ? world : 1));
                partition_free(&p);
            }
            for (size_t e = 0; e < table.elements; e++) { CHECK_EQ(owners[e], sharded ? 1 : world); }
            free(owners);
            param_table_free(&table);
        }
    }
}

TEST(partition_buckets_divide_evenly) {
    const size_t sizes[] = {0, 1, 1000, 100000000};
    for (int world = 1; world <= 13; world++) {
        for (int s = 0; s < 4; s++) {
            ParamTable table = table_for(world);
            Partition p = partition_make(&table, world - 1, world, true, sizes[s]);
            size_t end = 0;
            for (int b = 0; b < p.buckets; b++) {
                CHECK_EQ(p.bucket[b].first, end);
                CHECK(p.bucket[b].count > 0 && p.bucket[b].count % ((size_t)world * PARAM_ALIGN) == 0, "bucket %d of %zu elements on %d ranks", b, p.bucket[b].count, world);
                end += p.bucket[b].count;
                if (b + 1 == p.matrix_buckets) { CHECK_EQ(end, table.matrix_elements); }
            }
            CHECK_EQ(end, table.elements);
            partition_free(&p);
            param_table_free(&table);
        }
    }
}

TEST(partition_shares_of_a_checkpoint_cover_it_once) {
    enum { WORLD = 5 };
    ParamTable table = table_for(WORLD);
    size_t next = 0;
    for (int rank = 0; rank < WORLD; rank++) {
        Partition p = partition_make(&table, rank, WORLD, false, 0);
        CHECK_EQ(p.share.flat, next);
        next += p.share.count;
        partition_free(&p);
    }
    CHECK_EQ(next, table.elements);
    param_table_free(&table);
}

// 1e9 bytes at 1e9 bytes/s = 1e6 bytes/ms is 1000 ms for a whole pass over all bytes
TEST(estimate_follows_its_formula) {
    EstimateInput in = {.compute_ms = 900, .backward_ms = 600, .body_bytes = 1e9, .tail_bytes = 0, .buckets = 1, .host_gpus = 2, .gpu_link = 1e6, .host_link = 1e6};
    StepEstimate one = estimate_step(&in, 1), two = estimate_step(&in, 2), four = estimate_step(&in, 4);
    CHECK_NEAR(one.reduction, 0, 0);
    CHECK_NEAR(one.waited, 0, 0);
    CHECK_NEAR(two.reduction, 1000, 1);                          // 2 * (2-1)/2 passes
    CHECK_NEAR(two.waited, 400, 1);                              // beyond the 600 ms of backward
    CHECK_NEAR(one.slowed, 0, 0);
    CHECK_NEAR(two.slowed, 1.8 * 600, 1);                        // which those 600 ms hold up
    CHECK_NEAR(four.reduction, 1000 + 500, 1);                   // and across 2 hosts half the bytes on each link
    in.tail_bytes = 1e8;
    CHECK_NEAR(estimate_step(&in, 2).waited, 400 + 100, 1);      // nothing hides the tail
    in.gather_bytes = 5e8;                                       // --zero 1: half the passes, then the weights
    CHECK_NEAR(estimate_step(&in, 2).reduction, 500 + 50 + 250, 1);
    CHECK_NEAR(estimate_step(&in, 2).waited, 0 + 50 + 250, 1);
}

TEST_MAIN()

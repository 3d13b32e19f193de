#include "partition.h"

#include <string.h>

// 256 MiB in fp32: reductions cost what they disturb, so they are few and run at the link's full speed; but enough of them that all but the last
// have backward left to run beside
static const size_t LARGEST = (size_t)64 << 20;
enum { BUCKETS_WANTED = 8 };

static void cut(Partition* p, size_t first, size_t end, size_t size) {
    for (; first < end; first += size) {
        Bucket b = {first, min_size(size, end - first)};
        p->bucket[p->buckets++] = b;
    }
}

static void add_span(Partition* p, size_t flat, size_t count, int bucket) {
    Span s = {flat, p->local_elements, count, bucket};
    p->span[p->spans++] = s;
    p->local_elements += count;
}

Partition partition_make(const ParamTable* table, int rank, int world, bool sharded, size_t largest) {
    Partition p;
    memset(&p, 0, sizeof p);
    p.rank = rank;
    p.world = world;
    p.sharded = sharded;
    p.matrix_elements = table->matrix_elements;
    p.elements = table->elements;
    size_t unit = (size_t)world * PARAM_ALIGN;
    REQUIRE(p.matrix_elements % unit == 0 && p.elements % unit == 0, "partition: %zu and %zu elements are not padded to %zu",
            p.matrix_elements, p.elements, unit);
    if (!largest) { largest = min_size(LARGEST, p.elements / BUCKETS_WANTED); }
    size_t size = max_size(largest / unit, 1) * unit;
    p.bucket = (Bucket*)xcalloc(p.elements / size + 2, sizeof(Bucket));
    p.span = (Span*)xcalloc(p.elements / size + 2, sizeof(Span));
    cut(&p, 0, p.matrix_elements, size);
    p.matrix_buckets = p.buckets;
    cut(&p, p.matrix_elements, p.elements, size);
    if (!sharded) {
        size_t part = p.elements / (size_t)world;
        p.share.flat = part * (size_t)rank;
        p.share.count = part;
        add_span(&p, 0, p.matrix_elements, 0);
        p.local_matrix_elements = p.local_elements;
        add_span(&p, p.matrix_elements, p.elements - p.matrix_elements, p.matrix_buckets);
        return p;
    }
    for (int b = 0; b < p.buckets; b++) {
        size_t part = p.bucket[b].count / (size_t)world;
        add_span(&p, p.bucket[b].first + part * (size_t)rank, part, b);
        if (b + 1 == p.matrix_buckets) { p.local_matrix_elements = p.local_elements; }
    }
    return p;
}

void partition_free(Partition* p) {
    free(p->bucket);
    free(p->span);
    memset(p, 0, sizeof *p);
}

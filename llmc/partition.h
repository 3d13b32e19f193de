// Level 3: which elements of the flat parameter arrays a rank reduces, updates and keeps.
//
// The arrays are cut into buckets, the units of reduction: matrices from the front, then vectors. Every boundary is a multiple of
// world * PARAM_ALIGN (param_table pads so). Without --zero each rank has everything. With it each bucket is cut into `world` equal parts,
// of which rank r has the r-th; its master weights and moments are these parts one after the other, `local` elements in all.
#ifndef PARTITION_H
#define PARTITION_H

#include "params.h"

typedef struct { size_t first, count; } Bucket;      // in the flat arrays

// `count` elements that follow each other both in the flat arrays (from `flat`) and among the rank's own (from `local`)
typedef struct { size_t flat, local, count; int bucket; } Span;

typedef struct {
    int     rank, world;
    bool    sharded;
    size_t  matrix_elements, elements;               // of the flat arrays
    size_t  local_elements, local_matrix_elements;   // of the rank's own
    int     buckets, matrix_buckets, spans;
    Bucket* bucket;                                  // (buckets) ascending
    Span*   span;                                    // (spans) ascending; a span is of matrices or of vectors
    Span    share;                                   // not sharded: the part that this rank writes into a checkpoint, local counted from its start
} Partition;

#ifdef __cplusplus
extern "C" {
#endif

// largest: elements of a bucket at most; 0: as many as make reductions efficient, but enough buckets to overlap
Partition partition_make(const ParamTable* table, int rank, int world, bool sharded, size_t largest);
void      partition_free(Partition* p);

#ifdef __cplusplus
}
#endif
#endif

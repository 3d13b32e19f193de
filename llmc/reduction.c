#include "reduction.h"

#include <math.h>

void reduction_open(Reduction* r, Model* model, Comm* comm, const Partition* partition, ReduceType type) {
    Reduction start = {model, comm, partition, type, 0, type != REDUCE_BF16 || !comm, NULL};
    *r = start;
}

static void reduce_bucket(Reduction* r, int bucket) {
    const Bucket* b = &r->partition->bucket[bucket];
    Model* m = r->model;
    float* data = m->grads + b->first;
    if (!r->measured && !r->exact) {
        r->exact = (float*)device_malloc(b->count * sizeof(float));
        device_copy(r->exact, data, b->count * sizeof(float), m->stream);
        comm_reduce(r->comm, r->exact, b->count, r->partition->sharded, REDUCE_FP32, m->stream);
    }
    comm_reduce(r->comm, data, b->count, r->partition->sharded, r->type, m->stream);
}

static void gradients_final(void* argument, size_t from) {
    Reduction* r = (Reduction*)argument;
    while (r->next > 0 && r->partition->bucket[r->next - 1].first >= from) { reduce_bucket(r, --r->next); }
}

void reduction_begin(Reduction* r) {
    if (!r->comm) { return; }
    r->next = r->partition->matrix_buckets;
    r->model->on_gradients = gradients_final;
    r->model->on_gradients_argument = r;
}

void reduction_end(Reduction* r) {
    if (!r->comm) { return; }
    r->model->on_gradients = NULL;
    while (r->next > 0) { reduce_bucket(r, --r->next); }
    for (int b = r->partition->matrix_buckets; b < r->partition->buckets; b++) { reduce_bucket(r, b); }
    comm_join(r->comm, r->model->stream);
}

double reduction_bf16_error(Reduction* r) {
    if (!r->exact) { return -1; }
    const Bucket* b = &r->partition->bucket[r->partition->matrix_buckets - 1];           // the first to go
    size_t count = r->partition->sharded ? b->count / (size_t)r->partition->world : b->count;      // of a sharded bucket only its own part is summed
    size_t first = r->partition->sharded ? count * (size_t)r->partition->rank : 0;
    float* exact = (float*)xmalloc(2 * count * sizeof(float));
    float* rounded = exact + count;
    device_download(exact, r->exact + first, count * sizeof(float), r->model->stream);
    device_download(rounded, r->model->grads + b->first + first, count * sizeof(float), r->model->stream);
    stream_sync(r->model->stream);
    double off = 0, whole = 0;
    for (size_t i = 0; i < count; i++) {
        off += pow((double)rounded[i] - (double)exact[i], 2);
        whole += pow((double)exact[i], 2);
    }
    free(exact);
    device_free(r->exact);
    r->exact = NULL;
    r->measured = true;
    return whole > 0 ? sqrt(off / whole) : 0;
}

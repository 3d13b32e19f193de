// What a graph leaves is what its calls leave one by one, fills above all: they run as kernels there (graph.cu).
#include "test.h"
#ifndef LLMC_CPU
#include "ref.h"
#include "cuda_common.cuh"
#include "device.h"

enum { BYTES = 1 << 20, UNTOUCHED = 0x77, LAUNCHES = 2 };

typedef struct { const char* name; size_t at, width, height, pitch; int value; } Fill;

// of words and of bytes, whole words and not, on a word's boundary and not, one and many rows, small and large
static const Fill fills[] = {
    {"a word", 0, 4, 1, 0, 0},
    {"bytes on a boundary", 64, 12, 1, 0, 0x5a},
    {"half a word more", 128, 6, 1, 0, 0},
    {"off the boundary", 193, 8, 1, 0, 0x21},
    {"a negative value", 256, 16, 1, 0, -2},
    {"rows", 512, 8, 3, 32, 0x13},
    {"more than a block", 4096, 5000, 1, 0, 0x42},
    {"more than becomes a kernel", 1 << 19, 300000, 1, 0, 0},
};
enum { FILLS = sizeof fills / sizeof *fills };

static void fill_on(unsigned char* to, const Fill* f, stream_t stream) {
    if (f->height == 1) { CUDA_CHECK(cudaMemsetAsync(to + f->at, f->value, f->width, stream)); }
    else                { CUDA_CHECK(cudaMemset2DAsync(to + f->at, f->pitch, f->value, f->width, f->height, stream)); }
}

static void fill_here(unsigned char* to, const Fill* f) {
    for (size_t row = 0; row < f->height; row++) { memset(to + f->at + row * f->pitch, f->value, f->width); }
}

static void launch_and_free(DeviceGraph* graph, int times, stream_t stream) {
    for (int i = 0; i < times; i++) { graph_launch(graph, stream); }
    stream_sync(stream);
    graph_close(graph);
}

GPU_TEST(graph_fills_exactly_what_is_asked) {
    device_open(0);
    stream_t stream = stream_open();
    unsigned char* expected = (unsigned char*)xmalloc(BYTES);
    for (int i = 0; i < FILLS; i++) {
        memset(expected, UNTOUCHED, BYTES);
        unsigned char* memory = (unsigned char*)device_from(expected, BYTES);
        CHECK(graph_begin(stream), "no graphs");
        fill_on(memory, &fills[i], stream);
        launch_and_free(graph_end(stream), LAUNCHES, stream);
        fill_here(expected, &fills[i]);
        unsigned char* found = (unsigned char*)host_from(memory, BYTES);
        CHECK(memcmp(found, expected, BYTES) == 0, "a fill of %s leaves something else", fills[i].name);
        free(found);
        device_free(memory);
    }
    free(expected);
    stream_close(stream);
}

__global__ void add_one_kernel(unsigned int* counts) { counts[threadIdx.x] += 1; }

// fill, add, copy out, fill, fill, add, add, copy out, fill: each in its turn, at every launch
GPU_TEST(graph_keeps_the_order_of_fills) {
    enum { COUNTS = 32, SIZE = COUNTS * sizeof(unsigned int) };
    device_open(0);
    stream_t stream = stream_open();
    unsigned int *counts = (unsigned int*)device_poisoned(SIZE), *once = (unsigned int*)device_poisoned(SIZE), *twice = (unsigned int*)device_poisoned(SIZE);
    CHECK(graph_begin(stream), "no graphs");
    device_zero(counts, SIZE, stream);
    add_one_kernel<<<1, COUNTS, 0, stream>>>(counts);
    device_copy(once, counts, SIZE, stream);
    CUDA_CHECK(cudaMemsetAsync(counts, 0xff, SIZE, stream));
    device_zero(counts, SIZE / 2, stream);
    add_one_kernel<<<1, COUNTS, 0, stream>>>(counts);
    add_one_kernel<<<1, COUNTS, 0, stream>>>(counts);
    device_copy(twice, counts, SIZE, stream);
    CUDA_CHECK(cudaMemsetAsync(counts, 9, SIZE, stream));
    launch_and_free(graph_end(stream), LAUNCHES, stream);
    unsigned int *a = (unsigned int*)host_from(once, SIZE), *b = (unsigned int*)host_from(twice, SIZE), *c = (unsigned int*)host_from(counts, SIZE);
    for (int i = 0; i < COUNTS; i++) {
        CHECK_EQ(a[i], 1);
        CHECK_EQ(b[i], i < COUNTS / 2 ? 2u : 1u);                        // 0 + 2, and 2^32 - 1 + 2
        CHECK_EQ(c[i], 0x09090909u);
    }
    free(a); free(b); free(c);
    device_free(counts); device_free(once); device_free(twice);
    stream_close(stream);
}

// a fill that two streams wait for, and one that waits for both
GPU_TEST(graph_keeps_a_fill_between_streams) {
    enum { COUNTS = 32, SIZE = COUNTS * sizeof(unsigned int) };
    device_open(0);
    stream_t stream = stream_open(), other = stream_open();
    cudaEvent_t begun, done;
    CUDA_CHECK(cudaEventCreate(&begun));
    CUDA_CHECK(cudaEventCreate(&done));
    unsigned int* counts = (unsigned int*)device_poisoned(2 * SIZE);
    unsigned int* copies = (unsigned int*)device_poisoned(2 * SIZE);
    CHECK(graph_begin(stream), "no graphs");
    device_zero(counts, 2 * SIZE, stream);
    CUDA_CHECK(cudaEventRecord(begun, stream));
    CUDA_CHECK(cudaStreamWaitEvent(other, begun, 0));
    add_one_kernel<<<1, COUNTS, 0, stream>>>(counts);
    add_one_kernel<<<1, COUNTS, 0, other>>>(counts + COUNTS);
    device_copy(copies + COUNTS, counts + COUNTS, SIZE, other);
    CUDA_CHECK(cudaEventRecord(done, other));
    device_copy(copies, counts, SIZE, stream);
    CUDA_CHECK(cudaStreamWaitEvent(stream, done, 0));
    CUDA_CHECK(cudaMemsetAsync(counts, 3, 2 * SIZE, stream));
    launch_and_free(graph_end(stream), LAUNCHES, stream);
    unsigned int *a = (unsigned int*)host_from(copies, 2 * SIZE), *b = (unsigned int*)host_from(counts, 2 * SIZE);
    for (int i = 0; i < 2 * COUNTS; i++) {
        CHECK_EQ(a[i], 1);
        CHECK_EQ(b[i], 0x03030303u);
    }
    free(a); free(b);
    device_free(counts); device_free(copies);
    CUDA_CHECK(cudaEventDestroy(begun));
    CUDA_CHECK(cudaEventDestroy(done));
    stream_close(stream); stream_close(other);
}
#endif

TEST_MAIN()

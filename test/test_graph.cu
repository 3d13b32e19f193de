// What a graph leaves is what its calls leave one by one, fills above all: they run as kernels there (graph.cu).
#include "test.h"
#ifndef LLMC_CPU
#include "ref.h"
#include "graph.cu"                // its parts too: which fills become kernels does not show in the results

enum { BYTES = 1 << 20, UNTOUCHED = 0x77, LAUNCHES = 2, MOST_BYTES = FILL_WORDS * 4 };

typedef struct { const char* name; size_t at, width, height, pitch; int value; bool turned; } Fill;

// of words and of bytes, whole words and not, on a word's boundary and not, one and many rows, small and large
static const Fill fills[] = {
    {"a word", 0, 4, 1, 0, 0, true},
    {"bytes on a boundary", 64, 12, 1, 0, 0x5a, true},
    {"half a word more", 128, 6, 1, 0, 0, false},
    {"off the boundary", 193, 8, 1, 0, 0x21, false},
    {"a negative value", 256, 16, 1, 0, -2, true},
    {"rows", 512, 8, 3, 32, 0x13, false},
    {"more than a block", 4096, 5000, 1, 0, 0x42, true},
    {"as much as becomes a kernel", 1 << 19, MOST_BYTES, 1, 0, 0x17, true},
    {"more than becomes a kernel", 1 << 19, MOST_BYTES + 4, 1, 0, 0, false},
};
enum { FILLS = sizeof fills / sizeof *fills };

static void fill_on(unsigned char* to, const Fill* f, stream_t stream) {
    if (f->height == 1) { CUDA_CHECK(cudaMemsetAsync(to + f->at, f->value, f->width, stream)); }
    else                { CUDA_CHECK(cudaMemset2DAsync(to + f->at, f->pitch, f->value, f->width, f->height, stream)); }
}

static int fills_left(cudaGraph_t graph) {
    cudaGraphNode_t node[32];
    size_t nodes = 32;
    int left = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph, node, &nodes));
    for (size_t i = 0; i < nodes; i++) {
        cudaGraphNodeType type;
        CUDA_CHECK(cudaGraphNodeGetType(node[i], &type));
        left += type == cudaGraphNodeTypeMemset;
    }
    return left;
}

static void fill_here(unsigned char* to, const Fill* f) {
    for (size_t row = 0; row < f->height; row++) { memset(to + f->at + row * f->pitch, f->value, f->width); }
}

// a graph as it is, without the end of a recording
static void launch_raw(cudaGraph_t graph) {
    cudaGraphExec_t work;
    CUDA_CHECK(cudaGraphInstantiate(&work, graph, 0));
    CUDA_CHECK(cudaGraphLaunch(work, NULL));
    stream_sync(NULL);
    CUDA_CHECK(cudaGraphExecDestroy(work));
    CUDA_CHECK(cudaGraphDestroy(graph));
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

GPU_TEST(graph_turns_small_fills_of_whole_words) {
    device_open(0);
    stream_t stream = stream_open();
    unsigned char* memory = (unsigned char*)device_poisoned(BYTES);
    for (int i = 0; i < FILLS; i++) {
        cudaGraph_t graph;
        CHECK(graph_begin(stream), "no graphs");
        fill_on(memory, &fills[i], stream);
        CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
        CHECK_EQ(fills_left(graph), 1);
        fills_to_kernels(graph);
        CHECK(fills_left(graph) == !fills[i].turned, "a fill of %s is %s", fills[i].name, fills[i].turned ? "still a fill" : "a kernel");
        CUDA_CHECK(cudaGraphDestroy(graph));
    }
    device_free(memory);
    stream_close(stream);
}

static cudaGraphNode_t add_fill(cudaGraph_t graph, const cudaGraphNode_t* behind, size_t behinds, void* to, unsigned value, unsigned element, size_t width) {
    cudaMemsetParams fill = {};
    cudaGraphNode_t node;
    fill.dst = to;
    fill.value = value;
    fill.elementSize = element;
    fill.width = width;
    fill.height = 1;
    CUDA_CHECK(cudaGraphAddMemsetNode(&node, graph, behind, behinds, &fill));
    return node;
}

// elements of 1, 2, 4 bytes, each its value's lowest
GPU_TEST(graph_fills_elements_of_any_size) {
    enum { WIDTH = 6 };
    device_open(0);
    for (unsigned element = 1; element <= 4; element *= 2) {
        const unsigned value = 0x12345678u & (0xffffffffu >> (32 - 8 * element));
        const size_t width = WIDTH * 4 / element;
        unsigned char* memory = (unsigned char*)device_poisoned((WIDTH + 1) * 4);
        cudaGraph_t graph;
        CUDA_CHECK(cudaGraphCreate(&graph, 0));
        add_fill(graph, NULL, 0, memory, value, element, width);
        fills_to_kernels(graph);
        CHECK_EQ(fills_left(graph), 0);
        launch_raw(graph);
        unsigned char *found = (unsigned char*)host_from(memory, (WIDTH + 1) * 4), *poison = found + WIDTH * 4;
        for (size_t i = 0; i < width; i++) { CHECK(memcmp(found + i * element, &value, element) == 0, "element %zu of %u bytes is not %x", i, element, value); }
        for (int i = 1; i < 4; i++) { CHECK_EQ(poison[i], poison[0]); }
        free(found);
        device_free(memory);
    }
}

// one behind as many as a kernel may have before it, and one behind one more
GPU_TEST(graph_leaves_fills_with_many_neighbours) {
    enum { MOST = MOST_NEIGHBOURS + 1 };
    device_open(0);
    for (int befores = MOST_NEIGHBOURS; befores <= MOST; befores++) {
        cudaGraphNode_t before[MOST];
        cudaGraph_t graph;
        unsigned* memory = (unsigned*)device_poisoned((MOST + 1) * sizeof(unsigned));
        CUDA_CHECK(cudaGraphCreate(&graph, 0));
        for (int i = 0; i < befores; i++) { before[i] = add_fill(graph, NULL, 0, memory + i, 5, 4, 1); }
        add_fill(graph, before, befores, memory, 6, 4, MOST + 1);
        fills_to_kernels(graph);
        CHECK_EQ(fills_left(graph), befores > MOST_NEIGHBOURS);
        launch_raw(graph);
        unsigned* found = (unsigned*)host_from(memory, (MOST + 1) * sizeof(unsigned));
        for (int i = 0; i <= MOST; i++) { CHECK_EQ(found[i], 6); }
        free(found);
        device_free(memory);
    }
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

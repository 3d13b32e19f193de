// The device's graphs: what was recorded from a stream, launched as one.
#include "cuda_common.cuh"
#include "device.h"

struct DeviceGraph { cudaGraphExec_t work; };

// cuBLASLt puts a fill of some bytes in front of most products. In a graph the device is idle for 1.5 us before a fill and 2.5 to 4 behind
// it; before and behind a kernel it is 0.5 us. So small fills become kernels.
enum { FILL_THREADS = 256, FILL_WORDS = 1 << 16, MOST_NEIGHBOURS = 8 };

#if CUDART_VERSION >= 13000
#define PLAIN_EDGES NULL,          // since CUDA 13 edges have data, ours none
#else
#define PLAIN_EDGES
#endif

__global__ __launch_bounds__(FILL_THREADS)
void fill_kernel(unsigned int* to, unsigned int value, int words) {
    int i = blockIdx.x * FILL_THREADS + threadIdx.x;
    if (i < words) { to[i] = value; }
}

// its value over 32 bits, however wide the elements are
static unsigned int fill_value(const cudaMemsetParams& fill) {
    return fill.elementSize == 1 ? (fill.value & 0xff) * 0x01010101u : fill.elementSize == 2 ? (fill.value & 0xffff) * 0x00010001u : fill.value;
}

// false: it has more neighbours than that, or others than plain ones
static bool neighbours(cudaGraphNode_t* before, size_t* n_before, cudaGraphNode_t* behind, size_t* n_behind, cudaGraphNode_t node) {
    *n_before = *n_behind = 0;
    cudaError_t status = cudaGraphNodeGetDependencies(node, NULL, PLAIN_EDGES n_before);
    if (status == cudaSuccess) { status = cudaGraphNodeGetDependentNodes(node, NULL, PLAIN_EDGES n_behind); }
    if (*n_before > MOST_NEIGHBOURS || *n_behind > MOST_NEIGHBOURS) { return false; }
    // (to ask for none of them would be an error)
    if (status == cudaSuccess && *n_before > 0) { status = cudaGraphNodeGetDependencies(node, before, PLAIN_EDGES n_before); }
    if (status == cudaSuccess && *n_behind > 0) { status = cudaGraphNodeGetDependentNodes(node, behind, PLAIN_EDGES n_behind); }
    if (status != cudaSuccess) { (void)cudaGetLastError(); }
    return status == cudaSuccess;
}

// One that is large, or not of whole words, or of several rows, stays a fill.
static void fill_to_kernel(cudaGraph_t graph, cudaGraphNode_t node) {
    cudaMemsetParams fill;
    CUDA_CHECK(cudaGraphMemsetNodeGetParams(node, &fill));
    size_t bytes = fill.width * fill.elementSize, n_before, n_behind;
    if (fill.height > 1 || bytes == 0 || bytes % 4 != 0 || (uintptr_t)fill.dst % 4 != 0 || bytes / 4 > FILL_WORDS) { return; }
    cudaGraphNode_t before[MOST_NEIGHBOURS], behind[MOST_NEIGHBOURS], kernel, from[MOST_NEIGHBOURS];
    if (!neighbours(before, &n_before, behind, &n_behind, node)) { return; }
    unsigned int* to = (unsigned int*)fill.dst;
    unsigned int value = fill_value(fill);
    int words = (int)(bytes / 4);
    void* arguments[] = {&to, &value, &words};
    cudaKernelNodeParams call = {};
    call.func = (void*)fill_kernel;
    call.gridDim = dim3((words + FILL_THREADS - 1) / FILL_THREADS);
    call.blockDim = dim3(FILL_THREADS);
    call.kernelParams = arguments;
    CUDA_CHECK(cudaGraphAddKernelNode(&kernel, graph, before, n_before, &call));
    for (size_t i = 0; i < n_behind; i++) { from[i] = kernel; }
    if (n_behind > 0) { CUDA_CHECK(cudaGraphAddDependencies(graph, from, behind, PLAIN_EDGES n_behind)); }
    CUDA_CHECK(cudaGraphDestroyNode(node));
}

static void fills_to_kernels(cudaGraph_t graph) {
    size_t nodes = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph, NULL, &nodes));
    cudaGraphNode_t* node = (cudaGraphNode_t*)xmalloc(nodes * sizeof *node);
    CUDA_CHECK(cudaGraphGetNodes(graph, node, &nodes));
    for (size_t i = 0; i < nodes; i++) {
        cudaGraphNodeType type;
        CUDA_CHECK(cudaGraphNodeGetType(node[i], &type));
        if (type == cudaGraphNodeTypeMemset) { fill_to_kernel(graph, node[i]); }
    }
    free(node);
}

// thread-local: what other threads (loader, saver) ask of the device meanwhile is none of it
bool graph_begin(stream_t stream) {
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    return true;
}

DeviceGraph* graph_end(stream_t stream) {
    cudaGraph_t recorded;
    DeviceGraph* graph = (DeviceGraph*)xmalloc(sizeof(DeviceGraph));
    CUDA_CHECK(cudaStreamEndCapture(stream, &recorded));
    fills_to_kernels(recorded);
    CUDA_CHECK(cudaGraphInstantiate(&graph->work, recorded, 0));
    CUDA_CHECK(cudaGraphDestroy(recorded));
    return graph;
}

void graph_launch(DeviceGraph* graph, stream_t stream) { CUDA_CHECK(cudaGraphLaunch(graph->work, stream)); }

void graph_close(DeviceGraph* graph) {
    if (!graph) { return; }
    CUDA_CHECK(cudaGraphExecDestroy(graph->work));
    free(graph);
}

// The device on a GPU: what it is, its memory, its streams and events. A call that fails ends the program with a sentence.
#include <ctype.h>

#include "cuda_common.cuh"
#include "device.h"

struct DeviceEvent { cudaEvent_t event; };

// is `part` in the name, not as a part of a longer word ("A100" is not in "RTX A1000")?
static bool has_words(const char* name, const char* part) {
    for (const char* at = strstr(name, part); at; at = strstr(at + 1, part)) {
        char behind = at[strlen(part)];
        if ((at == name || !isalnum((unsigned char)at[-1])) && !isalnum((unsigned char)behind)) { return true; }
    }
    return false;
}

// dense bf16 FLOP/s by the vendor's datasheets (no sparsity); the first entry whose words are in the device's name counts
static double peak_flops_of(const char* name) {
    static const struct { const char* part; double flops; } table[] = {
        {"GB200", 2500e12}, {"B200", 2250e12}, {"B100", 1750e12},
        {"GH200", 989e12}, {"H200 NVL", 835e12}, {"H200", 989e12}, {"H100 NVL", 835e12}, {"H100 PCIe", 756e12}, {"H100", 989e12},
        {"H20", 148e12}, {"H800 PCIe", 756e12}, {"H800", 989e12},
        {"A100", 312e12}, {"A800", 312e12}, {"A40", 149.7e12}, {"A30", 165e12}, {"A10G", 70e12}, {"A10", 125e12},
        {"L40S", 362e12}, {"L40", 181e12}, {"L4", 121e12},
        {"RTX 6000 Ada", 364e12}, {"RTX A6000", 154.8e12}, {"RTX 5090", 209.5e12}, {"RTX 4090", 165e12}, {"RTX 3090", 71e12},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (has_words(name, table[i].part)) { return table[i].flops; }
    }
    return 0;
}

int device_count(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Device device_open(int index) {
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
        FAIL(EXIT_INTERNAL, "no CUDA GPU here (%s); train_moba_cpu is the same trainer without one",
             status != cudaSuccess ? cudaGetErrorString(status) : "the driver lists none");
    }
    if (index < 0 || index >= count) {
        FAIL(EXIT_INTERNAL, "GPU %d asked for, but this host has %d (0 to %d): start at most one process a GPU", index, count, count - 1);
    }
    cudaDeviceProp properties;
    CUDA_CHECK(cudaSetDevice(index));
    CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    Device device = {};
    snprintf(device.name, sizeof device.name, "%.127s", properties.name);
    for (int i = 0; i < 16; i++) { snprintf(device.uuid + 2 * i, 3, "%02x", (unsigned char)properties.uuid.bytes[i]); }
    device.is_gpu = true;
    device.index = index;
    device.capability = properties.major * 10 + properties.minor;
    if (device.capability < 80) {
        FAIL(EXIT_INTERNAL, "GPU %d, %s, has compute capability %d.%d; bf16 kernels need 8.0 (Ampere) or later; train_moba_cpu runs without a GPU",
             index, device.name, properties.major, properties.minor);
    }
    device.cores = properties.multiProcessorCount;
    device.memory_bytes = properties.totalGlobalMem;
    device.peak_flops = peak_flops_of(device.name);
    return device;
}

stream_t stream_open(void) {
    cudaStream_t stream;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

void stream_close(stream_t stream) { CUDA_CHECK(cudaStreamDestroy(stream)); }

void stream_sync(stream_t stream) { CUDA_CHECK(cudaStreamSynchronize(stream)); }

// cudaMalloc aligns to 256 bytes or more
void* device_malloc(size_t bytes) {
    void* memory = NULL;
    cudaError_t status = cudaMalloc(&memory, max_size(bytes, 1));
    if (status == cudaErrorMemoryAllocation) {
        size_t free_bytes = 0, total = 0;
        cudaMemGetInfo(&free_bytes, &total);
        FAIL(EXIT_INTERNAL, "out of GPU memory: %.1f MiB asked for, %.1f of %.1f MiB free (a smaller --micro-batch or a higher --recompute needs less)",
             bytes / 1048576.0, free_bytes / 1048576.0, total / 1048576.0);
    }
    CUDA_CHECK(status);
    return memory;
}

void device_free(void* memory) { CUDA_CHECK(cudaFree(memory)); }

void* pinned_malloc(size_t bytes) {
    void* memory = NULL;
    cudaError_t status = cudaMallocHost(&memory, max_size(bytes, 1));
    if (status != cudaSuccess) {
        FAIL(EXIT_INTERNAL, "no %.1f MiB of pinned host memory: %s", bytes / 1048576.0, cudaGetErrorString(status));
    }
    return memory;
}

void pinned_free(void* memory) { CUDA_CHECK(cudaFreeHost(memory)); }

size_t device_memory_in_use(void) {
    size_t free_bytes = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
    return total - free_bytes;
}

// cuBLASLt's kernels and ours are loaded when they are first launched
static const size_t RUNTIME_STILL_TAKES = (size_t)768 << 20;

size_t device_memory_free(void) {
    size_t free_bytes = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
    return free_bytes > RUNTIME_STILL_TAKES ? free_bytes - RUNTIME_STILL_TAKES : 0;
}

void device_upload(void* device, const void* host, size_t bytes, stream_t stream) {
    CUDA_CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream));
}

void device_download(void* host, const void* device, size_t bytes, stream_t stream) {
    CUDA_CHECK(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream));
}

void device_copy(void* to, const void* from, size_t bytes, stream_t stream) {
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
}

void device_copy_rows(void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes, size_t rows, stream_t stream) {
    CUDA_CHECK(cudaMemcpy2DAsync(to, to_stride, from, from_stride, row_bytes, rows, cudaMemcpyDeviceToDevice, stream));
}

void device_zero(void* device, size_t bytes, stream_t stream) { CUDA_CHECK(cudaMemsetAsync(device, 0, bytes, stream)); }

DeviceEvent* event_open(void) {
    DeviceEvent* event = (DeviceEvent*)xmalloc(sizeof(DeviceEvent));
    CUDA_CHECK(cudaEventCreate(&event->event));
    return event;
}

void event_close(DeviceEvent* event) {
    CUDA_CHECK(cudaEventDestroy(event->event));
    free(event);
}

void event_record(DeviceEvent* event, stream_t stream) { CUDA_CHECK(cudaEventRecord(event->event, stream)); }

void event_wait(DeviceEvent* event) { CUDA_CHECK(cudaEventSynchronize(event->event)); }

float event_ms(DeviceEvent* from, DeviceEvent* to) {
    float ms = 0;
    CUDA_CHECK(cudaEventElapsedTime(&ms, from->event, to->event));
    return ms;
}

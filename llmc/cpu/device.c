// The device without a GPU: plain memory, no streams, the clock for events.
#include "device.h"

#include <omp.h>
#include <time.h>
#include <unistd.h>

struct DeviceEvent { struct timespec time; };

static void read_cpu_name(char* name, size_t size) {
    snprintf(name, size, "CPU");
    FILE* file = fopen("/proc/cpuinfo", "r");
    if (!file) { return; }
    char line[512];
    while (fgets(line, sizeof line, file)) {
        char* value = strstr(line, ": ");
        if (strncmp(line, "model name", 10) == 0 && value) {
            value[strcspn(value, "\n")] = 0;
            snprintf(name, size, "%.100s", value + 2);
            break;
        }
    }
    fclose(file);
}

int device_count(void) { return 1; }

Device device_open(int index) {
    (void)index;
    Device device = {0};
    read_cpu_name(device.name, sizeof device.name);
    device.cores = omp_get_max_threads();
    device.memory_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    return device;
}

stream_t stream_open(void)            { return NULL; }
void stream_close(stream_t stream)    { (void)stream; }
void stream_sync(stream_t stream)     { (void)stream; }

void* device_malloc(size_t bytes) {
    void* memory = aligned_alloc(256, round_up(max_size(bytes, 1), 256));
    if (!memory) { FAIL(EXIT_INTERNAL, "out of memory: %zu bytes asked for, %zu in use (a smaller --micro-batch or --seq-len needs less)",
                        bytes, device_memory_in_use()); }
    return memory;
}

void device_free(void* memory) { free(memory); }
void* pinned_malloc(size_t bytes) { return device_malloc(bytes); }
void pinned_free(void* memory) { free(memory); }

// pages that nothing uses; those of cached files could be had too, but taking them would slow the machine
size_t device_memory_free(void) { return (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE); }

// resident pages of this process
size_t device_memory_in_use(void) {
    unsigned long total = 0, resident = 0;
    FILE* file = fopen("/proc/self/statm", "r");
    if (!file) { return 0; }
    int fields = fscanf(file, "%lu %lu", &total, &resident);
    fclose(file);
    return fields == 2 ? (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

void device_upload(void* device, const void* host, size_t bytes, stream_t stream) { device_copy(device, host, bytes, stream); }
void device_download(void* host, const void* device, size_t bytes, stream_t stream) { device_copy(host, device, bytes, stream); }

void device_copy(void* to, const void* from, size_t bytes, stream_t stream) {
    (void)stream;
    if (bytes) { memcpy(to, from, bytes); }
}

void device_copy_rows(void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes, size_t rows, stream_t stream) {
    for (size_t i = 0; i < rows; i++) { device_copy((char*)to + i * to_stride, (const char*)from + i * from_stride, row_bytes, stream); }
}

void device_zero(void* device, size_t bytes, stream_t stream) {
    (void)stream;
    if (bytes) { memset(device, 0, bytes); }
}

DeviceEvent* event_open(void) { return (DeviceEvent*)xcalloc(1, sizeof(DeviceEvent)); }
void event_close(DeviceEvent* event) { free(event); }

void event_record(DeviceEvent* event, stream_t stream) {
    (void)stream;
    clock_gettime(CLOCK_MONOTONIC, &event->time);
}

void event_wait(DeviceEvent* event) { (void)event; }

float event_ms(DeviceEvent* from, DeviceEvent* to) {
    return (float)((to->time.tv_sec - from->time.tv_sec) * 1e3 + (to->time.tv_nsec - from->time.tv_nsec) * 1e-6);
}

bool graph_begin(stream_t stream) { (void)stream; return false; }
DeviceGraph* graph_end(stream_t stream) { (void)stream; return NULL; }
void graph_launch(DeviceGraph* graph, stream_t stream) { (void)graph; (void)stream; }
void graph_close(DeviceGraph* graph) { (void)graph; }

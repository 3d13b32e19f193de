// Level 1: the device. Memory, copies, streams, events; llmc/device.cu on a GPU, llmc/cpu/device.c as plain memory.
#ifndef DEVICE_H
#define DEVICE_H

#include "common.h"
#include "dtype.h"

typedef struct {
    char   name[128];        // "NVIDIA H100 80GB HBM3" or the CPU's model name
    bool   is_gpu;
    int    index;            // CUDA ordinal; 0 on the CPU
    int    capability;       // 90 for compute capability 9.0; 0 on the CPU
    int    cores;            // multiprocessors, or CPU threads used
    size_t memory_bytes;     // total
    char   uuid[40];         // of the GPU, unique in the world; "" on the CPU
    double peak_flops;       // dense bf16 FLOP/s by the vendor's datasheet; 0 where unknown (no MFU then)
} Device;

typedef struct DeviceEvent DeviceEvent;
typedef struct DeviceGraph DeviceGraph;    // work recorded once and launched as a whole

#ifdef __cplusplus
extern "C" {
#endif

int      device_count(void);                           // GPUs this process may use; 1 on the CPU
Device   device_open(int index);                       // exits 70 with a sentence if there is none
stream_t stream_open(void);
void     stream_close(stream_t stream);
void     stream_sync(stream_t stream);                 // waits, and reports asynchronous errors

void*    device_malloc(size_t bytes);                  // exits 70 with sizes when it does not fit; 256-byte aligned
void     device_free(void* memory);
void*    pinned_malloc(size_t bytes);                  // host memory that copies run asynchronously from
void     pinned_free(void* memory);
size_t   device_memory_free(void);                     // bytes a plan may count on: free now, less what the runtime will still take
size_t   device_memory_in_use(void);                   // bytes in use on the device by all, for the log

void     device_upload(void* device, const void* host, size_t bytes, stream_t stream);     // asynchronous from pinned memory
void     device_download(void* host, const void* device, size_t bytes, stream_t stream);
void     device_copy(void* to, const void* from, size_t bytes, stream_t stream);
// `rows` rows of `row_bytes`, each `from_stride` / `to_stride` bytes after the one before
void     device_copy_rows(void* to, size_t to_stride, const void* from, size_t from_stride, size_t row_bytes, size_t rows, stream_t stream);
void     device_zero(void* device, size_t bytes, stream_t stream);

DeviceEvent* event_open(void);
void     event_close(DeviceEvent* event);
void     event_record(DeviceEvent* event, stream_t stream);
void     event_wait(DeviceEvent* event);                                 // host waits
float    event_ms(DeviceEvent* from, DeviceEvent* to);                   // milliseconds between two recorded events

// Between begin and end what goes into the stream is recorded, not run; nothing may wait there. The CPU has no graphs: begin is false.
bool         graph_begin(stream_t stream);
DeviceGraph* graph_end(stream_t stream);
void         graph_launch(DeviceGraph* graph, stream_t stream);
void         graph_close(DeviceGraph* graph);                            // may be NULL

#ifdef __cplusplus
}
#endif
#endif

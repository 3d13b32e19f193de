// What test programs and the ladder need of llmc/device.h, over the emulated runtime.
#include "include/cuda_runtime.h"

#include "device.h"

extern "C" {
Device device_open(int index) {
    cudaDeviceProp p;
    cudaGetDeviceProperties(&p, index);
    Device d = {};
    snprintf(d.name, sizeof d.name, "%s", p.name);
    d.is_gpu = true; d.index = index; d.capability = 10 * p.major + p.minor; d.cores = p.multiProcessorCount;
    d.memory_bytes = p.totalGlobalMem;
    return d;
}
stream_t stream_open(void)          { stream_t s; cudaStreamCreate(&s); return s; }
void stream_close(stream_t stream)  { cudaStreamDestroy(stream); }
void stream_sync(stream_t)          {}
void* device_malloc(size_t bytes)   { void* p; emu_malloc(&p, bytes); return p; }
void device_free(void* memory)      { cudaFree(memory); }
void* pinned_malloc(size_t bytes)   { return malloc(bytes); }
void pinned_free(void* memory)      { free(memory); }
void device_upload(void* device, const void* host, size_t bytes, stream_t) {
    if (cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice)) { emu_error("device_upload: bad address"); }
}
void device_download(void* host, const void* device, size_t bytes, stream_t) {
    if (cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost)) { emu_error("device_download: bad address"); }
}
void device_copy(void* to, const void* from, size_t bytes, stream_t) {
    if (cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice)) { emu_error("device_copy: bad address"); }
}
void device_zero(void* device, size_t bytes, stream_t) { if (cudaMemset(device, 0, bytes)) { emu_error("device_zero: bad address"); } }

// an emulated call has ended when it returns: an event holds its time alone
struct DeviceEvent { cudaEvent_t event; };
DeviceEvent* event_open(void) {
    DeviceEvent* event = (DeviceEvent*)malloc(sizeof(DeviceEvent));
    cudaEventCreate(&event->event);
    return event;
}
void event_close(DeviceEvent* event) {
    cudaEventDestroy(event->event);
    free(event);
}
void event_record(DeviceEvent* event, stream_t stream)  { cudaEventRecord(event->event, stream); }
void event_wait(DeviceEvent* event)                     { cudaEventSynchronize(event->event); }
float event_ms(DeviceEvent* from, DeviceEvent* to) {
    float ms = 0;
    cudaEventElapsedTime(&ms, from->event, to->event);
    return ms;
}
}

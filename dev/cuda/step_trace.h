// When the device is idle: start and end of every kernel, copy and fill as CUPTI's activity records give them, in an undisturbed run.
// CUPTI is part of the CUDA toolkit but not of every installation: it is looked for when this is compiled and again when it runs.
#ifndef STEP_TRACE_H
#define STEP_TRACE_H

#include "cuda_common.cuh"

typedef struct {
    int    activities;          // 0: no CUPTI here
    double span_ms, idle_ms;    // first start to last end; of that, the time with nothing on the device
    double longest_ms;          // longest single gap
} Timeline;

#if defined(__has_include) && __has_include(<cupti.h>)
#include <cupti.h>
#include <dlfcn.h>

typedef struct { uint64_t start, end; } Activity;                        // nanoseconds

enum { TRACE_BUFFER_BYTES = 4 << 20, TRACE_MAX = 1 << 18 };

static struct {
    Activity* list;
    int count;
    CUptiResult (*next_record)(uint8_t*, size_t, CUpti_Activity**);
    CUptiResult (*flush)(uint32_t);
    CUptiResult (*enable)(CUpti_ActivityKind);
    CUptiResult (*disable)(CUpti_ActivityKind);
} trace;

static void CUPTIAPI trace_buffer(uint8_t** buffer, size_t* size, size_t* max_records) {
    *buffer = (uint8_t*)aligned_alloc(8, TRACE_BUFFER_BYTES);
    *size = TRACE_BUFFER_BYTES;
    *max_records = 0;
}

static void CUPTIAPI trace_complete(CUcontext context, uint32_t stream, uint8_t* buffer, size_t size, size_t valid) {
    (void)context; (void)stream; (void)size;
    CUpti_Activity* record = NULL;
    while (valid > 0 && trace.next_record(buffer, valid, &record) == CUPTI_SUCCESS && trace.count < TRACE_MAX) {
        Activity a = {0, 0};
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) { a = {((CUpti_ActivityKernel4*)record)->start, ((CUpti_ActivityKernel4*)record)->end}; }
        if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY)            { a = {((CUpti_ActivityMemcpy*)record)->start, ((CUpti_ActivityMemcpy*)record)->end}; }
        if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET)            { a = {((CUpti_ActivityMemset*)record)->start, ((CUpti_ActivityMemset*)record)->end}; }
        if (a.end > 0) { trace.list[trace.count++] = a; }
    }
    free(buffer);
}

static const CUpti_ActivityKind trace_kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

static bool trace_start(void) {
    void* library = dlopen("libcupti.so", RTLD_NOW);
    if (!library) { library = dlopen("libcupti.so.13", RTLD_NOW); }
    if (!library) { library = dlopen("/usr/local/cuda/extras/CUPTI/lib64/libcupti.so", RTLD_NOW); }
    if (!library) { return false; }
    auto callbacks = (CUptiResult (*)(CUpti_BuffersCallbackRequestFunc, CUpti_BuffersCallbackCompleteFunc))dlsym(library, "cuptiActivityRegisterCallbacks");
    trace.next_record = (CUptiResult (*)(uint8_t*, size_t, CUpti_Activity**))dlsym(library, "cuptiActivityGetNextRecord");
    trace.flush = (CUptiResult (*)(uint32_t))dlsym(library, "cuptiActivityFlushAll");
    trace.enable = (CUptiResult (*)(CUpti_ActivityKind))dlsym(library, "cuptiActivityEnable");
    trace.disable = (CUptiResult (*)(CUpti_ActivityKind))dlsym(library, "cuptiActivityDisable");
    if (!callbacks || !trace.next_record || !trace.flush || !trace.enable || !trace.disable) { return false; }
    trace.list = (Activity*)xmalloc(TRACE_MAX * sizeof(Activity));
    trace.count = 0;
    bool ok = callbacks(trace_buffer, trace_complete) == CUPTI_SUCCESS;
    for (CUpti_ActivityKind kind : trace_kinds) { ok = ok && trace.enable(kind) == CUPTI_SUCCESS; }
    return ok;
}

static int trace_order(const void* a, const void* b) {
    uint64_t x = ((const Activity*)a)->start, y = ((const Activity*)b)->start;
    return (x > y) - (x < y);
}

// leaves out the first `skip` of the activities, in whose time the tracing itself was set up
static Timeline trace_stop(double skip) {
    Timeline t = {};
    for (CUpti_ActivityKind kind : trace_kinds) { trace.disable(kind); }
    trace.flush(1);
    if (trace.count == 0) { return t; }
    qsort(trace.list, trace.count, sizeof(Activity), trace_order);
    int first = (int)(skip * trace.count);
    uint64_t busy_until = trace.list[first].start;
    for (int i = first; i < trace.count; i++) {
        double gap = trace.list[i].start > busy_until ? (trace.list[i].start - busy_until) * 1e-6 : 0;
        t.idle_ms += gap;
        t.longest_ms = fmax(t.longest_ms, gap);
        if (trace.list[i].end > busy_until) { busy_until = trace.list[i].end; }
    }
    t.span_ms = (busy_until - trace.list[first].start) * 1e-6;
    t.activities = trace.count - first;
    free(trace.list);
    return t;
}
#else
static bool trace_start(void)    { return false; }
static Timeline trace_stop(double skip) { (void)skip; Timeline t = {}; return t; }
#endif

#endif

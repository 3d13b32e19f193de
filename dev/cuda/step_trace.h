// When the device is idle: start and end of every kernel, copy and fill as CUPTI's activity records give them, in an undisturbed run.
// CUPTI is part of the CUDA toolkit but not of every installation: it is looked for when this is compiled and again when it runs.
#ifndef STEP_TRACE_H
#define STEP_TRACE_H

#include "cuda_common.cuh"

// idle time in front of the kernels of a name, or of copies or fills
typedef struct { const char* name; int count; double ms; } Gap;

enum { GAPS_KEPT = 6 };

typedef struct {
    int    activities;          // 0: no CUPTI here, or it has lost some
    double span_ms, idle_ms;    // first start to last end; of that, the time with nothing on the device
    double longest_ms;          // longest single gap
    int    steps, gaps;         // of so many steps; gap[0 .. gaps-1], the longest sums first
    Gap    gap[GAPS_KEPT];
} Timeline;

#if defined(__has_include) && __has_include(<cupti.h>)
#include <cupti.h>
#include <dlfcn.h>

typedef struct {
    uint64_t start, end;        // nanoseconds
    const char* name;           // of the kernel, "copy" or "fill"
} Activity;

enum { TRACE_BUFFER_BYTES = 4 << 20, TRACE_MAX = 1 << 18, TRACE_NAMES = 256 };

static struct {
    Activity* list;
    int count;
    size_t lost;
    CUptiResult (*count_lost)(CUcontext, uint32_t, size_t*);
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
    (void)size;
    CUpti_Activity* record = NULL;
    size_t lost = 0;
    if (trace.count_lost(context, stream, &lost) == CUPTI_SUCCESS) { trace.lost += lost; }
    while (valid > 0 && trace.next_record(buffer, valid, &record) == CUPTI_SUCCESS) {
        Activity a = {0, 0, NULL};
        auto kernel = (const CUpti_ActivityKernel4*)record;
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) { a = {kernel->start, kernel->end, kernel->name ? kernel->name : ""}; }
        if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY)            { a = {((CUpti_ActivityMemcpy*)record)->start, ((CUpti_ActivityMemcpy*)record)->end, "copy"}; }
        if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET)            { a = {((CUpti_ActivityMemset*)record)->start, ((CUpti_ActivityMemset*)record)->end, "fill"}; }
        if (a.end > 0 && trace.count == TRACE_MAX) { trace.lost++; }
        if (a.end > 0 && trace.count < TRACE_MAX)  { trace.list[trace.count++] = a; }
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
    trace.count_lost = (CUptiResult (*)(CUcontext, uint32_t, size_t*))dlsym(library, "cuptiActivityGetNumDroppedRecords");
    if (!callbacks || !trace.next_record || !trace.count_lost || !trace.flush || !trace.enable || !trace.disable) { return false; }
    trace.list = (Activity*)xmalloc(TRACE_MAX * sizeof(Activity));
    trace.count = 0;
    trace.lost = 0;
    bool ok = callbacks(trace_buffer, trace_complete) == CUPTI_SUCCESS;
    for (CUpti_ActivityKind kind : trace_kinds) { ok = ok && trace.enable(kind) == CUPTI_SUCCESS; }
    return ok;
}

static int trace_order(const void* a, const void* b) {
    uint64_t x = ((const Activity*)a)->start, y = ((const Activity*)b)->start;
    return (x > y) - (x < y);
}

static int longest_first(const void* a, const void* b) {
    double x = ((const Gap*)a)->ms, y = ((const Gap*)b)->ms;
    return (x < y) - (x > y);
}

static void gap_add(Gap* gaps, int* names, const char* name, double ms) {
    int i = 0;
    while (i < *names && strcmp(gaps[i].name, name) != 0) { i++; }
    if (i == TRACE_NAMES) { return; }
    if (i == *names) { gaps[(*names)++] = {name, 0, 0}; }
    gaps[i].count++;
    gaps[i].ms += ms;
}

// Of `steps` steps; leaves out the activities of the first, in whose time the tracing itself was set up.
static Timeline trace_stop(int steps) {
    static Gap gaps[TRACE_NAMES];
    Timeline t = {};
    int names = 0;
    for (CUpti_ActivityKind kind : trace_kinds) { trace.disable(kind); }
    trace.flush(1);
    if (trace.count == 0 || trace.lost > 0) {
        fprintf(stderr, "  no timeline: CUPTI gave %d activities and lost %zu\n", trace.count, trace.lost);
        free(trace.list);
        return t;
    }
    qsort(trace.list, trace.count, sizeof(Activity), trace_order);
    int first = trace.count / steps;
    uint64_t busy_until = trace.list[first].start;
    for (int i = first; i < trace.count; i++) {
        double gap = trace.list[i].start > busy_until ? (trace.list[i].start - busy_until) * 1e-6 : 0;
        gap_add(gaps, &names, trace.list[i].name, gap);
        t.idle_ms += gap;
        t.longest_ms = fmax(t.longest_ms, gap);
        if (trace.list[i].end > busy_until) { busy_until = trace.list[i].end; }
    }
    t.span_ms = (busy_until - trace.list[first].start) * 1e-6;
    t.activities = trace.count - first;
    t.steps = steps - 1;
    qsort(gaps, names, sizeof(Gap), longest_first);
    for (; t.gaps < names && t.gaps < GAPS_KEPT; t.gaps++) { t.gap[t.gaps] = gaps[t.gaps]; }
    free(trace.list);
    return t;
}
#else
static bool trace_start(void)    { return false; }
static Timeline trace_stop(int steps) { (void)steps; Timeline t = {}; return t; }
#endif

#endif

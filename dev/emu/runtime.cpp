// The host's side of CUDA: device memory with guards around it, events, attributes, and the report of a bad access.
#include "include/cuda.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <map>
#include <vector>

enum { PAGE = 4096, ALIGN = 256 };
static const size_t GUARD = (size_t)64 << 20;     // nothing else is mapped this near to a device buffer

// An allocation ends at a page nobody may touch; the few bytes between its end and that page are a canary.
struct Allocation { char *pages, *start; size_t pages_bytes, bytes; };
static std::vector<Allocation> allocations;
static size_t bytes_in_use;
static int windows_open;

static size_t slack(const Allocation& a) { return (size_t)(a.pages + a.pages_bytes - (a.start + a.bytes)); }

// Outside of kernels and copies device memory is closed: a host that touches it faults, as it does on a GPU.
void emu_device_memory_open() {
    if (windows_open++ == 0) { for (Allocation& a : allocations) { mprotect(a.pages, a.pages_bytes, PROT_READ | PROT_WRITE); } }
}
void emu_device_memory_close() {
    if (--windows_open == 0) { for (Allocation& a : allocations) { mprotect(a.pages, a.pages_bytes, PROT_NONE); } }
}

void emu_check_canaries(const char* when) {
    for (Allocation& a : allocations) {
        for (size_t i = 0; i < slack(a); i++) {
            if ((unsigned char)a.start[a.bytes + i] != 0xfe) { emu_error("%s: byte %zu behind the end of a device buffer of %zu bytes was written", when, i, a.bytes); }
        }
    }
}

// ---- faults ---------------------------------------------------------------------------------------------------------------
const char* emu_describe_device_address(const char* p, char* text, size_t size) {
    const Allocation* near = nullptr;
    for (Allocation& a : allocations) { if (!near || labs(p - a.start) < labs(p - near->start)) { near = &a; } }
    for (Allocation& a : allocations) { if (p >= a.pages && p < a.pages + a.pages_bytes) { near = &a; } }
    if (!near) { snprintf(text, size, "no allocated memory"); }
    else if (p >= near->pages && p < near->pages + near->pages_bytes) { snprintf(text, size, "%ld bytes into a device buffer of %zu bytes", (long)(p - near->start), near->bytes); }
    else { snprintf(text, size, "no allocated memory; %ld bytes from the start of the nearest device buffer, which has %zu bytes", (long)(p - near->start), near->bytes); }
    return text;
}

static void on_fault(int, siginfo_t* info, void* context) {
    char text[256];
    fflush(stdout);
    fprintf(stderr, "emu: bad access at %p: %s%s\n", info->si_addr, emu_describe_address(info->si_addr, text, sizeof text),
            emu_in_kernel ? "" : " (by the host, which must not touch device memory)");
    emu_print_place();
    char command[160];
    snprintf(command, sizeof command, "addr2line -ifpse /proc/%d/exe %#llx | sed 's/^/emu:   /' >&2", (int)getpid(),
             (unsigned long long)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP]);
    if (system(command)) { fprintf(stderr, "emu:   (no line numbers)\n"); }
    _exit(70);
}

extern "C" void __ubsan_on_report() { emu_print_place(); }

__attribute__((constructor)) static void catch_faults() {
    static char stack[64 << 10];
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}

// ---- memory ---------------------------------------------------------------------------------------------------------------
cudaError_t emu_malloc(void** memory, size_t bytes) {
    size_t wanted = bytes ? bytes : 1, pages_bytes = (wanted + ALIGN - 1) / ALIGN * ALIGN;
    pages_bytes = (pages_bytes + PAGE - 1) / PAGE * PAGE;
    char* pages = (char*)mmap(nullptr, pages_bytes + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) { *memory = nullptr; return cudaErrorMemoryAllocation; }
    pages += GUARD;
    Allocation a = {pages, pages + pages_bytes - (wanted + ALIGN - 1) / ALIGN * ALIGN, pages_bytes, bytes};
    mprotect(pages, pages_bytes, PROT_READ | PROT_WRITE);
    memset(a.start, 0xff, bytes);
    memset(a.start + a.bytes, 0xfe, slack(a));
    if (windows_open == 0) { mprotect(pages, pages_bytes, PROT_NONE); }
    allocations.push_back(a);
    bytes_in_use += bytes;
    *memory = a.start;
    return cudaSuccess;
}

// The addresses stay reserved, so that a later access faults.
cudaError_t cudaFree(void* memory) {
    if (!memory) { return cudaSuccess; }
    for (size_t i = 0; i < allocations.size(); i++) {
        if (allocations[i].start != memory) { continue; }
        bytes_in_use -= allocations[i].bytes;
        mmap(allocations[i].pages, allocations[i].pages_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        allocations.erase(allocations.begin() + (long)i);
        return cudaSuccess;
    }
    return cudaErrorInvalidValue;
}

cudaError_t emu_host_malloc(void** memory, size_t bytes) { *memory = malloc(bytes ? bytes : 1); return *memory ? cudaSuccess : cudaErrorMemoryAllocation; }
cudaError_t cudaFreeHost(void* memory) { free(memory); return cudaSuccess; }

bool emu_in_device_memory(const void* p, size_t bytes) {
    static size_t hit;
    for (size_t i = 0; i < allocations.size(); i++) {
        size_t at = (hit + i) % allocations.size();
        const Allocation& a = allocations[at];
        if ((const char*)p >= a.start && (const char*)p + bytes <= a.start + a.bytes) { hit = at; return true; }
    }
    return false;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) { return cudaSuccess; }
    if ((kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) && !emu_in_device_memory(to, bytes)) { return cudaErrorInvalidValue; }
    if ((kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice) && !emu_in_device_memory(from, bytes)) { return cudaErrorInvalidValue; }
    emu_device_memory_open();
    memmove(to, from, bytes);
    emu_device_memory_close();
    return cudaSuccess;
}

cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
    if (bytes == 0) { return cudaSuccess; }
    if (!emu_in_device_memory(memory, bytes)) { return cudaErrorInvalidValue; }
    emu_device_memory_open();
    memset(memory, value, bytes);
    emu_device_memory_close();
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
    *total = (size_t)80 << 30;
    *available = *total - bytes_in_use;
    return cudaSuccess;
}

// ---- kernels' attributes --------------------------------------------------------------------------------------------------
enum { SHARED_DEFAULT = 48 << 10, SHARED_MOST = 227 << 10, SHARED_SM = 228 << 10, THREADS_SM = 2048 };
static std::map<const void*, size_t> shared_limit;

size_t emu_allowed_shared(const void* function) {
    auto found = shared_limit.find(function);
    return found == shared_limit.end() ? SHARED_DEFAULT : found->second;
}

cudaError_t emu_set_attribute(const void* function, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) { return cudaSuccess; }
    if (value < 0 || value > SHARED_MOST) { return cudaErrorInvalidValue; }
    shared_limit[function] = value > SHARED_DEFAULT ? (size_t)value : SHARED_DEFAULT;
    return cudaSuccess;
}

cudaError_t emu_get_attributes(cudaFuncAttributes* attributes, const void* function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;
    attributes->maxDynamicSharedSizeBytes = (int)emu_allowed_shared(function);
    return cudaSuccess;
}

cudaError_t emu_occupancy(int* blocks, int threads, size_t shared_bytes) {
    int by_threads = THREADS_SM / threads, by_shared = (int)(SHARED_SM / (shared_bytes + 1024));
    *blocks = by_threads < by_shared ? by_threads : by_shared;
    if (*blocks > 32) { *blocks = 32; }
    return cudaSuccess;
}

// ---- device, streams, events ----------------------------------------------------------------------------------------------
const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorNotSupported: return "cudaErrorNotSupported";
        default: return "unknown error";
    }
}
const char* cudaGetErrorString(cudaError_t error)  { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError()                     { return cudaSuccess; }
cudaError_t cudaPeekAtLastError()                  { return cudaSuccess; }
cudaError_t cudaSetDevice(int index)               { return index == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaGetDevice(int* index)              { *index = 0; return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count)         { *count = 1; return cudaSuccess; }
cudaError_t cudaDeviceSynchronize()                { return cudaSuccess; }
cudaError_t cudaDeviceReset()                      { return cudaSuccess; }

// An H100's numbers except for the multiprocessors. EMU_CAPABILITY=80 shows an older device, EMU_SMS another count.
static int number_of(const char* name, int otherwise) { const char* text = getenv(name); return text ? atoi(text) : otherwise; }
static int capability()      { return number_of("EMU_CAPABILITY", 90); }
static int multiprocessors() { return number_of("EMU_SMS", 4); }

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* found) {
    bool known = !strcmp(name, "cuTensorMapEncodeTiled");
    *function = known ? (void*)emu_encode_tiled : nullptr;
    if (found) { *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound; }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->totalGlobalMem = (size_t)80 << 30;
    p->sharedMemPerBlock = SHARED_DEFAULT; p->sharedMemPerBlockOptin = SHARED_MOST; p->sharedMemPerMultiprocessor = SHARED_SM;
    p->major = capability() / 10; p->minor = capability() % 10; p->multiProcessorCount = multiprocessors(); p->l2CacheSize = 50 << 20; p->warpSize = 32;
    p->maxThreadsPerBlock = 1024; p->maxThreadsPerMultiProcessor = THREADS_SM; p->regsPerBlock = 65536;
    p->clockRate = 1980000; p->memoryClockRate = 2619000; p->memoryBusWidth = 5120;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrMaxSharedMemoryPerBlock:      *value = SHARED_DEFAULT; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_MOST; break;
        case cudaDevAttrMultiProcessorCount:          *value = multiprocessors(); break;
        case cudaDevAttrMemoryClockRate:              *value = 2619000; break;
        case cudaDevAttrGlobalMemoryBusWidth:         *value = 5120; break;
        case cudaDevAttrL2CacheSize:                  *value = 50 << 20; break;
        case cudaDevAttrComputeCapabilityMajor:       *value = capability() / 10; break;
        case cudaDevAttrComputeCapabilityMinor:       *value = capability() % 10; break;
        default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

struct EmuEvent { double seconds; };
static double seconds_now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
long long clock64() { return (long long)(seconds_now() * 1.98e9); }
cudaError_t cudaStreamCreate(cudaStream_t* stream)                          { *stream = (cudaStream_t)malloc(1); return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned)       { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream)                          { free(stream); return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t)                             { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)        { return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t* event)                             { *event = (cudaEvent_t)calloc(1, sizeof(EmuEvent)); return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned)          { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event)                             { free(event); return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t)                { event->seconds = seconds_now(); return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t)                               { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t)                                     { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) { *ms = (float)(1e3 * (to->seconds - from->seconds)); return cudaSuccess; }

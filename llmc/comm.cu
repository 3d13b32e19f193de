// Collectives over NCCL, on a stream of their own beside the training stream. Without nccl.h at build time a run of several GPUs is refused.
#include "comm.h"
#include "cuda_common.cuh"

#ifdef HAS_NCCL
#include <nccl.h>
#else                                            // as much as lets the rest of the file stand; comm_refusal keeps everybody from calling it
typedef struct { char internal[COMM_ID]; } ncclUniqueId;
typedef struct ncclComm* ncclComm_t;
typedef int ncclResult_t;
enum { ncclSuccess, ncclFloat, ncclBfloat16, ncclDouble, ncclInt, ncclChar, ncclSum, ncclMax };
static const char* ncclGetErrorString(ncclResult_t)                                                                { return "no NCCL"; }
static ncclResult_t ncclGetUniqueId(ncclUniqueId*)                                                                 { return 1; }
static ncclResult_t ncclCommInitRank(ncclComm_t*, int, ncclUniqueId, int)                                          { return 1; }
static ncclResult_t ncclCommDestroy(ncclComm_t)                                                                    { return 1; }
static ncclResult_t ncclAllReduce(const void*, void*, size_t, int, int, ncclComm_t, cudaStream_t)                  { return 1; }
static ncclResult_t ncclReduceScatter(const void*, void*, size_t, int, int, ncclComm_t, cudaStream_t)              { return 1; }
static ncclResult_t ncclAllGather(const void*, void*, size_t, int, ncclComm_t, cudaStream_t)                       { return 1; }
static ncclResult_t ncclBroadcast(const void*, void*, size_t, int, int, ncclComm_t, cudaStream_t)                  { return 1; }
#endif

// When a peer is gone NCCL may notice first: the watchdog, who can name it, gets a moment to end the process (watch.c, at exit).
#define NCCL_CHECK(call) do { ncclResult_t result_ = (call); \
    if (result_ != ncclSuccess) { FAIL(EXIT_LOST_RANK, "NCCL: %s: %s", #call, ncclGetErrorString(result_)); } } while (0)

enum { MAX_TIMED = 512, MAX_WAITS = 4, WHAT = 40, THREADS = 256, UNMEASURED_STEPS = 3 };

// the collectives of a step, between events on their stream, and the waits for them on the training stream
typedef struct { cudaEvent_t start, end; char what[WHAT]; } Timed;
typedef struct { Timed collective[MAX_TIMED], wait[MAX_WAITS]; int collectives, waits; } TimedStep;

struct Comm {
    int          rank, world, device;
    Watch*       watch;
    ncclComm_t   nccl;
    cudaStream_t stream;
    cudaEvent_t  ready, done;              // training stream -> this stream, and back
    int64_t      step;
    int          reductions, gathers;      // of this step, for names
    floatX*      packed;                   // a bucket on its way in bf16
    size_t       packed_elements;
    char*        small;                    // device copies of what comm_exchange and comm_broadcast carry
    size_t       small_bytes;
    int         *vote, *device_vote;       // pinned; on the device
    cudaEvent_t  voted;
    bool         asked;
    TimedStep    timed[2];                 // this step's and the last one's
    int          steps_begun;          // the first ones open connections, and are not measured
    CommTimes    times;
};

// ---- kernels ------------------------------------------------------------------------------------------------------------------

__global__ void comm_pack_kernel(floatX* out, const float* in, size_t n) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) { out[i] = __float2bfloat16(in[i]); }
}

__global__ void comm_unpack_kernel(float* out, const floatX* in, size_t n) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) { out[i] = __bfloat162float(in[i]); }
}

// splitmix64 of word and place, summed: integer sums do not ask for an order
__global__ void comm_hash_kernel(unsigned long long* hash, const uint32_t* words, size_t n) {
    unsigned long long sum = 0;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS) {
        unsigned long long z = words[i] + (i + 1) * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        sum += z ^ (z >> 31);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) { atomicAdd(hash, sum); }
}

static unsigned blocks_for(size_t n) { return (unsigned)((n + THREADS - 1) / THREADS); }

// ---- open, close, time ----------------------------------------------------------------------------------------------------------

extern "C" const char* comm_refusal(bool) {
#ifdef HAS_NCCL
    return NULL;
#else
    return "this program was built without NCCL (no nccl.h then), which several GPUs need; install libnccl-dev, or name its directory with NCCL_HOME=..., and run make again";
#endif
}

extern "C" void comm_make_id(char id[COMM_ID]) {
    static_assert(sizeof(ncclUniqueId) == COMM_ID, "NCCL's unique id has another size");
    ncclUniqueId unique;
    NCCL_CHECK(ncclGetUniqueId(&unique));
    memcpy(id, &unique, COMM_ID);
}

static void open_timed(TimedStep* t) {
    for (int i = 0; i < MAX_TIMED; i++) {
        CUDA_CHECK(cudaEventCreate(&t->collective[i].start));
        CUDA_CHECK(cudaEventCreate(&t->collective[i].end));
    }
    for (int i = 0; i < MAX_WAITS; i++) {
        CUDA_CHECK(cudaEventCreate(&t->wait[i].start));
        CUDA_CHECK(cudaEventCreate(&t->wait[i].end));
    }
}

static void close_timed(TimedStep* t) {
    for (int i = 0; i < MAX_TIMED; i++) { cudaEventDestroy(t->collective[i].start); cudaEventDestroy(t->collective[i].end); }
    for (int i = 0; i < MAX_WAITS; i++) { cudaEventDestroy(t->wait[i].start); cudaEventDestroy(t->wait[i].end); }
}

// The first collective of a kind opens connections and takes memory for them: here, so that the plan of memory can count it.
static void connect(Comm* c) {
    const size_t part = 1024;
    float* words = (float*)device_malloc(part * c->world * sizeof(float));
    CUDA_CHECK(cudaMemsetAsync(words, 0, part * c->world * sizeof(float), c->stream));
    NCCL_CHECK(ncclAllReduce(words, words, part * c->world, ncclFloat, ncclSum, c->nccl, c->stream));
    NCCL_CHECK(ncclReduceScatter(words, words + part * c->rank, part, ncclFloat, ncclSum, c->nccl, c->stream));
    NCCL_CHECK(ncclAllGather(words + part * c->rank, words, part * sizeof(float), ncclChar, c->nccl, c->stream));
    NCCL_CHECK(ncclBroadcast(words, words, part, ncclFloat, 0, c->nccl, c->stream));
    CUDA_CHECK(cudaStreamSynchronize(c->stream));
    device_free(words);
}

extern "C" Comm* comm_open(int rank, int world, const char id[COMM_ID], Watch* watch) {
    Comm* c = (Comm*)xcalloc(1, sizeof(Comm));
    c->rank = rank;
    c->world = world;
    c->watch = watch;
    CUDA_CHECK(cudaGetDevice(&c->device));
    ncclUniqueId unique;
    memcpy(&unique, id, COMM_ID);
    watch_begin(watch, 0, "the opening of NCCL");
    NCCL_CHECK(ncclCommInitRank(&c->nccl, world, unique, rank));
    int lowest, highest;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    CUDA_CHECK(cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, highest));    // a reduction's few blocks go first: peers wait for them
    connect(c);
    watch_end(watch);
    CUDA_CHECK(cudaEventCreateWithFlags(&c->ready, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventCreateWithFlags(&c->done, cudaEventDisableTiming));
    CUDA_CHECK(cudaEventCreateWithFlags(&c->voted, cudaEventDisableTiming));
    c->vote = (int*)pinned_malloc(sizeof(int));
    c->device_vote = (int*)device_malloc(sizeof(int));
    for (int i = 0; i < 2; i++) { open_timed(&c->timed[i]); }
    return c;
}

extern "C" void comm_close(Comm* c) {
    if (!c) { return; }
    watch_begin(c->watch, c->step, "the closing of NCCL");
    CUDA_CHECK(cudaStreamSynchronize(c->stream));
    NCCL_CHECK(ncclCommDestroy(c->nccl));
    watch_end(c->watch);
    for (int i = 0; i < 2; i++) { close_timed(&c->timed[i]); }
    CUDA_CHECK(cudaEventDestroy(c->ready));
    CUDA_CHECK(cudaEventDestroy(c->done));
    CUDA_CHECK(cudaEventDestroy(c->voted));
    CUDA_CHECK(cudaStreamDestroy(c->stream));
    pinned_free(c->vote);
    device_free(c->device_vote);
    if (c->packed) { device_free(c->packed); }
    if (c->small)  { device_free(c->small); }
    free(c);
}

static double elapsed(const Timed* t) {
    float ms = 0;
    return cudaEventElapsedTime(&ms, t->start, t->end) == cudaSuccess ? ms : 0;
}

// the step before the last, whose events are used again from now on; the device may run behind the host by about a step
static void harvest(Comm* c, TimedStep* t) {
    if (c->steps_begun > UNMEASURED_STEPS + 2 && t->waits > 0 && cudaEventQuery(t->wait[t->waits - 1].end) == cudaSuccess) {
        for (int i = 0; i < t->collectives; i++) { c->times.busy_ms += elapsed(&t->collective[i]); }
        for (int i = 0; i < t->waits; i++)       { c->times.waited_ms += elapsed(&t->wait[i]); }
        c->times.steps++;
    }
    t->collectives = t->waits = 0;
}

static TimedStep* timed_step(Comm* c) { return &c->timed[c->step % 2]; }

extern "C" void comm_step(Comm* c, int64_t step) {
    if (!c) { return; }
    c->step = step;
    c->reductions = c->gathers = 0;
    c->steps_begun++;
    harvest(c, timed_step(c));
    watch_begin(c->watch, step, "a training step");
}

extern "C" void comm_step_wait(Comm* c) {
    if (c) { watch_begin(c->watch, c->step, "a training step"); }
}

extern "C" void comm_step_end(Comm* c) {
    if (c) { watch_end(c->watch); }
}

extern "C" CommTimes comm_times(const Comm* c) {
    CommTimes none = {0, 0, 0};
    return c ? c->times : none;
}

// from the watchdog's thread
extern "C" const char* comm_pending(Comm* c) {
    if (!c || cudaSetDevice(c->device) != cudaSuccess) { return NULL; }
    TimedStep* t = timed_step(c);
    for (int i = 0; i < t->collectives; i++) {
        if (cudaEventQuery(t->collective[i].end) == cudaErrorNotReady) { return t->collective[i].what; }
    }
    return NULL;
}

// ---- streams --------------------------------------------------------------------------------------------------------------------

static void follow(Comm* c, cudaStream_t after) {
    CUDA_CHECK(cudaEventRecord(c->ready, after));
    CUDA_CHECK(cudaStreamWaitEvent(c->stream, c->ready, 0));
}

static Timed* begin_timed(Comm* c, const char* what, int number) {
    TimedStep* t = timed_step(c);
    if (t->collectives == MAX_TIMED) { return NULL; }
    Timed* timed = &t->collective[t->collectives];
    snprintf(timed->what, WHAT, what, number);
    CUDA_CHECK(cudaEventRecord(timed->start, c->stream));
    return timed;
}

static void end_timed(Comm* c, Timed* timed) {
    if (!timed) { return; }
    CUDA_CHECK(cudaEventRecord(timed->end, c->stream));
    timed_step(c)->collectives++;
}

extern "C" void comm_join(Comm* c, stream_t stream) {
    if (!c) { return; }
    TimedStep* t = timed_step(c);
    bool timed = t->waits < MAX_WAITS;
    if (timed) { CUDA_CHECK(cudaEventRecord(t->wait[t->waits].start, stream)); }
    CUDA_CHECK(cudaEventRecord(c->done, c->stream));
    CUDA_CHECK(cudaStreamWaitEvent(stream, c->done, 0));
    if (timed) { CUDA_CHECK(cudaEventRecord(t->wait[t->waits++].end, stream)); }
}

// ---- collectives ----------------------------------------------------------------------------------------------------------------

static void reduce_bf16(Comm* c, float* data, size_t count, bool scatter) {
    if (c->packed_elements < count) {
        if (c->packed) { CUDA_CHECK(cudaStreamSynchronize(c->stream)); device_free(c->packed); }
        c->packed = (floatX*)device_malloc(count * sizeof(floatX));
        c->packed_elements = count;
    }
    size_t part = count / c->world, first = scatter ? part * c->rank : 0, kept = scatter ? part : count;
    comm_pack_kernel<<<blocks_for(count), THREADS, 0, c->stream>>>(c->packed, data, count);
    LAUNCH_CHECK();
    if (scatter) { NCCL_CHECK(ncclReduceScatter(c->packed, c->packed + first, part, ncclBfloat16, ncclSum, c->nccl, c->stream)); }
    else         { NCCL_CHECK(ncclAllReduce(c->packed, c->packed, count, ncclBfloat16, ncclSum, c->nccl, c->stream)); }
    comm_unpack_kernel<<<blocks_for(kept), THREADS, 0, c->stream>>>(data + first, c->packed + first, kept);
    LAUNCH_CHECK();
}

extern "C" void comm_reduce(Comm* c, float* data, size_t count, bool scatter, ReduceType type, stream_t after) {
    if (!c) { return; }
    REQUIRE(count % ((size_t)c->world * 16) == 0, "a reduction of %zu elements on %d ranks", count, c->world);
    follow(c, after);
    Timed* timed = begin_timed(c, "reduction %d of the gradients", ++c->reductions);
    size_t part = count / c->world;
    if (type == REDUCE_BF16) { reduce_bf16(c, data, count, scatter); }
    else if (scatter)        { NCCL_CHECK(ncclReduceScatter(data, data + part * c->rank, part, ncclFloat, ncclSum, c->nccl, c->stream)); }
    else                     { NCCL_CHECK(ncclAllReduce(data, data, count, ncclFloat, ncclSum, c->nccl, c->stream)); }
    end_timed(c, timed);
}

extern "C" void comm_gather(Comm* c, void* data, size_t part_bytes, stream_t after) {
    if (!c) { return; }
    follow(c, after);
    Timed* timed = begin_timed(c, "gathering %d of the weights", ++c->gathers);
    NCCL_CHECK(ncclAllGather((char*)data + part_bytes * c->rank, data, part_bytes, ncclChar, c->nccl, c->stream));
    end_timed(c, timed);
}

extern "C" void comm_sum(Comm* c, double* device, int n, stream_t stream) {
    if (!c) { return; }
    follow(c, stream);
    NCCL_CHECK(ncclAllReduce(device, device, n, ncclDouble, ncclSum, c->nccl, c->stream));
    CUDA_CHECK(cudaEventRecord(c->done, c->stream));
    CUDA_CHECK(cudaStreamWaitEvent(stream, c->done, 0));
}

static char* small_buffer(Comm* c, size_t bytes) {
    if (c->small_bytes < bytes) {
        if (c->small) { device_free(c->small); }
        c->small = (char*)device_malloc(bytes);
        c->small_bytes = bytes;
    }
    return c->small;
}

extern "C" void comm_exchange(Comm* c, const void* mine, void* all, size_t bytes, const char* what) {
    if (!c) { memcpy(all, mine, bytes); return; }
    char* buffer = small_buffer(c, bytes * c->world);
    watch_begin(c->watch, c->step, what);
    CUDA_CHECK(cudaMemcpyAsync(buffer + bytes * c->rank, mine, bytes, cudaMemcpyHostToDevice, c->stream));
    NCCL_CHECK(ncclAllGather(buffer + bytes * c->rank, buffer, bytes, ncclChar, c->nccl, c->stream));
    CUDA_CHECK(cudaMemcpyAsync(all, buffer, bytes * c->world, cudaMemcpyDeviceToHost, c->stream));
    CUDA_CHECK(cudaStreamSynchronize(c->stream));
    watch_end(c->watch);
}

extern "C" void comm_broadcast(Comm* c, void* data, size_t bytes, const char* what) {
    if (!c) { return; }
    char* buffer = small_buffer(c, bytes);
    watch_begin(c->watch, c->step, what);
    if (c->rank == 0) { CUDA_CHECK(cudaMemcpyAsync(buffer, data, bytes, cudaMemcpyHostToDevice, c->stream)); }
    NCCL_CHECK(ncclBroadcast(buffer, buffer, bytes, ncclChar, 0, c->nccl, c->stream));
    CUDA_CHECK(cudaMemcpyAsync(data, buffer, bytes, cudaMemcpyDeviceToHost, c->stream));
    CUDA_CHECK(cudaStreamSynchronize(c->stream));
    watch_end(c->watch);
}

extern "C" void comm_barrier(Comm* c, const char* what) {
    if (!c) { return; }
    char mine = 0, *all = (char*)xmalloc(c->world);
    comm_exchange(c, &mine, all, 1, what);
    free(all);
}

extern "C" void comm_ask(Comm* c, bool yes) {
    if (!c) { return; }
    *c->vote = yes;
    CUDA_CHECK(cudaMemcpyAsync(c->device_vote, c->vote, sizeof(int), cudaMemcpyHostToDevice, c->stream));
    NCCL_CHECK(ncclAllReduce(c->device_vote, c->device_vote, 1, ncclInt, ncclMax, c->nccl, c->stream));
    CUDA_CHECK(cudaMemcpyAsync(c->vote, c->device_vote, sizeof(int), cudaMemcpyDeviceToHost, c->stream));
    CUDA_CHECK(cudaEventRecord(c->voted, c->stream));
    c->asked = true;
}

extern "C" bool comm_answer(Comm* c) {
    if (!c || !c->asked) { return false; }
    watch_begin(c->watch, c->step, "the question whether to stop");
    CUDA_CHECK(cudaEventSynchronize(c->voted));
    watch_end(c->watch);
    return *c->vote != 0;
}

extern "C" uint64_t comm_hash(const void* device, size_t bytes, stream_t stream) {
    unsigned long long *sum = (unsigned long long*)device_malloc(sizeof *sum), hash;
    CUDA_CHECK(cudaMemsetAsync(sum, 0, sizeof *sum, stream));
    comm_hash_kernel<<<1024, THREADS, 0, stream>>>(sum, (const uint32_t*)device, bytes / 4);
    LAUNCH_CHECK();
    CUDA_CHECK(cudaMemcpyAsync(&hash, sum, sizeof hash, cudaMemcpyDeviceToHost, stream));
    CUDA_CHECK(cudaStreamSynchronize(stream));
    device_free(sum);
    return hash;
}

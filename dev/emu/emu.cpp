// The scheduler: fibers, blocks, barriers, warp meetings, shared memory.
#include "emu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <vector>

#ifndef __x86_64__
#error "the fiber switch is written for x86-64"
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
bool emu_in_kernel, emu_race_check, emu_block_used_atomics;

enum { MAX_THREADS = 1024, STACK_BYTES = 128 << 10, STATIC_BYTES = 64 << 10, DYNAMIC_BYTES = 228 << 10, GUARD = 4096 };
enum State { READY, AT_BARRIER, AT_MEETING, EXITED };

struct Fiber {
    void* stack_pointer;
    uint3 index;
    int linear, barrier_result;
    State state;
    const char *what, *file;       // where it waits
    int line;
    unsigned mask;
};

// lanes that have come to a meeting of `mask`
struct Group { unsigned mask, arrived; const char *what, *file; int line; EmuMeeting meeting; void* lane[32]; };
struct Warp { Group groups[32]; int count; unsigned exited, epoch; };

static Fiber fibers[MAX_THREADS];
static Warp warps[MAX_THREADS / 32];
static Fiber* running;
static Fiber scheduler;
static char *stacks, *arena;                       // arena: static shared memory, then dynamic; the arena's last byte is dynamic's last
static const size_t arena_bytes = STATIC_BYTES + DYNAMIC_BYTES;

static struct {
    const char *kernel, *file;
    int line;
    uint64_t number;                               // of the launch
    EmuBody body;
    void* arguments;
    size_t dynamic_bytes, static_bytes;
    int threads, alive;
    bool newest_first;                             // order of the ready list
    unsigned epoch, block_start;                   // counts barriers and blocks; its value when this block began
} now;

static struct { int waiting[MAX_THREADS], count, predicate_sum; EmuBarrier kind; const char* file; int line; } barrier;
static struct { int item[2 * MAX_THREADS]; unsigned head, tail; } ready;      // a ring of fibers
static struct { uint64_t launches, blocks, threads; double seconds; } totals;

// ---- order: a function of EMU_SEED, the launch and the step, so that a failure repeats ----------------------------------
static uint64_t seed, random_state;

static unsigned random_below(unsigned n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 32) * n >> 32);
}

static void shuffle(int* item, int n) {
    if (seed == 0) { return; }
    for (int i = n - 1; i > 0; i--) {
        int j = (int)random_below((unsigned)i + 1), other = item[j];
        item[j] = item[i];
        item[i] = other;
    }
}

// ---- errors ---------------------------------------------------------------------------------------------------------------
void emu_print_place() {
    if (!emu_in_kernel) { return; }
    fprintf(stderr, "emu: in %s<<<(%u,%u,%u), (%u,%u,%u), %zu>>> launched at %s:%d (launch %llu, EMU_SEED=%llu), block (%u,%u,%u)", now.kernel,
            gridDim.x, gridDim.y, gridDim.z, blockDim.x, blockDim.y, blockDim.z, now.dynamic_bytes, now.file, now.line,
            (unsigned long long)now.number, (unsigned long long)seed, blockIdx.x, blockIdx.y, blockIdx.z);
    if (running) { fprintf(stderr, ", thread (%u,%u,%u)", threadIdx.x, threadIdx.y, threadIdx.z); }
    fprintf(stderr, "\n");
}

void emu_error(const char* format, ...) {
    fflush(stdout);
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emu: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    emu_print_place();
    fflush(stderr);
    _exit(70);
}

static bool same_wait(const Fiber* a, const Fiber* b) {
    if (a->state != b->state) { return false; }
    return a->state == EXITED || (a->line == b->line && a->mask == b->mask && !strcmp(a->what, b->what) && !strcmp(a->file, b->file));
}

static void report_deadlock() {
    running = nullptr;
    fprintf(stderr, "emu: deadlock, nobody can go on:\n");
    for (int from = 0, to; from < now.threads; from = to) {
        Fiber* f = &fibers[from];
        for (to = from + 1; to < now.threads && same_wait(f, &fibers[to]); to++) {}
        fprintf(stderr, "emu:   threads %4d..%4d ", from, to - 1);
        if (f->state == EXITED) { fprintf(stderr, "have returned\n"); }
        else if (f->state == AT_BARRIER) { fprintf(stderr, "wait in %s  [%s:%d]\n", f->what, f->file, f->line); }
        else { fprintf(stderr, "wait in %s, mask %08x  [%s:%d]\n", f->what, f->mask, f->file, f->line); }
    }
    emu_error("a collective was not reached by all the threads it names");
}

// ---- fibers ---------------------------------------------------------------------------------------------------------------
extern "C" void emu_switch(void** save, void* load);
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch,.-emu_switch
)");

static void make_ready(int thread) {
    fibers[thread].state = READY;
    ready.item[ready.tail++ % (2 * MAX_THREADS)] = thread;
}

// gives the processor to the next ready fiber, or to the scheduler when there is none
static void leave(Fiber* me) {
    Fiber* next = nullptr;
    if (ready.head != ready.tail) {
        unsigned at = now.newest_first ? --ready.tail : ready.head++;
        next = &fibers[ready.item[at % (2 * MAX_THREADS)]];
        threadIdx = next->index;
    }
    running = next;
    if (next == me) { return; }
    emu_switch(&me->stack_pointer, next ? next->stack_pointer : scheduler.stack_pointer);
}

static void release_barrier() {
    int result = barrier.kind == EMU_COUNT ? barrier.predicate_sum : barrier.kind == EMU_AND ? barrier.predicate_sum == barrier.count
                                                                                              : barrier.predicate_sum > 0;
    now.epoch++;
    int count = barrier.count;
    barrier.count = barrier.predicate_sum = 0;
    shuffle(barrier.waiting, count);
    for (int i = 0; i < count; i++) {
        fibers[barrier.waiting[i]].barrier_result = result;
        make_ready(barrier.waiting[i]);
    }
}

static void fiber_main() {
    now.body(now.arguments);
    Fiber* me = running;
    me->state = EXITED;
    warps[me->linear / 32].exited |= 1u << (me->linear % 32);
    now.alive--;
    if (now.alive > 0 && barrier.count == now.alive) { release_barrier(); }     // barriers count the threads that are left
    leave(me);
    abort();
}

// Each stack begins at another offset: at equal distances their tops would share a few cache sets.
static void reset_fiber(Fiber* f) {
    char* top = stacks + (size_t)(f->linear + 1) * STACK_BYTES - 64 - (size_t)(f->linear * 320) % 4096;
    void** frame = (void**)((uintptr_t)top & ~(uintptr_t)63);
    *--frame = nullptr;                                // fiber_main's return address, never used; keeps the stack aligned as after a call
    *--frame = (void*)fiber_main;
    for (int i = 0; i < 6; i++) { *--frame = nullptr; }
    f->stack_pointer = frame;
}

int emu_barrier(EmuBarrier kind, int predicate, const char* file, int line) {
    Fiber* me = running;
    if (barrier.count == 0) { barrier.kind = kind; barrier.file = file; barrier.line = line; }
    if (barrier.kind != kind || barrier.line != line || strcmp(barrier.file, file)) {
        emu_error("__syncthreads at %s:%d, while thread %d of the block is in the one at %s:%d", file, line, barrier.waiting[0], barrier.file, barrier.line);
    }
    barrier.predicate_sum += predicate != 0;
    barrier.waiting[barrier.count++] = me->linear;
    me->state = AT_BARRIER;
    me->what = "__syncthreads"; me->file = file; me->line = line; me->mask = 0;
    if (barrier.count == now.alive) { release_barrier(); }
    leave(me);
    return me->barrier_result;
}

static void finish_meeting(Warp* warp, int first_thread, Group* group, Fiber* last) {
    group->meeting(group->lane, group->mask);
    warp->epoch++;
    int order[32], n = 0;
    for (int i = 0; i < 32; i++) { if (group->mask >> i & 1) { order[n++] = first_thread + i; } }
    *group = warp->groups[--warp->count];
    shuffle(order, n);
    for (int i = 0; i < n; i++) { if (&fibers[order[i]] != last) { make_ready(order[i]); } }
    last->state = READY;
}

void emu_meet(const char* what, EmuMeeting meeting, unsigned mask, void* mine, bool aligned, const char* file, int line) {
    Fiber* me = running;
    int lane = me->linear % 32;
    Warp* warp = &warps[me->linear / 32];
    if (!(mask >> lane & 1)) { emu_error("%s with mask %08x, which leaves out the caller, lane %d  [%s:%d]", what, mask, lane, file, line); }
    int g = 0;
    while (g < warp->count && warp->groups[g].mask != mask) { g++; }
    Group* group = &warp->groups[g];
    if (g == warp->count) {
        warp->count++;
        group->mask = mask; group->arrived = 0; group->what = what; group->file = file; group->line = line; group->meeting = meeting;
        memset(group->lane, 0, sizeof group->lane);
    }
    if (group->meeting != meeting || strcmp(group->what, what) || (aligned && (group->line != line || strcmp(group->file, file)))) {
        emu_error("lane %d of warp %d comes to %s [%s:%d] while others wait in %s [%s:%d]", lane, me->linear / 32, what, file, line,
                  group->what, group->file, group->line);
    }
    group->lane[lane] = mine;
    group->arrived |= 1u << lane;
    if (group->arrived == mask) { finish_meeting(warp, me->linear - lane, group, me); return; }
    me->state = AT_MEETING;
    me->what = what; me->file = file; me->line = line; me->mask = mask;
    leave(me);
}

int emu_lane()             { return running->linear % 32; }
int emu_thread()           { return running ? running->linear : -1; }
unsigned emu_block_epoch() { return now.epoch; }
unsigned emu_block_start() { return now.block_start; }
unsigned emu_launch_number() { return (unsigned)now.number; }
unsigned emu_warp_epoch()  { return warps[running->linear / 32].epoch; }
unsigned emu_living_lanes() {
    int first = running->linear & ~31, lanes = now.threads - first < 32 ? now.threads - first : 32;
    return ~warps[first / 32].exited & (lanes == 32 ? 0xffffffffu : (1u << lanes) - 1);
}

// ---- shared memory --------------------------------------------------------------------------------------------------------
static char* dynamic_start() { return (char*)((uintptr_t)(arena + arena_bytes - now.dynamic_bytes) & ~(uintptr_t)127); }

// No better aligned than asked for, so that a 16-byte access to an array of floats is caught.
void* emu_static_shared(EmuShared* place, size_t bytes, size_t align, const char* name) {
    if (place->launch != now.number) {
        size_t offset = (now.static_bytes + align - 1) / align * align;
        if (align < 16 && offset / align % 2 == 0) { offset += align; }
        if (offset + bytes > 48 << 10) { emu_error("__shared__ %s: more than 48 KiB of static shared memory", name); }
        place->launch = now.number;
        place->offset = (unsigned)offset;
        now.static_bytes = offset + bytes;
        memset(arena + offset, 0xff, bytes);
    }
    return arena + place->offset;
}

void* emu_dynamic_shared(size_t align, const char* name) {
    if (align > 128) { emu_error("extern __shared__ %s: wants alignment %zu, the emulator gives 128", name, align); }
    return dynamic_start();
}

unsigned emu_shared_address(const void* pointer, const char* file, int line) {
    size_t offset = (size_t)((const char*)pointer - arena);
    if (offset > arena_bytes) { emu_error("%p is not in shared memory  [%s:%d]", pointer, file, line); }
    return (unsigned)offset;
}

char* emu_shared_pointer(unsigned address, size_t bytes, const char* file, int line) {
    size_t dynamic = (size_t)(dynamic_start() - arena);
    if (!(address + bytes <= now.static_bytes || (address >= dynamic && address + bytes <= arena_bytes))) {
        emu_error("shared address %u (%ld from the start of the %zu dynamic bytes) is outside this kernel's shared memory  [%s:%d]", address,
                  (long)address - (long)dynamic, now.dynamic_bytes, file, line);
    }
    if (address % bytes) { emu_error("shared address %u is not a multiple of %zu  [%s:%d]", address, bytes, file, line); }
    return arena + address;
}

// ---- launch ---------------------------------------------------------------------------------------------------------------
static void* reserve(size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) { perror("emu: mmap"); exit(70); }
    return memory;
}

static void print_totals() {
    if (getenv("EMU_STATS")) {
        fprintf(stderr, "emu: %llu launches, %llu blocks, %llu threads, %.2f s\n", (unsigned long long)totals.launches,
                (unsigned long long)totals.blocks, (unsigned long long)totals.threads, totals.seconds);
    }
}

static void open_once() {
    if (stacks) { return; }
    const char* text = getenv("EMU_SEED");
    seed = text ? strtoull(text, nullptr, 10) : 1;
    stacks = (char*)reserve((size_t)MAX_THREADS * STACK_BYTES);
    for (int i = 0; i < MAX_THREADS; i++) { mprotect(stacks + (size_t)i * STACK_BYTES, GUARD, PROT_NONE); }
    arena = (char*)reserve(arena_bytes + GUARD);
    mprotect(arena + arena_bytes, GUARD, PROT_NONE);
    atexit(print_totals);
}

static void run_block() {
    memset(arena, 0xff, now.static_bytes);
    memset(dynamic_start(), 0xff, (size_t)(arena + arena_bytes - dynamic_start()));
    ready.head = ready.tail = 0;
    barrier.count = barrier.predicate_sum = 0;
    now.alive = now.threads;
    now.block_start = ++now.epoch;
    emu_block_used_atomics = false;
    int order[MAX_THREADS];
    for (int i = 0; i < now.threads; i++) {
        order[i] = i;
        fibers[i].linear = i;
        fibers[i].index = uint3{(unsigned)i % blockDim.x, (unsigned)i / blockDim.x % blockDim.y, (unsigned)i / blockDim.x / blockDim.y};
        reset_fiber(&fibers[i]);
    }
    for (int w = 0; w * 32 < now.threads; w++) { warps[w].count = 0; warps[w].exited = 0; }
    shuffle(order, now.threads);
    for (int i = 0; i < now.threads; i++) { make_ready(order[i]); }
    leave(&scheduler);                                 // comes back when no fiber is ready
    running = nullptr;
    if (now.alive > 0) { report_deadlock(); }
}

void emu_fibers_reset_copies();                        // ptx.cpp: what a finished block left in flight is dropped

static void check_launch(const void* function, dim3 grid, dim3 block, size_t shared_bytes) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) { emu_error("invalid grid"); }
    if (block.x == 0 || block.y == 0 || block.z == 0 || block.z > 64 || (size_t)block.x * block.y * block.z > MAX_THREADS) { emu_error("invalid block"); }
    size_t allowed = emu_allowed_shared(function);
    if (shared_bytes > allowed) {
        emu_error("%zu bytes of dynamic shared memory, %zu allowed (cudaFuncSetAttribute raises 48 KiB up to 227 KiB)", shared_bytes, allowed);
    }
}

void emu_launch_body(const char* kernel, const void* function, dim3 grid, dim3 block, size_t shared_bytes, EmuBody body, void* arguments,
                     const char* file, int line) {
    open_once();
    static uint64_t number;
    now.kernel = kernel; now.file = file; now.line = line; now.number = ++number;
    now.body = body; now.arguments = arguments; now.dynamic_bytes = shared_bytes; now.static_bytes = 0;
    gridDim = grid; blockDim = block;
    emu_in_kernel = true;
    running = nullptr;
    check_launch(function, grid, block, shared_bytes);
    now.threads = (int)(block.x * block.y * block.z);
    random_state = (seed * 0x9e3779b97f4a7c15ull) ^ (number * 0xbf58476d1ce4e5b9ull) ^ 0x94d049bb133111ebull;
    now.newest_first = seed == 0 || number % 4 != 0;   // keeps a warp's stacks in cache; every fourth launch goes round-robin
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    emu_device_memory_open();
    size_t blocks = (size_t)grid.x * grid.y * grid.z;
    bool backwards = seed != 0 && number % 2 == 0;
    for (size_t i = 0; i < blocks; i++) {
        size_t b = backwards ? blocks - 1 - i : i;
        blockIdx = uint3{(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
        run_block();
        emu_fibers_reset_copies();
    }
    emu_check_canaries(kernel);
    emu_device_memory_close();
    clock_gettime(CLOCK_MONOTONIC, &to);
    totals.launches++; totals.blocks += blocks; totals.threads += blocks * (size_t)now.threads;
    totals.seconds += (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    emu_in_kernel = false;
}

EmuZone emu_zone(const void* address) {
    const char* p = (const char*)address;
    if (p >= arena && p < arena + arena_bytes) { return EMU_SHARED_ZONE; }
    if (p >= stacks && p < stacks + (size_t)MAX_THREADS * STACK_BYTES) { return EMU_ELSEWHERE; }
    return emu_in_device_memory(address, 1) ? EMU_DEVICE_ZONE : EMU_ELSEWHERE;
}

const char* emu_describe_address(const void* address, char* text, size_t size) {
    const char* p = (const char*)address;
    if (stacks && p >= stacks && p < stacks + (size_t)MAX_THREADS * STACK_BYTES) { snprintf(text, size, "on a thread's stack (overflow)"); }
    else if (arena && p >= arena && p < arena + arena_bytes + GUARD) {
        snprintf(text, size, "in shared memory, %ld bytes from the start of the %zu dynamic bytes", (long)(p - dynamic_start()), now.dynamic_bytes);
    } else { emu_describe_device_address(p, text, size); }
    return text;
}

// The scheduler: fibers, blocks, barriers, meetings of warps and warpgroups, shared memory. Clusters: see also cluster.cpp.
#include "emu.h"

#include <execinfo.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#ifndef __x86_64__
#error "the fiber switch is written for x86-64"
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
bool emu_in_kernel, emu_race_check, emu_block_used_atomics;

enum { STACK_BYTES = 128 << 10, GUARD = 4096 };
enum { SHARED_MOST = 227 << 10, STATIC_MOST = 48 << 10, RESERVED = 1024 };        // the device keeps the first KiB of a block's shared memory
enum { IDLE_ROUNDS = 20000 };                      // rounds of spinning in which nothing happens, until it is called a deadlock
enum State { READY, AT_BARRIER, AT_MEETING, PARKED, SPINNING, EXITED };

struct Fiber {
    void* stack_pointer;
    uint3 index, block;
    int linear, barrier_result;
    State state;
    const char *what, *file;       // where it waits
    int line;
    unsigned mask;
};

// lanes that have come to a meeting of `mask`; all of a block's code is in one object, so equal texts are equal pointers
struct Group { unsigned mask, arrived; const char *what, *file; int line; EmuMeeting meeting; void* lane[32]; };
struct Warp { Group groups[32]; int count; unsigned exited, epoch; };

static Fiber fibers[EMU_THREADS];
static Warp warps[EMU_WARPS];
static Fiber* running;
static Fiber scheduler;
static char* stacks;
char* emu_arena;                                   // in each window static shared memory at its start, dynamic at its end

static struct {
    const char *kernel, *file;
    int line;
    uint64_t number;                               // of the launch
    EmuBody body;
    void* arguments;
    size_t dynamic_bytes, static_bytes;
    size_t dynamic_start;                          // offset in a window; 0 until a thread asks
    int threads;                                   // of a block
    int alive, alive_in[EMU_CTAS];
    unsigned idle_rounds;
    int spinning;
    bool newest_first;                             // order of the ready list
    bool spun, restart;
    unsigned block_start;                          // counts blocks, or clusters
} now;

struct Barrier { int waiting[EMU_BLOCK_THREADS], count, predicate_sum; EmuBarrier kind; const char* file; int line; };
static Barrier barriers[EMU_CTAS];
static struct { int item[2 * EMU_THREADS]; unsigned head, tail; } ready;      // a ring of fibers
static struct { int item[EMU_THREADS]; int count; } spinners;                 // they look again when nobody else is ready
struct KernelTotals { long launches, products; double seconds; };
static std::map<std::string, KernelTotals> kernel_totals;
static struct { uint64_t launches, blocks, threads; double seconds; } totals;

static int cta_of(int thread) { return thread / EMU_BLOCK_THREADS; }
static int in_block(int thread) { return thread % EMU_BLOCK_THREADS; }

// ---- order: a function of EMU_SEED, the launch and the step, so that a failure repeats ----------------------------------
static uint64_t seed, random_state;

static unsigned random_below(unsigned n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 32) * n >> 32);
}

void emu_shuffle(int* item, int n) {
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
    if (running) { fprintf(stderr, ", thread (%u,%u,%u)%s", threadIdx.x, threadIdx.y, threadIdx.z, emu_cta_name(cta_of(running->linear))); }
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
    if (running) { emu_print_calls(); }
    fflush(stderr);
    _exit(70);
}

// The calls that led here, without the emulator's own: an instruction in a wrapper is known by the line that called the wrapper.
void emu_print_calls() {
    void* calls[24];
    int n = backtrace(calls, 24);
    char command[1024];
    int used = snprintf(command, sizeof command, "addr2line -ifpse /proc/%d/exe", (int)getpid());
    for (int i = 1; i < n && calls[i]; i++) { used += snprintf(command + used, sizeof command - (size_t)used, " %p", (void*)((char*)calls[i] - 1)); }
    snprintf(command + used, sizeof command - (size_t)used, " | grep -Ev ' at (emu|ptx|race|hopper|wgmma|tma|runtime|proxy|cluster)[.](cpp|h)|cuda_runtime|[?][?]' | sed 's/^/emu:     /' >&2");
    fflush(stderr);
    if (system(command)) { fprintf(stderr, "emu:     (no line numbers)\n"); }
}

static bool same_wait(const Fiber* a, const Fiber* b) {
    if (a->state != b->state) { return false; }
    return a->state == EXITED || (a->line == b->line && a->mask == b->mask && !strcmp(a->what, b->what) && !strcmp(a->file, b->file));
}

static bool showing_calls;
extern "C" void emu_switch(void** save, void* load);

// lets a waiting fiber print where it is
static void show_calls(const Fiber* f) {
    showing_calls = true;
    running = (Fiber*)f;
    emu_switch(&scheduler.stack_pointer, f->stack_pointer);
    running = nullptr;
    showing_calls = false;
}

static void describe_threads(const Fiber* block) {
    for (int from = 0, to; from < now.threads; from = to) {
        const Fiber* f = &block[from];
        for (to = from + 1; to < now.threads && same_wait(f, &block[to]); to++) {}
        fprintf(stderr, "emu:   threads %4d..%4d ", from, to - 1);
        if (f->state == EXITED) { fprintf(stderr, "have returned\n"); }
        else if (f->state == AT_MEETING && f->mask) { fprintf(stderr, "wait in %s, mask %08x  [%s:%d]\n", f->what, f->mask, f->file, f->line); }
        else { fprintf(stderr, "%s in %s  [%s:%d]\n", f->state == SPINNING ? "spin" : "wait", f->what, f->file, f->line); }
        if (f->state != EXITED) { show_calls(f); }
    }
}

static void report_deadlock() {
    running = nullptr;
    fprintf(stderr, "emu: deadlock, nobody can go on:\n");
    for (unsigned r = 0; r < emu_cluster_size(); r++) {
        const Fiber* block = &fibers[r * EMU_BLOCK_THREADS];
        if (emu_cluster_size() > 1) { fprintf(stderr, "emu:  CTA %u, block (%u,%u,%u)\n", r, block->block.x, block->block.y, block->block.z); }
        describe_threads(block);
    }
    blockIdx = fibers[0].block;
    emu_cluster_describe();
    emu_describe_waits();
    emu_error(now.spinning ? "what the spinning threads wait for never comes (blocks run one after another: a block can wait for earlier ones only)"
                           : "a collective was not reached by all the threads it names, or a barrier's phase is never completed");
}

// ---- fibers ---------------------------------------------------------------------------------------------------------------
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
    now.idle_rounds = 0;
    ready.item[ready.tail++ % (2 * EMU_THREADS)] = thread;
}

// gives the processor to the next ready fiber, or to the scheduler when there is none
static void leave(Fiber* me) {
    Fiber* next = nullptr;
    while (ready.head == ready.tail && now.alive > 0 && emu_async_step()) { now.idle_rounds = 0; }
    if (ready.head == ready.tail && spinners.count && now.idle_rounds < IDLE_ROUNDS) {
        unsigned rounds = now.idle_rounds + 1;
        emu_shuffle(spinners.item, spinners.count);
        for (int i = 0; i < spinners.count; i++) { make_ready(spinners.item[i]); }
        spinners.count = 0;
        now.idle_rounds = rounds;
    }
    if (ready.head != ready.tail) {
        unsigned at = now.newest_first ? --ready.tail : ready.head++;
        next = &fibers[ready.item[at % (2 * EMU_THREADS)]];
        threadIdx = next->index;
        blockIdx = next->block;
    }
    running = next;
    if (next == me) { return; }
    emu_switch(&me->stack_pointer, next ? next->stack_pointer : scheduler.stack_pointer);
    while (showing_calls && me != &scheduler) {
        emu_print_calls();
        emu_switch(&me->stack_pointer, scheduler.stack_pointer);
    }
}

// ---- waiting for an event of another part of the emulator ------------------------------------------------------------------
void emu_park(const char* what, const char* file, int line) {
    Fiber* me = running;
    me->state = PARKED;
    me->what = what; me->file = file; me->line = line; me->mask = 0;
    leave(me);
}

void emu_wake(int thread) {
    if (fibers[thread].state == PARKED) { make_ready(thread); }
}

// Comes back when the others have had a chance to go on.
void emu_spin(const char* what, const char* file, int line) {
    Fiber* me = running;
    me->state = SPINNING;
    me->what = what; me->file = file; me->line = line; me->mask = 0;
    spinners.item[spinners.count++] = me->linear;
    now.spun = true;
    leave(me);
}

unsigned emu_random(unsigned n) { return seed == 0 ? 0 : random_below(n); }
void emu_progress() { now.idle_rounds = 0; }

static void release_barrier(int cta) {
    Barrier* b = &barriers[cta];
    int result = b->kind == EMU_COUNT ? b->predicate_sum : b->kind == EMU_AND ? b->predicate_sum == b->count : b->predicate_sum > 0;
    emu_race_everybody(cta);
    int count = b->count;
    b->count = b->predicate_sum = 0;
    emu_shuffle(b->waiting, count);
    for (int i = 0; i < count; i++) {
        fibers[b->waiting[i]].barrier_result = result;
        make_ready(b->waiting[i]);
    }
}

static void fiber_main() {
    now.body(now.arguments);
    Fiber* me = running;
    int cta = cta_of(me->linear);
    me->state = EXITED;
    warps[me->linear / 32].exited |= 1u << (me->linear % 32);
    now.alive--;
    now.alive_in[cta]--;
    if (now.alive_in[cta] > 0 && barriers[cta].count == now.alive_in[cta]) { release_barrier(cta); }    // barriers count the threads that are left
    emu_cluster_thread_exits(me->linear);
    if (now.alive_in[cta] == 0) {
        running = nullptr;
        emu_async_block_ends(cta);
    }
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
    Barrier* b = &barriers[cta_of(me->linear)];
    if (b->count == 0) { b->kind = kind; b->file = file; b->line = line; }
    if (b->kind != kind || b->line != line || b->file != file) {
        emu_error("__syncthreads at %s:%d, while thread %d of the block is in the one at %s:%d", file, line, in_block(b->waiting[0]), b->file, b->line);
    }
    b->predicate_sum += predicate != 0;
    b->waiting[b->count++] = me->linear;
    me->state = AT_BARRIER;
    me->what = "__syncthreads"; me->file = file; me->line = line; me->mask = 0;
    if (b->count == now.alive_in[cta_of(me->linear)]) { release_barrier(cta_of(me->linear)); }
    leave(me);
    return me->barrier_result;
}

static void finish_meeting(Warp* warp, int first_thread, Group* group, Fiber* last) {
    group->meeting(group->lane, group->mask);
    warp->epoch++;
    int order[32], n = 0;
    for (int i = 0; i < 32; i++) { if (group->mask >> i & 1) { order[n++] = first_thread + i; } }
    *group = warp->groups[--warp->count];
    emu_shuffle(order, n);
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
    }
    if (group->meeting != meeting || group->what != what || (aligned && group->line != line)) {
        emu_error("lane %d of warp %d comes to %s [%s:%d] while others wait in %s [%s:%d]", lane, in_block(me->linear) / 32, what, file, line,
                  group->what, group->file, group->line);
    }
    group->lane[lane] = mine;
    group->arrived |= 1u << lane;
    if (group->arrived == mask) { finish_meeting(warp, me->linear - lane, group, me); return; }
    me->state = AT_MEETING;
    me->what = what; me->file = file; me->line = line; me->mask = mask;
    leave(me);
}

// ---- warpgroups: 128 threads ----------------------------------------------------------------------------------------------
static struct { void* mine[128]; int arrived, line; const char *what, *file; } warpgroups[EMU_THREADS / 128];

void emu_meet_warpgroup(const char* what, EmuWarpgroupMeeting meeting, void* mine, const char* file, int line) {
    Fiber* me = running;
    auto* group = &warpgroups[me->linear / 128];
    int first = me->linear & ~127;
    if (in_block(first) + 128 > now.threads) {
        emu_error("%s in threads %d..%d, which are no whole warpgroup  [%s:%d]", what, in_block(first), now.threads - 1, file, line);
    }
    if (group->arrived == 0) { group->what = what; group->file = file; group->line = line; }
    if (group->what != what || group->line != line) {
        emu_error("thread %d comes to %s [%s:%d] while others of its warpgroup wait in %s [%s:%d]", in_block(me->linear), what, file, line, group->what,
                  group->file, group->line);
    }
    group->mine[me->linear - first] = mine;
    if (++group->arrived == 128) {
        meeting(first, group->mine);
        group->arrived = 0;
        for (int w = first / 32; w < first / 32 + 4; w++) { warps[w].epoch++; }
        int order[128];
        for (int i = 0; i < 128; i++) { order[i] = first + i; }
        emu_shuffle(order, 128);
        for (int i = 0; i < 128; i++) { if (order[i] != me->linear) { make_ready(order[i]); } }
        return;
    }
    me->state = AT_MEETING;
    me->what = what; me->file = file; me->line = line; me->mask = 0;
    leave(me);
}

int emu_lane()             { return running->linear % 32; }
int emu_thread()           { return running ? running->linear : -1; }
unsigned emu_block_start() { return now.block_start; }
unsigned emu_launch_number() { return (unsigned)now.number; }
unsigned emu_warp_epoch_of(int warp) { return warps[warp].epoch; }
void emu_warp_meets(int warp) { warps[warp].epoch++; }
unsigned emu_living_lanes() {
    int first = running->linear & ~31, left = now.threads - in_block(first), lanes = left < 32 ? left : 32;
    return ~warps[first / 32].exited & (lanes == 32 ? 0xffffffffu : (1u << lanes) - 1);
}
int emu_alive(int cta)     { return cta < 0 ? now.alive : now.alive_in[cta]; }

const char* emu_cta_name(int cta) {
    static char text[4][16];
    static unsigned turn;
    char* mine = text[turn++ % 4];
    if (emu_cluster_size() == 1 || cta < 0) { return ""; }
    snprintf(mine, sizeof text[0], " of CTA %d", cta);
    return mine;
}

const char* emu_thread_name(int thread) {
    static char text[4][40];
    static unsigned turn;
    char* mine = text[turn++ % 4];
    snprintf(mine, sizeof text[0], "thread %d%s", in_block(thread), emu_cta_name(cta_of(thread)));
    return mine;
}

// ---- shared memory --------------------------------------------------------------------------------------------------------
static char* window(unsigned cta) { return emu_arena + cta * EMU_STRIDE; }
static char* own_window() { return window(emu_cluster_rank()); }

// Dynamic shared memory lies at the window's end, no better aligned than the kernel asks (on the device often 1024, but by accident).
static void place_dynamic(size_t align) {
    size_t start = (EMU_WINDOW - now.dynamic_bytes) / align * align;
    if (align >= 128 && align < 1024 && start % (2 * align) == 0) { start -= align; }
    now.dynamic_start = start;
}
static size_t dynamic_offset() { return now.dynamic_start ? now.dynamic_start : EMU_WINDOW - now.dynamic_bytes; }
size_t emu_dynamic_offset(size_t* bytes) { *bytes = now.dynamic_bytes; return dynamic_offset(); }

// No better aligned than asked for, so that a 16-byte access to an array of floats is caught.
void* emu_static_shared(EmuShared* place, size_t bytes, size_t align, const char* name) {
    if (place->launch != now.number) {
        size_t offset = (now.static_bytes + align - 1) / align * align;
        if (align < 16 && offset / align % 2 == 0) { offset += align; }
        if (offset + bytes > STATIC_MOST + RESERVED) { emu_error("__shared__ %s: more than 48 KiB of static shared memory", name); }
        if (offset - RESERVED + bytes + now.dynamic_bytes > SHARED_MOST) { emu_error("__shared__ %s: more than 227 KiB with the dynamic bytes", name); }
        place->launch = now.number;
        place->offset = (unsigned)offset;
        now.static_bytes = offset + bytes;
        for (unsigned r = 0; r < emu_cluster_size(); r++) { memset(window(r) + offset, 0xff, bytes); }
    }
    return own_window() + place->offset;
}

void* emu_dynamic_shared(size_t align, const char* name) {
    if (align > 1024) { emu_error("extern __shared__ %s: wants alignment %zu, the emulator gives 1024", name, align); }
    if (!now.dynamic_start) { place_dynamic(align < 16 ? 16 : align); }
    if (now.dynamic_start % align) { emu_error("extern __shared__ %s: asks for alignment %zu, another name of the same memory for less", name, align); }
    return own_window() + dynamic_offset();
}

unsigned emu_shared_address(const void* pointer, const char* file, int line) {
    size_t offset = (size_t)((const char*)pointer - own_window());
    if (offset > EMU_WINDOW) { emu_error("%p is not in this block's shared memory  [%s:%d]", pointer, file, line); }
    return (unsigned)offset;
}

static void check_offset(unsigned offset, size_t bytes, const char* file, int line) {
    size_t dynamic = dynamic_offset();
    bool in_static = offset >= RESERVED && offset + bytes <= now.static_bytes;
    if (!in_static && !(offset >= dynamic && offset + bytes <= dynamic + now.dynamic_bytes)) {
        emu_error("shared address %u (%ld from the start of the %zu dynamic bytes) is outside this kernel's shared memory  [%s:%d]", offset,
                  (long)offset - (long)dynamic, now.dynamic_bytes, file, line);
    }
    if (offset % bytes) { emu_error("shared address %u is not a multiple of %zu  [%s:%d]", offset, bytes, file, line); }
}
void emu_check_place(unsigned place, size_t bytes, const char* file, int line) { check_offset(place % EMU_STRIDE, bytes, file, line); }

unsigned emu_place(unsigned address, size_t bytes, bool in_cluster, const char* file, int line) {
    unsigned tag = address >> 24, offset = address & 0xffffffu;
    if (tag > emu_cluster_size()) { emu_error("shared address %#x is of no CTA of the cluster  [%s:%d]", address, file, line); }
    if (tag && !in_cluster) {
        emu_error("shared address %#x comes from mapa (CTA %u); this instruction takes the own CTA's (shared::cta) only  [%s:%d]", address, tag - 1, file, line);
    }
    check_offset(offset, bytes, file, line);
    return (tag ? tag - 1 : emu_cluster_rank()) * EMU_STRIDE + offset;
}

char* emu_shared_pointer(unsigned address, size_t bytes, const char* file, int line) { return emu_arena + emu_place(address, bytes, false, file, line); }

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
        for (auto& k : kernel_totals) { fprintf(stderr, "emu:   %6ld launches %8ld wgmma  %.2f s  %s\n", k.second.launches, k.second.products, k.second.seconds, k.first.c_str()); }
    }
}

static void open_once() {
    if (stacks) { return; }
    const char* text = getenv("EMU_SEED");
    seed = text ? strtoull(text, nullptr, 10) : 1;
    stacks = (char*)reserve((size_t)EMU_THREADS * STACK_BYTES);
    for (int i = 0; i < EMU_THREADS; i++) { mprotect(stacks + (size_t)i * STACK_BYTES, GUARD, PROT_NONE); }
    emu_arena = (char*)reserve(EMU_ARENA);
    for (unsigned r = 0; r < EMU_CTAS; r++) { mprotect(window(r) + EMU_WINDOW, EMU_STRIDE - EMU_WINDOW, PROT_NONE); }
    atexit(print_totals);
}

// The block's memory, barriers and fibers as they are at its start; its threads are added to `order`.
static int* begin_block(int cta, int* order) {
    memset(window((unsigned)cta), 0xff, now.static_bytes);
    size_t dynamic = now.dynamic_bytes ? (EMU_WINDOW - now.dynamic_bytes) / 1024 * 1024 - 1024 : (size_t)EMU_WINDOW;
    memset(window((unsigned)cta) + dynamic, 0xff, EMU_WINDOW - dynamic);
    barriers[cta].count = barriers[cta].predicate_sum = 0;
    now.alive_in[cta] = now.threads;
    int first = cta * EMU_BLOCK_THREADS;
    uint3 block = emu_cluster_block((unsigned)cta);
    for (int i = 0; i < now.threads; i++) {
        Fiber* f = &fibers[first + i];
        f->linear = *order++ = first + i;
        f->index = uint3{(unsigned)i % blockDim.x, (unsigned)i / blockDim.x % blockDim.y, (unsigned)i / blockDim.x / blockDim.y};
        f->block = block;
        reset_fiber(f);
    }
    for (int w = first / 32; w * 32 < first + now.threads; w++) { warps[w].count = 0; warps[w].exited = 0; }
    return order;
}

static void run_cluster(size_t cluster) {
    emu_cluster_begins(cluster);
    ready.head = ready.tail = 0;
    now.block_start++;
    emu_block_used_atomics = false;
    spinners.count = 0;
    now.idle_rounds = 0;
    for (auto& g : warpgroups) { g.arrived = 0; }
    emu_named_barriers_begin();
    emu_race_block_begins();
    emu_async_block_begins();
    int order[EMU_THREADS], *end = order;
    for (unsigned r = 0; r < emu_cluster_size(); r++) { end = begin_block((int)r, end); }
    now.alive = (int)(end - order);
    emu_shuffle(order, now.alive);
    for (int* i = order; i < end; i++) { make_ready(*i); }
    leave(&scheduler);                                 // comes back when no fiber is ready
    running = nullptr;
    now.spinning = spinners.count;
    if (now.alive > 0 && !now.restart) { report_deadlock(); }
}

void emu_restart_launch() {
    Fiber* me = running;
    now.restart = true;
    ready.head = ready.tail = 0;
    running = nullptr;
    emu_switch(&me->stack_pointer, scheduler.stack_pointer);
    abort();
}

static void check_launch(const void* function, dim3 grid, dim3 block, size_t shared_bytes) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) { emu_error("invalid grid"); }
    if (block.x == 0 || block.y == 0 || block.z == 0 || block.z > 64 || (size_t)block.x * block.y * block.z > EMU_BLOCK_THREADS) { emu_error("invalid block"); }
    size_t allowed = emu_allowed_shared(function);
    if (shared_bytes > allowed) {
        emu_error("%zu bytes of dynamic shared memory, %zu allowed (cudaFuncSetAttribute raises 48 KiB up to 227 KiB)", shared_bytes, allowed);
    }
}

static void run_grid(const void* function) {
    dim3 grid = emu_cluster_grid();
    size_t clusters = (size_t)grid.x * grid.y * grid.z;
    static std::map<const void*, bool> spins;          // of the kernels launched so far: those whose blocks may wait for earlier ones
    auto before = spins.find(function);
    bool backwards = seed != 0 && now.number % 2 == 0 && before != spins.end() && !before->second;
    now.spun = false;
    for (size_t i = 0; i < clusters && !now.restart; i++) { run_cluster(backwards ? clusters - 1 - i : i); }
    if (!now.restart) { spins[function] |= now.spun; }
}

static void count_launch(size_t blocks, double seconds) {
    totals.launches++; totals.blocks += blocks; totals.threads += blocks * (size_t)now.threads;
    totals.seconds += seconds;
    KernelTotals* mine = &kernel_totals[now.kernel];
    mine->launches++; mine->seconds += seconds; mine->products += emu_wgmma_count;
    emu_wgmma_count = 0;
}

void emu_launch_body(const char* kernel, const void* function, dim3 grid, dim3 block, size_t shared_bytes, EmuBody body, void* arguments,
                     const char* file, int line, dim3 cluster) {
    open_once();
    static uint64_t number;
    now.kernel = kernel; now.file = file; now.line = line; now.number = ++number;
    now.body = body; now.arguments = arguments; now.dynamic_bytes = shared_bytes; now.static_bytes = RESERVED; now.dynamic_start = 0;
    gridDim = grid; blockDim = block;
    emu_in_kernel = true;
    running = nullptr;
    check_launch(function, grid, block, shared_bytes);
    now.threads = (int)(block.x * block.y * block.z);
    now.newest_first = seed == 0 || number % 4 != 0;   // keeps a warp's stacks in cache; every fourth launch goes round-robin
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    emu_device_memory_open();
    do {                                               // again when the kernel's first statement says that it wants clusters
        now.restart = false;
        random_state = (seed * 0x9e3779b97f4a7c15ull) ^ (number * 0xbf58476d1ce4e5b9ull) ^ 0x94d049bb133111ebull;
        emu_cluster_launch(function, cluster);
        run_grid(function);
    } while (now.restart);
    emu_check_canaries(kernel);
    emu_device_memory_close();
    clock_gettime(CLOCK_MONOTONIC, &to);
    count_launch((size_t)grid.x * grid.y * grid.z, (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
    emu_in_kernel = false;
}

EmuZone emu_zone(const void* address) {
    const char* p = (const char*)address;
    if (p >= emu_arena && p < emu_arena + EMU_ARENA) { return EMU_SHARED_ZONE; }
    if (p >= stacks && p < stacks + (size_t)EMU_THREADS * STACK_BYTES) { return EMU_ELSEWHERE; }
    return emu_in_device_memory(address, 1) ? EMU_DEVICE_ZONE : EMU_ELSEWHERE;
}

const char* emu_describe_address(const void* address, char* text, size_t size) {
    const char* p = (const char*)address;
    if (stacks && p >= stacks && p < stacks + (size_t)EMU_THREADS * STACK_BYTES) { snprintf(text, size, "on a thread's stack (overflow)"); }
    else if (emu_arena && p >= emu_arena && p < emu_arena + EMU_ARENA) {
        long place = p - emu_arena;
        snprintf(text, size, "in shared memory%s, %ld bytes from the start of the %zu dynamic bytes", emu_cta_name((int)(place / EMU_STRIDE)),
                 place % EMU_STRIDE - (long)dynamic_offset(), now.dynamic_bytes);
    } else { emu_describe_device_address(p, text, size); }
    return text;
}

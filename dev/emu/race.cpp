// The race check (run --race): kernels are compiled with the hooks of ThreadSanitizer, which end up here instead of in its library.
// - Two threads of a block may touch the same shared memory, one of them writing, only if one access comes before the other by barriers,
//   named barriers, mbarriers, or, within a warp, warp collectives. The same for global memory. Every warp has a clock of all warps' clocks
//   (a vector clock); a barrier takes in the clocks of those who arrive and gives them to those who wait.
// - The CTAs of a cluster have one clock of all their warps, which barrier.cluster and mbarriers of the other CTA bring.
// - TMA writes as the issuing thread, and arrives with its clock at the issue; wgmma reads in all four warps, at the issue and at the wait.
// - A block must not touch global memory that another block of the launch wrote, nor the reverse; not checked in a block that
//   has used an atomic or a volatile or acquiring load (it may know that the others are done).
// Of the readers since the last write three are remembered, and a warp's barrier arrival counts for all its lanes, so some races are missed;
// none is invented by that.
#include "emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>

enum { WARPS = EMU_WARPS, BLOCK_WARPS = EMU_BLOCK_THREADS / 32, READERS = 3, NOBODY = 0xffff, SEVERAL = 0x8000 };    // SEVERAL: several lanes of the thread's warp

// The last writer and readers of two bytes: the thread, its warp's clock and meetings at that time. `block` counts over all launches.
struct Access { uint16_t thread; bool used, atomic; uint32_t block, clock, warp_epoch, from; };
struct Cell { Access write, read[READERS]; };

struct Clock { uint32_t of[WARPS]; };
static Clock clocks[WARPS];
struct Barrier { Clock arriving, done; };
static std::map<const void*, Barrier> barriers;
static uint32_t first_block;                        // of this launch

static int warps() { return (int)emu_cluster_size() * BLOCK_WARPS; }
static void join(Clock* to, const Clock& from) { for (int w = 0, n = warps(); w < n; w++) { if (from.of[w] > to->of[w]) { to->of[w] = from.of[w]; } } }

void emu_race_block_begins() {
    if (!emu_race_check) { return; }
    static unsigned launch;
    if (launch != emu_launch_number()) { launch = emu_launch_number(); first_block = emu_block_start(); }
    memset(clocks, 0, sizeof clocks);
    for (int w = 0; w < warps(); w++) { clocks[w].of[w] = 1; }
    barriers.clear();
}

void emu_race_everybody(int cta) {                                   // __syncthreads
    if (!emu_race_check) { return; }
    int first = cta * BLOCK_WARPS;
    Clock all = clocks[first];
    for (int w = first; w < first + BLOCK_WARPS; w++) { join(&all, clocks[w]); }
    for (int w = first; w < first + BLOCK_WARPS; w++) { clocks[w] = all; clocks[w].of[w]++; emu_warp_meets(w); }
}
void emu_race_arrive(const void* barrier, int thread) {
    if (!emu_race_check) { return; }
    int w = thread / 32;
    join(&barriers[barrier].arriving, clocks[w]);
    clocks[w].of[w]++;
}
void emu_race_complete(const void* barrier) { if (emu_race_check) { Barrier* b = &barriers[barrier]; join(&b->done, b->arriving); } }
void emu_race_wait(const void* barrier) {
    if (!emu_race_check) { return; }
    join(&clocks[emu_thread() / 32], barriers[barrier].done);
    emu_warp_meets(emu_thread() / 32);
}

// cells of device and shared memory, found by page of 4 KiB
enum { PAGE = 4096, CELLS = PAGE / 2, BUCKETS = 1 << 16 };
struct Shadow { uintptr_t page; Shadow* next; Cell cells[CELLS]; };
static Shadow* buckets[BUCKETS];
static Shadow* recent;

static Cell* cell_of(uintptr_t address) {
    uintptr_t page = address / PAGE;
    if (!recent || recent->page != page) {
        Shadow** at = &buckets[page % BUCKETS];
        while (*at && (*at)->page != page) { at = &(*at)->next; }
        if (!*at) {
            *at = (Shadow*)mmap(nullptr, sizeof(Shadow), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            (*at)->page = page;
        }
        recent = *at;
    }
    return &recent->cells[address % PAGE / 2];
}

static int thread_of(const Access& a) { return a.thread & ~SEVERAL; }

// Who touched the cell in conflict with `mine`, or NULL.
static const char* conflict(const Access& before, const Access& mine, bool shared) {
    if (!before.used || before.block < first_block || (before.atomic && mine.atomic)) { return nullptr; }
    if (before.block != mine.block) { return shared || emu_block_used_atomics ? nullptr : "another block"; }
    if (before.thread == mine.thread) { return nullptr; }
    int warp = thread_of(before) / 32, me = thread_of(mine) / 32;
    if (warp != me && before.clock <= clocks[me].of[warp]) { return nullptr; }
    if (warp != me) { return warp / BLOCK_WARPS == me / BLOCK_WARPS ? "another warp" : "the cluster's other CTA"; }
    return before.warp_epoch == mine.warp_epoch ? "another thread of the warp" : nullptr;
}

static void report(const char* what, const char* who, uintptr_t address, const Access& before, const Access& mine) {
    char text[200], command[240];
    emu_describe_address((const void*)address, text, sizeof text);
    fflush(stdout);
    fprintf(stderr, "emu: race: %s what %s (%s%s) touched without a barrier between; %s. Earlier and later access:\n", what, who, emu_thread_name(thread_of(before)),
            before.thread & SEVERAL ? " and others" : "", text);
    snprintf(command, sizeof command, "addr2line -ipsfCe /proc/%d/exe %#x %#x | sed 's/^/emu:   /' >&2", (int)getpid(), before.from - 1, mine.from - 1);
    if (system(command)) { fprintf(stderr, "emu:   (no line numbers)\n"); }
    emu_error("race");
}

static void remember_read(Cell* cell, const Access& mine) {
    static unsigned turn;
    int me = mine.thread / 32;
    Access* place = nullptr;
    for (Access& r : cell->read) {
        if (r.used && r.block == mine.block && thread_of(r) / 32 == me) {
            bool together = r.warp_epoch == mine.warp_epoch && r.thread != mine.thread;
            r = mine;
            if (together) { r.thread |= SEVERAL; }
            return;
        }
        bool over = !r.used || r.block != mine.block || r.clock <= clocks[me].of[thread_of(r) / 32];
        if (over) { place = &r; }
    }
    if (!place) { place = &cell->read[turn++ % READERS]; }
    *place = mine;
}

static void access_as(int thread, uintptr_t address, size_t bytes, bool write, const void* from, bool atomic) {
    int zone = emu_zone((const void*)address);
    if (zone == EMU_ELSEWHERE) { return; }
    bool shared = zone == EMU_SHARED_ZONE;
    int warp = thread / 32;
    Access mine = {(uint16_t)thread, true, atomic, emu_block_start(), clocks[warp].of[warp], emu_warp_epoch_of(warp), (uint32_t)(uintptr_t)from};
    for (uintptr_t a = address & ~(uintptr_t)1; a < address + bytes; a += 2) {
        Cell* cell = cell_of(a);
        const char* who = conflict(cell->write, mine, shared);
        if (who) { report(write ? "writes" : "reads", who, a, cell->write, mine); }
        if (!write) { remember_read(cell, mine); continue; }
        for (Access& r : cell->read) {
            who = conflict(r, mine, shared);
            if (who) { report("writes", who, a, r, mine); }
            r.used = false;
        }
        cell->write = mine;
    }
}

static void access(uintptr_t address, size_t bytes, bool write, const void* from, bool atomic = false) {
    int thread = emu_thread();
    if (!emu_in_kernel || thread < 0) { return; }
    if (write) { emu_generic_write((const void*)address, bytes, thread, false); }
    access_as(thread, address, bytes, write, from, atomic);
}

// wgmma's reads, in the name of a thread of each warp
void emu_race_read_as(int thread, const void* address, size_t bytes, const void* from) {
    if (emu_race_check) { access_as(thread, (uintptr_t)address, bytes, false, from, false); }
}

// A bulk load of the running thread begins: it writes from now on, in the name of this thread; `clock` is what its end brings to the mbarrier.
void emu_race_bulk_begins(const void* address, size_t bytes, const void* from, uint32_t* clock) {
    if (!emu_race_check) { return; }
    int warp = emu_thread() / 32;
    if (bytes) { access_as(emu_thread(), (uintptr_t)address, bytes, true, from, false); }
    memcpy(clock, clocks[warp].of, sizeof(Clock));
    clocks[warp].of[warp]++;
}
void emu_race_bulk_ends(const void* barrier, const uint32_t* clock) {
    if (!emu_race_check) { return; }
    Clock c;
    memcpy(c.of, clock, sizeof c);
    join(&barriers[barrier].arriving, c);
}

void emu_touch(const void* address, size_t bytes, bool write) {
    if (emu_race_check) { access((uintptr_t)address, bytes, write, __builtin_return_address(0)); }
}

// Atomics and volatile accesses are flags: who reads has what was done before the write.
static void flag_written(const void* p) { emu_race_arrive(p, emu_thread()); emu_race_complete(p); }

void emu_touch_atomically(const void* address, size_t bytes) {
    emu_generic_write(address, bytes, emu_thread(), false);
    if (emu_zone(address) == EMU_DEVICE_ZONE) { emu_block_used_atomics = true; }
    if (!emu_race_check) { return; }
    access((uintptr_t)address, bytes, true, __builtin_return_address(0), true);
    flag_written(address);
    emu_race_wait(address);
}

static void volatile_access(const void* p, size_t bytes, bool write, const void* from) {
    if (!emu_in_kernel || emu_thread() < 0) { return; }
    EmuZone zone = emu_zone(p);
    if (zone == EMU_ELSEWHERE) { return; }
    if (zone == EMU_DEVICE_ZONE) { emu_block_used_atomics = true; }
    access((uintptr_t)p, bytes, write, from, true);
    if (write) { flag_written(p); }
    else { emu_race_wait(p); }
}

// ---- the compiler's hooks ---------------------------------------------------------------------------------------------------
#define HOOK extern "C" __attribute__((visibility("default")))
#define FROM __builtin_return_address(0)
#define ACCESS(size) \
    HOOK void __tsan_read##size(void* p)                        { access((uintptr_t)p, size, false, FROM); } \
    HOOK void __tsan_write##size(void* p)                       { access((uintptr_t)p, size, true, FROM); } \
    HOOK void __tsan_unaligned_read##size(void* p)              { access((uintptr_t)p, size, false, FROM); } \
    HOOK void __tsan_unaligned_write##size(void* p)             { access((uintptr_t)p, size, true, FROM); } \
    HOOK void __tsan_volatile_read##size(void* p) { volatile_access(p, size, false, FROM); } \
    HOOK void __tsan_volatile_write##size(void* p) { volatile_access(p, size, true, FROM); } \
    HOOK void __tsan_unaligned_volatile_read##size(void* p) { volatile_access(p, size, false, FROM); } \
    HOOK void __tsan_unaligned_volatile_write##size(void* p) { volatile_access(p, size, true, FROM); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
HOOK void __tsan_read_range(void* p, unsigned long bytes)  { access((uintptr_t)p, bytes, false, FROM); }
HOOK void __tsan_write_range(void* p, unsigned long bytes) { access((uintptr_t)p, bytes, true, FROM); }
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit()       {}
HOOK void __tsan_vptr_update(void**, void*) {}
HOOK void __tsan_init()            { emu_race_check = true; }

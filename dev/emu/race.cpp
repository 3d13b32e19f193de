// The race check (run --race): kernels are compiled with the hooks of ThreadSanitizer, which end up here instead of in its library.
// - Two threads of a block may touch the same shared memory, one of them writing, only with a barrier between them, or, within
//   a warp, a warp collective. The same for global memory.
// - A block must not touch global memory that another block of the launch wrote, nor the reverse; not checked in a block that
//   has used an atomic (it may know that the others are done).
// Of the readers since the last write one is remembered, or that there were several, so some races are missed; none is invented
// by that, but a warp collective of part of a warp counts as one of the whole.
#include "emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { NOBODY = 0, SEVERAL_THREADS = 0x7ffe, SEVERAL_WARPS = 0x7fff };

// The last writer and reader of two bytes: thread + 1 (or SEVERAL_*, of warp `warp`) and the clocks at that time.
// block_epoch counts barriers over the whole run, so an access of another block or launch has an older one.
struct Access { uint16_t thread, warp; uint32_t block_epoch, warp_epoch, launch; bool atomic; const void* from; };
struct Cell { Access write, read; };

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

// Who touched the cell in conflict with `mine`, or NULL.
static const char* conflict(const Access& before, const Access& mine, bool shared) {
    if (before.thread == NOBODY || before.launch != mine.launch || (before.atomic && mine.atomic)) { return nullptr; }
    if (before.block_epoch < emu_block_start()) { return shared || emu_block_used_atomics ? nullptr : "another block"; }
    if (before.block_epoch != mine.block_epoch || before.thread == mine.thread) { return nullptr; }
    if (before.thread == SEVERAL_WARPS || before.warp != mine.warp) { return "another warp"; }
    return before.warp_epoch == mine.warp_epoch ? "another thread of the warp" : nullptr;
}

static void report(const char* what, const char* who, uintptr_t address, const Access& before, const Access& mine) {
    char text[200], command[240];
    emu_describe_address((const void*)address, text, sizeof text);
    fflush(stdout);
    fprintf(stderr, "emu: race: %s what %s ", what, who);
    if (before.thread < SEVERAL_THREADS) { fprintf(stderr, "(thread %d)", before.thread - 1); }
    fprintf(stderr, " touched without a barrier between; %s. Earlier and later access:\n", text);
    snprintf(command, sizeof command, "addr2line -psfCe /proc/%d/exe %p %p | sed 's/^/emu:   /' >&2", (int)getpid(), before.from, mine.from);
    if (system(command)) { fprintf(stderr, "emu:   (no line numbers)\n"); }
    emu_error("race");
}

static void access(uintptr_t address, size_t bytes, bool write, const void* from, bool atomic = false) {
    int thread = emu_thread();
    if (!emu_in_kernel || thread < 0) { return; }
    if (write) { emu_generic_write((const void*)address, bytes, thread, false); }
    int zone = emu_zone((const void*)address);
    if (zone == EMU_ELSEWHERE) { return; }
    bool shared = zone == EMU_SHARED_ZONE;
    Access mine = {(uint16_t)(thread + 1), (uint16_t)(thread / 32), emu_block_epoch(), emu_warp_epoch(), emu_launch_number(), atomic, from};
    for (uintptr_t a = address & ~(uintptr_t)1; a < address + bytes; a += 2) {
        Cell* cell = cell_of(a);
        const char* who = conflict(cell->write, mine, shared);
        if (who) { report(write ? "writes" : "reads", who, a, cell->write, mine); }
        if (write) {
            who = conflict(cell->read, mine, shared);
            if (who) { report("writes", who, a, cell->read, mine); }
            cell->write = mine;
            cell->read.thread = NOBODY;
        } else {
            Access* r = &cell->read;
            bool together = r->thread != NOBODY && r->launch == mine.launch && r->block_epoch == mine.block_epoch && r->thread != mine.thread;
            uint16_t reader = !together ? mine.thread : r->thread == SEVERAL_WARPS || r->warp != mine.warp ? SEVERAL_WARPS : SEVERAL_THREADS;
            *r = mine;
            r->thread = reader;
        }
    }
}

void emu_touch(const void* address, size_t bytes, bool write) {
    if (emu_race_check) { access((uintptr_t)address, bytes, write, __builtin_return_address(0)); }
}

void emu_touch_atomically(const void* address, size_t bytes) {
    emu_generic_write(address, bytes, emu_thread(), false);
    if (emu_zone(address) == EMU_DEVICE_ZONE) { emu_block_used_atomics = true; }
    if (emu_race_check) { access((uintptr_t)address, bytes, true, __builtin_return_address(0), true); }
}

void emu_race_release(const void*) {}
void emu_race_release_of(const void*, int) {}
void emu_race_acquire(const void*) {}
void emu_race_async_write(unsigned, size_t) {}

// ---- the compiler's hooks ---------------------------------------------------------------------------------------------------
#define HOOK extern "C" __attribute__((visibility("default")))
#define FROM __builtin_return_address(0)
#define ACCESS(size) \
    HOOK void __tsan_read##size(void* p)                        { access((uintptr_t)p, size, false, FROM); } \
    HOOK void __tsan_write##size(void* p)                       { access((uintptr_t)p, size, true, FROM); } \
    HOOK void __tsan_unaligned_read##size(void* p)              { access((uintptr_t)p, size, false, FROM); } \
    HOOK void __tsan_unaligned_write##size(void* p)             { access((uintptr_t)p, size, true, FROM); } \
    HOOK void __tsan_volatile_read##size(void*)                 {} \
    HOOK void __tsan_volatile_write##size(void*)                {} \
    HOOK void __tsan_unaligned_volatile_read##size(void*)       {} \
    HOOK void __tsan_unaligned_volatile_write##size(void*)      {}
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
HOOK void __tsan_read_range(void* p, unsigned long bytes)  { access((uintptr_t)p, bytes, false, FROM); }
HOOK void __tsan_write_range(void* p, unsigned long bytes) { access((uintptr_t)p, bytes, true, FROM); }
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit()       {}
HOOK void __tsan_vptr_update(void**, void*) {}
HOOK void __tsan_init()            { emu_race_check = true; }

// The two ways to shared memory: the generic proxy (loads, stores, cp.async) and the async proxy (wgmma, TMA). What a thread wrote the
// generic way is seen by the async proxy only after a fence.proxy.async of that thread; here each 4 bytes remember who wrote them when.
// Kernels are compiled so that every store calls a hook below (run --race: the hooks of race.cpp, which come here too).
#include "emu.h"

#include <string.h>

enum { CELL = 4, FENCED_BY_READER = 1 };
struct Cell { uint64_t time; uint16_t thread, flags; };
static Cell cells[EMU_ARENA / CELL];
static uint64_t clock_now = 1, block_began;
static uint64_t fenced[EMU_THREADS];                      // when the thread last fenced

void emu_proxy_block_begins() {
    block_began = clock_now++;
    memset(fenced, 0, sizeof fenced);
}

static void mark(size_t offset, size_t bytes, int thread, uint16_t flags) {
    for (size_t c = offset / CELL; c <= (offset + bytes - 1) / CELL; c++) { cells[c] = Cell{clock_now, (uint16_t)thread, flags}; }
}

// A store of the running thread. cp.async whose arrival goes to an mbarrier has no waiting writer: there a fence of the reader counts.
void emu_generic_write(const void* address, size_t bytes, int thread, bool reader_fences) {
    size_t offset = (size_t)((const char*)address - emu_arena);
    if (offset < EMU_ARENA && bytes && thread >= 0) { mark(offset, bytes, thread, reader_fences ? FENCED_BY_READER : 0); }
}

void emu_async_write(unsigned place, size_t bytes) { memset((void*)&cells[place / CELL], 0, bytes / CELL * sizeof(Cell)); }

void emu_fence_proxy_async() { fenced[emu_thread()] = clock_now++; }

// `readers`: threads of which one's fence counts for FENCED_BY_READER
void emu_check_async_access(const char* what, unsigned place, size_t bytes, int reader, const char* file, int line) {
    for (size_t c = place / CELL; c < (place + bytes + CELL - 1) / CELL; c++) {
        Cell* cell = &cells[c];
        if (cell->time <= block_began || cell->time <= fenced[cell->thread]) { continue; }
        if ((cell->flags & FENCED_BY_READER) && cell->time <= fenced[reader]) { continue; }
        size_t size, dynamic = emu_dynamic_offset(&size), offset = c * CELL % EMU_STRIDE;
        emu_error("%s touches shared address %zu%s (%ld from the start of the dynamic bytes), which %s wrote with ordinary stores or cp.async and did not "
                  "fence: fence.proxy.async belongs between the write (or the wait for its cp.async) and the barrier  [%s:%d]",
                  what, offset, emu_cta_name((int)(place / EMU_STRIDE)), (long)offset - (long)dynamic, emu_thread_name(cell->thread), file, line);
    }
}

// ---- the compiler's hooks (-fsanitize=kernel-address, calls for stores only) --------------------------------------------------
static inline void store(const void* p, size_t bytes) {
    size_t offset = (size_t)((const char*)p - emu_arena);
    if (offset >= EMU_ARENA || !emu_in_kernel) { return; }
    size_t size, dynamic = emu_dynamic_offset(&size), in_window = offset % EMU_STRIDE;
    if (in_window >= dynamic && in_window + bytes > dynamic + size) {
        emu_error("a store behind the end of dynamic shared memory: in shared memory, %zu bytes from the start of the %zu dynamic bytes", in_window - dynamic, size);
    }
    mark(offset, bytes, emu_thread(), 0);
}

#define HOOK extern "C" __attribute__((visibility("default")))
#define STORE(size) HOOK void __asan_store##size(void* p) { store(p, size); } HOOK void __asan_load##size(void*) {}
STORE(1) STORE(2) STORE(4) STORE(8) STORE(16)
HOOK void __asan_storeN(void* p, size_t bytes) { if (bytes) { store(p, bytes); } }
HOOK void __asan_loadN(void*, size_t) {}
HOOK void __asan_handle_no_return() {}
HOOK void __asan_before_dynamic_init(const void*) {}
HOOK void __asan_after_dynamic_init() {}

#include "arena.h"

#include <string.h>

#include "device.h"

enum { ARENA_ALIGN = 256 };

static const char* family_name[MEM_FAMILIES] = {"parameters", "optimizer", "gradients", "activations", "workspace", "runtime"};

void arena_add(Arena* arena, MemFamily family, void** where, size_t bytes) {
    if (arena->count == arena->capacity) {
        arena->capacity = max_int(64, 2 * arena->capacity);
        arena->entry = (ArenaEntry*)realloc(arena->entry, (size_t)arena->capacity * sizeof(ArenaEntry));
        REQUIRE(arena->entry, "out of host memory for the memory plan");
    }
    ArenaEntry* e = &arena->entry[arena->count++];
    e->family = family;
    e->bytes = bytes;
    e->offset = arena->bytes;
    e->where = where;
    *where = NULL;
    arena->bytes += round_up(bytes, ARENA_ALIGN);
    arena->family_bytes[family] += round_up(bytes, ARENA_ALIGN);
}

void arena_count(Arena* arena, MemFamily family, size_t bytes) { arena->family_bytes[family] += bytes; }

// A family of nothing is left out.
void arena_print(const Arena* arena) {
    size_t all = 0;
    printf("memory      ");
    for (int f = 0; f < MEM_FAMILIES; f++) {
        all += arena->family_bytes[f];
        if (arena->family_bytes[f]) { printf("%s %.1f MiB, ", family_name[f], (double)arena->family_bytes[f] / (1 << 20)); }
    }
    printf("in all %.1f MiB\n", (double)all / (1 << 20));
}

void arena_allocate(Arena* arena) {
    arena->memory = device_malloc(arena->bytes);
    for (int i = 0; i < arena->count; i++) {
        ArenaEntry* e = &arena->entry[i];
        if (e->bytes) { *e->where = (char*)arena->memory + e->offset; }
    }
}

void arena_free(Arena* arena) {
    if (arena->memory) { device_free(arena->memory); }       // a plan alone touches no device
    free(arena->entry);
    memset(arena, 0, sizeof *arena);
}

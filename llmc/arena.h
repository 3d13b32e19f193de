// Level 2: device memory as a plan. Everybody adds what they will want, the plan is printed, then one allocation serves all.
#ifndef ARENA_H
#define ARENA_H

#include "common.h"

typedef enum { MEM_PARAMETERS, MEM_OPTIMIZER, MEM_GRADIENTS, MEM_ACTIVATIONS, MEM_WORKSPACE, MEM_RUNTIME, MEM_FAMILIES } MemFamily;

typedef struct {
    MemFamily family;
    size_t    bytes, offset;
    void**    where;          // receives the address
} ArenaEntry;

typedef struct {
    ArenaEntry* entry;
    int         count, capacity;
    size_t      bytes;                     // of all entries, aligned
    size_t      family_bytes[MEM_FAMILIES];
    void*       memory;                    // NULL until arena_allocate
} Arena;

#ifdef __cplusplus
extern "C" {
#endif

// *where becomes `bytes` of device memory once arena_allocate runs (256-byte aligned); NULL if bytes is 0
void arena_add(Arena* arena, MemFamily family, void** where, size_t bytes);
// counts what is in use without having been planned: the device's runtime
void arena_count(Arena* arena, MemFamily family, size_t bytes);
void arena_print(const Arena* arena);
void arena_allocate(Arena* arena);
void arena_free(Arena* arena);

#ifdef __cplusplus
}
#endif
#endif

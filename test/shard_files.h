// For tests: shards of any kind, also impossible ones, in a directory that goes away with the program.
#ifndef SHARD_FILES_H
#define SHARD_FILES_H

#include "shard.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char files_dir[256];

static inline void files_remove(void) {
    DIR* listing = opendir(files_dir);
    if (!listing) { return; }
    for (struct dirent* entry = readdir(listing); entry; entry = readdir(listing)) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", files_dir, entry->d_name);
        if (entry->d_name[0] != '.' && unlink(path) != 0) { rmdir(path); }
    }
    closedir(listing);
    rmdir(files_dir);
}

// a path in the directory; valid until the eighth call from now
static inline const char* file_path(const char* name) {
    static char paths[8][600];
    static int turn;
    if (!files_dir[0]) {
        const char* base = getenv("TMPDIR");
        snprintf(files_dir, sizeof files_dir, "%.200s/moba_test.XXXXXX", base && base[0] ? base : "/tmp");
        if (!mkdtemp(files_dir)) { FAIL(EXIT_NO_OUTPUT, "no directory for test files can be made as %s", files_dir); }
        chmod(files_dir, 0755);
        atexit(files_remove);
    }
    char* path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", files_dir, name);
    return path;
}

// a file of exactly these bytes
static inline const char* file_write(const char* name, const void* bytes, size_t count) {
    const char* path = file_path(name);
    FILE* file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, count, file) != count || fclose(file) != 0) { FAIL(EXIT_IO, "test file %s cannot be written", path); }
    return path;
}

// A file with this header and `tokens` tokens of id (7 * position + first) % vocab after it, whatever the header says.
static inline const char* file_shard(const char* name, uint32_t magic, uint32_t version, uint32_t promised, int token_bytes, int tokens,
                                     int first, int vocab) {
    size_t bytes = SHARD_HEADER_BYTES + (size_t)tokens * token_bytes;
    unsigned char* content = (unsigned char*)xcalloc(bytes, 1);
    uint32_t head[3] = { magic, version, promised };
    memcpy(content, head, sizeof head);
    for (int i = 0; i < tokens; i++) {
        uint32_t id = (uint32_t)((7 * i + first) % vocab);
        memcpy(content + SHARD_HEADER_BYTES + (size_t)i * token_bytes, &id, token_bytes);
    }
    const char* path = file_write(name, content, bytes);
    free(content);
    return path;
}

// good ones
static inline const char* file_u16(const char* name, int tokens, int first, int vocab) {
    return file_shard(name, SHARD_MAGIC_U16, 1, (uint32_t)tokens, 2, tokens, first, vocab);
}
static inline const char* file_u32(const char* name, int tokens, int first, int vocab) {
    return file_shard(name, SHARD_MAGIC_U32, 7, (uint32_t)tokens, 4, tokens, first, vocab);
}

// A good shard of `tokens` tokens, all 0 but the last `count`: a sparse file that takes no room. False if the filesystem cannot.
static inline bool file_sparse(const char* name, int token_bytes, int64_t tokens, const uint32_t* last, int count) {
    uint32_t head[3] = { token_bytes == 2 ? SHARD_MAGIC_U16 : SHARD_MAGIC_U32, token_bytes == 2 ? 1 : 7, (uint32_t)tokens };
    int file = open(file_path(name), O_RDWR | O_CREAT | O_TRUNC, 0644);
    int64_t bytes = SHARD_HEADER_BYTES + tokens * token_bytes;
    bool ok = file >= 0 && ftruncate(file, bytes) == 0 && pwrite(file, head, sizeof head, 0) == sizeof head;
    for (int i = 0; ok && i < count; i++) {
        ok = pwrite(file, &last[i], (size_t)token_bytes, bytes - (int64_t)(count - i) * token_bytes) == token_bytes;
    }
    struct stat info;
    ok = ok && fstat(file, &info) == 0 && (int64_t)info.st_blocks * 512 < 1000000;
    if (file >= 0) { close(file); }
    return ok;
}

#endif

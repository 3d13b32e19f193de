// A directory for a test's files, removed when the program ends.
#ifndef TEMPDIR_H
#define TEMPDIR_H

#include <dirent.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char temp_root[512];

static pid_t temp_owner;

static inline void temp_remove_all(void) {
    if (getpid() != temp_owner) { return; }            // not a forked child's business
    char* roots[] = { temp_root, NULL };
    FTS* tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    for (FTSENT* entry; tree && (entry = fts_read(tree)); ) {
        if (entry->fts_info != FTS_D) { remove(entry->fts_accpath); }      // directories on the way back
    }
    if (tree) { fts_close(tree); }
}

// a new, empty directory; its name is good until the program ends
static inline const char* temp_dir(void) {
    static int count;
    static char names[256][600];
    if (!temp_root[0]) {
        const char* base = getenv("TMPDIR");
        snprintf(temp_root, sizeof temp_root, "%s/moba_test_XXXXXX", base ? base : "/tmp");
        if (!mkdtemp(temp_root)) { perror(temp_root); exit(1); }
        temp_owner = getpid();
        atexit(temp_remove_all);
    }
    if (count == 256) { fprintf(stderr, "more than 256 temporary directories\n"); exit(1); }
    char* name = names[count];
    snprintf(name, sizeof names[0], "%s/%d", temp_root, count++);
    if (mkdir(name, 0777) != 0) { perror(name); exit(1); }
    return name;
}

// the file's bytes and an ending zero; *bytes may be NULL; NULL if it cannot be read
static inline char* temp_read(const char* path, size_t* bytes) {
    FILE* file = fopen(path, "rb");
    if (!file) { return NULL; }
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char* data = (char*)calloc(size + 1, 1);
    size_t got = fread(data, 1, size, file);
    fclose(file);
    if (bytes) { *bytes = got; }
    return data;
}

static inline void temp_write(const char* path, const void* data, size_t bytes) {
    FILE* file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) { perror(path); exit(1); }
}

// how many names a directory holds
static inline int temp_entries(const char* path) {
    int count = 0;
    DIR* dir = opendir(path);
    for (struct dirent* entry; dir && (entry = readdir(dir)); ) { count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."); }
    if (dir) { closedir(dir); }
    return count;
}

#endif

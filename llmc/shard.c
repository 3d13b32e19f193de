#include "shard.h"

#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tokens are read as they lie in the file, which is little-endian");
_Static_assert(sizeof(off_t) == 8, "shards may be larger than 2 GiB");

enum {
    CHECKED_AT_OPEN = 256 * 1000 * 1000,   // bytes of a set whose ids are all checked before training
    KEPT_OPEN       = 512,                 // descriptors held at most
    CHUNK_BYTES     = 65536,               // of one read, on the stack
};

// ---- the header -------------------------------------------------------------------------------------------------------

static uint32_t read_u32(const unsigned char* p) { return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

bool shard_parse_header(const void* bytes, size_t n, int64_t file_bytes, ShardHeader* out, Error* err) {
    const unsigned char* p = (const unsigned char*)bytes;
    if (file_bytes == 0) { return error_set(err, EXIT_DATA, "the file is empty, expected a header of %d bytes and tokens", SHARD_HEADER_BYTES); }
    if (n < 12 || file_bytes < SHARD_HEADER_BYTES) {
        return error_set(err, EXIT_DATA, "the file has %lld bytes, fewer than the header's %d (cut copy?)",
                         (long long)file_bytes, SHARD_HEADER_BYTES);
    }
    uint32_t magic = read_u32(p), version = read_u32(p + 4);
    int32_t  tokens = (int32_t)read_u32(p + 8);
    uint32_t swapped = __builtin_bswap32(magic);
    if (swapped == SHARD_MAGIC_U16 || swapped == SHARD_MAGIC_U32) {
        return error_set(err, EXIT_DATA, "magic %u is %u with its bytes swapped: written on a big-endian machine, write it again little-endian",
                         magic, swapped);
    }
    if (magic != SHARD_MAGIC_U16 && magic != SHARD_MAGIC_U32) {
        return error_set(err, EXIT_DATA, "not a token shard: magic is %u, expected %d (uint16 tokens) or %d (uint32 tokens)",
                         magic, SHARD_MAGIC_U16, SHARD_MAGIC_U32);
    }
    uint32_t expected_version = magic == SHARD_MAGIC_U16 ? 1 : 7;
    if (version != expected_version) {
        return error_set(err, EXIT_DATA, "version is %u, expected %u for magic %u", version, expected_version, magic);
    }
    if (tokens < 0) { return error_set(err, EXIT_DATA, "header promises %d tokens, expected a positive number", tokens); }
    int     token_bytes = magic == SHARD_MAGIC_U16 ? 2 : 4;
    int64_t expected = SHARD_HEADER_BYTES + (int64_t)tokens * token_bytes;
    if (file_bytes != expected) {
        return error_set(err, EXIT_DATA, "header promises %d tokens (%lld bytes with the header), file has %lld bytes, %s (cut copy?)",
                         tokens, (long long)expected, (long long)file_bytes, file_bytes < expected ? "too few" : "too many");
    }
    out->token_bytes = token_bytes;
    out->tokens = tokens;
    return true;
}

// puts the shard's name before a sentence that lacks it; returns false
static bool name_error(Error* err, const char* path) {
    if (err) {
        Error bare = *err;
        error_set(err, bare.code, "shard %s: %s", path, bare.text);
    }
    return false;
}

// ---- reading ----------------------------------------------------------------------------------------------------------

// exactly `bytes` bytes at `offset`, through interrupted and short reads
static bool read_exactly(int file, void* out, size_t bytes, int64_t offset, Error* err) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t got = pread(file, (char*)out + done, bytes - done, (off_t)(offset + (int64_t)done));
        if (got < 0 && errno == EINTR) { continue; }
        if (got < 0) {
            return error_set(err, EXIT_NO_INPUT, "cannot be read at byte %lld: %s", (long long)(offset + (int64_t)done), strerror(errno));
        }
        if (got == 0) {
            return error_set(err, EXIT_DATA, "ends at byte %lld, expected %zu more (cut since it was opened?)",
                             (long long)(offset + (int64_t)done), bytes - done);
        }
        done += (size_t)got;
    }
    return true;
}

static int open_file(const char* path, Error* err) {
    int file = open_to_read(path);
    if (file < 0) { error_set(err, EXIT_NO_INPUT, "cannot be opened: %s", strerror(errno)); }
    return file;
}

// the bytes of a chunk to ints, every id checked against the vocabulary; `first` is the place of its first token in the shard
static bool widen(const ShardSet* set, const unsigned char* raw, int token_bytes, int count, int64_t first, int* out, Error* err) {
    uint32_t limit = set->vocab > 0 ? (uint32_t)set->vocab : UINT32_MAX;
    for (int i = 0; i < count; i++) {
        uint32_t id;
        if (token_bytes == 2) { uint16_t narrow; memcpy(&narrow, raw + (size_t)i * 2, 2); id = narrow; }
        else { memcpy(&id, raw + (size_t)i * 4, 4); }
        if (id >= limit) {
            int64_t at = first + i;
            return error_set(err, EXIT_DATA, "token %lld (row %lld of the shard) is id %u, outside the vocabulary of %u: expected 0 to %u; "
                             "was it made with another tokenizer?", (long long)at, (long long)(at / set->row_tokens), id, limit, limit - 1);
        }
        out[i] = (int)id;
    }
    return true;
}

static bool read_open_tokens(const ShardSet* set, const Shard* s, int file, int64_t first, int64_t count, int* out, Error* err) {
    unsigned char raw[CHUNK_BYTES];
    const int token_bytes = s->header.token_bytes, chunk = CHUNK_BYTES / token_bytes;
    for (int64_t done = 0; done < count; done += chunk) {
        int now = count - done < chunk ? (int)(count - done) : chunk;
        int64_t offset = SHARD_HEADER_BYTES + (first + done) * token_bytes;
        if (!read_exactly(file, raw, (size_t)now * token_bytes, offset, err)) { return false; }
        if (!widen(set, raw, token_bytes, now, first + done, out + done, err)) { return false; }
    }
    return true;
}

bool shard_read_tokens(const ShardSet* set, int shard, int64_t first, int64_t count, int* out, Error* err) {
    REQUIRE(shard >= 0 && shard < set->count, "shard %d of %d asked for", shard, set->count);
    const Shard* s = &set->shards[shard];
    REQUIRE(first >= 0 && count >= 0 && first + count <= s->header.tokens, "tokens [%lld, %lld) of %lld asked for",
            (long long)first, (long long)(first + count), (long long)s->header.tokens);
    int file = s->file >= 0 ? s->file : open_file(s->path, err);
    bool ok = file >= 0 && read_open_tokens(set, s, file, first, count, out, err);
    if (s->file < 0 && file >= 0) { close(file); }
    return ok || name_error(err, s->path);
}

// the shard that holds a row: the last one that starts at or before it
static int shard_of_row(const ShardSet* set, int64_t row) {
    int low = 0, high = set->count - 1;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (set->shards[middle].first_row <= row) { low = middle; } else { high = middle - 1; }
    }
    return low;
}

bool shard_read_row(const ShardSet* set, int64_t row, int* out, Error* err) {
    REQUIRE(row >= 0 && row < set->rows, "row %lld of %lld asked for", (long long)row, (long long)set->rows);
    int shard = shard_of_row(set, row);
    int64_t first = (row - set->shards[shard].first_row) * set->row_tokens;
    return shard_read_tokens(set, shard, first, (int64_t)set->row_tokens + 1, out, err);
}

int* shard_read_all(const ShardSet* set, int shard, int64_t* count, Error* err) {
    REQUIRE(shard >= 0 && shard < set->count, "shard %d of %d asked for", shard, set->count);
    int64_t tokens = set->shards[shard].header.tokens;
    int* all = (int*)xmalloc((size_t)tokens * sizeof(int));
    if (!shard_read_tokens(set, shard, 0, tokens, all, err)) { free(all); return NULL; }
    *count = tokens;
    return all;
}

// ---- opening a set ----------------------------------------------------------------------------------------------------

// The names a pattern stands for, sorted. A name that exists is itself, whatever characters it has.
static bool find_shards(ShardSet* set, const char* pattern, Error* err) {
    struct stat info;
    if (stat(pattern, &info) == 0) {
        set->shards = (Shard*)xcalloc(1, sizeof(Shard));
        set->shards[0] = (Shard){ .path = xstrdup(pattern), .file = -1 };
        set->count = 1;
        return true;
    }
    glob_t found;
    int status = glob(pattern, 0, NULL, &found);
    if (status != 0 || found.gl_pathc == 0 || found.gl_pathc > INT_MAX) {
        if (status == 0) { globfree(&found); }
        return error_set(err, EXIT_NO_INPUT, "no token shard matches '%s'; data/README.md says how to make some", pattern);
    }
    set->shards = (Shard*)xcalloc(found.gl_pathc, sizeof(Shard));
    set->count = (int)found.gl_pathc;
    for (int i = 0; i < set->count; i++) { set->shards[i] = (Shard){ .path = xstrdup(found.gl_pathv[i]), .file = -1 }; }
    globfree(&found);
    return true;
}

// How many of `count` shards stay open: a quarter of what the process may open, since training and validation are two sets and others open files
// too. The limit is raised for it as far as that goes.
static int files_to_keep(int count) {
    struct rlimit files;
    int kept = min_int(count, KEPT_OPEN);
    rlim_t wanted = 4 * (rlim_t)kept;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) { return 0; }
    if (files.rlim_cur >= wanted) { return kept; }
    struct rlimit raised = { .rlim_cur = files.rlim_max < wanted ? files.rlim_max : wanted, .rlim_max = files.rlim_max };
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) { files = raised; }
    return min_int(kept, (int)(files.rlim_cur / 4));
}

// opens one shard, reads its header and counts its rows; the sentence of an error does not name it yet
static bool open_shard(ShardSet* set, int index, bool keep, Error* err) {
    Shard* s = &set->shards[index];
    struct stat info;
    unsigned char head[SHARD_HEADER_BYTES];
    s->file = open_file(s->path, err);
    if (s->file < 0) { return false; }
    if (fstat(s->file, &info) != 0) { return error_set(err, EXIT_NO_INPUT, "cannot be examined: %s", strerror(errno)); }
    if (S_ISDIR(info.st_mode)) {
        return error_set(err, EXIT_DATA, "is a directory, expected a file; name its shards by a pattern such as '%.160s/*.bin'", s->path);
    }
    if (!S_ISREG(info.st_mode)) {
        return error_set(err, EXIT_DATA, "is not a regular file; shards are read from any place, which a pipe or device cannot do");
    }
    size_t head_bytes = info.st_size < SHARD_HEADER_BYTES ? (size_t)info.st_size : SHARD_HEADER_BYTES;
    if (!read_exactly(s->file, head, head_bytes, 0, err)) { return false; }
    if (!shard_parse_header(head, head_bytes, info.st_size, &s->header, err)) { return false; }
    if (s->header.token_bytes != set->shards[0].header.token_bytes) {
        return error_set(err, EXIT_DATA, "has %d-byte tokens, but %.160s of the same set has %d-byte tokens; one set has one kind",
                         s->header.token_bytes, set->shards[0].path, set->shards[0].header.token_bytes);
    }
    if (s->header.tokens < (int64_t)set->row_tokens + 1) {
        return error_set(err, EXIT_DATA, "has %lld tokens, fewer than one row of %lld (--seq-len %d and the last target); "
                         "leave it out or shorten the row",
                         (long long)s->header.tokens, (long long)set->row_tokens + 1, set->row_tokens);
    }
    s->first_row = set->rows;
    s->rows = (s->header.tokens - 1) / set->row_tokens;
    set->rows += s->rows;
    set->tokens += s->header.tokens;
    set->bytes += info.st_size;
    if (!keep) { close(s->file); s->file = -1; }
    return true;
}

static bool check_ids(ShardSet* set, Error* err) {
    int ids[CHUNK_BYTES / sizeof(int)];
    const int64_t chunk = CHUNK_BYTES / sizeof(int);
    for (int i = 0; i < set->count; i++) {
        int64_t tokens = set->shards[i].header.tokens;
        for (int64_t first = 0; first < tokens; first += chunk) {
            int64_t now = tokens - first < chunk ? tokens - first : chunk;
            if (!shard_read_tokens(set, i, first, now, ids, err)) { return false; }
            work_done();
        }
    }
    set->ids_checked = true;
    return true;
}

ShardSet* shard_open(const char* pattern, int row_tokens, int vocab, Error* err) {
    REQUIRE(row_tokens > 0 && vocab >= 0, "shard_open: %d tokens a row, vocabulary %d", row_tokens, vocab);
    ShardSet* set = (ShardSet*)xcalloc(1, sizeof(ShardSet));
    set->row_tokens = row_tokens;
    set->vocab = vocab;
    bool ok = find_shards(set, pattern, err);
    int kept = ok ? files_to_keep(set->count) : 0;
    for (int i = 0; ok && i < set->count; i++) {
        ok = open_shard(set, i, i < kept, err) || name_error(err, set->shards[i].path);
        work_done();
    }
    if (ok && vocab > 0 && set->bytes < CHECKED_AT_OPEN) { ok = check_ids(set, err); }
    if (!ok) { shard_close(set); return NULL; }
    return set;
}

void shard_close(ShardSet* set) {
    if (!set) { return; }
    for (int i = 0; i < set->count; i++) {
        if (set->shards[i].file >= 0) { close(set->shards[i].file); }
        free(set->shards[i].path);
    }
    free(set->shards);
    free(set);
}

bool shard_fingerprint(const ShardSet* set, uint64_t* print, Error* err) {
    enum { ENDS = 256 };                               // tokens looked at, at either end
    int ids[ENDS] = {0};
    uint64_t h = 1469598103934665603u;                 // FNV-1a, by 64 bits at a time
    for (int i = 0; i < set->count; i++) {
        int64_t tokens = set->shards[i].header.tokens, ends = tokens < ENDS ? tokens : ENDS;
        h = (h ^ (uint64_t)tokens) * 1099511628211u;
        for (int side = 0; side < 2; side++) {
            if (!shard_read_tokens(set, i, side ? tokens - ends : 0, ends, ids, err)) { return false; }
            for (int64_t t = 0; t < ends; t++) { h = (h ^ (uint64_t)ids[t]) * 1099511628211u; }
        }
        work_done();
    }
    *print = h;
    return true;
}

// ---- writing ----------------------------------------------------------------------------------------------------------

static void writer_free(ShardWriter* w) {
    free(w->path);
    free(w->temporary);
    *w = (ShardWriter){ 0 };
}

static bool write_failed(ShardWriter* w, Error* err, int code, const char* what) {
    error_set(err, code, "shard %s: cannot %s: %s", w->path, what, strerror(errno));
    shard_writer_abandon(w);
    return false;
}

bool shard_writer_open(ShardWriter* w, const char* path, int token_bytes, Error* err) {
    REQUIRE(token_bytes == 2 || token_bytes == 4, "a token of %d bytes: 2 and 4 exist", token_bytes);
    static const char zeros[SHARD_HEADER_BYTES];
    *w = (ShardWriter){ .path = xstrdup(path), .temporary = (char*)xmalloc(strlen(path) + 5), .token_bytes = token_bytes };
    sprintf(w->temporary, "%s.tmp", path);
    w->file = fopen(w->temporary, "wb");
    if (!w->file) { return write_failed(w, err, EXIT_NO_OUTPUT, "be created"); }
    if (fwrite(zeros, 1, sizeof zeros, w->file) != sizeof zeros) { return write_failed(w, err, EXIT_IO, "be written"); }
    return true;
}

bool shard_writer_add(ShardWriter* w, const uint32_t* ids, size_t count, Error* err) {
    if (count > (uint64_t)(INT32_MAX - w->tokens)) {
        error_set(err, EXIT_DATA, "shard %s: more than %d tokens, which its header cannot count; write several shards", w->path, INT32_MAX);
        shard_writer_abandon(w);
        return false;
    }
    unsigned char raw[4096];
    const size_t chunk = sizeof raw / w->token_bytes;
    for (size_t done = 0; done < count; done += chunk) {
        size_t now = min_size(count - done, chunk);
        for (size_t i = 0; i < now; i++) {
            uint16_t narrow = (uint16_t)ids[done + i];
            REQUIRE(w->token_bytes == 4 || narrow == ids[done + i], "id %u does not fit 2 bytes", ids[done + i]);
            memcpy(raw + i * w->token_bytes, w->token_bytes == 2 ? (const void*)&narrow : (const void*)&ids[done + i], w->token_bytes);
        }
        if (fwrite(raw, w->token_bytes, now, w->file) != now) { return write_failed(w, err, EXIT_IO, "be written"); }
    }
    w->tokens += (int64_t)count;
    return true;
}

bool shard_writer_close(ShardWriter* w, Error* err) {
    uint32_t head[3] = { w->token_bytes == 2 ? SHARD_MAGIC_U16 : SHARD_MAGIC_U32, w->token_bytes == 2 ? 1 : 7, (uint32_t)w->tokens };
    bool ok = fseek(w->file, 0, SEEK_SET) == 0 && fwrite(head, sizeof head, 1, w->file) == 1;
    ok = ok && fflush(w->file) == 0 && fsync(fileno(w->file)) == 0;
    if (!ok) { return write_failed(w, err, EXIT_IO, "be written"); }
    int closed = fclose(w->file);
    w->file = NULL;
    if (closed != 0) { return write_failed(w, err, EXIT_IO, "be written"); }
    if (rename(w->temporary, w->path) != 0) { return write_failed(w, err, EXIT_NO_OUTPUT, "be renamed from its temporary name"); }
    writer_free(w);
    return true;
}

void shard_writer_abandon(ShardWriter* w) {
    if (w->file) { fclose(w->file); }
    if (w->temporary) { unlink(w->temporary); }
    writer_free(w);
}

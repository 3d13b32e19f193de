// Level 1: token shards, the only form in which training data reaches the program. data/README.md has the format byte by byte.
//
// A set is every shard that a file name or glob pattern names, in the order of their names. Row r of a shard is its tokens [rT, rT+T],
// T+1 of them (inputs and targets overlap by all but one); a shard holds floor((n-1)/T) rows, the remainder is dropped, no row crosses
// shards. Rows of a set are numbered through its shards. All offsets are 64-bit, any file size is read.
#ifndef SHARD_H
#define SHARD_H

#include "common.h"

enum {
    SHARD_HEADER_BYTES = 1024,         // 256 little-endian int32: magic, version, token count, zeros
    SHARD_MAGIC_U16    = 20240520,     // version 1: uint16 tokens
    SHARD_MAGIC_U32    = 20240801,     // version 7: uint32 tokens
};

typedef struct {
    int     token_bytes;               // 2 or 4
    int64_t tokens;
} ShardHeader;

typedef struct {
    char*       path;
    ShardHeader header;
    int64_t     first_row, rows;       // its rows are [first_row, first_row + rows) of the set
    int         file;                  // open descriptor, or -1: opened for each read (sets of many shards)
} Shard;

typedef struct {
    Shard*  shards;
    int     count;
    int     row_tokens;                // T
    int     vocab;                     // ids are below this; 0: not checked
    int64_t rows, tokens, bytes;       // of the whole set; bytes are file sizes
    bool    ids_checked;               // every id was checked when the set was opened
} ShardSet;

typedef struct {
    char*   path;
    char*   temporary;                 // path.tmp, renamed to path when it is whole
    FILE*   file;
    int     token_bytes;
    int64_t tokens;
} ShardWriter;

#ifdef __cplusplus
extern "C" {
#endif

// Judges the first n bytes of a file of file_bytes bytes. Touches no more than n bytes; the sentence does not name the file.
bool shard_parse_header(const void* bytes, size_t n, int64_t file_bytes, ShardHeader* out, Error* err);

// Opens every shard named by `pattern` and checks header, size and row count of each; token ids at once if the set is under 256 MB,
// else each row's when it is read. NULL and *err (65: bad, 66: missing or unreadable) if anything is wrong.
ShardSet* shard_open(const char* pattern, int row_tokens, int vocab, Error* err);
void      shard_close(ShardSet* set);

// out: (T+1) tokens of row `row` of the set, 0 <= row < set->rows
bool      shard_read_row(const ShardSet* set, int64_t row, int* out, Error* err);

// out: (count) tokens of one shard from token `first` on; several threads may read at once
bool      shard_read_tokens(const ShardSet* set, int shard, int64_t first, int64_t count, int* out, Error* err);

// the whole shard as one stream (for evaluation); the caller frees it. NULL and *err if it cannot be read
int*      shard_read_all(const ShardSet* set, int shard, int64_t* count, Error* err);

// Changes when the set's shards, their order, their sizes or the first or last tokens of any of them do; not with their names.
bool      shard_fingerprint(const ShardSet* set, uint64_t* print, Error* err);

// Writes a shard: it appears under its name whole, at close, or not at all. After a false the writer is closed and its temporary gone.
bool      shard_writer_open(ShardWriter* writer, const char* path, int token_bytes, Error* err);
bool      shard_writer_add(ShardWriter* writer, const uint32_t* ids, size_t count, Error* err);
bool      shard_writer_close(ShardWriter* writer, Error* err);
void      shard_writer_abandon(ShardWriter* writer);

#ifdef __cplusplus
}
#endif
#endif

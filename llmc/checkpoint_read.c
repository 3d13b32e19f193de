// Reading checkpoints: every part judged before anything of it is used, every byte compared with its checksum.
#include "checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { CHUNK = 1 << 20 };                              // bytes read and checksummed at once: still in cache

// ---- bytes of a part -------------------------------------------------------------------------------------------------
// `bytes` at `offset`, all of them.
static bool read_at(int file, void* dest, size_t bytes, uint64_t offset, Error* err) {
    for (char* at = (char*)dest; bytes > 0; ) {
        ssize_t got = pread(file, at, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) { continue; }
        if (got <= 0) { return error_set(err, EXIT_DATA, "%s", got ? strerror(errno) : "it ends too early"); }
        at += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
        work_done();
    }
    return true;
}

// Reads the record's extent (padding included) through a chunk and compares the checksum. Its bytes [skip, skip + bytes) go to dest.
static bool read_record(int file, const CheckpointRecord* record, uint64_t skip, uint64_t bytes, char* dest, Error* err) {
    char* chunk = (char*)xmalloc(CHUNK);
    uint64_t extent = round_up(record->count * checkpoint_element_bytes(record->dtype), CHECKPOINT_ALIGN);
    uLong crc = crc32(0, NULL, 0);
    bool good = true;
    for (uint64_t done = 0; good && done < extent; done += CHUNK) {
        uint64_t part = min_size(CHUNK, extent - done);
        good = read_at(file, chunk, part, record->offset + done, err);
        if (!good) { break; }
        crc = crc32_z(crc, (const Bytef*)chunk, part);
        uint64_t from = max_size(skip, done), to = min_size(skip + bytes, done + part);
        if (from < to) { memcpy(dest + (from - skip), chunk + (from - done), to - from); }
    }
    free(chunk);
    if (good && (uint32_t)crc != record->crc) { good = error_set(err, EXIT_DATA, "its record '%s' does not match its checksum", record->name); }
    return good;
}

// ---- open ------------------------------------------------------------------------------------------------------------
static bool read_header(int file, CheckpointHeader* header, Error* err) {
    struct stat info;
    if (fstat(file, &info) != 0) { return error_set(err, EXIT_DATA, "%s", strerror(errno)); }
    if (!S_ISREG(info.st_mode)) { return error_set(err, EXIT_DATA, "it is not a file"); }
    if (info.st_size < (off_t)sizeof *header) { return error_set(err, EXIT_DATA, "it has %lld bytes, less than its header", (long long)info.st_size); }
    if (!read_at(file, header, sizeof *header, 0, err)) { return false; }
    if (!checkpoint_check_header(header, (uint64_t)info.st_size, err)) { return false; }
    return checkpoint_header_crc(header) == header->header_crc || error_set(err, EXIT_DATA, "its header does not match its checksum");
}

// Part 0 says what the checkpoint is; every other part must say the same.
static bool belongs(Checkpoint* checkpoint, int part, const CheckpointHeader* header, Error* err) {
    if (part == 0) {
        checkpoint->step = header->step;
        checkpoint->save_id = header->save_id;
        checkpoint->parts = (int)header->parts;
    }
    if (header->step != checkpoint->step || header->save_id != checkpoint->save_id || (int)header->parts != checkpoint->parts) {
        return error_set(err, EXIT_DATA, "it belongs to another save than part 0: step %" PRId64 " of %u parts, not step %" PRId64 " of %d",
                         header->step, header->parts, checkpoint->step, checkpoint->parts);
    }
    return (int)header->part == part || error_set(err, EXIT_DATA, "it is part %u under another part's name", header->part);
}

// Appends the part's records to the checkpoint's.
static bool read_table(Checkpoint* checkpoint, int file, const CheckpointHeader* header, Error* err) {
    int count = (int)header->num_records;
    if (count > INT32_MAX - checkpoint->num_records) { return error_set(err, EXIT_DATA, "the parts have more than %d records", INT32_MAX); }
    checkpoint->records = (CheckpointRecord*)realloc(checkpoint->records, ((size_t)checkpoint->num_records + (size_t)count + 1) * sizeof(CheckpointRecord));
    REQUIRE(checkpoint->records, "out of host memory for %d checkpoint records", count);
    CheckpointRecord* records = checkpoint->records + checkpoint->num_records;
    if (!read_at(file, records, (size_t)count * sizeof *records, header->table_offset, err)) { return false; }
    if (checkpoint_table_crc(records, count) != header->table_crc) { return error_set(err, EXIT_DATA, "its table of records does not match its checksum"); }
    if (!checkpoint_check_table(header, records, err)) { return false; }
    checkpoint->num_records += count;
    return true;
}

// Header and table, and if asked for all records, of one part.
static bool read_part(Checkpoint* checkpoint, int part, int file, bool verify, Error* err) {
    CheckpointHeader header = {0};
    int before = checkpoint->num_records;
    bool good = read_header(file, &header, err) && belongs(checkpoint, part, &header, err) && read_table(checkpoint, file, &header, err);
    for (int i = before; verify && good && i < checkpoint->num_records; i++) {
        good = read_record(file, &checkpoint->records[i], 0, 0, NULL, err);
    }
    return good;
}

// Opens part `part`, -1 and *err without the file's name if it cannot be.
static int open_part(const char* path, int part, Error* err) {
    char* name = checkpoint_part_path(path, part);
    int file = open_to_read(name);
    if (file < 0) { error_set(err, errno == ENOENT || errno == ENOTDIR ? EXIT_NO_INPUT : EXIT_DATA, "%s", strerror(errno)); }
    free(name);
    return file;
}

// puts the part's name before a sentence that lacks it; returns false
static bool name_part(Error* err, const char* path, int part) {
    if (err) {
        Error bare = *err;
        char* name = checkpoint_part_path(path, part);
        error_set(err, bare.code, "checkpoint %s cannot be used: %.200s", name, bare.text);
        free(name);
    }
    return false;
}

// The last part of a path without trailing slashes, as a step; -1 if it is no step_N.
static int64_t step_of_path(const char* path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') { end--; }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') { start--; }
    char* name = xformat("%.*s", (int)(end - start), path + start);
    int64_t step = checkpoint_step_of_name(name);
    free(name);
    return step;
}

static bool read_parts(Checkpoint* checkpoint, bool verify, Error* err) {
    checkpoint->parts = 1;                             // until part 0 says how many
    for (int part = 0; part < checkpoint->parts; part++) {
        int file = open_part(checkpoint->path, part, err);
        bool good = file >= 0 && read_part(checkpoint, part, file, verify, err);
        if (file >= 0) { close(file); }
        if (!good) { return name_part(err, checkpoint->path, part); }
    }
    int64_t named = step_of_path(checkpoint->path);
    if (named >= 0 && named != checkpoint->step) {
        error_set(err, EXIT_DATA, "it holds step %" PRId64 ", its directory is named for step %" PRId64, checkpoint->step, named);
        return name_part(err, checkpoint->path, 0);
    }
    Error why;
    return checkpoint_check_cover(checkpoint->records, checkpoint->num_records, &why) ||
           error_set(err, EXIT_DATA, "checkpoint %s cannot be used: %.200s", checkpoint->path, why.text);
}

static Checkpoint* open_parts(const char* path, bool verify, Error* err) {
    Error why = {0};
    Checkpoint* checkpoint = (Checkpoint*)xcalloc(1, sizeof *checkpoint);
    checkpoint->path = xstrdup(path);
    if (read_parts(checkpoint, verify, &why)) { return checkpoint; }
    if (err) { *err = why; }
    checkpoint_close(checkpoint);
    return NULL;
}

Checkpoint* checkpoint_open(const char* path, Error* err)            { return open_parts(path, true, err); }
Checkpoint* checkpoint_open_unverified(const char* path, Error* err) { return open_parts(path, false, err); }

void checkpoint_close(Checkpoint* checkpoint) {
    if (!checkpoint) { return; }
    free(checkpoint->path);
    free(checkpoint->records);
    free(checkpoint);
}

Checkpoint* checkpoint_open_newest(const char* checkpoints_dir, char** passed_over, Error* err) {
    int64_t* steps;
    int count = checkpoint_steps(checkpoints_dir, &steps);
    Checkpoint* found = NULL;
    *passed_over = NULL;
    Error why = {0};
    for (int i = count - 1; i >= 0 && !found; i--) {
        char* path = checkpoint_path(checkpoints_dir, steps[i]);
        found = checkpoint_open(path, &why);
        free(path);
        if (found) { break; }
        char* longer = *passed_over ? xformat("%s\n%s", *passed_over, why.text) : xstrdup(why.text);
        free(*passed_over);
        *passed_over = longer;
    }
    if (err) { err->code = 0; }
    if (!found && count > 0) {
        error_set(err, EXIT_DATA, "all %d checkpoints in %s are damaged (the oldest: %.200s); move them away to start anew",
                  count, checkpoints_dir, why.text);
    }
    free(steps);
    return found;
}

// ---- tensors ---------------------------------------------------------------------------------------------------------
const CheckpointRecord* checkpoint_find(const Checkpoint* checkpoint, const char* name) {
    for (int i = 0; i < checkpoint->num_records; i++) {
        if (strcmp(checkpoint->records[i].name, name) == 0) { return &checkpoint->records[i]; }
    }
    return NULL;
}

// the overlap of one record with elements [first, first + count) of its tensor, to its place in dest
static bool read_overlap(const Checkpoint* checkpoint, const CheckpointRecord* record, uint64_t first, uint64_t count, char* dest, Error* err) {
    uint64_t from = max_size(first, record->first), to = min_size(first + count, record->first + record->count);
    if (from >= to) { return true; }
    uint64_t element = checkpoint_element_bytes(record->dtype);
    Error why;
    int file = open_part(checkpoint->path, record->part, &why);
    bool good = file >= 0 && read_record(file, record, (from - record->first) * element, (to - from) * element, dest + (from - first) * element, &why);
    if (file >= 0) { close(file); }
    return good || error_set(err, EXIT_DATA, "checkpoint %s/part_%04d.bin changed while it was read: %.200s", checkpoint->path, record->part, why.text);
}

bool checkpoint_read_range(const Checkpoint* checkpoint, const char* name, int dtype, uint64_t first, uint64_t count, void* dest, Error* err) {
    const CheckpointRecord* record = checkpoint_find(checkpoint, name);
    if (!record) { return error_set(err, EXIT_DATA, "checkpoint %s has no record '%s'", checkpoint->path, name); }
    uint64_t elements = checkpoint_tensor_elements(record);
    if (record->dtype != dtype || first > elements || count > elements - first) {
        return error_set(err, EXIT_DATA, "checkpoint %s: record '%s' has type %u and %" PRIu64 " elements; type %d and %" PRIu64 " from %" PRIu64 " on are expected",
                         checkpoint->path, name, record->dtype, elements, dtype, count, first);
    }
    for (const CheckpointRecord* end = checkpoint->records + checkpoint->num_records; record < end && strcmp(record->name, name) == 0; record++) {
        if (!read_overlap(checkpoint, record, first, count, (char*)dest, err)) { return false; }
    }
    return true;
}

bool checkpoint_read(const Checkpoint* checkpoint, const char* name, int dtype, void* dest, size_t bytes, Error* err) {
    const CheckpointRecord* record = checkpoint_find(checkpoint, name);
    if (record && (record->dtype != dtype || checkpoint_tensor_bytes(record) != bytes)) {
        return error_set(err, EXIT_DATA, "checkpoint %s: record '%s' has type %u and %" PRIu64 " bytes; type %d and %zu are expected",
                         checkpoint->path, name, record->dtype, checkpoint_tensor_bytes(record), dtype, bytes);
    }
    return checkpoint_read_range(checkpoint, name, dtype, 0, record ? checkpoint_tensor_elements(record) : 0, dest, err);
}

char* checkpoint_read_text(const Checkpoint* checkpoint, const char* name, Error* err) {
    const CheckpointRecord* record = checkpoint_find(checkpoint, name);
    size_t bytes = record ? checkpoint_tensor_bytes(record) : 0;
    char* text = (char*)xcalloc(bytes + 1, 1);
    if (!checkpoint_read(checkpoint, name, CHECKPOINT_BYTES, text, bytes, err)) { free(text); return NULL; }
    return text;
}

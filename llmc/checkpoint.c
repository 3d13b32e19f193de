// Writing checkpoints, and the directory they stand in.
#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define TEMPORARY ".tmp-"                              // hidden names in checkpoints/: saves under way, removals under way, or their leftovers
enum { CHUNK = 1 << 20,                                // bytes checksummed and written at once: still in cache
       SYNC_BYTES = 64 << 20 };                        // bytes after which the file is synced

// ---- directories -----------------------------------------------------------------------------------------------------
// A file system that cannot sync directories (EINVAL, ENOTSUP) keeps their names by other means: nothing is left to do.
static bool sync_directory(const char* path, Error* err) {
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = dir >= 0 && (fsync(dir) == 0 || errno == EINVAL || errno == ENOTSUP);
    int why = errno;
    if (dir >= 0) { close(dir); }
    return good || error_set(err, EXIT_IO, "directory %s cannot be synced: %s", path, strerror(why));
}

// Removes a directory of plain files.
static bool remove_flat(const char* path, Error* err) {
    DIR* dir = opendir(path);
    for (struct dirent* entry; dir && (entry = readdir(dir)); ) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) { continue; }
        unlinkat(dirfd(dir), entry->d_name, 0);        // what resists makes rmdir fail
    }
    if (dir) { closedir(dir); }
    return rmdir(path) == 0 || error_set(err, EXIT_IO, "%s cannot be removed: %s", path, strerror(errno));
}

// Takes step_N out of sight at once, then removes it: an interrupted removal is no damaged checkpoint.
static bool remove_checkpoint(const char* checkpoints_dir, int64_t step, Error* err) {
    char* path = checkpoint_path(checkpoints_dir, step);
    char* hidden = xformat("%s/" TEMPORARY "removed_%08" PRId64, checkpoints_dir, step);
    bool good = rename(path, hidden) == 0 ? remove_flat(hidden, err)
              : error_set(err, EXIT_IO, "%s cannot be removed: %s", path, strerror(errno));
    free(path);
    free(hidden);
    return good;
}

static void remove_leftovers(const char* checkpoints_dir) {
    DIR* dir = opendir(checkpoints_dir);
    for (struct dirent* entry; dir && (entry = readdir(dir)); ) {
        if (strncmp(entry->d_name, TEMPORARY, strlen(TEMPORARY)) != 0) { continue; }
        char* path = xformat("%s/%s", checkpoints_dir, entry->d_name);
        remove_flat(path, NULL);                       // one that resists is tried again at the next save
        free(path);
    }
    if (dir) { closedir(dir); }
}

static int by_step(const void* a, const void* b) {
    int64_t x = *(const int64_t*)a, y = *(const int64_t*)b;
    return (x > y) - (x < y);
}

int checkpoint_steps(const char* checkpoints_dir, int64_t** steps) {
    int count = 0, room = 16;
    *steps = (int64_t*)xmalloc((size_t)room * sizeof **steps);
    DIR* dir = opendir(checkpoints_dir);
    for (struct dirent* entry; dir && (entry = readdir(dir)); ) {
        int64_t step = checkpoint_step_of_name(entry->d_name);
        if (step < 0) { continue; }
        if (count == room) {
            room *= 2;
            *steps = (int64_t*)realloc(*steps, (size_t)room * sizeof **steps);
            REQUIRE(*steps, "out of host memory listing %s", checkpoints_dir);
        }
        (*steps)[count++] = step;
    }
    if (dir) { closedir(dir); }
    qsort(*steps, (size_t)count, sizeof **steps, by_step);
    return count;
}

void checkpoint_know(CheckpointsKnown* known, int64_t step) {
    known->step = (int64_t*)realloc(known->step, ((size_t)known->count + 1) * sizeof *known->step);
    REQUIRE(known->step, "out of host memory noting checkpoint %" PRId64, step);
    known->step[known->count++] = step;
}

// Known to be whole, or found to be so by reading all of it; a damaged one is read again the next time.
static bool is_whole(const char* checkpoints_dir, int64_t step, CheckpointsKnown* known) {
    for (int i = 0; i < known->count; i++) {
        if (known->step[i] == step) { return true; }
    }
    char* path = checkpoint_path(checkpoints_dir, step);
    Checkpoint* checkpoint = checkpoint_open(path, NULL);
    bool whole = checkpoint != NULL;
    if (whole) { checkpoint_know(known, step); }
    checkpoint_close(checkpoint);
    free(path);
    return whole;
}

bool checkpoint_prune(const char* checkpoints_dir, int64_t newest, int keep, int64_t keep_major, CheckpointsKnown* known, Error* err) {
    int64_t* steps;
    int count = checkpoint_steps(checkpoints_dir, &steps), kept = 0;
    bool good = true;
    for (int i = count - 1; i >= 0; i--) {             // from the newest down
        if (steps[i] > newest) { continue; }
        bool recent = kept < keep, major = keep_major > 0 && steps[i] % keep_major == 0;
        if (recent) { kept += steps[i] == newest || is_whole(checkpoints_dir, steps[i], known); }
        if (!recent && !major && !remove_checkpoint(checkpoints_dir, steps[i], err)) { good = false; }
    }
    free(steps);
    return good;
}

// ---- write -----------------------------------------------------------------------------------------------------------
struct CheckpointWriter {
    char *parent, *temporary, *final;                  // checkpoints/, checkpoints/.tmp-step_N, checkpoints/step_N
    char *path;                                        // of the part, in temporary
    int   file;
    int   room;
    size_t unsynced;                                   // bytes since the last sync
    CheckpointHeader  header;
    CheckpointRecord* records;
};

static char* temporary_path(const char* checkpoints_dir, int64_t step) { return xformat("%s/" TEMPORARY "step_%08" PRId64, checkpoints_dir, step); }

static bool write_all(int file, const void* data, size_t bytes, Error* err) {
    for (const char* at = (const char*)data; bytes > 0; ) {
        ssize_t wrote = write(file, at, bytes);
        if (wrote < 0 && errno == EINTR) { continue; }
        if (wrote <= 0) { return error_set(err, EXIT_IO, "%s", wrote ? strerror(errno) : "nothing could be written"); }
        at += wrote;
        bytes -= (size_t)wrote;
        work_done();
    }
    return true;
}

static bool save_failed(const char* final, const char* why, Error* err) {
    return error_set(err, EXIT_IO, "checkpoint %s cannot be written: %.160s; nothing of it is left, older ones are untouched", final, why);
}

uint64_t checkpoint_new_id(void) {
    uint64_t id;
    REQUIRE(getrandom(&id, sizeof id, 0) == (ssize_t)sizeof id, "the system gives no random number: %s", strerror(errno));
    return id;
}

bool checkpoint_prepare(const char* checkpoints_dir, int64_t step, Error* err) {
    remove_leftovers(checkpoints_dir);
    char* temporary = temporary_path(checkpoints_dir, step);
    bool good = mkdir(temporary, 0777) == 0;
    int why = errno;
    free(temporary);
    if (good) { return true; }
    char* final = checkpoint_path(checkpoints_dir, step);
    save_failed(final, strerror(why), err);
    free(final);
    return false;
}

void checkpoint_discard(const char* checkpoints_dir, int64_t step) {
    char* temporary = temporary_path(checkpoints_dir, step);
    remove_flat(temporary, NULL);                      // what resists is removed before the next save
    free(temporary);
}

CheckpointWriter* checkpoint_begin_part(const char* checkpoints_dir, int64_t step, int part, int parts, uint64_t save_id, Error* err) {
    REQUIRE(parts > 0 && parts <= CHECKPOINT_MAX_PARTS && part >= 0 && part < parts, "checkpoint part %d of %d", part, parts);
    CheckpointWriter* writer = (CheckpointWriter*)xcalloc(1, sizeof *writer);
    writer->parent = xstrdup(checkpoints_dir);
    writer->temporary = temporary_path(checkpoints_dir, step);
    writer->final = checkpoint_path(checkpoints_dir, step);
    writer->path = checkpoint_part_path(writer->temporary, part);
    CheckpointHeader blank = {0};                      // the header's place; it is written last
    CheckpointHeader* header = &writer->header;
    memcpy(header->magic, "mobackpt", sizeof header->magic);
    header->version = CHECKPOINT_VERSION;
    header->step = step;
    header->part = (uint32_t)part;
    header->parts = (uint32_t)parts;
    header->save_id = save_id;
    header->table_offset = sizeof *header;
    writer->file = open(writer->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    Error why;
    bool good = writer->file >= 0 || error_set(&why, EXIT_IO, "%s", strerror(errno));
    good = good && write_all(writer->file, &blank, sizeof blank, &why);
    if (good) { return writer; }
    save_failed(writer->final, why.text, err);
    checkpoint_abort(writer);
    return NULL;
}

CheckpointWriter* checkpoint_begin(const char* checkpoints_dir, int64_t step, Error* err) {
    return checkpoint_prepare(checkpoints_dir, step, err) ? checkpoint_begin_part(checkpoints_dir, step, 0, 1, checkpoint_new_id(), err) : NULL;
}

static void writer_free(CheckpointWriter* writer) {
    if (writer->file >= 0) { close(writer->file); }
    free(writer->parent);
    free(writer->temporary);
    free(writer->final);
    free(writer->path);
    free(writer->records);
    free(writer);
}

void checkpoint_abort(CheckpointWriter* writer) {
    if (!writer) { return; }
    unlink(writer->path);
    if (writer->header.parts == 1) { rmdir(writer->temporary); }       // else others may be about to write there; rank 0 discards it with theirs
    writer_free(writer);
}

static CheckpointRecord* new_record(CheckpointWriter* writer) {
    if ((int)writer->header.num_records == writer->room) {
        writer->room = writer->room ? writer->room * 2 : 64;
        writer->records = (CheckpointRecord*)realloc(writer->records, (size_t)writer->room * sizeof *writer->records);
        REQUIRE(writer->records, "out of host memory for %d checkpoint records", writer->room);
    }
    CheckpointRecord* record = &writer->records[writer->header.num_records++];
    memset(record, 0, sizeof *record);
    return record;
}

// What the system has taken it may write much later, all of it in the one fsync at the end: a slow disk would give no sign of life for as long.
static bool sync_now_and_then(CheckpointWriter* writer, size_t bytes, Error* err) {
    writer->unsynced += bytes;
    if (writer->unsynced < SYNC_BYTES) { return true; }
    writer->unsynced = 0;
    if (fdatasync(writer->file) != 0) { return error_set(err, EXIT_IO, "%s", strerror(errno)); }
    work_done();
    return true;
}

// The record's bytes and the padding behind them; sets its checksum.
static bool write_record(CheckpointWriter* writer, CheckpointRecord* record, const char* data, Error* err) {
    static const char zeros[CHECKPOINT_ALIGN];
    uint64_t bytes = record->count * checkpoint_element_bytes(record->dtype);
    size_t padding = round_up(bytes, CHECKPOINT_ALIGN) - bytes;
    uLong crc = crc32(0, NULL, 0);
    for (uint64_t done = 0; done < bytes; done += CHUNK) {
        size_t part = min_size(CHUNK, bytes - done);
        crc = crc32_z(crc, (const Bytef*)data + done, part);
        if (!write_all(writer->file, data + done, part, err) || !sync_now_and_then(writer, part, err)) { return false; }
    }
    if (!write_all(writer->file, zeros, padding, err)) { return false; }
    record->crc = (uint32_t)crc32_z(crc, (const Bytef*)zeros, padding);
    writer->header.table_offset += bytes + padding;
    return true;
}

bool checkpoint_add_slice(CheckpointWriter* writer, const char* name, int dtype, int ndim, const int64_t* shape, uint64_t first, uint64_t count,
                          const void* data, Error* err) {
    REQUIRE(name[0] && strlen(name) < CHECKPOINT_NAME, "checkpoint record name '%s' has not 1 to %d characters", name, CHECKPOINT_NAME - 1);
    REQUIRE(checkpoint_element_bytes(dtype) && ndim >= 0 && ndim <= CHECKPOINT_MAX_DIMS, "checkpoint record %s: dtype %d, %d dimensions", name, dtype, ndim);
    REQUIRE(writer->header.num_records < CHECKPOINT_MAX_RECORDS, "more than %d checkpoint records", CHECKPOINT_MAX_RECORDS);
    CheckpointRecord* record = new_record(writer);
    memcpy(record->name, name, strlen(name));
    record->dtype = (uint8_t)dtype;
    record->ndim = (uint8_t)ndim;
    record->part = (uint16_t)writer->header.part;
    for (int d = 0; d < ndim; d++) { record->shape[d] = (uint64_t)shape[d]; }
    record->offset = writer->header.table_offset;
    record->first = first;
    record->count = count;
    uint64_t elements = checkpoint_tensor_elements(record);
    REQUIRE(first <= elements && count <= elements - first, "checkpoint record %s: elements %" PRIu64 " to %" PRIu64 " of %" PRIu64,
            name, first, first + count, elements);
    if (count == 0 && elements > 0) {
        writer->header.num_records--;
        return true;
    }
    Error why;
    return write_record(writer, record, (const char*)data, &why) || save_failed(writer->final, why.text, err);
}

bool checkpoint_add(CheckpointWriter* writer, const char* name, int dtype, int ndim, const int64_t* shape, const void* data, Error* err) {
    uint64_t elements = 1;
    for (int d = 0; d < ndim; d++) { elements *= (uint64_t)shape[d]; }
    return checkpoint_add_slice(writer, name, dtype, ndim, shape, 0, elements, data, err);
}

bool checkpoint_add_text(CheckpointWriter* writer, const char* name, const char* text, Error* err) {
    int64_t length = (int64_t)strlen(text);
    return checkpoint_add(writer, name, CHECKPOINT_BYTES, 1, &length, text, err);
}

// table, header, fsync, close
static bool write_ends(CheckpointWriter* writer, Error* err) {
    CheckpointHeader* header = &writer->header;
    size_t table_bytes = header->num_records * sizeof(CheckpointRecord);
    header->file_bytes = header->table_offset + table_bytes;
    header->table_crc = checkpoint_table_crc(writer->records, (int)header->num_records);
    header->header_crc = checkpoint_header_crc(header);
    bool good = write_all(writer->file, writer->records, table_bytes, err);
    if (good && lseek(writer->file, 0, SEEK_SET) != 0) { good = error_set(err, EXIT_IO, "%s", strerror(errno)); }
    good = good && write_all(writer->file, header, sizeof *header, err);
    if (good && fsync(writer->file) != 0) { good = error_set(err, EXIT_IO, "%s", strerror(errno)); }
    int closed = close(writer->file);                  // network file systems report a full disk here
    writer->file = -1;
    if (good && closed != 0) { good = error_set(err, EXIT_IO, "%s", strerror(errno)); }
    return good;
}

bool checkpoint_finish(CheckpointWriter* writer, Error* err) {
    Error why;
    if (!write_ends(writer, &why)) {
        save_failed(writer->final, why.text, err);
        checkpoint_abort(writer);
        return false;
    }
    writer_free(writer);
    return true;
}

// A directory can only replace an empty one, so a checkpoint that has the name already (damaged, or it would have been resumed from)
// steps aside first; an interruption in between leaves neither, and what came before is whole.
// With the rename it is whole and can be read, so it is saved; if only the sync after that fails, it is the name that a power cut may undo.
bool checkpoint_publish(const char* checkpoints_dir, int64_t step, Error* err) {
    char *temporary = temporary_path(checkpoints_dir, step), *final = checkpoint_path(checkpoints_dir, step);
    struct stat there;
    Error why;
    bool good = sync_directory(temporary, &why);
    if (good && lstat(final, &there) == 0) { remove_checkpoint(checkpoints_dir, step, NULL); }      // else rename says why
    if (good && rename(temporary, final) != 0) { good = error_set(&why, EXIT_IO, "%s", strerror(errno)); }
    if (!good) {
        save_failed(final, why.text, err);
        checkpoint_discard(checkpoints_dir, step);
    }
    if (good && err) { err->code = 0; }
    if (good && !sync_directory(checkpoints_dir, &why)) {
        error_set(err, why.code, "checkpoint %s is saved, but a power cut may undo that: %.200s", final, why.text);
    }
    free(temporary);
    free(final);
    return good;
}

bool checkpoint_commit(CheckpointWriter* writer, Error* err) {
    char* checkpoints_dir = xstrdup(writer->parent);
    int64_t step = writer->header.step;
    bool good = checkpoint_finish(writer, err) && checkpoint_publish(checkpoints_dir, step, err);
    free(checkpoints_dir);
    return good;
}

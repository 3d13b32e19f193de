#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static const char MAGIC[8] = { 'm', 'o', 'b', 'a', 'c', 'k', 'p', 't' };
#define TEMPORARY ".tmp-"                              // hidden names in checkpoints/: saves under way, removals under way, or their leftovers
enum { CHUNK = 1 << 20 };                              // bytes checksummed and written at once: still in cache

_Static_assert(sizeof(CheckpointHeader) == 64 && sizeof(CheckpointRecord) == 128, "the format on disk");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format on disk is little-endian");

static uint32_t header_crc(const CheckpointHeader* header) {
    return (uint32_t)crc32(0, (const Bytef*)header, offsetof(CheckpointHeader, header_crc));
}

static uint32_t table_crc(const CheckpointRecord* records, int count) {
    return (uint32_t)crc32_z(0, (const Bytef*)records, (size_t)count * sizeof *records);
}

static uint64_t element_bytes(uint32_t dtype) {
    return dtype == CHECKPOINT_F32 ? 4 : dtype == CHECKPOINT_U64 ? 8 : dtype == CHECKPOINT_BYTES ? 1 : 0;
}

char* checkpoint_path(const char* checkpoints_dir, int64_t step) { return xformat("%s/step_%08" PRId64, checkpoints_dir, step); }

// The step a directory name stands for, -1 if it is none.
static int64_t step_of_name(const char* name) {
    if (strncmp(name, "step_", 5) != 0) { return -1; }
    size_t digits = strspn(name + 5, "0123456789");
    if (digits < 8 || digits > 18 || name[5 + digits] != 0 || (digits > 8 && name[5] == '0')) { return -1; }
    return strtoll(name + 5, NULL, 10);
}

// ---- the format, over memory -----------------------------------------------------------------------------------------
bool checkpoint_check_header(const CheckpointHeader* header, uint64_t file_bytes, Error* err) {
    if (memcmp(header->magic, MAGIC, sizeof MAGIC) != 0) { return error_set(err, EXIT_DATA, "it does not begin as a checkpoint does"); }
    if (header->version != CHECKPOINT_VERSION) {
        return error_set(err, EXIT_DATA, "it has format version %u, this program reads %d", header->version, CHECKPOINT_VERSION);
    }
    if (header->file_bytes != file_bytes) {
        return error_set(err, EXIT_DATA, "its header promises %" PRIu64 " bytes, the file holds %" PRIu64, header->file_bytes, file_bytes);
    }
    if (header->num_records > CHECKPOINT_MAX_RECORDS || header->step < 0) {
        return error_set(err, EXIT_DATA, "its header has %u records and step %" PRId64, header->num_records, header->step);
    }
    uint64_t table_bytes = (uint64_t)header->num_records * sizeof(CheckpointRecord);
    bool fits = table_bytes <= file_bytes && header->table_offset == file_bytes - table_bytes &&
                header->table_offset >= sizeof *header && header->table_offset % CHECKPOINT_ALIGN == 0;
    return fits || error_set(err, EXIT_DATA, "its table of %u records at %" PRIu64 " does not end the file of %" PRIu64 " bytes",
                             header->num_records, header->table_offset, file_bytes);
}

// bytes = product of the shape x element size, without overflow
static bool shape_gives_bytes(const CheckpointRecord* record) {
    uint64_t bytes = element_bytes(record->dtype);
    if (bytes == 0 || record->ndim > CHECKPOINT_MAX_DIMS) { return false; }
    for (uint32_t d = 0; d < CHECKPOINT_MAX_DIMS; d++) {
        if (d >= record->ndim) {
            if (record->shape[d]) { return false; }
        } else if (__builtin_mul_overflow(bytes, record->shape[d], &bytes)) {
            return false;
        }
    }
    return bytes == record->bytes;
}

bool checkpoint_check_table(const CheckpointHeader* header, const CheckpointRecord* records, Error* err) {
    uint64_t place = sizeof *header;                   // where the next record must begin; never beyond table_offset
    for (uint32_t i = 0; i < header->num_records; i++) {
        const CheckpointRecord* record = &records[i];
        size_t length = strnlen(record->name, CHECKPOINT_NAME);
        if (length == 0 || length == CHECKPOINT_NAME) { return error_set(err, EXIT_DATA, "its record %u has no proper name", i); }
        if (!shape_gives_bytes(record)) {
            return error_set(err, EXIT_DATA, "its record '%s' holds %" PRIu64 " bytes, which are not what its shape takes", record->name, record->bytes);
        }
        uint64_t room = header->table_offset - place;
        if (record->offset != place || record->bytes > room || round_up(record->bytes, CHECKPOINT_ALIGN) > room) {
            return error_set(err, EXIT_DATA, "its record '%s' of %" PRIu64 " bytes at %" PRIu64 " is not where it should be, %" PRIu64,
                             record->name, record->bytes, record->offset, place);
        }
        place += round_up(record->bytes, CHECKPOINT_ALIGN);
    }
    return place == header->table_offset || error_set(err, EXIT_DATA, "its records end at %" PRIu64 ", its table begins at %" PRIu64,
                                                      place, header->table_offset);
}

// ---- directories -----------------------------------------------------------------------------------------------------
static bool sync_directory(const char* path, Error* err) {
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = dir >= 0 && fsync(dir) == 0;
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
        int64_t step = step_of_name(entry->d_name);
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

bool checkpoint_prune(const char* checkpoints_dir, int64_t newest, int keep, int64_t keep_major, Error* err) {
    int64_t* steps;
    int count = checkpoint_steps(checkpoints_dir, &steps), kept = 0;
    bool good = true;
    for (int i = count - 1; i >= 0; i--) {             // from the newest down
        if (steps[i] > newest) { continue; }
        bool recent = kept < keep || steps[i] == newest;
        bool major = keep_major > 0 && steps[i] % keep_major == 0;
        if (recent) { kept++; }
        if (!recent && !major && !remove_checkpoint(checkpoints_dir, steps[i], err)) { good = false; }
    }
    free(steps);
    return good;
}

// ---- write -----------------------------------------------------------------------------------------------------------
struct CheckpointWriter {
    char *parent, *temporary, *final;                  // checkpoints/, checkpoints/.tmp-step_N, checkpoints/step_N
    int   file;
    int   room;
    CheckpointHeader  header;
    CheckpointRecord* records;
};

static bool write_all(int file, const void* data, size_t bytes, Error* err) {
    for (const char* at = (const char*)data; bytes > 0; ) {
        ssize_t wrote = write(file, at, bytes);
        if (wrote < 0 && errno == EINTR) { continue; }
        if (wrote <= 0) { return error_set(err, EXIT_IO, "%s", wrote ? strerror(errno) : "nothing could be written"); }
        at += wrote;
        bytes -= (size_t)wrote;
    }
    return true;
}

static bool save_failed(const CheckpointWriter* writer, const char* why, Error* err) {
    return error_set(err, EXIT_IO, "checkpoint %s cannot be written: %s; nothing of it is left, older ones are untouched", writer->final, why);
}

CheckpointWriter* checkpoint_begin(const char* checkpoints_dir, int64_t step, Error* err) {
    remove_leftovers(checkpoints_dir);
    CheckpointWriter* writer = (CheckpointWriter*)xcalloc(1, sizeof *writer);
    writer->parent = xstrdup(checkpoints_dir);
    writer->temporary = xformat("%s/" TEMPORARY "step_%08" PRId64, checkpoints_dir, step);
    writer->final = checkpoint_path(checkpoints_dir, step);
    memcpy(writer->header.magic, MAGIC, sizeof MAGIC);
    writer->header.version = CHECKPOINT_VERSION;
    writer->header.step = step;
    writer->header.table_offset = sizeof writer->header;
    char* path = xformat("%s/state.bin", writer->temporary);
    writer->file = mkdir(writer->temporary, 0777) == 0 ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    Error why;
    bool good = writer->file >= 0 || error_set(&why, EXIT_IO, "%s", strerror(errno));
    CheckpointHeader blank = {0};                      // the header's place; it is written last
    good = good && write_all(writer->file, &blank, sizeof blank, &why);
    free(path);
    if (good) { return writer; }
    save_failed(writer, why.text, err);
    checkpoint_abort(writer);
    return NULL;
}

static void writer_free(CheckpointWriter* writer) {
    if (writer->file >= 0) { close(writer->file); }
    free(writer->parent);
    free(writer->temporary);
    free(writer->final);
    free(writer->records);
    free(writer);
}

void checkpoint_abort(CheckpointWriter* writer) {
    if (!writer) { return; }
    remove_flat(writer->temporary, NULL);
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

bool checkpoint_add(CheckpointWriter* writer, const char* name, int dtype, int ndim, const int64_t* shape, const void* data, Error* err) {
    REQUIRE(name[0] && strlen(name) < CHECKPOINT_NAME, "checkpoint record name '%s' has not 1 to %d characters", name, CHECKPOINT_NAME - 1);
    REQUIRE(element_bytes((uint32_t)dtype) && ndim >= 0 && ndim <= CHECKPOINT_MAX_DIMS, "checkpoint record %s: dtype %d, %d dimensions", name, dtype, ndim);
    REQUIRE(writer->header.num_records < CHECKPOINT_MAX_RECORDS, "more than %d checkpoint records", CHECKPOINT_MAX_RECORDS);
    for (uint32_t i = 0; i < writer->header.num_records; i++) {
        REQUIRE(strcmp(writer->records[i].name, name) != 0, "checkpoint record %s is added twice", name);
    }
    CheckpointRecord* record = new_record(writer);
    memcpy(record->name, name, strlen(name));
    record->dtype = (uint32_t)dtype;
    record->ndim = (uint32_t)ndim;
    record->bytes = element_bytes(record->dtype);
    for (int d = 0; d < ndim; d++) {
        record->shape[d] = (uint64_t)shape[d];
        record->bytes *= record->shape[d];
    }
    record->offset = writer->header.table_offset;
    Error why;
    uLong crc = crc32(0, NULL, 0);
    for (uint64_t done = 0; done < record->bytes; done += CHUNK) {
        size_t part = min_size(CHUNK, record->bytes - done);
        crc = crc32_z(crc, (const Bytef*)data + done, part);
        if (!write_all(writer->file, (const char*)data + done, part, &why)) { return save_failed(writer, why.text, err); }
    }
    static const char zeros[CHECKPOINT_ALIGN];
    size_t padding = round_up(record->bytes, CHECKPOINT_ALIGN) - record->bytes;
    if (!write_all(writer->file, zeros, padding, &why)) { return save_failed(writer, why.text, err); }
    record->crc = (uint32_t)crc32_z(crc, (const Bytef*)zeros, padding);
    writer->header.table_offset += record->bytes + padding;
    return true;
}

bool checkpoint_add_text(CheckpointWriter* writer, const char* name, const char* text, Error* err) {
    int64_t length = (int64_t)strlen(text);
    return checkpoint_add(writer, name, CHECKPOINT_BYTES, 1, &length, text, err);
}

// A directory can only replace an empty one, so a checkpoint that has the name already (damaged, or it would have been resumed from)
// steps aside first; an interruption in between leaves neither, and what came before is whole.
static bool put_in_place(CheckpointWriter* writer, Error* err) {
    struct stat there;
    if (lstat(writer->final, &there) == 0) { remove_checkpoint(writer->parent, writer->header.step, NULL); }     // else rename says why
    if (rename(writer->temporary, writer->final) != 0) { return save_failed(writer, strerror(errno), err); }
    return true;
}

bool checkpoint_commit(CheckpointWriter* writer, Error* err) {
    CheckpointHeader* header = &writer->header;
    size_t table_bytes = header->num_records * sizeof(CheckpointRecord);
    header->file_bytes = header->table_offset + table_bytes;
    header->table_crc = table_crc(writer->records, (int)header->num_records);
    header->header_crc = header_crc(header);
    Error why;
    bool good = write_all(writer->file, writer->records, table_bytes, &why);
    if (good && lseek(writer->file, 0, SEEK_SET) != 0) { good = error_set(&why, EXIT_IO, "%s", strerror(errno)); }
    good = good && write_all(writer->file, header, sizeof *header, &why);
    if (good && fsync(writer->file) != 0) { good = error_set(&why, EXIT_IO, "%s", strerror(errno)); }
    int closed = close(writer->file);                  // network file systems report a full disk here
    writer->file = -1;
    if (good && closed != 0) { good = error_set(&why, EXIT_IO, "%s", strerror(errno)); }
    good = good && sync_directory(writer->temporary, &why);
    if (!good) { save_failed(writer, why.text, err); }
    good = good && put_in_place(writer, err);
    if (!good) {
        checkpoint_abort(writer);
        return false;
    }
    good = sync_directory(writer->parent, err);
    writer_free(writer);
    return good;
}

// ---- read ------------------------------------------------------------------------------------------------------------
// `bytes` at `offset`, all of them.
static bool read_at(int file, void* dest, size_t bytes, uint64_t offset, Error* err) {
    for (char* at = (char*)dest; bytes > 0; ) {
        ssize_t got = pread(file, at, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR) { continue; }
        if (got <= 0) { return error_set(err, EXIT_DATA, "%s", got ? strerror(errno) : "it ends too early"); }
        at += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return true;
}

// Reads the record's extent (padding included) through a chunk, into dest too if that is given, and compares the checksum.
static bool read_record(int file, const CheckpointRecord* record, char* dest, Error* err) {
    char* chunk = (char*)xmalloc(CHUNK);
    uint64_t extent = round_up(record->bytes, CHECKPOINT_ALIGN);
    uLong crc = crc32(0, NULL, 0);
    bool good = true;
    for (uint64_t done = 0; good && done < extent; done += CHUNK) {
        size_t part = min_size(CHUNK, extent - done);
        good = read_at(file, chunk, part, record->offset + done, err);
        if (!good) { break; }
        crc = crc32_z(crc, (const Bytef*)chunk, part);
        if (dest && done < record->bytes) { memcpy(dest + done, chunk, min_size(part, record->bytes - done)); }
    }
    free(chunk);
    if (good && (uint32_t)crc != record->crc) { good = error_set(err, EXIT_DATA, "its record '%s' does not match its checksum", record->name); }
    return good;
}

// Header, table and all records of the open file; fills step, num_records, records.
static bool read_everything(Checkpoint* checkpoint, Error* err) {
    struct stat info;
    CheckpointHeader header;
    if (fstat(checkpoint->file, &info) != 0) { return error_set(err, EXIT_DATA, "%s", strerror(errno)); }
    if (!S_ISREG(info.st_mode)) { return error_set(err, EXIT_DATA, "it is not a file"); }
    if (info.st_size < (off_t)sizeof header) { return error_set(err, EXIT_DATA, "it has %lld bytes, less than its header", (long long)info.st_size); }
    if (!read_at(checkpoint->file, &header, sizeof header, 0, err)) { return false; }
    if (!checkpoint_check_header(&header, (uint64_t)info.st_size, err)) { return false; }
    if (header_crc(&header) != header.header_crc) { return error_set(err, EXIT_DATA, "its header does not match its checksum"); }
    checkpoint->step = header.step;
    checkpoint->num_records = (int)header.num_records;
    checkpoint->records = (CheckpointRecord*)xmalloc(header.num_records * sizeof(CheckpointRecord));
    if (!read_at(checkpoint->file, checkpoint->records, header.num_records * sizeof(CheckpointRecord), header.table_offset, err)) { return false; }
    if (table_crc(checkpoint->records, checkpoint->num_records) != header.table_crc) {
        return error_set(err, EXIT_DATA, "its table of records does not match its checksum");
    }
    if (!checkpoint_check_table(&header, checkpoint->records, err)) { return false; }
    for (int i = 0; i < checkpoint->num_records; i++) {
        if (!read_record(checkpoint->file, &checkpoint->records[i], NULL, err)) { return false; }
    }
    return true;
}

// The last part of a path without trailing slashes, as a step; -1 if it is no step_N.
static int64_t step_of_path(const char* path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') { end--; }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') { start--; }
    char* name = xformat("%.*s", (int)(end - start), path + start);
    int64_t step = step_of_name(name);
    free(name);
    return step;
}

Checkpoint* checkpoint_open(const char* path, Error* err) {
    Checkpoint* checkpoint = (Checkpoint*)xcalloc(1, sizeof *checkpoint);
    checkpoint->path = xstrdup(path);
    char* file = xformat("%s/state.bin", path);
    checkpoint->file = open(file, O_RDONLY | O_CLOEXEC);
    int code = EXIT_DATA;
    Error why = {0};
    if (checkpoint->file < 0) {
        code = errno == ENOENT || errno == ENOTDIR ? EXIT_NO_INPUT : EXIT_DATA;
        error_set(&why, code, "%s", strerror(errno));
    } else {
        read_everything(checkpoint, &why);
    }
    int64_t named = step_of_path(path);
    if (!why.code && named >= 0 && named != checkpoint->step) {
        error_set(&why, code, "it holds step %" PRId64 ", its directory is named for step %" PRId64, checkpoint->step, named);
    }
    if (why.code) {
        error_set(err, code, "checkpoint %s cannot be used: %s", file, why.text);
        checkpoint_close(checkpoint);
        checkpoint = NULL;
    }
    free(file);
    return checkpoint;
}

void checkpoint_close(Checkpoint* checkpoint) {
    if (!checkpoint) { return; }
    if (checkpoint->file >= 0) { close(checkpoint->file); }
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

const CheckpointRecord* checkpoint_find(const Checkpoint* checkpoint, const char* name) {
    for (int i = 0; i < checkpoint->num_records; i++) {
        if (strcmp(checkpoint->records[i].name, name) == 0) { return &checkpoint->records[i]; }
    }
    return NULL;
}

bool checkpoint_read(const Checkpoint* checkpoint, const char* name, int dtype, void* dest, size_t bytes, Error* err) {
    const CheckpointRecord* record = checkpoint_find(checkpoint, name);
    if (!record) { return error_set(err, EXIT_DATA, "checkpoint %s has no record '%s'", checkpoint->path, name); }
    if (record->dtype != (uint32_t)dtype || record->bytes != bytes) {
        return error_set(err, EXIT_DATA, "checkpoint %s: record '%s' has type %u and %" PRIu64 " bytes; type %d and %zu are expected",
                         checkpoint->path, name, record->dtype, record->bytes, dtype, bytes);
    }
    Error why;
    return read_record(checkpoint->file, record, (char*)dest, &why) ||
           error_set(err, EXIT_DATA, "checkpoint %s/state.bin changed while it was read: %s", checkpoint->path, why.text);
}

char* checkpoint_read_text(const Checkpoint* checkpoint, const char* name, Error* err) {
    const CheckpointRecord* record = checkpoint_find(checkpoint, name);
    size_t bytes = record ? record->bytes : 0;
    char* text = (char*)xcalloc(bytes + 1, 1);
    if (!checkpoint_read(checkpoint, name, CHECKPOINT_BYTES, text, bytes, err)) { free(text); return NULL; }
    return text;
}

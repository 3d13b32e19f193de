// What a checkpoint's parts must look like, judged over memory: nothing here trusts a size, an offset or a count, and nothing opens a file.
#include "checkpoint.h"

#include <inttypes.h>
#include <string.h>
#include <zlib.h>

static const char MAGIC[8] = { 'm', 'o', 'b', 'a', 'c', 'k', 'p', 't' };

_Static_assert(sizeof(CheckpointHeader) == 64 && sizeof(CheckpointRecord) == 128, "the format on disk");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format on disk is little-endian");

uint32_t checkpoint_header_crc(const CheckpointHeader* header) {
    return (uint32_t)crc32(0, (const Bytef*)header, offsetof(CheckpointHeader, header_crc));
}

uint32_t checkpoint_table_crc(const CheckpointRecord* records, int count) {
    return (uint32_t)crc32_z(0, (const Bytef*)records, (size_t)count * sizeof *records);
}

uint64_t checkpoint_element_bytes(int dtype) {
    return dtype == CHECKPOINT_F32 ? 4 : dtype == CHECKPOINT_U64 || dtype == CHECKPOINT_F64 ? 8 : dtype == CHECKPOINT_BYTES ? 1 : 0;
}

char* checkpoint_path(const char* checkpoints_dir, int64_t step) { return xformat("%s/step_%08" PRId64, checkpoints_dir, step); }
char* checkpoint_part_path(const char* path, int part)           { return xformat("%s/part_%04d.bin", path, part); }

int64_t checkpoint_step_of_name(const char* name) {
    if (strncmp(name, "step_", 5) != 0) { return -1; }
    size_t digits = strspn(name + 5, "0123456789");
    if (digits < 8 || digits > 18 || name[5 + digits] != 0 || (digits > 8 && name[5] == '0')) { return -1; }
    return strtoll(name + 5, NULL, 10);
}

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
    if (header->parts == 0 || header->parts > CHECKPOINT_MAX_PARTS || header->part >= header->parts) {
        return error_set(err, EXIT_DATA, "its header calls it part %u of %u", header->part, header->parts);
    }
    uint64_t table_bytes = (uint64_t)header->num_records * sizeof(CheckpointRecord);
    bool fits = table_bytes <= file_bytes && header->table_offset == file_bytes - table_bytes &&
                header->table_offset >= sizeof *header && header->table_offset % CHECKPOINT_ALIGN == 0;
    return fits || error_set(err, EXIT_DATA, "its table of %u records at %" PRIu64 " does not end the file of %" PRIu64 " bytes",
                             header->num_records, header->table_offset, file_bytes);
}

uint64_t checkpoint_tensor_elements(const CheckpointRecord* record) {
    uint64_t elements = 1;
    for (int d = 0; d < record->ndim; d++) { elements *= record->shape[d]; }
    return elements;
}

uint64_t checkpoint_tensor_bytes(const CheckpointRecord* record) {
    return checkpoint_tensor_elements(record) * checkpoint_element_bytes(record->dtype);
}

// dtype and shape are possible, the tensor's bytes do not overflow, and the range lies in it: nothing of a tensor without elements only
static bool range_is_possible(const CheckpointRecord* record) {
    uint64_t element = checkpoint_element_bytes(record->dtype), elements = 1, bytes;
    if (element == 0 || record->ndim > CHECKPOINT_MAX_DIMS) { return false; }
    for (int d = 0; d < CHECKPOINT_MAX_DIMS; d++) {
        if (d >= record->ndim) {
            if (record->shape[d]) { return false; }
        } else if (__builtin_mul_overflow(elements, record->shape[d], &elements)) {
            return false;
        }
    }
    if (__builtin_mul_overflow(elements, element, &bytes)) { return false; }
    if (elements == 0) { return record->first == 0 && record->count == 0; }
    return record->count > 0 && record->first < elements && record->count <= elements - record->first;
}

// 1 to 63 printable characters, zeros behind them: a name goes into messages and onto terminals
static bool name_is_proper(const char* name) {
    size_t length = 0;
    while (length < CHECKPOINT_NAME && name[length] > ' ' && name[length] <= '~') { length++; }
    bool proper = length > 0 && length < CHECKPOINT_NAME;
    for (size_t i = length; i < CHECKPOINT_NAME; i++) { proper = proper && name[i] == 0; }
    return proper;
}

bool checkpoint_check_table(const CheckpointHeader* header, const CheckpointRecord* records, Error* err) {
    uint64_t place = sizeof *header;                   // where the next record must begin; never beyond table_offset
    for (uint32_t i = 0; i < header->num_records; i++) {
        const CheckpointRecord* record = &records[i];
        if (!name_is_proper(record->name)) { return error_set(err, EXIT_DATA, "its record %u has no proper name", i); }
        if (record->part != header->part || !range_is_possible(record)) {
            return error_set(err, EXIT_DATA, "its record '%s' holds %" PRIu64 " elements from %" PRIu64 " on, which its shape has not",
                             record->name, record->count, record->first);
        }
        uint64_t bytes = record->count * checkpoint_element_bytes(record->dtype), room = header->table_offset - place;
        if (record->offset != place || bytes > room || round_up(bytes, CHECKPOINT_ALIGN) > room) {
            return error_set(err, EXIT_DATA, "its record '%s' of %" PRIu64 " bytes at %" PRIu64 " is not where it should be, %" PRIu64,
                             record->name, bytes, record->offset, place);
        }
        place += round_up(bytes, CHECKPOINT_ALIGN);
    }
    return place == header->table_offset || error_set(err, EXIT_DATA, "its records end at %" PRIu64 ", its table begins at %" PRIu64,
                                                      place, header->table_offset);
}

static int by_name_and_first(const void* a, const void* b) {
    const CheckpointRecord *x = (const CheckpointRecord*)a, *y = (const CheckpointRecord*)b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->first > y->first) - (x->first < y->first);
}

bool checkpoint_check_cover(CheckpointRecord* records, int count, Error* err) {
    qsort(records, (size_t)count, sizeof *records, by_name_and_first);
    for (int i = 0, next; i < count; i = next) {
        const CheckpointRecord* tensor = &records[i];
        uint64_t place = 0;                            // the next element, in the order of the ranges
        for (next = i; next < count && strcmp(records[next].name, tensor->name) == 0; next++) {
            const CheckpointRecord* record = &records[next];
            bool same = record->dtype == tensor->dtype && record->ndim == tensor->ndim && memcmp(record->shape, tensor->shape, sizeof tensor->shape) == 0;
            if (!same) { return error_set(err, EXIT_DATA, "tensor '%s' has one shape in part %u, another in part %u", tensor->name, tensor->part, record->part); }
            if (record->first != place || (next > i && record->count == 0)) {
                return error_set(err, EXIT_DATA, "tensor '%s' has elements %" PRIu64 " to %" PRIu64 " %s", tensor->name, record->first < place ? record->first : place,
                                 record->first < place ? place : record->first, record->first < place ? "twice" : "nowhere");
            }
            place += record->count;
        }
        if (place != checkpoint_tensor_elements(tensor)) {
            return error_set(err, EXIT_DATA, "tensor '%s' has %" PRIu64 " of its %" PRIu64 " elements", tensor->name, place, checkpoint_tensor_elements(tensor));
        }
    }
    return true;
}

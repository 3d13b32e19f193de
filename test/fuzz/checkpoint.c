// Any bytes as a checkpoint's part: judged in memory, then put right where checksums stand in the way, written and read as a checkpoint.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "checkpoint.h"
#include "config.h"

static char directory[64], file_name[96];

static void remove_files(void) {
    unlink(file_name);
    rmdir(directory);
}

int LLVMFuzzerInitialize(int* argc, char*** argv) {
    (void)argc, (void)argv;
    snprintf(directory, sizeof directory, "%s", access("/dev/shm", W_OK) == 0 ? "/dev/shm/moba_fuzz_XXXXXX" : "/tmp/moba_fuzz_XXXXXX");
    if (!mkdtemp(directory)) { abort(); }
    snprintf(file_name, sizeof file_name, "%s/part_0000.bin", directory);
    atexit(remove_files);
    return 0;
}

// Sizes and checksums as they would have to be: what is left is to be judged by what it says.
static void put_right(uint8_t* data, size_t size) {
    CheckpointHeader header;
    memcpy(&header, data, sizeof header);
    memcpy(header.magic, "mobackpt", 8);
    header.version = CHECKPOINT_VERSION;
    header.file_bytes = size;
    header.num_records %= 8;
    size_t table = header.num_records * sizeof(CheckpointRecord);
    if (table + sizeof header > size) { return; }
    header.table_offset = size - table;
    for (size_t at = header.table_offset; at < size; at += sizeof(CheckpointRecord)) {
        CheckpointRecord record;
        memcpy(&record, data + at, sizeof record);
        size_t bytes = record.count * checkpoint_element_bytes(record.dtype), extent = round_up(bytes, CHECKPOINT_ALIGN);
        if (record.offset > size || bytes > size || extent > size - record.offset) { continue; }
        record.crc = (uint32_t)crc32_z(0, data + record.offset, extent);
        memcpy(data + at, &record, sizeof record);
    }
    CheckpointRecord* records = (CheckpointRecord*)xmalloc(table);
    memcpy(records, data + header.table_offset, table);
    header.table_crc = checkpoint_table_crc(records, (int)header.num_records);
    header.header_crc = checkpoint_header_crc(&header);
    memcpy(data, &header, sizeof header);
    free(records);
}

static void judge_in_memory(const uint8_t* data, size_t size) {
    CheckpointHeader header;
    Error err;
    memcpy(&header, data, sizeof header);
    if (!checkpoint_check_header(&header, size, &err)) { return; }
    CheckpointRecord* records = (CheckpointRecord*)xmalloc(header.num_records * sizeof(CheckpointRecord));
    memcpy(records, data + header.table_offset, header.num_records * sizeof(CheckpointRecord));
    if (checkpoint_check_table(&header, records, &err)) { checkpoint_check_cover(records, (int)header.num_records, &err); }
    free(records);
}

static void read_as_checkpoint(const uint8_t* data, size_t size) {
    Error err;
    Config cfg;
    int file = open(file_name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t)size) { abort(); }
    close(file);
    Checkpoint* checkpoint = checkpoint_open(directory, &err);
    if (!checkpoint) { return; }
    for (int i = 0; i < checkpoint->num_records; i++) {
        const CheckpointRecord* record = &checkpoint->records[i];
        uint64_t bytes = checkpoint_tensor_bytes(record);
        if (bytes > size) { abort(); }                   // more than the file holds
        void* values = xmalloc(bytes);
        if (!checkpoint_read(checkpoint, record->name, record->dtype, values, bytes, &err)) { abort(); }
        free(values);
    }
    char* options = checkpoint_read_text(checkpoint, "options", &err);
    if (options && config_from_json(&cfg, options, strlen(options), &err)) { config_close(&cfg); }
    free(options);
    checkpoint_close(checkpoint);
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < sizeof(CheckpointHeader)) { return 0; }
    judge_in_memory(data, size);
    uint8_t* copy = (uint8_t*)xmalloc(size);
    memcpy(copy, data, size);
    put_right(copy, size);
    judge_in_memory(copy, size);
    read_as_checkpoint(copy, size);
    free(copy);
    return 0;
}

// Level 5: checkpoints. checkpoints/step_00001000/state.bin holds named records, there whole or not at all, every byte under a checksum.
//
// state.bin, little-endian:
//   header   CheckpointHeader, 64 bytes, header_crc over the 60 before it
//   payload  the records' bytes in table order, each padded with zeros to 64; a record's crc covers its bytes and its padding
//   table    num_records x CheckpointRecord, table_crc over it; ends the file
// Offsets are fully determined by the sizes, and checked to be so: no gap, no overlap, nothing after the table.
//
// Writing: into checkpoints/.tmp-..., fsync, rename, fsync of the directory. One writer at a time (the run directory's lock sees to it).
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "common.h"

enum { CHECKPOINT_VERSION = 1, CHECKPOINT_ALIGN = 64, CHECKPOINT_MAX_RECORDS = 65536, CHECKPOINT_MAX_DIMS = 4, CHECKPOINT_NAME = 64 };
enum { CHECKPOINT_F32 = 1, CHECKPOINT_U64 = 2, CHECKPOINT_BYTES = 3 };       // dtype: elements of 4, 8, 1 bytes

typedef struct {
    char     magic[8];             // "mobackpt"
    uint32_t version, num_records;
    int64_t  step;                 // completed updates
    uint64_t table_offset, file_bytes;
    uint8_t  reserved[16];         // zero
    uint32_t table_crc, header_crc;
} CheckpointHeader;

typedef struct {
    char     name[CHECKPOINT_NAME];    // ends with a zero byte, zeros after it
    uint32_t dtype, ndim;
    uint64_t shape[CHECKPOINT_MAX_DIMS];   // zeros from ndim on
    uint64_t offset, bytes;            // bytes = product of shape x element size
    uint32_t crc, reserved;
} CheckpointRecord;

typedef struct CheckpointWriter CheckpointWriter;

typedef struct {
    char*             path;            // the directory
    int               file;            // state.bin, open for reading
    int64_t           step;
    int               num_records;
    CheckpointRecord* records;
} Checkpoint;

#ifdef __cplusplus
extern "C" {
#endif

// ---- write -----------------------------------------------------------------------------------------------------------
// Removes what dead saves left, starts a temporary. NULL on error.
CheckpointWriter* checkpoint_begin(const char* checkpoints_dir, int64_t step, Error* err);
// Writes the record at once; data need not outlive the call. After false: checkpoint_abort.
bool checkpoint_add(CheckpointWriter* writer, const char* name, int dtype, int ndim, const int64_t* shape, const void* data, Error* err);
bool checkpoint_add_text(CheckpointWriter* writer, const char* name, const char* text, Error* err);   // CHECKPOINT_BYTES, no zero byte
// Makes it visible as step_%08d, in place of one that was there (a damaged one, passed over). Frees the writer either way;
// on false nothing of it is left.
bool checkpoint_commit(CheckpointWriter* writer, Error* err);
void checkpoint_abort(CheckpointWriter* writer);       // removes the temporary; writer may be NULL

// ---- read ------------------------------------------------------------------------------------------------------------
// Reads and verifies every byte, and the step against the directory's name if that is step_N. NULL on error.
Checkpoint* checkpoint_open(const char* path, Error* err);
// The newest whole one of a directory. NULL with err->code 0: it has none. NULL with a code: it has some and all are damaged.
// *passed_over: NULL, or one line for each damaged one that is newer than the one returned; the caller's to free.
Checkpoint* checkpoint_open_newest(const char* checkpoints_dir, char** passed_over, Error* err);
void checkpoint_close(Checkpoint* checkpoint);         // may be NULL

const CheckpointRecord* checkpoint_find(const Checkpoint* checkpoint, const char* name);   // NULL: not there
// A record of exactly `bytes` bytes and this dtype into dest; verified once more on the way.
bool  checkpoint_read(const Checkpoint* checkpoint, const char* name, int dtype, void* dest, size_t bytes, Error* err);
char* checkpoint_read_text(const Checkpoint* checkpoint, const char* name, Error* err);   // NULL on error; the caller's to free

// ---- the directory ---------------------------------------------------------------------------------------------------
// Steps present by name, ascending, whole or not; returns how many. *steps is the caller's to free. A directory that is not there has none.
int  checkpoint_steps(const char* checkpoints_dir, int64_t** steps);
// After the save of `newest`: of the steps <= newest keeps the `keep` newest, and the multiples of keep_major (0: none). Never removes
// `newest`. Later steps are not this run's history and stay.
bool checkpoint_prune(const char* checkpoints_dir, int64_t newest, int keep, int64_t keep_major, Error* err);
char* checkpoint_path(const char* checkpoints_dir, int64_t step);      // checkpoints_dir/step_%08d; the caller's to free

// ---- the format, over memory (tests and fuzzers) ---------------------------------------------------------------------
// Structure alone, no checksums: every size and offset against the file's size.
bool checkpoint_check_header(const CheckpointHeader* header, uint64_t file_bytes, Error* err);
bool checkpoint_check_table(const CheckpointHeader* header, const CheckpointRecord* records, Error* err);

#ifdef __cplusplus
}
#endif
#endif

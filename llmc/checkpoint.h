// Level 5: checkpoints. checkpoints/step_00001000/ holds named tensors, there whole or not at all, every byte under a checksum.
//
// It has one file a writer, part_0000.bin, part_0001.bin, ...; each holds records, and a record is a range of a tensor's elements. The parts'
// records must cover every tensor exactly once; which part has which range is the writers' affair, so any number of ranks reads it.
//
// A part, little-endian:
//   header   CheckpointHeader, 64 bytes, header_crc over the 60 before it
//   payload  the records' bytes in table order, each padded with zeros to 64; a record's crc covers its bytes and its padding
//   table    num_records x CheckpointRecord, table_crc over it; ends the file
// Offsets are fully determined by the sizes, and checked to be so: no gap, no overlap, nothing after the table.
// save_id is one random number for all parts of one save: a part of another save, of the same step even, is noticed.
//
// Writing: into checkpoints/.tmp-..., fsync, rename, fsync of the directory. One save at a time (the run directory's lock sees to it).
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "common.h"

enum { CHECKPOINT_VERSION = 2, CHECKPOINT_ALIGN = 64, CHECKPOINT_MAX_RECORDS = 65536, CHECKPOINT_MAX_PARTS = 65535, CHECKPOINT_MAX_DIMS = 4, CHECKPOINT_NAME = 64 };
enum { CHECKPOINT_F32 = 1, CHECKPOINT_U64 = 2, CHECKPOINT_BYTES = 3, CHECKPOINT_F64 = 4 };   // dtype: elements of 4, 8, 1, 8 bytes

typedef struct {
    char     magic[8];             // "mobackpt"
    uint32_t version, num_records;
    int64_t  step;                 // completed updates
    uint64_t table_offset, file_bytes;
    uint32_t part, parts;          // this file is part_<part>.bin of so many
    uint64_t save_id;
    uint32_t table_crc, header_crc;
} CheckpointHeader;

typedef struct {
    char     name[CHECKPOINT_NAME];    // of the tensor; ends with a zero byte, zeros after it
    uint8_t  dtype, ndim;
    uint16_t part;                     // the header's
    uint32_t crc;
    uint64_t shape[CHECKPOINT_MAX_DIMS];   // of the whole tensor; zeros from ndim on
    uint64_t offset, first, count;     // elements [first, first + count) of the tensor, row-major, are at `offset` of the part
} CheckpointRecord;

typedef struct CheckpointWriter CheckpointWriter;

typedef struct {
    char*             path;            // the directory
    int64_t           step;
    uint64_t          save_id;
    int               parts;
    int               num_records;
    CheckpointRecord* records;         // of all parts, by name and then by first; the one with first 0 begins a tensor
} Checkpoint;

#ifdef __cplusplus
extern "C" {
#endif

// ---- write, one writer -------------------------------------------------------------------------------------------------
// Removes what dead saves left, starts a temporary. NULL on error.
CheckpointWriter* checkpoint_begin(const char* checkpoints_dir, int64_t step, Error* err);
// Writes the record at once; data need not outlive the call. After false: checkpoint_abort.
bool checkpoint_add(CheckpointWriter* writer, const char* name, int dtype, int ndim, const int64_t* shape, const void* data, Error* err);
bool checkpoint_add_text(CheckpointWriter* writer, const char* name, const char* text, Error* err);   // CHECKPOINT_BYTES, no zero byte
// Makes it visible as step_%08d, in place of one that was there (a damaged one, passed over). Frees the writer either way;
// on false nothing of it is left. True with err->code: visible, but its directory could not be synced; a power cut may undo it, so
// nothing older should go because of it.
bool checkpoint_commit(CheckpointWriter* writer, Error* err);
void checkpoint_abort(CheckpointWriter* writer);       // removes what it wrote, and of one part the temporary; writer may be NULL

// ---- write, a writer a rank --------------------------------------------------------------------------------------------
//   rank 0: checkpoint_prepare | all: begin_part, add_slice ..., finish | rank 0: publish if all finished, else discard
// At each | everyone waits for everyone, which is the caller's affair. save_id: checkpoint_new_id() of rank 0, the same for all ranks; one
// id serves all saves of a process.
uint64_t checkpoint_new_id(void);
bool checkpoint_prepare(const char* checkpoints_dir, int64_t step, Error* err);
CheckpointWriter* checkpoint_begin_part(const char* checkpoints_dir, int64_t step, int part, int parts, uint64_t save_id, Error* err);
// elements [first, first + count) of the tensor, from data on; a count of 0 writes nothing
bool checkpoint_add_slice(CheckpointWriter* writer, const char* name, int dtype, int ndim, const int64_t* shape, uint64_t first, uint64_t count,
                          const void* data, Error* err);
bool checkpoint_finish(CheckpointWriter* writer, Error* err);          // the part is whole and synced, still out of sight; frees the writer either way
bool checkpoint_publish(const char* checkpoints_dir, int64_t step, Error* err);     // true, false as of checkpoint_commit
void checkpoint_discard(const char* checkpoints_dir, int64_t step);    // removes the temporary

// ---- read ------------------------------------------------------------------------------------------------------------
// Reads and verifies every byte of every part, and the step against the directory's name if that is step_N. NULL on error.
Checkpoint* checkpoint_open(const char* path, Error* err);
// Headers and tables alone, for a rank that follows one that has verified it. What is read later is verified then.
Checkpoint* checkpoint_open_unverified(const char* path, Error* err);
// The newest whole one of a directory. NULL with err->code 0: it has none. NULL with a code: it has some and all are damaged.
// *passed_over: NULL, or one line for each damaged one that is newer than the one returned; the caller's to free.
Checkpoint* checkpoint_open_newest(const char* checkpoints_dir, char** passed_over, Error* err);
void checkpoint_close(Checkpoint* checkpoint);         // may be NULL

const CheckpointRecord* checkpoint_find(const Checkpoint* checkpoint, const char* name);   // its first record; NULL: no such tensor
// Elements [first, first + count) of a tensor of this dtype into dest, from whichever parts hold them; verified once more on the way.
bool  checkpoint_read_range(const Checkpoint* checkpoint, const char* name, int dtype, uint64_t first, uint64_t count, void* dest, Error* err);
// a whole tensor of exactly `bytes` bytes
bool  checkpoint_read(const Checkpoint* checkpoint, const char* name, int dtype, void* dest, size_t bytes, Error* err);
char* checkpoint_read_text(const Checkpoint* checkpoint, const char* name, Error* err);   // NULL on error; the caller's to free

// ---- the directory ---------------------------------------------------------------------------------------------------
// Steps present by name, ascending, whole or not; returns how many. *steps is the caller's to free. A directory that is not there has none.
int  checkpoint_steps(const char* checkpoints_dir, int64_t** steps);
// Steps known to be whole, so that each is read only once to find out. Starts as {0}.
typedef struct { int64_t* step; int count; } CheckpointsKnown;
void checkpoint_know(CheckpointsKnown* known, int64_t step);
// After the save of `newest`: of the steps <= newest keeps the `keep` newest whole ones and what lies between them, and the multiples of
// keep_major (0: none). A damaged one does not count. Never removes `newest`. Later steps are not this run's history and stay.
bool checkpoint_prune(const char* checkpoints_dir, int64_t newest, int keep, int64_t keep_major, CheckpointsKnown* known, Error* err);
char* checkpoint_path(const char* checkpoints_dir, int64_t step);      // checkpoints_dir/step_%08d; the caller's to free

// ---- the format, over memory (tests and fuzzers) ---------------------------------------------------------------------
// Structure alone, no checksums: every size and offset against the file's size.
bool checkpoint_check_header(const CheckpointHeader* header, uint64_t file_bytes, Error* err);
bool checkpoint_check_table(const CheckpointHeader* header, const CheckpointRecord* records, Error* err);
// Sorts the records of all parts (each table checked before): they must cover every tensor exactly once.
bool checkpoint_check_cover(CheckpointRecord* records, int count, Error* err);
uint64_t checkpoint_tensor_elements(const CheckpointRecord* record);   // of the whole tensor; the table is checked
uint64_t checkpoint_tensor_bytes(const CheckpointRecord* record);
uint64_t checkpoint_element_bytes(int dtype);                          // 0: no such dtype
uint32_t checkpoint_header_crc(const CheckpointHeader* header);
uint32_t checkpoint_table_crc(const CheckpointRecord* records, int count);
char*    checkpoint_part_path(const char* path, int part);             // path/part_%04d.bin; the caller's to free
int64_t  checkpoint_step_of_name(const char* name);                    // "step_00001000": 1000; -1: no such name

#ifdef __cplusplus
}
#endif
#endif

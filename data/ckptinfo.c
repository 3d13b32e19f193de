// Says what is in checkpoints, and whether it is whole:
//
//   build/data/ckptinfo list RUN                       every checkpoint of a run directory, read and verified to the last byte
//   build/data/ckptinfo show RUN/checkpoints/step_N    its tensors, with range and norm where they are numbers
//   build/data/ckptinfo diff STEP_DIR STEP_DIR         tensor by tensor; the parts they are written in do not matter
//
// Exit status: 0; 1: diff found a difference; 65: one is damaged; 66: there is none; 74: what was found could not be printed.
#include "tool.h"

#include <inttypes.h>
#include <math.h>
#include <sys/stat.h>

#include "checkpoint.h"

static const char* dtype_name(int dtype) {
    return dtype == CHECKPOINT_F32 ? "fp32" : dtype == CHECKPOINT_F64 ? "fp64" : dtype == CHECKPOINT_U64 ? "u64" : "bytes";
}

static void print_shape(const CheckpointRecord* record) {
    for (int d = 0; d < record->ndim; d++) { printf("%s%" PRIu64, d ? " x " : "", record->shape[d]); }
}

static uint64_t all_bytes(const Checkpoint* checkpoint, int* tensors) {
    uint64_t bytes = 0;
    *tensors = 0;
    for (int i = 0; i < checkpoint->num_records; i++) {
        if (checkpoint->records[i].first != 0) { continue; }
        bytes += checkpoint_tensor_bytes(&checkpoint->records[i]);
        ++*tensors;
    }
    return bytes;
}

// How far reading is, in bytes: verifying a checkpoint reads it once, showing its values once more.
typedef struct { ToolProgress progress; double done; } Reading;

static void was_read(Reading* reading, double bytes) {
    reading->done += bytes;
    tool_progress(&reading->progress, reading->done);
}

static double bytes_of(const char* checkpoint_dir) {
    double bytes = 0;
    for (int part = 0; ; part++) {
        struct stat info;
        char* name = checkpoint_part_path(checkpoint_dir, part);
        bool there = stat(name, &info) == 0;
        free(name);
        if (!there) { return bytes; }
        bytes += (double)info.st_size;
    }
}

static Checkpoint* open_whole(const char* path, Reading* reading) {
    Error err;
    Checkpoint* checkpoint = checkpoint_open(path, &err);
    if (!checkpoint) { FAIL(err.code, "%s", err.text); }
    was_read(reading, bytes_of(path));
    return checkpoint;
}

static void* read_tensor(const Checkpoint* checkpoint, const CheckpointRecord* record, Reading* reading) {
    Error err;
    uint64_t bytes = checkpoint_tensor_bytes(record);
    void* data = xcalloc(bytes + 1, 1);
    if (!checkpoint_read(checkpoint, record->name, record->dtype, data, bytes, &err)) { FAIL(err.code, "%s", err.text); }
    was_read(reading, (double)bytes);
    return data;
}

static double element(const void* data, int dtype, uint64_t i) {
    return dtype == CHECKPOINT_F32 ? ((const float*)data)[i] : dtype == CHECKPOINT_F64 ? ((const double*)data)[i]
         : dtype == CHECKPOINT_U64 ? (double)((const uint64_t*)data)[i] : (double)((const unsigned char*)data)[i];
}

// ---- list ------------------------------------------------------------------------------------------------------------
static int list(const char* run) {
    struct stat info;
    char* inner = xformat("%s/checkpoints", run);
    const char* dir = stat(inner, &info) == 0 ? inner : run;
    int64_t* steps;
    int count = checkpoint_steps(dir, &steps), damaged = 0;
    if (count == 0) { FAIL(EXIT_NO_INPUT, "%s holds no checkpoint", dir); }
    double total = 0;
    for (int i = 0; i < count; i++) {
        char* path = checkpoint_path(dir, steps[i]);
        total += bytes_of(path);
        free(path);
    }
    Reading reading = { tool_progress_open("ckptinfo", total), 0 };
    for (int i = 0; i < count; i++) {
        Error err;
        int tensors;
        char* path = checkpoint_path(dir, steps[i]);
        Checkpoint* checkpoint = checkpoint_open(path, &err);
        if (checkpoint) {
            double mib = (double)all_bytes(checkpoint, &tensors) / 1048576;
            printf("step %8" PRId64 "  whole    %4d part%s  %5d tensors  %10.1f MiB\n", steps[i], checkpoint->parts, checkpoint->parts > 1 ? "s" : " ", tensors, mib);
        } else {
            printf("step %8" PRId64 "  damaged  %s\n", steps[i], err.text);
            damaged++;
        }
        was_read(&reading, bytes_of(path));
        checkpoint_close(checkpoint);
        free(path);
    }
    printf("%d checkpoints, %d damaged\n", count, damaged);
    free(steps);
    free(inner);
    return damaged ? EXIT_DATA : 0;
}

// ---- show ------------------------------------------------------------------------------------------------------------
static void show_values(const Checkpoint* checkpoint, const CheckpointRecord* record, Reading* reading) {
    uint64_t n = checkpoint_tensor_elements(record);
    void* data = read_tensor(checkpoint, record, reading);
    double low = INFINITY, high = -INFINITY, squares = 0;
    for (uint64_t i = 0; i < n; i++) {
        double x = element(data, record->dtype, i);
        low = fmin(low, x);
        high = fmax(high, x);
        squares += x * x;
    }
    if (n > 0) { printf("  %.6g to %.6g, norm %.9g", low, high, sqrt(squares)); }
    free(data);
}

static int show(const char* path) {
    Reading reading = { tool_progress_open("ckptinfo", 2 * bytes_of(path)), 0 };
    Checkpoint* checkpoint = open_whole(path, &reading);
    int tensors;
    double mib = (double)all_bytes(checkpoint, &tensors) / 1048576;
    printf("%s: step %" PRId64 ", %d parts, %d tensors, %.1f MiB, every byte matches its checksum\n", path, checkpoint->step, checkpoint->parts, tensors, mib);
    for (int i = 0; i < checkpoint->num_records; i++) {
        const CheckpointRecord* record = &checkpoint->records[i];
        if (record->first != 0) { continue; }
        printf("  %-28s %-5s ", record->name, dtype_name(record->dtype));
        print_shape(record);
        if (record->dtype != CHECKPOINT_BYTES) { show_values(checkpoint, record, &reading); }
        printf("\n");
    }
    checkpoint_close(checkpoint);
    return 0;
}

// ---- diff ------------------------------------------------------------------------------------------------------------
static bool same_kind(const CheckpointRecord* a, const CheckpointRecord* b) {
    return a->dtype == b->dtype && a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

// prints how the tensors differ; true if they do not
static bool diff_values(const Checkpoint* a, const Checkpoint* b, const CheckpointRecord* x, const CheckpointRecord* y, Reading* reading) {
    uint64_t n = checkpoint_tensor_elements(x), bytes = checkpoint_tensor_bytes(x), differ = 0, worst = 0;
    size_t size = checkpoint_element_bytes(x->dtype);
    char *p = (char*)read_tensor(a, x, reading), *q = (char*)read_tensor(b, y, reading);
    bool same = memcmp(p, q, bytes) == 0;
    double largest = -1;
    for (uint64_t i = 0; !same && i < n; i++) {
        if (memcmp(p + i * size, q + i * size, size) == 0) { continue; }
        double distance = fabs(element(p, x->dtype, i) - element(q, x->dtype, i));
        differ++;
        if (!(distance <= largest)) { largest = distance; worst = i; }         // NaN lands here too
    }
    if (!same) {
        printf("%-28s %" PRIu64 " of %" PRIu64 " elements differ, most at %" PRIu64 ": %.9g and %.9g\n", x->name, differ, n, worst,
               element(p, x->dtype, worst), element(q, x->dtype, worst));
    }
    free(p);
    free(q);
    return same;
}

static int diff(const char* first, const char* second) {
    Reading reading = { tool_progress_open("ckptinfo", 2 * (bytes_of(first) + bytes_of(second))), 0 };
    Checkpoint *a = open_whole(first, &reading), *b = open_whole(second, &reading);
    int same = 0, different = 0;
    for (int i = 0; i < a->num_records; i++) {
        const CheckpointRecord *x = &a->records[i], *y = checkpoint_find(b, x->name);
        if (x->first != 0) { continue; }
        bool equal = y && same_kind(x, y) && diff_values(a, b, x, y, &reading);
        if (!y) { printf("%-28s only in %s\n", x->name, first); }
        else if (!same_kind(x, y)) { printf("%-28s of another type or shape\n", x->name); }
        same += equal;
        different += !equal;
    }
    for (int i = 0; i < b->num_records; i++) {
        const CheckpointRecord* y = &b->records[i];
        if (y->first != 0 || checkpoint_find(a, y->name)) { continue; }
        printf("%-28s only in %s\n", y->name, second);
        different++;
    }
    printf("%d tensors are the same to the bit, %d are not\n", same, different);
    checkpoint_close(a);
    checkpoint_close(b);
    return different ? 1 : 0;
}

static int run(int argc, char** argv) {
    if (argc == 3 && strcmp(argv[1], "list") == 0) { return list(argv[2]); }
    if (argc == 3 && strcmp(argv[1], "show") == 0) { return show(argv[2]); }
    if (argc == 4 && strcmp(argv[1], "diff") == 0) { return diff(argv[2], argv[3]); }
    bool help = argc == 2 && strcmp(argv[1], "--help") == 0;
    fprintf(help ? stdout : stderr, "usage: ckptinfo list RUN | show CHECKPOINT | diff CHECKPOINT CHECKPOINT\n");
    return help ? 0 : EXIT_USAGE;
}

int main(int argc, char** argv) {
    program_start();
    int status = run(argc, argv);
    require_printed();
    return status;
}

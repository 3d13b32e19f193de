// seeds DIR: writes DIR/TARGET/..., the good inputs that the fuzzers begin with, by the project's own writers.
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include "checkpoint.h"
#include "config.h"
#include "logger.h"
#include "shard.h"

static Error err;

static char* place(const char* dir, const char* target, const char* name) {
    char* folder = xformat("%s/%s", dir, target);
    mkdir(folder, 0777);
    char* path = xformat("%s/%s", folder, name);
    free(folder);
    return path;
}

static void put(const char* dir, const char* target, const char* name, const void* data, size_t bytes) {
    char* path = place(dir, target, name);
    FILE* file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) { FAIL(EXIT_IO, "%s cannot be written", path); }
    free(path);
}

static void put_shards(const char* dir) {
    const uint32_t ids[3] = { 1, 2, 256 };
    for (int bytes = 2; bytes <= 4; bytes += 2) {
        char* path = place(dir, "shard", bytes == 2 ? "narrow.bin" : "wide.bin");
        ShardWriter writer;
        TRY(shard_writer_open(&writer, path, bytes, &err));
        TRY(shard_writer_add(&writer, ids, 3, &err));
        TRY(shard_writer_close(&writer, &err));
        free(path);
    }
}

static void put_options(const char* dir, char** json) {
    const char *line = "--preset\ntiny\n--pattern\nS64,M64:2\n--steps=10\n--lr\n0.003\n--schedule\nwsd\n--dry-run\n";
    char* argv[] = { "seeds", "--dry-run", "--preset", "tiny" };
    Config cfg;
    TRY(config_parse_into(&cfg, 4, argv, &err) && config_resolve(&cfg, &err));
    *json = config_to_json(&cfg);
    put(dir, "options", "line", line, strlen(line));
    put(dir, "options", "saved", *json, strlen(*json));
    config_close(&cfg);
}

// the part of a small checkpoint of two parts, and one of a whole one
static void put_checkpoints(const char* dir, const char* json) {
    const int64_t shape[2] = { 4, 5 };
    const float values[20] = { 1, 2, 3 };
    for (int part = 0; part < 3; part++) {
        char* folder = place(dir, "checkpoint", "work");
        mkdir(folder, 0777);
        int parts = part < 2 ? 2 : 1;
        TRY(checkpoint_prepare(folder, 1, &err));
        CheckpointWriter* writer = checkpoint_begin_part(folder, 1, part % 2, parts, 7, &err);
        TRY(writer);
        uint64_t first = part == 1 ? 8 : 0, count = part == 0 ? 8 : 20 - first;
        TRY(checkpoint_add_slice(writer, "master/wte", CHECKPOINT_F32, 2, shape, first, count, values, &err));
        if (part != 1) { TRY(checkpoint_add_text(writer, "options", json, &err)); }
        TRY(checkpoint_finish(writer, &err) && checkpoint_publish(folder, 1, &err));
        char *from = xformat("%s/step_00000001/part_%04d.bin", folder, part % 2), *to = xformat("%s/checkpoint/part%d", dir, part);
        if (rename(from, to) != 0) { FAIL(EXIT_IO, "%s cannot be moved", from); }
        free(from);
        free(to);
        free(folder);
    }
}

static void put_log(const char* dir, const char* json) {
    char* folder = place(dir, "log", "");
    Logger* log = logger_open(folder, 0, 10, 1, &err);
    TRY(log);
    StartRecord start = { 0, json, "CPU", "0000000", "text.bin", 1000, 100 };
    log_start(log, &start);
    for (int step = 1; step < 8; step++) {
        StepStats stats = { step, 3.5, 1, 1e-3, 10, 1e4, 0, 100 * step, 10 };
        log_step(log, &stats);
    }
    log_skip(log, 8, "loss nan");
    log_eval(log, 8, "validation", 3.25);
    log_save(log, 8, "step_00000008", 1000, 2, 1);
    EndRecord end = { 8, 0, "finished", 1, 3.5, 800 };
    log_end(log, &end);
    TRY(logger_close(log, &err));
    free(folder);
}

// 256 tokens of one byte each and an end-of-text
static void put_tokenizer(const char* dir) {
    enum { VOCAB = 257, TEXT = 256 + 3, BYTES = 40 + 8 + 2 * VOCAB + TEXT + 4 };
    unsigned char file[BYTES] = "MOBATOK";
    const uint32_t numbers[8] = { 1, VOCAB, 256, 1, 0, 0, TEXT, 0x000f0000 }, letters[2] = { 'a', 'z' };
    memcpy(file + 8, numbers, sizeof numbers);
    memcpy(file + 40, letters, sizeof letters);
    for (int i = 0; i < VOCAB; i++) { file[48 + 2 * i] = i < 256 ? 1 : 3; }
    for (int i = 0; i < 256; i++) { file[48 + 2 * VOCAB + i] = (unsigned char)i; }
    memcpy(file + 48 + 2 * VOCAB + 256, "eot", 3);
    uint32_t crc = (uint32_t)crc32(0, file, BYTES - 4);
    memcpy(file + BYTES - 4, &crc, 4);
    put(dir, "tokenizer", "bytes", file, BYTES);
}

int main(int argc, char** argv) {
    char* json;
    if (argc != 2) { FAIL(EXIT_USAGE, "usage: seeds DIR"); }
    put_shards(argv[1]);
    put_options(argv[1], &json);
    put_checkpoints(argv[1], json);
    put_log(argv[1], json);
    put_tokenizer(argv[1]);
    free(json);
    return 0;
}

// The hooks that a program of the tests has (train_moba.cu with -DLLMC_TEST), for what only faults can show (R12 to R16). By the environment:
// on rank MOBA_TEST_RANK (0 if not set): MOBA_TEST_NAN_STEPS=FIRST-LAST puts a NaN
// into a gradient of these steps, MOBA_TEST_SPIKE_STEPS a value far too large; MOBA_TEST_FLIP_STEP=N flips a bit of a weight after step N;
// MOBA_TEST_STOP_STEP=N sends SIGTERM when step N is wholly done, MOBA_TEST_FREEZE_STEP=N SIGSTOP, MOBA_TEST_KILL_STEP=N SIGKILL;
// MOBA_TEST_STRAGGLE_MS is how much longer each step of it takes, MOBA_TEST_FILE_BYTES how large a file of it can be,
// MOBA_TEST_READ_MS, MOBA_TEST_WRITE_MS how much longer each read of a file and each write of one takes it (CPU).
// On all ranks: MOBA_TEST_LINK_MS, what each collective takes longer.
#ifndef FAULTS_H
#define FAULTS_H

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool test_rank(const Run* run) {
    const char* rank = getenv("MOBA_TEST_RANK");
    return run->ranks.rank == (rank ? atoi(rank) : 0);
}

// in the place of the C library's, where this program is linked as C
#ifdef LLMC_CPU
static void test_slow_disk(const char* variable) {
    const char *ms = getenv(variable), *victim = getenv("MOBA_TEST_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    long slow = ms && atoi(victim ? victim : "0") == atoi(rank ? rank : "0") ? atol(ms) : 0;
    struct timespec pause = {slow / 1000, slow % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

ssize_t pread(int file, void* dest, size_t bytes, off_t offset) {
    test_slow_disk("MOBA_TEST_READ_MS");
    return syscall(SYS_pread64, file, dest, bytes, offset);
}

ssize_t write(int file, const void* data, size_t bytes) {
    struct stat info;
    if (fstat(file, &info) == 0 && S_ISREG(info.st_mode)) { test_slow_disk("MOBA_TEST_WRITE_MS"); }        // no pipe or socket of MPI
    return syscall(SYS_write, file, data, bytes);
}
#endif

static bool test_step_is(const Run* run, const char* variable) {
    const char* step = getenv(variable);
    return test_rank(run) && step && atoll(step) == run->progress.step;
}

static void test_spoil_with(const Run* run, const char* variable, float value) {
    const char* range = getenv(variable);
    long long first, last, step = run->progress.step + 1;
    if (!test_rank(run) || !range || sscanf(range, "%lld-%lld", &first, &last) != 2 || step < first || step > last) { return; }
    device_upload(run->model.grads, &value, sizeof value, run->model.stream);        // of wte, whose reduction comes last
    stream_sync(run->model.stream);
}

static void test_spoil_gradient(const Run* run) {
    test_spoil_with(run, "MOBA_TEST_NAN_STEPS", NAN);
    test_spoil_with(run, "MOBA_TEST_SPIKE_STEPS", 1e4f);
}

static void test_stop(const Run* run) {
    const char* straggle = getenv("MOBA_TEST_STRAGGLE_MS");
    struct timespec pause = {0, straggle && test_rank(run) ? atoi(straggle) * 1000000L : 0};
    nanosleep(&pause, NULL);
    if (test_step_is(run, "MOBA_TEST_STOP_STEP"))   { raise(SIGTERM); }
    if (test_step_is(run, "MOBA_TEST_FREEZE_STEP")) { raise(SIGSTOP); }
    if (test_step_is(run, "MOBA_TEST_KILL_STEP"))   { raise(SIGKILL); }
}

// the sign of wte's first weight: of the master where this rank has the whole, else of the copy, which the next update would overwrite
static void test_flip(Run* run) {
    if (!test_step_is(run, "MOBA_TEST_FLIP_STEP")) { return; }
    char* weight = run->opt.partition.sharded ? (char*)run->model.matrices + sizeof(floatX) : (char*)(run->opt.master + 1);
    unsigned char top;
    device_download(&top, weight - 1, 1, run->model.stream);
    stream_sync(run->model.stream);
    top ^= 0x80;
    device_upload(weight - 1, &top, 1, run->model.stream);
    stream_sync(run->model.stream);
}

// only the transport of the CPU build can be made slow
static void test_start(const Run* run) {
    const char* bytes = getenv("MOBA_TEST_FILE_BYTES");
    struct rlimit files;
    if (bytes && test_rank(run) && getrlimit(RLIMIT_FSIZE, &files) == 0) {
        files.rlim_cur = (rlim_t)atoll(bytes);
        setrlimit(RLIMIT_FSIZE, &files);
    }
#ifdef LLMC_CPU
    const char* ms = getenv("MOBA_TEST_LINK_MS");
    if (ms && run->ranks.comm) { comm_slow_link(run->ranks.comm, atof(ms), 0); }
#endif
}

#endif

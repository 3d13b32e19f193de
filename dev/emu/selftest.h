// What the emulator's tests share.
#include <sys/wait.h>
#include <unistd.h>

#include <cuda_bf16.h>

#include "test.h"
#include "cuda_common.cuh"

template <class T> static T* upload(const T* host, size_t n) {
    T* device;
    CUDA_CHECK(cudaMalloc(&device, n * sizeof(T)));
    CUDA_CHECK(cudaMemcpy(device, host, n * sizeof(T), cudaMemcpyHostToDevice));
    return device;
}

// makes the mistake in a process of its own, which has to end with `text` on stderr
static bool is_reported(void (*make)(int what), int what, const char* text) {
    int ends[2];
    if (pipe(ends)) { return false; }
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        make(what);
        _exit(0);
    }
    close(ends[1]);
    static char said[1 << 16];
    size_t used = 0;
    for (ssize_t n; (n = read(ends[0], said + used, sizeof said - 1 - used)) > 0;) { used += (size_t)n; }
    said[used] = 0;
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (strstr(said, text) && status != 0) { return true; }
    fprintf(stderr, "status %d, said: %s\n", status, said);
    return false;
}


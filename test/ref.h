// The CPU reference beside the kernels in one test program: ref_X is llmc/cpu/X in fp32 with fp64 sums (exact, for our purpose),
// rnd_X the same with bf16 rounding wherever a GPU stores bf16 (what a perfect bf16 kernel would give).
// ops.h is read again with floatX = float and every name prefixed; the lists of names are generated from it.
#ifndef REF_H
#define REF_H

#include "ops.h"

#define floatX float
#undef OPS_H
#include "ref_names.h"
#include "ops.h"
#include "ops_unname.h"
#undef OPS_H
#include "rnd_names.h"
#include "ops.h"
#include "ops_unname.h"
#undef floatX

// ---- buffers: host float <-> device ----------------------------------------------------------------------------------
#include "device.h"

static inline void* device_from(const void* host, size_t bytes) {
    void* memory = device_malloc(bytes);
    device_upload(memory, host, bytes, NULL);
    stream_sync(NULL);
    return memory;
}

// device bf16 from host floats, which are rounded to bf16 in place: both sides start from the same values
static inline floatX* device_from_floats(float* host, size_t n) {
    uint16_t* bits = (uint16_t*)malloc(n * 2);
    for (size_t i = 0; i < n; i++) { bits[i] = float_to_bf16(host[i]); host[i] = bf16_to_float(bits[i]); }
    floatX* memory = (floatX*)device_from(bits, n * 2);
    free(bits);
    return memory;
}

// an output buffer full of NaN, so that an unwritten element shows
static inline void* device_poisoned(size_t bytes) {
    unsigned char* host = (unsigned char*)malloc(bytes);
    memset(host, 0xff, bytes);
    void* memory = device_from(host, bytes);
    free(host);
    return memory;
}

static inline void* host_from(const void* device, size_t bytes) {
    void* host = malloc(bytes);
    device_download(host, device, bytes, NULL);
    stream_sync(NULL);
    return host;
}

static inline float* floats_from(const floatX* device, size_t n) {
    uint16_t* bits = (uint16_t*)host_from(device, n * 2);
    float* host = (float*)malloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) { host[i] = bf16_to_float(bits[i]); }
    free(bits);
    return host;
}

#endif

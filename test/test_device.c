// The device interface on the CPU: plain memory behind the same promises.
#include "test.h"

#include "device.h"

TEST(device_names_itself) {
    Device device = device_open(0);
    CHECK(!device.is_gpu && device.capability == 0 && device.peak_flops == 0, "the CPU build says it is a GPU");
    CHECK(strlen(device.name) > 0, "no name");
    CHECK(device.cores >= 1, "%d cores", device.cores);
    CHECK(device.memory_bytes > ((size_t)64 << 20), "%zu bytes of memory", device.memory_bytes);
}

TEST(device_memory_is_aligned_and_copies) {
    const size_t sizes[] = {0, 1, 255, 256, 257, 100000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        unsigned char *a = device_malloc(sizes[s]), *b = pinned_malloc(sizes[s]);
        CHECK((uintptr_t)a % 256 == 0, "device_malloc(%zu) is not 256-byte aligned", sizes[s]);
        for (size_t i = 0; i < sizes[s]; i++) { b[i] = (unsigned char)(i * 7 + 1); }
        device_upload(a, b, sizes[s], NULL);
        CHECK(sizes[s] == 0 || memcmp(a, b, sizes[s]) == 0, "upload of %zu bytes", sizes[s]);
        device_zero(a, sizes[s], NULL);
        device_download(b, a, sizes[s], NULL);
        for (size_t i = 0; i < sizes[s]; i++) { CHECK(b[i] == 0, "byte %zu of %zu is %d after device_zero", i, sizes[s], b[i]); }
        device_free(a);
        pinned_free(b);
    }
}

TEST(device_memory_in_use_grows_with_touched_memory) {
    enum { BYTES = 32 << 20 };
    size_t before = device_memory_in_use();
    char* memory = device_malloc(BYTES);
    for (size_t i = 0; i < BYTES; i += 512) { ((volatile char*)memory)[i] = 1; }
    size_t during = device_memory_in_use();
    device_free(memory);
    CHECK(during >= before + BYTES / 2, "%zu bytes before, %zu with 32 MiB more", before, during);
}

TEST(device_events_measure_time) {
    DeviceEvent *from = event_open(), *to = event_open();
    event_record(from, NULL);
    volatile double sum = 0;
    for (int i = 0; i < 3000000; i++) { sum = sum + i; }
    event_record(to, NULL);
    event_wait(to);
    float ms = event_ms(from, to);
    CHECK(ms > 0.1f && ms < 60000, "3 million additions took %g ms", ms);
    CHECK_NEAR(event_ms(to, from), -ms, 1e-3);
    event_close(from);
    event_close(to);
}

TEST_MAIN()

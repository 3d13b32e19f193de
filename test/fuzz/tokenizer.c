// Any bytes as a tokenizer file, its checksum put right.
#include <string.h>
#include <zlib.h>

#include "tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Tokenizer* tokenizer;
    Error err = {0};
    if (size < 8) { return 0; }
    uint8_t* copy = (uint8_t*)xmalloc(size);
    memcpy(copy, data, size);
    uint32_t crc = (uint32_t)crc32(0, copy, (uInt)(size - 4));
    memcpy(copy + size - 4, &crc, 4);
    if (tokenizer_parse(copy, size, &tokenizer, &err)) {
        int ids[64];
        size_t bytes, count = tokenizer_encode(tokenizer, ids, (const char*)data, size < 64 ? size : 64);
        for (size_t i = 0; i < count; i++) { tokenizer_decode(tokenizer, ids[i], &bytes); }
        tokenizer_close(tokenizer);
    } else if (err.code != EXIT_DATA) {
        abort();
    }
    free(copy);
    return 0;
}

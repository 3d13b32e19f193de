// Any bytes as the beginning of a shard, with any file size said for it.
#include <string.h>

#include "shard.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    ShardHeader header;
    Error err = {0};
    int64_t said = (int64_t)size;
    if (size > 8 && data[size - 1] & 1) { memcpy(&said, data + size - 8, sizeof said); }       // as a file system might claim
    bool good = shard_parse_header(data, size < SHARD_HEADER_BYTES ? size : SHARD_HEADER_BYTES, said, &header, &err);
    bool sound = good ? header.tokens >= 0 && header.tokens <= INT32_MAX && SHARD_HEADER_BYTES + header.tokens * header.token_bytes == said
                      : err.code == EXIT_DATA && err.text[0];
    if (!sound) { abort(); }
    return 0;
}

#!/usr/bin/env python3
"""Writes the tokenizer file the trainer reads (--tokenizer FILE): GPT-2's byte-pair encoding and the character classes it needs.

    python3 data/gpt2_tokenizer.py --encoder encoder.json --vocab-bpe vocab.bpe gpt2.tok

Needs nothing but Python. Without the two options OpenAI's files are fetched. The layout of the file is in data/README.md."""
import hashlib
import os
import struct
import urllib.request
import zlib

import common
from common import EXIT_DATA, EXIT_NO_INPUT, EOT_TEXT, ToolError

MAGIC, VERSION = b"MOBATOK\0", 1
CLASSES = ("letter", "number", "space")
UNICODE_TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "unicode.txt")

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"


def fetch(name):
    try:
        with urllib.request.urlopen(BASE_URL + name, timeout=60) as response:
            data = response.read()
    except OSError as error:
        raise ToolError(EXIT_NO_INPUT, f"{BASE_URL + name}: {error} (or name local files: --encoder --vocab-bpe)")
    if hashlib.sha256(data).hexdigest() != common.GPT2_SHA256[name]:
        raise ToolError(EXIT_DATA, f"{BASE_URL + name}: not the file of GPT-2, its sha256 is {hashlib.sha256(data).hexdigest()}")
    return data


def unicode_classes():
    """Version as a number (major << 16 | minor << 8 | update) and, for each class, its ranges (first, last)."""
    ranges = {name: [] for name in CLASSES}
    version = 0
    for line in common.read_bytes(UNICODE_TABLE, "character table").decode().splitlines():
        name, *fields = line.split() or ["#"]
        if name == "version":
            major, minor, update = map(int, fields[0].split("."))
            version = major << 16 | minor << 8 | update
        elif name in ranges:
            for field in fields:
                first, _, last = field.partition("-")
                ranges[name].append((int(first, 16), int(last or first, 16)))
    return version, [ranges[name] for name in CLASSES]


def tokenizer_file(ranks):
    """The bytes of the file for mergeable tokens in order of rank; the end-of-text token takes the id after them."""
    version, classes = unicode_classes()
    tokens = ranks + [EOT_TEXT.encode()]
    texts = b"".join(tokens)
    data = struct.pack("<8s8I", MAGIC, VERSION, len(tokens), len(ranks), *map(len, classes), len(texts), version)
    data += b"".join(struct.pack("<2I", *pair) for ranges in classes for pair in ranges)
    data += struct.pack(f"<{len(tokens)}H", *map(len, tokens)) + texts
    return data + struct.pack("<I", zlib.crc32(data))


def main():
    parser = common.Parser("Writes GPT-2's tokenizer as one file for train_moba --tokenizer FILE.")
    common.add_bpe_options(parser)
    parser.add_argument("out", nargs="?", default="gpt2.tok", help="the file to write")
    options = parser.parse_args()
    common.check_bpe_options(options)
    if options.encoder:
        ranks = common.read_ranks(options)
    else:
        ranks = common.merge_ranks(fetch("vocab.bpe"), fetch("encoder.json"))
    data = tokenizer_file(ranks)
    with common.whole_file(options.out) as file:
        file.write(data)
    print(f"{options.out}: {len(ranks) + 1} tokens, end of text is {len(ranks)}, {len(data)} bytes, CRC-32 {zlib.crc32(data[:-4]):08x}")


if __name__ == "__main__":
    common.run(main)

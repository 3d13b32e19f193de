#!/usr/bin/env python3
"""Turns wiki.test.raw of WikiText-2 into an evaluation shard and its sidecar NAME.json, which holds the figures perplexities are divided by.

    python3 data/wikitext2.py --encoder encoder.json --vocab-bpe vocab.bpe --out wikitext2_hf.bin wiki.test.raw

The join is that of the Hugging Face perplexity recipe (protocol A): rows are the lines of the file, blank ones are empty, and
"\\n\\n" stands between rows. The test set gives 287,644 GPT-2 tokens, one stream without an end-of-text token."""
import hashlib
import io
import os

import common
from common import EXIT_DATA, EXIT_USAGE, ToolError

WIKI_TEST_RAW = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"      # sha256 of the set that published figures are for


def join_hf(text):
    """The rows of the Hugging Face data set wikitext-2-raw-v1, joined as its perplexity recipe does."""
    rows = [line if line.strip() else "" for line in io.StringIO(text, newline="\n")]
    return "\n\n".join(rows)


def read_source(path):
    data = common.read_bytes(path, "WikiText file")
    if b"<unk>" in data:
        raise ToolError(EXIT_DATA, f"WikiText file {path}: it holds <unk>, so it is a .tokens file; expected the raw one, wiki.test.raw")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ToolError(EXIT_DATA, f"WikiText file {path}: byte {error.start} is not UTF-8; expected wiki.test.raw as published")
    if "\r" in text or not text.strip():
        raise ToolError(EXIT_DATA, f"WikiText file {path}: {'CR line ends' if text.strip() else 'no text'}; expected wiki.test.raw as published")
    return data, text


def sidecar(data, text, tokens):
    """What an evaluation divides by: figures of the raw file, not of the joined text."""
    words = len(text.split())
    return {
        "bytes": len(data),
        "words": words + text.count("\n"),             # a line end is a word: <eos> of the word-level models
        "words_without_line_ends": words,
        "join": "hf",
        "documents": [0],                              # token offsets where a context begins anew: the recipe scores one stream
        "tokens": len(tokens),
        "tokenizer": "gpt2",
        "source_sha256": hashlib.sha256(data).hexdigest(),
    }


def main():
    parser = common.Parser("WikiText-2 (raw) to an evaluation shard and its sidecar, joined as the Hugging Face recipe does.")
    common.add_bpe_options(parser)
    parser.add_argument("--out", default="wikitext2_hf.bin", metavar="NAME.bin", help="the shard to write; the sidecar is NAME.json beside it")
    parser.add_argument("source", help="wiki.test.raw")
    options = parser.parse_args()
    name, extension = os.path.splitext(options.out)
    if extension != ".bin":
        raise ToolError(EXIT_USAGE, f"--out: {options.out} does not end in .bin")

    data, text = read_source(options.source)
    encoding = common.gpt2_encoding(options)
    tokens = common.token_array(encoding.n_vocab)
    tokens.extend(encoding.encode_ordinary(join_hf(text)))
    record = sidecar(data, text, tokens)
    common.make_directory(os.path.dirname(options.out))
    common.write_shard(options.out, tokens)
    common.write_json(f"{name}.json", record)
    print(f"{options.out}: {len(tokens)} tokens; {name}.json: {record['bytes']} bytes, {record['words']} words")
    if record["source_sha256"] != WIKI_TEST_RAW:
        print(f"note: {options.source} is not the published test split; its perplexity compares with nothing published")


if __name__ == "__main__":
    common.run(main)

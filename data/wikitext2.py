#!/usr/bin/env python3
"""Turns wiki.test.raw of WikiText-2 into an evaluation shard and its sidecar NAME.json, which holds the figures perplexities are divided by.

    python3 data/wikitext2.py --encoder encoder.json --vocab-bpe vocab.bpe --out wikitext2_hf.bin wiki.test.raw

--protocol a joins as the Hugging Face perplexity recipe does: rows are the lines of the file, blank ones are empty, and "\\n\\n" stands between
rows. The test set gives 287,644 GPT-2 tokens, one stream without an end-of-text token.
--protocol b is the task `wikitext` of lm-evaluation-harness: one document a page, its text detokenised, end-of-text before each; words and bytes are
those of the pages before that."""
import hashlib
import io
import os
import re

import common
import encoders
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


# ---- protocol B ------------------------------------------------------------------------------------------------------------

def is_title(line):
    """' = Name = ', but not ' = = Section = = '"""
    heading = line.replace("= = =", "===").replace("= =", "==").strip()
    return heading.startswith("= ") and heading.endswith(" =")


def pages_of(text):
    """The documents of the harness' data set: each begins at a title. Blank lines before the first title are no page."""
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if is_title(line)]
    pages = ["\n".join(lines[start:end]) for start, end in zip([0] + starts, starts + [len(lines)])]
    return [page for page in pages[:-1] if page.strip()] + pages[-1:]


#                  what the set spaced out, and how a text has it; in this order
DETOKENISED = [
    ("s '", "s'"), (re.compile(r"/' [0-9]/"), r"/'[0-9]/"),
    (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."),
    (" : ", ": "), (" ; ", "; "), (" . ", ". "), (" ! ", "! "), (" ? ", "? "), (" , ", ", "),
    (re.compile(r"\(\s*([^\)]*?)\s*\)"), r"(\1)"), (re.compile(r"\[\s*([^\]]*?)\s*\]"), r"[\1]"), (re.compile(r"{\s*([^}]*?)\s*}"), r"{\1}"),
    (re.compile(r"\"\s*([^\"]*?)\s*\""), r'"\1"'), (re.compile(r"'\s*([^']*?)\s*'"), r"'\1'"),
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" \u00b0 ", "\u00b0"), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
]


def detokenise(page):
    for spaced, plain in DETOKENISED:
        page = page.replace(spaced, plain) if isinstance(spaced, str) else spaced.sub(plain, page)
    return page


# ---- tokens and sidecar ----------------------------------------------------------------------------------------------------

def stream(data, text, encoder, tokens):
    """Protocol A. The sidecar has figures of the raw file, not of the joined text."""
    joined = join_hf(text)
    progress = common.Progress("wikitext2", "characters", len(joined))
    tokens.extend(encoder.encode(joined))              # as a whole: a tokenizer may merge across any border
    progress.add(len(joined))
    progress.close()
    words = len(text.split())
    return {
        "bytes": len(data),
        "words": words + text.count("\n"),             # a line end is a word: <eos> of the word-level models
        "words_without_line_ends": words,
        "join": "hf",
        "documents": [0],                              # token offsets where a context begins anew: the recipe scores one stream
    }


def documents(text, encoder, tokens):
    """Protocol B."""
    pages, starts = pages_of(text), []
    progress = common.Progress("wikitext2", "pages", len(pages))
    for page in pages:
        starts.append(len(tokens))
        tokens.append(encoder.eot)
        tokens.extend(encoder.encode(detokenise(page)))
        progress.add(1)
    progress.close()
    return {
        "bytes": sum(len(page.encode()) for page in pages),
        "words": sum(len(re.split(r"\s+", page)) for page in pages),
        "join": "documents",
        "documents": starts,
    }


def main():
    parser = common.Parser("WikiText-2 (raw) to an evaluation shard and its sidecar.")
    encoders.add_options(parser)
    parser.add_argument("--protocol", choices=("a", "b"), default="a",
                        help="a: Hugging Face's perplexity recipe, b: lm-evaluation-harness' task wikitext")
    parser.add_argument("--out", metavar="NAME.bin",
                        help="the shard to write; the sidecar is NAME.json beside it (default: wikitext2_hf.bin, wikitext2_b.bin)")
    parser.add_argument("source", help="wiki.test.raw")
    options = parser.parse_args()
    out = options.out or ("wikitext2_hf.bin" if options.protocol == "a" else "wikitext2_b.bin")
    name, extension = os.path.splitext(out)
    if extension != ".bin":
        raise ToolError(EXIT_USAGE, f"--out: {out} does not end in .bin")

    data, text = read_source(options.source)
    encoder = encoders.open_encoder(options)
    tokens = common.token_array(encoder.vocab)
    record = stream(data, text, encoder, tokens) if options.protocol == "a" else documents(text, encoder, tokens)
    record |= {"tokens": len(tokens), "tokenizer": encoder.name, "vocab": encoder.vocab, "source_sha256": hashlib.sha256(data).hexdigest()}
    common.make_directory(os.path.dirname(out))
    common.write_shard(out, tokens)
    common.write_json(f"{name}.json", record)
    print(f"{out}: {len(tokens)} tokens; {name}.json: {record['bytes']} bytes, {record['words']} words")
    if record["source_sha256"] != WIKI_TEST_RAW:
        print(f"note: {options.source} is not the published test split; its perplexity compares with nothing published")


if __name__ == "__main__":
    common.run(main)

#!/usr/bin/env python3
"""Tokenizes FineWeb-Edu, or any documents in such files, into training shards: GPT-2's byte-pair encoding, or any tokenizers JSON file.

    python3 data/fineweb_edu.py --version 10B                          streamed from the Hugging Face hub (pip install datasets)
    python3 data/fineweb_edu.py --out shards sample/10BT/*.parquet     from files (.parquet .jsonl .jsonl.gz .jsonl.zst) or folders
    python3 data/fineweb_edu.py --out shards --name mine --tokenizer tokenizer.json --field body my_documents.jsonl.zst

An end-of-text token stands before each document; documents run on from one shard into the next. The first shard is for validation.
The shards depend on the documents and --shard-size alone, not on --processes. Run again after a stop, it goes on behind the last
whole shard: fineweb_edu.json in the output folder says where each ended."""
import collections
import concurrent.futures
import gzip
import hashlib
import io
import json
import os
import signal
import sys
import time

import common
import encoders
from common import EXIT_DATA, EXIT_INTERNAL, EXIT_NO_INPUT, EXIT_NO_OUTPUT, EXIT_USAGE, ToolError

DATASET = "HuggingFaceFW/fineweb-edu"
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")
BATCH_CHARACTERS = 1 << 18                             # of text a process takes at once


# ---- documents --------------------------------------------------------------------------------------------------------

def need_pyarrow(path, kind):
    try:
        import pyarrow
        return pyarrow
    except ImportError:
        raise ToolError(EXIT_NO_INPUT, f"{path}: reading {kind} needs the Python package pyarrow: pip install pyarrow")


def parquet_texts(path, field):
    need_pyarrow(path, "Parquet")
    import pyarrow.parquet
    file = pyarrow.parquet.ParquetFile(path)
    if field not in file.schema_arrow.names:
        raise ToolError(EXIT_DATA, f"{path}: no column '{field}', it has {', '.join(file.schema_arrow.names)} (see --field)")
    for batch in file.iter_batches(batch_size=1024, columns=[field]):
        yield from batch.column(0).to_pylist()


def zstd_lines(path):
    """By Arrow, which notices a file that was cut and reads frame after frame."""
    return io.TextIOWrapper(need_pyarrow(path, ".zst").input_stream(path, compression="zstd"), encoding="utf-8", newline="\n")


def open_lines(path):
    if path.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    if path.endswith(".zst"):
        return zstd_lines(path)
    return open(path, encoding="utf-8", newline="\n")


def jsonl_texts(path, field):
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)[field]
            except (ValueError, KeyError, TypeError) as error:
                raise ToolError(EXIT_DATA, f"{path}: line {number} is not a JSON object with '{field}' ({error})")


def file_texts(path, field):
    """The documents of one file; whatever is wrong with it ends in one sentence that names it."""
    try:
        for row, text in enumerate(parquet_texts(path, field) if path.endswith(".parquet") else jsonl_texts(path, field), 1):
            if not isinstance(text, str):
                raise ToolError(EXIT_DATA, f"{path}: '{field}' of document {row} is {type(text).__name__}, expected text")
            yield text
    except ToolError:
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise ToolError(EXIT_NO_INPUT, f"{path}: {error.strerror}")
    except Exception as error:                         # gzip, zstd, Arrow and UTF-8 each have their own
        raise ToolError(EXIT_DATA, f"{path}: damaged or not {os.path.splitext(path)[1]} ({' '.join(str(error).split())})")


def streamed_texts(options):
    try:
        import datasets
    except ImportError:
        raise ToolError(EXIT_NO_INPUT, "streaming needs the Python package datasets (pip install datasets); or name local files")
    try:
        for row in datasets.load_dataset(DATASET, name=f"sample-{options.version}T", split="train", streaming=True):
            yield row[options.field]
    except Exception as error:                         # whatever its HTTP library raises
        raise ToolError(EXIT_NO_INPUT, f"{DATASET}: streaming stopped ({type(error).__name__}: {error}); the same command goes on from here")


def input_files(names):
    """Files as they are named, folders as the files in them in order of path."""
    files = []
    for name in names:
        if os.path.isdir(name):
            found = [os.path.join(folder, file) for folder, _, inside in os.walk(name) for file in inside if file.endswith(SUFFIXES)]
            if not found:
                raise ToolError(EXIT_NO_INPUT, f"{name}: no file in it ends in {' '.join(SUFFIXES)}")
            files += sorted(found)
        elif not name.endswith(SUFFIXES):
            raise ToolError(EXIT_USAGE, f"{name}: expected a folder or a file that ends in {' '.join(SUFFIXES)}")
        elif not os.path.isfile(name):
            raise ToolError(EXIT_NO_INPUT, f"{name}: no such file")
        else:
            files.append(name)
    return files


# ---- tokens -----------------------------------------------------------------------------------------------------------

def encode(texts, encoder):
    """Texts to token arrays, each with the end-of-text token before it."""
    documents = []
    for text in texts:
        tokens = common.token_array(encoder.vocab)
        tokens.append(encoder.eot)
        tokens.extend(encoder.encode(text))
        documents.append(tokens)
    return documents


def start_process(options):
    signal.signal(signal.SIGINT, signal.SIG_IGN)       # the main process stops the others
    start_process.encoder = encoders.open_encoder(options)


def encode_in_process(texts):
    return encode(texts, start_process.encoder)


def batched(texts):
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encoded(texts, encoder, options):
    """Token arrays in the order of the texts, by so many processes; few batches are under way, so memory stays bounded."""
    if options.processes == 1:
        for batch in batched(texts):
            yield from encode(batch, encoder)
        return
    pool = concurrent.futures.ProcessPoolExecutor(options.processes, initializer=start_process, initargs=(options,))
    under_way = collections.deque()
    try:
        for batch in batched(texts):
            under_way.append(pool.submit(encode_in_process, batch))
            if len(under_way) > 3 * options.processes:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    except concurrent.futures.BrokenExecutor:
        raise ToolError(EXIT_INTERNAL, "a tokenizing process was killed (out of memory?); the same command goes on behind the last whole shard")
    finally:
        pool.shutdown(cancel_futures=True)


# ---- shards -----------------------------------------------------------------------------------------------------------

def shard_name(name, index):
    return f"{name}_{'train' if index else 'val'}_{index:06d}.bin"


class Shards:
    """The shards of an output folder and the record of where in the documents each ends."""

    def __init__(self, folder, made_from, name):
        self.name = name
        self.folder, self.record_path = folder, os.path.join(folder, "fineweb_edu.json")
        self.record = {"made_from": made_from, "finished": False, "shards": []}
        common.make_directory(folder)
        if os.path.exists(self.record_path):
            self.resume(made_from)
        elif any(file.startswith(f"{name}_") and file.endswith(".bin") for file in os.listdir(folder)):
            raise ToolError(EXIT_NO_OUTPUT, f"{folder}: it holds shards this tool did not make (no fineweb_edu.json); give another --out")
        common.write_json(self.record_path, self.record)             # before any shard, so that a folder of shards always has it

    def resume(self, made_from):
        try:
            record = json.loads(common.read_bytes(self.record_path, "record"))
            differing = sorted(key for key in {**record["made_from"], **made_from} if record["made_from"].get(key) != made_from.get(key))
            shards = [dict(shard, next_document=int(shard["next_document"]), next_token=int(shard["next_token"])) for shard in record["shards"]]
            finished = bool(record["finished"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ToolError(EXIT_DATA, f"{self.record_path}: damaged; remove {self.folder} or give another --out")
        if differing:
            raise ToolError(EXIT_USAGE, f"{self.folder}: its shards were made with another {', '.join(differing)}; give another --out")
        whole = [self.is_whole(index, shard) for index, shard in enumerate(shards)] + [False]
        self.record["shards"] = shards[:whole.index(False)]
        self.record["finished"] = finished and all(whole[:-1])

    def is_whole(self, index, shard):
        try:
            return common.check_shard(os.path.join(self.folder, shard_name(self.name, index))) == shard["tokens"]
        except ToolError:
            return False

    def position(self):
        """Where the next shard begins: (document, token in it)."""
        last = self.record["shards"][-1] if self.record["shards"] else {"next_document": 0, "next_token": 0}
        return last["next_document"], last["next_token"]

    def count(self):
        return len(self.record["shards"])

    def write(self, tokens, next_document, next_token):
        name = shard_name(self.name, self.count())
        common.write_shard(os.path.join(self.folder, name), tokens)
        self.record["shards"].append({"file": name, "tokens": len(tokens), "next_document": next_document, "next_token": next_token})
        common.write_json(self.record_path, self.record)
        print(f"{os.path.join(self.folder, name)}: {len(tokens)} tokens", flush=True)

    def finish(self):
        self.record["finished"] = True
        common.write_json(self.record_path, self.record)


def skip(texts, count):
    """Leaves out the documents that whole shards hold already."""
    for done in range(count):
        if next(texts, None) is None:
            raise ToolError(EXIT_DATA, f"the input ends after {done} documents, but the shards already hold {count} (other input?)")
    return texts


def say_rate(progress, options):
    sentence, processes = progress.close(), options.processes
    each = progress.done / max(time.monotonic() - progress.start, 1e-3) / processes
    print(f"{sentence}" + (f", {each:,.0f} a process of {processes}" if processes > 1 else ""), file=sys.stderr)


def write_shards(shards, texts, encoder, options):
    document, used = shards.position()                 # the document at hand, and how many of its tokens are in shards already
    pending = None
    progress = common.Progress("tokenizing", "tokens")
    for tokens in encoded(skip(texts, document), encoder, options):
        pending = tokens[:0] if pending is None else pending          # an empty array of the same type
        while used < len(tokens):
            taken = min(len(tokens) - used, options.shard_size - len(pending))
            pending.extend(tokens[used:used + taken])
            used += taken
            progress.add(taken)
            if len(pending) == options.shard_size:
                shards.write(pending, document, used)
                del pending[:]
                if shards.count() == options.shards:
                    say_rate(progress, options)
                    return
        document, used = document + 1, 0
    if pending:
        shards.write(pending, document, 0)
    if shards.count() == 0:
        raise ToolError(EXIT_DATA, "the input holds no document, so there is no shard")
    shards.finish()
    say_rate(progress, options)


# ---- command line -----------------------------------------------------------------------------------------------------

def parse_options():
    parser = common.Parser("FineWeb-Edu, or other documents, to token shards for training: llm.c's format and file names; "
                           "the first shard is for validation.")
    parser.add_argument("inputs", nargs="*",
                        help=f"files ({' '.join(SUFFIXES)}) or folders of them; none: {DATASET} is streamed from the Hugging Face hub")
    parser.add_argument("--version", choices=["10B", "100B"], default="10B", help="the sample to stream")
    parser.add_argument("--out", metavar="DIR", help="output folder (default: edu_fineweb and the version)")
    parser.add_argument("--shard-size", type=common.whole_number(1, 2**31 - 1), default=10**8, metavar="TOKENS", help="tokens of a shard")
    parser.add_argument("--shards", type=common.whole_number(0), default=0, metavar="N", help="stop when there are N shards (0: all)")
    parser.add_argument("--processes", type=common.whole_number(1, 1024), default=max(1, (os.cpu_count() or 1) - 1), metavar="N",
                        help="tokenizing processes")
    parser.add_argument("--field", default="text", help="column or key that holds the text")
    parser.add_argument("--name", default="edu_fineweb", help="shards are called NAME_val_000000.bin, NAME_train_000001.bin, ...")
    encoders.add_options(parser)
    options = parser.parse_args()
    options.out = options.out or f"edu_fineweb{options.version}"
    if os.path.basename(options.name) != options.name or not options.name:
        raise ToolError(EXIT_USAGE, f"--name: '{options.name}' is no part of a file name; folders go into --out")
    encoders.check_options(options)
    return options


def origin(options, files):
    """All that decides what the shards hold; a folder of shards is continued only where it is the same."""
    source = [[os.path.basename(file), os.path.getsize(file)] for file in files] if files else f"{DATASET} sample-{options.version}T"
    record = {"source": source, "field": options.field, "shard_size": options.shard_size}
    sha256 = lambda path, what: hashlib.sha256(common.read_bytes(path, what)).hexdigest()
    if options.tokenizer == "byte":
        return {**record, "tokenizer": "byte"}
    if options.tokenizer != "gpt2":
        return {**record, "tokenizer_sha256": sha256(options.tokenizer, "tokenizer"), "eot": options.eot}
    return {**record, "merges_sha256": sha256(options.vocab_bpe, "merges") if options.vocab_bpe else common.GPT2_SHA256["vocab.bpe"]}


def main():
    options = parse_options()
    files = input_files(options.inputs)
    shards = Shards(options.out, origin(options, files), options.name)
    if shards.record["finished"] or 0 < options.shards <= shards.count():
        print(f"{options.out}: all {shards.count()} shards are there")
        return
    if shards.count() > 0:
        print(f"{options.out}: {shards.count()} whole shards are there, going on behind them", flush=True)
    encoder = encoders.open_encoder(options)
    texts = (text for file in files for text in file_texts(file, options.field)) if files else streamed_texts(options)
    write_shards(shards, texts, encoder, options)
    if options.tokenizer != "gpt2":
        print(f"train with --vocab {encoder.vocab}")
    if shards.count() < 2:
        print(f"note: {shards.count()} shard, for validation, none to train on; a smaller --shard-size makes more", file=sys.stderr)


if __name__ == "__main__":
    common.run(main)

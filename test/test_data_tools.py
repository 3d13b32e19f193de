#!/usr/bin/env python3
# long: half a minute
"""The data tools as a user runs them: tokenizer file, C tokenizer against tiktoken, WikiText-2, FineWeb-Edu."""
import array
import functools
import gzip
import hashlib
import importlib.util
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import unicodedata
import zlib

from tool_test import ROOT, TEMPORARY, Skip, case, check, contents, equal, fresh, kit, package, read, run_cases, tool, write
import common
import gpt2_tokenizer


# ---- vocabularies -----------------------------------------------------------------------------------------------------

@functools.lru_cache(None)
def small_bpe():
    """A vocabulary of GPT-2's form with a few merges: (options, ranks)."""
    stand_in = {byte: character for character, byte in common.byte_alphabet().items()}
    tokens = [bytes([byte]) for byte in common.byte_alphabet().values()]
    merges = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the"), (b"i", b"n"), (b"'", b"s"),
              (b" ", b" "), (b"e", b"r"), (b"\xc3", b"\xa9"), (b"1", b"2"), (b"a", b"a")]
    spell = lambda token: "".join(stand_in[byte] for byte in token)
    tokens += [left + right for left, right in merges]
    ids = {spell(token): number for number, token in enumerate(tokens)}
    ids[common.EOT_TEXT] = len(tokens)
    vocab = write("vocab.bpe", "#version: 0.2\n" + "".join(f"{spell(left)} {spell(right)}\n" for left, right in merges))
    return ("--encoder", write("encoder.json", json.dumps(ids)), "--vocab-bpe", vocab), tokens


def gpt2_bpe():
    return "--encoder", kit("gpt2-bpe/encoder.json"), "--vocab-bpe", kit("gpt2-bpe/vocab.bpe")


def tiktoken_of(bpe):
    package("tiktoken")
    import argparse
    return common.gpt2_encoding(argparse.Namespace(encoder=bpe[1], vocab_bpe=bpe[3]))


@functools.lru_cache(None)
def tokenizer_of(bpe):
    out = fresh("tokenizer.tok")
    tool("gpt2_tokenizer", *bpe, out)
    return out


@functools.lru_cache(None)
def tokenize_program():
    program = os.path.join("build", "data", "tokenize")
    made = subprocess.run(["make", "-s", program], cwd=ROOT, capture_output=True, text=True)
    check(made.returncode == 0, f"make {program} failed: {made.stderr.strip()[-300:]}")
    return os.path.join(ROOT, program)


def tokenize(bpe, *arguments):
    """Runs the C program; returns the shard's path."""
    out = fresh("c.bin")
    done = subprocess.run([tokenize_program(), "--tokenizer", tokenizer_of(bpe), "--out", out, *arguments], capture_output=True, text=True)
    equal(done.returncode, 0, f"exit status of tokenize ({done.stderr.strip()[-300:]})")
    return out


# ---- gpt2_tokenizer.py --------------------------------------------------------------------------------------------------

@case
def tokenizer_file_has_the_documented_layout():
    bpe, tokens = small_bpe()
    data = read(tokenizer_of(bpe))
    magic, version, vocab, eot, letters, numbers, spaces, token_bytes, unicode_version = struct.unpack_from("<8s8I", data)
    equal((magic, version, vocab, eot), (b"MOBATOK\0", 1, len(tokens) + 1, len(tokens)), "header")
    equal(unicode_version, 16 << 16, "Unicode version")
    at = 40
    ranges = [struct.unpack_from("<2I", data, at + 8 * i) for i in range(letters + numbers + spaces)]
    check(ranges[0] == (ord("A"), ord("Z")) and ranges[letters] == (ord("0"), ord("9")) and ranges[letters + numbers] == (9, 13), "first ranges")
    at += 8 * len(ranges)
    lengths = struct.unpack_from(f"<{vocab}H", data, at)
    at += 2 * vocab
    equal(sum(lengths), token_bytes, "sum of the lengths")
    for length, token in zip(lengths, tokens + [b"<|endoftext|>"]):
        equal(data[at:at + length], token, "token")
        at += length
    equal((at + 4, struct.unpack_from("<I", data, at)[0]), (len(data), zlib.crc32(data[:at])), "end and CRC-32")


@case
def tokenizer_file_from_wrong_sources_is_refused():
    (_, encoder, _, vocab), _ = small_bpe()
    out = fresh("never.tok")
    tool("gpt2_tokenizer", "--encoder", encoder, out, status=64)
    tool("gpt2_tokenizer", "--encoder", encoder, "--vocab-bpe", vocab + ".missing", out, status=66)
    tool("gpt2_tokenizer", "--encoder", vocab, "--vocab-bpe", encoder, out, status=65)
    shorter = write("vocab.bpe", read(vocab)[:-4])
    check("disagree" in tool("gpt2_tokenizer", "--encoder", encoder, "--vocab-bpe", shorter, out, status=65), "no word of disagreement")
    tool("gpt2_tokenizer", "--encoder", encoder, "--vocab-bpe", vocab, os.path.join(TEMPORARY, "no", "such", "folder.tok"), status=73)
    check(not os.path.exists(out), "a refused source left a file")


def table_classes():
    classes = bytearray(0x110000)
    for number, ranges in enumerate(gpt2_tokenizer.unicode_classes()[1], 1):
        for first, last in ranges:
            check(not any(classes[first:last + 1]), f"U+{first:04X} is in two classes")
            classes[first:last + 1] = bytes([number]) * (last + 1 - first)
    return classes


@case
def unicode_table_agrees_with_python():
    classes = table_classes()
    for c in range(0x110000):
        category = unicodedata.category(chr(c))
        if category == "Cn" and tuple(map(int, unicodedata.unidata_version.split("."))) < (16, 0, 0):
            continue                                   # not assigned yet in this Python's Unicode
        space = chr(c).isspace() and not 0x1c <= c <= 0x1f          # str.isspace adds four separators that are not White_Space
        equal(classes[c], 3 if space else {"L": 1, "N": 2}.get(category[0], 0), f"class of U+{c:04X}")


@case
def unicode_table_agrees_with_tiktoken():
    package("tiktoken")
    import tiktoken
    classes = table_classes()
    everything = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    for number, pattern in enumerate((r"\p{L}", r"\p{N}", r"\s"), 1):
        # what a pattern does not match is left out of the encoding, so that the matches alone come back
        engine = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={})
        matched = bytes(engine.encode_ordinary("".join(map(chr, everything)))).decode()
        equal([c for c in everything if classes[c] == number], list(map(ord, matched)), f"characters of {pattern}")


# ---- the C tokenizer against tiktoken -----------------------------------------------------------------------------------

def check_same_tokens(bpe, text, what):
    expected = tiktoken_of(bpe).encode_ordinary(text)
    found = list(common.read_shard(tokenize(bpe, "--no-eot", write("text.txt", text))))
    where = next((i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), min(len(found), len(expected)))
    check(found == expected, f"{what}: {len(found)} and {len(expected)} tokens differ first at {where}: "
                             f"{found[where:where + 8]}, tiktoken {expected[where:where + 8]}")


def random_text(seed, count):
    draw = random.Random(seed)
    kinds = [lambda: draw.choice("'  \n\t stdrevml"), lambda: chr(draw.randrange(32, 127)),
             lambda: draw.choice("\x85\xa0\u2003\u3000\x1c\u200bé٣Ⅷ"),
             lambda: chr(draw.choice([draw.randrange(0x80, 0xd800), draw.randrange(0xe000, 0x110000)])),
             lambda: draw.choice([" the", "the", "in", "aa", "er"])]
    return "".join(draw.choice(kinds)() for _ in range(count))


@case
def c_tokenizer_equals_tiktoken_on_random_text():
    for seed in range(3):
        check_same_tokens(small_bpe()[0], random_text(seed, 50000), f"small vocabulary, seed {seed}")


@case
def c_tokenizer_equals_tiktoken_on_long_words():
    bpe = small_bpe()[0]
    for word in ("a" * 100001, "the" * 50000, " " * 70000 + "x", "x" + " " * 70000, "12" * 40000, "\n" * 5001 + " in"):
        check_same_tokens(bpe, word, f"{len(word)} times {word[:3]!r}")


@case
def c_tokenizer_equals_tiktoken_on_random_text_with_gpt2():
    for seed in range(3):
        check_same_tokens(gpt2_bpe(), random_text(seed, 100000), f"GPT-2, seed {seed}")


@case
def c_tokenizer_equals_tiktoken_on_real_text():
    for path in ("wikitext-2/wiki.test.raw", "wikitext-2/wiki.valid.tokens", "fineweb-edu/fineweb_edu_sample_1MB.txt"):
        check_same_tokens(gpt2_bpe(), read(kit(path)).decode(), path)


@case
def tokenize_reproduces_the_shards_of_the_kit():
    fineweb = tokenize(gpt2_bpe(), kit("fineweb-edu/fineweb_edu_sample_1MB.txt"))
    equal(common.check_shard(fineweb), 217889, "tokens of the FineWeb-Edu sample")
    check(read(fineweb) == read(kit("fineweb-edu/fineweb_edu_sample_1MB.gpt2.bin")), "the FineWeb-Edu sample's shard differs from the kit's")
    import lzma
    for name in ("openstax_ccby_val", "eltec_eng_val"):            # several documents in a file
        text = write("corpus.txt", lzma.decompress(read(kit(f"corpus/{name}.txt.xz"))))
        check(read(tokenize(gpt2_bpe(), text)) == read(kit(f"corpus/{name}.gpt2.bin")), f"the shard of {name} differs from the kit's")


@case
def tokenize_splits_documents_at_end_of_text_lines():
    bpe, tokens = small_bpe()
    eot, ids = len(tokens), lambda text: [tokens.index(bytes([byte])) for byte in text]
    shard = tokenize(bpe, write("two.txt", "x\n<|endoftext|>\ny\n"), write("one.txt", "z\n"))
    equal(list(common.read_shard(shard)), [eot] + ids(b"x") + [eot] + ids(b"y") + [eot] + ids(b"z\n"), "tokens")
    shard = tokenize(bpe, write("three.txt", "<|endoftext|>\nx\n<|endoftext|>\n<|endoftext|>\ny\n<|endoftext|>"))
    equal(list(common.read_shard(shard)), [eot] + ids(b"x") + [eot] + ids(b"y"), "tokens between separators before, doubled and behind")
    out = fresh("never.bin")
    for arguments, status in ((["--out", out, TEMPORARY + "/missing.txt"], 66), (["--out", out, write("empty.txt", "")], 65),
                              (["--out", out, write("none.txt", "<|endoftext|>\n")], 65),
                              (["--out", out], 64), (["--tokenizer", write("bad.tok", b"MOBATOK"), "--out", out, __file__], 65),
                              (["--colour", "x"], 64)):
        equal(subprocess.run([tokenize_program(), *arguments], capture_output=True).returncode, status, f"exit status of tokenize {arguments}")
    check(not os.path.exists(out) and not os.path.exists(out + ".tmp"), "a refused input left a file")


# ---- shards -----------------------------------------------------------------------------------------------------------

@case
def shard_files_of_both_kinds_come_back():
    for kind, magic, version in (("H", 20240520, 1), ("I", 20240801, 7)):
        path = fresh("kind.bin")
        common.write_shard(path, array.array(kind, [1, 2, 65535]))
        equal(struct.unpack("<256i", read(path)[:1024]), (magic, version, 3) + (0,) * 253, "header")
        equal(list(common.read_shard(path)), [1, 2, 65535], "tokens")
        for damaged in (read(path)[:-1], read(path)[:1023], read(path) + b"\0", b"\0" + read(path)[1:], b""):
            try:
                common.check_shard(write("damaged.bin", damaged))
            except common.ToolError as error:
                equal(error.code, 65, "code of a damaged shard")
            else:
                check(False, f"a damaged shard of {len(damaged)} bytes was accepted")
    equal((common.token_array(65536).typecode, common.token_array(65537).typecode), ("H", "I"), "array types")


# ---- wikitext2.py -------------------------------------------------------------------------------------------------------

@case
def wikitext2_reproduces_the_hugging_face_join():
    package("tiktoken")
    source, out = kit("wikitext-2/wiki.test.raw"), fresh("wikitext2.bin")
    tool("wikitext2", *gpt2_bpe(), "--out", out, source)
    check(read(out) == read(kit("wikitext-2/wiki.test.raw.hfjoin.gpt2.bin")), "the shard differs from the kit's")
    expected = {"bytes": 1290590, "words": 245569, "words_without_line_ends": 241211, "join": "hf",
                "documents": [0], "tokens": 287644, "tokenizer": "gpt2", "vocab": 50257,
                "source_sha256": hashlib.sha256(read(source)).hexdigest()}
    equal(json.loads(read(out[:-4] + ".json")), expected, "sidecar")


@case
def wikitext2_joins_rows_by_hand():
    import wikitext2
    equal(wikitext2.join_hf(" \n = A = \n \n b\u2028c \n"), "\n\n = A = \n\n\n\n\n b\u2028c \n", "join of four rows, two of them blank")


@case
def wikitext2_refuses_other_files():
    package("tiktoken")
    bpe, out = small_bpe()[0], fresh("never.bin")
    for text, word in ((" a <unk> b \n", "<unk>"), (b"\xff\n", "UTF-8"), ("a\r\n", "CR"), ("\n", "no text")):
        check(word in tool("wikitext2", *bpe, "--out", out, write("wiki.txt", text), status=65), f"no word of {word}")
    tool("wikitext2", *bpe, "--out", out, "missing", status=66)
    tool("wikitext2", *bpe, "--out", out + "x", write("wiki.txt", "a\n"), status=64)
    check(not os.path.exists(out), "a refused source left a file")


# ---- fineweb_edu.py -----------------------------------------------------------------------------------------------------

@functools.lru_cache(None)
def documents():
    draw = random.Random(5)
    texts = [random_text(i, draw.choice([0, 1, 40, 400, 4000])) for i in range(600)]
    return [text.encode("utf-8", "replace").decode() for text in texts]


@functools.lru_cache(None)
def documents_file():
    return write("documents.jsonl", "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(documents())))


@functools.lru_cache(None)
def reference_shards():
    """One process, never interrupted: what every other way must reproduce."""
    package("tiktoken")
    out = fresh("reference")
    tool("fineweb_edu", *small_bpe()[0], "--out", out, "--shard-size", "1e5", "--processes", 1, documents_file())
    return contents(out)


@case
def fineweb_edu_puts_end_of_text_before_each_document():
    shards = reference_shards()
    names = [name for name in shards if name.endswith(".bin")]
    equal(sorted(names, key=lambda name: name[-10:]),
          ["edu_fineweb_val_000000.bin"] + [f"edu_fineweb_train_{i:06d}.bin" for i in range(1, len(names))], "names")
    check(len(names) > 5, f"only {len(names)} shards")
    found = []
    for i, name in enumerate(sorted(names, key=lambda name: name[-10:])):
        tokens = common.read_shard(write(name, shards[name]))
        check(len(tokens) == 100000 or i == len(names) - 1, f"{name} has {len(tokens)} tokens")
        found += tokens
    encoding = tiktoken_of(small_bpe()[0])
    equal(found, [token for text in documents() for token in [encoding.eot_token] + encoding.encode_ordinary(text)], "tokens")


@case
def fineweb_edu_is_the_same_for_any_number_of_processes():
    expected = reference_shards()
    for processes in (2, 5):
        out = fresh("shards")
        tool("fineweb_edu", *small_bpe()[0], "--out", out, "--shard-size", 100000, "--processes", processes, documents_file())
        check(contents(out) == expected, f"{processes} processes wrote other shards")


def check_same_shards(source, what):
    expected, out = reference_shards(), fresh("shards")
    tool("fineweb_edu", *small_bpe()[0], "--out", out, "--shard-size", 100000, "--processes", 2, source)
    check({**contents(out), "fineweb_edu.json": b""} == {**expected, "fineweb_edu.json": b""}, f"{what}: other shards")


@case
def fineweb_edu_reads_gzip_and_folders():
    lines = read(documents_file()).splitlines(keepends=True)
    folder = fresh("folder")
    os.makedirs(os.path.join(folder, "a", "deep"))
    for path, part in (("b.jsonl", lines[450:]), ("a/deep/x.jsonl.gz", lines[:200]), ("a/y.jsonl", lines[200:450])):
        with open(os.path.join(folder, path), "wb") as file:
            file.write(gzip.compress(b"".join(part)) if path.endswith(".gz") else b"".join(part))
    check_same_shards(folder, "a folder of three files")


@case
def fineweb_edu_reads_zstd():
    package("pyarrow")
    import pyarrow
    lines = read(documents_file()).splitlines(keepends=True)
    frames = []
    for part in (lines[:300], lines[300:]):            # as concatenated files have them
        buffer = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(buffer, "zstd") as stream:
            stream.write(b"".join(part))
        frames.append(buffer.getvalue().to_pybytes())
    whole = b"".join(frames)
    check_same_shards(write("documents.jsonl.zst", whole), "zstd")
    for cut in (whole[:-9], whole[:-1], whole[:len(whole) // 3], whole[:3], b"\x28" + whole[:-9], b'{"text": "plain"}\n'):
        said = tool("fineweb_edu", *small_bpe()[0], "--out", fresh("never"), "--processes", 1, write("cut.jsonl.zst", cut), status=65)
        check("cut.jsonl.zst" in said, "the damaged file was not named")


def json_tokenizer(tokens, special):
    """A word-level tokenizers JSON file with so many tokens; the special ones come last."""
    package("tokenizers")
    import tokenizers
    words = {f"w{i}": i for i in range(tokens)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({**words, "[UNK]": tokens}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(special)
    path = fresh("tokenizer.json")
    made.save(path)
    return path


@case
def fineweb_edu_takes_any_tokenizer_with_ids_of_16_or_32_bits():
    texts = write("words.jsonl", "".join(json.dumps({"body": f"w{i} w{i + 1} what"}) + "\n" for i in range(50)))
    for tokens, kind in ((1000, "H"), (70000, "I")):
        eot, out, again = tokens + 1, fresh("shards"), fresh("shards")
        options = ["--tokenizer", json_tokenizer(tokens, ["</s>"]), "--field", "body", "--shard-size", 60, "--name", "mine"]
        said = tool("fineweb_edu", *options, "--out", out, "--processes", 1, texts)
        check(f"--vocab {tokens + 2}" in said, f"the vocabulary was not named: {said!r}")
        names = ["mine_val_000000.bin", "mine_train_000001.bin", "mine_train_000002.bin", "mine_train_000003.bin"]
        shards = [common.read_shard(os.path.join(out, name)) for name in names]
        equal([shard.typecode for shard in shards], [kind] * 4, "array types")
        equal([token for shard in shards for token in shard], [token for i in range(50) for token in (eot, i, i + 1, tokens)], "tokens")
        tool("fineweb_edu", *options, "--out", again, "--processes", 3, texts)
        check(contents(again) == contents(out), "a second run wrote other bytes")
        options[1] = json_tokenizer(tokens + 1, ["</s>"])
        check("tokenizer_sha256" in tool("fineweb_edu", *options, "--out", out, texts, status=64), "shards of another tokenizer were continued")


@case
def fineweb_edu_names_what_is_wrong_with_a_tokenizer():
    package("tokenizers")
    texts = write("words.jsonl", b'{"text": "w1"}\n')
    run = lambda status, *options: tool("fineweb_edu", "--out", fresh("never"), "--processes", 1, *options, texts, status=status)
    check("--eot" in run(64, "--tokenizer", json_tokenizer(9, ["<pad>"])), "it did not ask for --eot")
    check("<stop>" in run(64, "--tokenizer", json_tokenizer(9, ["<pad>"]), "--eot", "<stop>"), "the missing token was not named")
    run(0, "--tokenizer", json_tokenizer(9, ["<pad>"]), "--eot", "<pad>")
    run(65, "--tokenizer", write("bad.json", "{}"))
    run(66, "--tokenizer", fresh("missing.json"))
    run(64, "--tokenizer", json_tokenizer(9, ["</s>"]), *small_bpe()[0])
    run(64, "--eot", "</s>", *small_bpe()[0])
    run(64, "--name", "a/b", *small_bpe()[0])


@case
def wikitext2_takes_any_tokenizer():
    out, source = fresh("wikitext2.bin"), write("wiki.txt", " w1 = w2 \n \n w3 \n")
    tool("wikitext2", "--tokenizer", json_tokenizer(70000, ["</s>"]), "--out", out, source)
    equal(list(common.read_shard(out)), [1, 70000, 2, 3], "tokens")
    sidecar = json.loads(read(out[:-4] + ".json"))
    check(sidecar["tokenizer"].endswith("tokenizer.json") and sidecar["bytes"] == len(read(source)), f"the sidecar is {sidecar}")


@case
def fineweb_edu_says_how_fast_it_was():
    package("tiktoken")
    said = tool("fineweb_edu", *small_bpe()[0], "--out", fresh("shards"), "--processes", 2, documents_file())
    check(" tokens/s, " in said and " a process of 2" in said, f"no rate in {said!r}")


@case
def fineweb_edu_reads_parquet():
    package("tiktoken")
    package("pyarrow")
    import pyarrow
    import pyarrow.parquet
    path = fresh("documents.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(600)), "text": documents()}), path, row_group_size=128)
    check_same_shards(path, "Parquet")
    said = tool("fineweb_edu", *small_bpe()[0], "--out", fresh("never"), "--field", "body", path, status=65)
    check("id, text" in said, "the columns there are were not named")


@case
def fineweb_edu_goes_on_behind_whole_shards():
    expected = reference_shards()
    out = fresh("shards")
    run = lambda *more, **how: tool("fineweb_edu", *small_bpe()[0], "--out", out, "--shard-size", 100000, "--processes", 2,
                                    documents_file(), *more, **how)
    run("--shards", 2)
    equal(sorted(contents(out)), ["edu_fineweb_train_000001.bin", "edu_fineweb_val_000000.bin", "fineweb_edu.json"], "files after two shards")
    check("2 whole shards" in run(), "it did not say that two shards are there")
    check(contents(out) == expected, "other shards after going on")
    check("are there" in run(), "a finished folder was not seen as such")
    third = os.path.join(out, "edu_fineweb_train_000002.bin")
    for damage in (b"", read(third)[:-2], None):
        os.remove(third) if damage is None else open(third, "wb").write(damage)
        check("2 whole shards" in run(), "the damaged shard was taken for whole")
        check(contents(out) == expected, "other shards after a damaged one was made again")
    check("shard_size" in run("--shard-size", 5000, status=64), "another shard size was accepted")
    open(os.path.join(out, "fineweb_edu.json"), "w").write("{")
    run(status=65)
    os.remove(os.path.join(out, "fineweb_edu.json"))
    run(status=73)


@case
def fineweb_edu_stops_when_interrupted():
    expected = reference_shards()
    out, (options, _) = fresh("shards"), small_bpe()
    again = write("again.jsonl", read(documents_file()) * 20)
    command = [sys.executable, "-B", os.path.join(ROOT, "data", "fineweb_edu.py"), *options, "--out", out, "--shard-size", "100000",
               "--processes", "2", again]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()                          # a shard is there
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    equal(process.returncode, 130, "exit status after SIGINT")
    check("same command goes on" in said and "Traceback" not in said, f"it said {said!r}")
    equal(read(os.path.join(out, "edu_fineweb_val_000000.bin")), expected["edu_fineweb_val_000000.bin"], "first shard")


@case
def fineweb_edu_survives_kill_at_any_moment():
    expected = reference_shards()
    out = fresh("shards")
    command = [sys.executable, "-B", os.path.join(ROOT, "data", "fineweb_edu.py"), *small_bpe()[0], "--out", out, "--shard-size", "100000",
               "--processes", "1", documents_file()]
    for delay in (0.3, 0.45, 0.6, 0.75):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name in os.listdir(out) if os.path.isdir(out) else []:
            check(name.endswith(".tmp") or read(os.path.join(out, name)) == expected[name] or name.endswith(".json"),
                  f"{name} is not whole after a kill")
    equal(subprocess.run(command, capture_output=True).returncode, 0, "exit status of the last run")
    check(contents(out) == expected, "other shards after four kills")


@case
def fineweb_edu_names_what_is_wrong_with_its_input():
    package("tiktoken")
    good = b'{"text": "in"}\n'
    run = lambda path, status, *more: tool("fineweb_edu", *small_bpe()[0], "--out", fresh("never"), "--processes", 1, path, *more, status=status)
    check("line 2" in run(write("bad.jsonl", good + b"{"), 65), "the line was not named")
    check("line 2" in run(write("bad.jsonl", good + b'{"body": 1}\n'), 65), "the line was not named")
    check("document 2" in run(write("bad.jsonl", good + b'{"text": null}\n'), 65), "the document was not named")
    run(write("bad.jsonl", b'{"text": "\xff"}\n'), 65)
    run(write("bad.jsonl.gz", gzip.compress(good * 100)[:-9]), 65)
    run(write("bad.jsonl.gz", good), 65)
    check("no document" in run(write("empty.jsonl", b"\n"), 65), "an input without documents was accepted")
    run(write("file.csv", good), 64)
    run(fresh("missing.jsonl"), 66)
    run(write("good.jsonl", good), 64, "--shard-size", "0")
    run(write("good.jsonl", good), 64, "--shard-size", "1e99")
    run(write("good.jsonl", good), 64, "--encoder", "")
    check("smaller --shard-size" in run(write("good.jsonl", good), 0), "a lone validation shard was not remarked on")
    if importlib.util.find_spec("pyarrow"):
        run(write("bad.parquet", b"PAR1 is how it begins"), 65)


@case
def fineweb_edu_reproduces_the_sample_of_the_kit():
    package("tiktoken")
    text = read(kit("fineweb-edu/fineweb_edu_sample_1MB.txt")).decode()
    out = fresh("shards")
    tool("fineweb_edu", *gpt2_bpe(), "--out", out, write("sample.jsonl", json.dumps({"text": text})))
    check(contents(out)["edu_fineweb_val_000000.bin"] == read(kit("fineweb-edu/fineweb_edu_sample_1MB.gpt2.bin")),
          "the shard differs from the kit's")


# ---- all of them ----------------------------------------------------------------------------------------------------------

@case
def data_tools_write_the_same_bytes_twice():
    package("tiktoken")
    bpe, text, wiki = small_bpe()[0], write("text.txt", random_text(1, 3000)), write("wiki.txt", " = A = \n \n the b \n")
    made = subprocess.run(["make", "-s", "tools"], cwd=ROOT, capture_output=True, text=True)
    check(made.returncode == 0, f"make tools failed: {made.stderr.strip()[-300:]}")
    c_tool = lambda name, *arguments: subprocess.run([os.path.join(ROOT, "build", "data", name), *arguments], check=True, capture_output=True)
    runs = []
    for _ in range(2):
        out = fresh("out")
        os.makedirs(out)
        at = lambda name: os.path.join(out, name)
        tool("gpt2_tokenizer", *bpe, at("small.tok"))
        tool("wikitext2", *bpe, "--out", at("wiki.bin"), wiki)
        tool("fineweb_edu", *bpe, "--out", at("shards"), "--shard-size", "1e5", documents_file())
        c_tool("bytes", "--out", at("bytes.bin"), "--val-out", at("val.bin"), text)
        c_tool("tokenize", "--tokenizer", at("small.tok"), "--out", at("tokens.bin"), text)
        c_tool("synthetic", "--tokens", "5000", "--out", at("synthetic.bin"))
        runs.append({**contents(at("shards")), **{name: read(at(name)) for name in sorted(os.listdir(out)) if name != "shards"}})
    equal(sorted(runs[0]), sorted(runs[1]), "files")
    check(len(runs[0]) > 12, f"only {len(runs[0])} files")
    for name in runs[0]:
        check(runs[0][name] == runs[1][name], f"{name} differs between two runs")


@case
def data_tools_have_help():
    for name in sorted(os.listdir(os.path.join(ROOT, "data"))):
        source = read(os.path.join(ROOT, "data", name)).decode(errors="replace")
        if name.endswith(".py") and "common.run(main)" in source:
            said = tool(name[:-3], "--help")
            check("usage:" in said and "--out" in said or name == "gpt2_tokenizer.py", f"{name} --help says {said[:100]!r}")
        elif name.endswith(".c"):
            done = subprocess.run([os.path.join(ROOT, "build", "data", name[:-2]), "--help"], capture_output=True, text=True)
            check(done.returncode == 0 and done.stdout.startswith("usage:"), f"{name[:-2]} --help says {done.stdout[:100]!r}")


run_cases()

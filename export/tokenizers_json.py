"""A tokenizer file of the trainer (data/README.md), or its byte tokenizer, as the tokenizer.json that Hugging Face's libraries read."""
import json
import os
import struct
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import common
import encoders
from common import EOT_TEXT, EXIT_DATA, ToolError

HEADER = struct.Struct("<8s8I")
BYTE_EOT = 256


def read_tokens(path):
    """Bytes of every token in order of id, and the id of end-of-text."""
    data = common.read_bytes(path, "tokenizer")
    if len(data) < HEADER.size + 4 or data[:8] != b"MOBATOK\0":
        raise ToolError(EXIT_DATA, f"tokenizer {path}: not a tokenizer file (data/gpt2_tokenizer.py writes them)")
    if zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise ToolError(EXIT_DATA, f"tokenizer {path}: its checksum is wrong (cut or damaged copy?)")
    _, version, count, eot, letters, numbers, spaces, _, _ = HEADER.unpack_from(data)
    if version != 1:
        raise ToolError(EXIT_DATA, f"tokenizer {path}: format version {version}, this tool reads 1")
    at = HEADER.size + 8 * (letters + numbers + spaces)
    lengths = struct.unpack_from(f"<{count}H", data, at)
    tokens, place = [], at + 2 * count
    for length in lengths:
        tokens.append(data[place:place + length])
        place += length
    return tokens, eot


def read_json(path):
    """Of a tokenizer.json: the file as it is, how many ids it has, the id and name of end-of-text."""
    data = common.read_bytes(path, "tokenizer")
    try:
        record = json.loads(data)
        vocab = record["model"]["vocab"]
        ids = {token: i for i, (token, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
        ids.update((token["content"], token["id"]) for token in record.get("added_tokens", []))
    except (ValueError, KeyError, TypeError):
        raise ToolError(EXIT_DATA, f"tokenizer {path}: not a tokenizers JSON file")
    name = next((name for name in encoders.END_OF_TEXT if name in ids), None)
    if name is None:
        raise ToolError(EXIT_DATA, f"tokenizer {path}: none of its tokens is {', '.join(encoders.END_OF_TEXT)}")
    return record, max(ids.values()) + 1, ids[name], name


def open_tokens(name):
    return ([bytes([b]) for b in range(256)] + [EOT_TEXT.encode()], BYTE_EOT) if name == "byte" else read_tokens(name)


def parts_of(token, rank_of, below):
    """The two tokens that merge into this one: byte-pair encoding with the ranks below its own."""
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranks = [rank_of.get(left + right, below) for left, right in zip(parts, parts[1:])]
        best = min(ranks)
        if best >= below:
            break
        at = ranks.index(best)
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    return parts


def tokenizer_json(tokens, eot):
    spelling = {byte: character for character, byte in common.byte_alphabet().items()}
    spell = lambda token: "".join(spelling[byte] for byte in token)
    rank_of = {token: rank for rank, token in enumerate(tokens) if rank != eot}
    merges = []
    for rank, token in enumerate(tokens):
        if rank != eot and len(token) > 1:
            parts = parts_of(token, rank_of, rank)
            if len(parts) != 2:
                raise ToolError(EXIT_DATA, f"tokenizer: token {rank} is not a merge of two earlier ones, so it is no byte-pair encoding")
            merges.append([spell(parts[0]), spell(parts[1])])
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab = {spell(token): rank for token, rank in rank_of.items()} | {EOT_TEXT: eot}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": eot, "content": EOT_TEXT, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges},
    }


def open_tokenizer(name):
    """'byte', a tokenizer file of the trainer or a tokenizer.json -> its tokenizer.json, how many ids it has, the id and name of end-of-text"""
    if name.endswith(".json"):
        return read_json(name)
    tokens, eot = open_tokens(name)
    return tokenizer_json(tokens, eot), len(tokens), eot, EOT_TEXT


def tokenizer_config(longest, eot_name):
    return {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": eot_name, "eos_token": eot_name, "model_max_length": longest,
            "clean_up_tokenization_spaces": False}

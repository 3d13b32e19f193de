"""The tokenizers that evaluation sets are made with: GPT-2's, a tokenizers JSON file's, or the bytes themselves.

An encoder has name, vocab (tokens, end-of-text included), eot (the id that stands before a text) and encode(text)."""
import os

import common


class Bytes:
    name, vocab, eot = "byte", 257, 256

    def encode(self, text):
        return list(text.encode())


class Merged:
    def __init__(self, name, encoding):
        self.name, self.vocab, self.eot, self.encode = name, encoding.n_vocab, encoding.eot_token, encoding.encode_ordinary


def add_options(parser):
    common.add_tokenizer_options(parser, more=", or 'byte' for the byte tokenizer")


def open_encoder(options):
    if options.tokenizer == "byte":
        return Bytes()
    common.check_tokenizer_options(options)
    return Merged(os.path.basename(options.tokenizer) if options.tokenizer else "gpt2", common.encoding_of(options))

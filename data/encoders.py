"""The tokenizers that evaluation sets are made with: GPT-2's (tiktoken), bytes, or any tokenizer.json of Hugging Face's `tokenizers`.

An encoder has name, vocab (tokens, end-of-text included), eot (the id that stands before a text) and encode(text)."""
import os

import common
from common import EOT_TEXT, EXIT_DATA, EXIT_NO_INPUT, ToolError


def add_options(parser):
    parser.add_argument("--tokenizer", default="gpt2", metavar="NAME", help="gpt2, byte, or the path of a tokenizer.json (needs the package tokenizers)")
    common.add_bpe_options(parser)


class Bytes:
    name, vocab, eot = "byte", 257, 256

    def encode(self, text):
        return list(text.encode())


class Gpt2:
    name = "gpt2"

    def __init__(self, options):
        self._encoding = common.gpt2_encoding(options)
        self.vocab, self.eot = self._encoding.n_vocab, self._encoding.eot_token

    def encode(self, text):
        return self._encoding.encode_ordinary(text)


class TokenizerJson:
    def __init__(self, path):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ToolError(EXIT_NO_INPUT, f"--tokenizer {path}: the Python package tokenizers is missing: pip install tokenizers")
        text = common.read_bytes(path, "tokenizer")
        try:
            self._tokenizer = Tokenizer.from_str(text.decode())
        except Exception as error:                     # the library raises bare exceptions
            raise ToolError(EXIT_DATA, f"tokenizer {path}: {error}")
        self.name, self.vocab = os.path.basename(path), self._tokenizer.get_vocab_size()
        self.eot = next((number for number in map(self._tokenizer.token_to_id, (EOT_TEXT, "</s>", "<eos>")) if number is not None), None)
        if self.eot is None:
            raise ToolError(EXIT_DATA, f"tokenizer {path}: it has none of {EOT_TEXT}, </s>, <eos> to begin a text with")

    def encode(self, text):
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def open_encoder(options):
    if options.tokenizer == "gpt2":
        return Gpt2(options)
    return Bytes() if options.tokenizer == "byte" else TokenizerJson(options.tokenizer)

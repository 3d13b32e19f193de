"""The tokenizers that shards are made with: GPT-2's (tiktoken), bytes, or any tokenizer.json of Hugging Face's `tokenizers`.

An encoder has name, vocab (tokens, end-of-text included), eot (the id that stands before a text) and encode(text)."""
import os

import common
from common import EOT_TEXT, EXIT_DATA, EXIT_NO_INPUT, EXIT_USAGE, ToolError

END_OF_TEXT = (EOT_TEXT, "<|end_of_text|>", "</s>", "<eos>")       # what tokenizers call it


def add_options(parser):
    parser.add_argument("--tokenizer", default="gpt2", metavar="NAME", help="gpt2, byte, or the path of a tokenizer.json (needs the package tokenizers)")
    parser.add_argument("--eot", metavar="TOKEN", help=f"with a tokenizer.json: the token that stands before a text (default: the first it has of {' '.join(END_OF_TEXT)})")
    common.add_bpe_options(parser)


def check_options(options):
    common.check_bpe_options(options)
    if options.tokenizer != "gpt2" and options.encoder:
        raise ToolError(EXIT_USAGE, f"--tokenizer {options.tokenizer} contradicts --encoder and --vocab-bpe, which are GPT-2's")
    if options.tokenizer in ("gpt2", "byte") and options.eot:
        raise ToolError(EXIT_USAGE, f"--eot goes with a tokenizer.json; the end-of-text token of {options.tokenizer} is known")


def well_formed(text):
    """U+FFFD in the place of half a surrogate pair, which JSON can hold but UTF-8 cannot; tiktoken does the same."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Bytes:
    name, vocab, eot = "byte", 257, 256

    def encode(self, text):
        return list(well_formed(text).encode())


class Gpt2:
    name = "gpt2"

    def __init__(self, options):
        self._encoding = common.gpt2_encoding(options)
        self.vocab, self.eot = self._encoding.n_vocab, self._encoding.eot_token

    def encode(self, text):
        return self._encoding.encode_ordinary(text)


class TokenizerJson:
    def __init__(self, path, eot=None):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")     # the tools have processes of their own
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ToolError(EXIT_NO_INPUT, f"--tokenizer {path}: the Python package tokenizers is missing: pip install tokenizers")
        text = common.read_bytes(path, "tokenizer")
        try:
            self._tokenizer = Tokenizer.from_str(text.decode())
        except Exception as error:                     # the library raises bare exceptions
            raise ToolError(EXIT_DATA, f"tokenizer {path}: {' '.join(str(error).split())[:200]}")
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        self.name, self.vocab = os.path.basename(path), max(ids.values()) + 1       # ids may have gaps
        self.eot = next((ids[token] for token in ([eot] if eot else END_OF_TEXT) if token in ids), None)
        if self.eot is None:
            special = " ".join(token.content for token in self._tokenizer.get_added_tokens_decoder().values())[:200] or "none"
            raise ToolError(EXIT_USAGE, f"tokenizer {path}: no token {eot or ', '.join(END_OF_TEXT)} to begin a text with; name one with --eot "
                                        f"(its special tokens: {special})")

    def encode(self, text):
        return self._tokenizer.encode(well_formed(text), add_special_tokens=False).ids


def open_encoder(options):
    check_options(options)
    if options.tokenizer == "gpt2":
        return Gpt2(options)
    return Bytes() if options.tokenizer == "byte" else TokenizerJson(options.tokenizer, options.eot)

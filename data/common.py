"""What the data tools share: errors as sentences with sysexits.h codes, whole-or-nothing files, token shards, GPT-2 BPE, progress."""
import argparse
import array
import contextlib
import json
import os
import struct
import sys
import time

EXIT_USAGE, EXIT_DATA, EXIT_NO_INPUT, EXIT_INTERNAL, EXIT_NO_OUTPUT, EXIT_IO = 64, 65, 66, 70, 73, 74

EOT_TEXT = "<|endoftext|>"
# tiktoken's spelling of 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ : the same matches, less backtracking
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
GPT2_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}

SHARD_HEADER = struct.Struct("<256i")
SHARD_KINDS = {20240520: (1, "H"), 20240801: (7, "I")}      # magic: (version, array type of a token)


# ---- errors and command lines -----------------------------------------------------------------------------------------

class ToolError(Exception):
    """One sentence for the user and the exit status that goes with it."""

    def __init__(self, code, sentence):
        super().__init__(sentence)
        self.code = code


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of every option that has one."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with defaults in --help and the project's exit status for a bad option."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=Help, allow_abbrev=False)

    def error(self, message):
        raise ToolError(EXIT_USAGE, f"{message} (see {self.prog} --help)")


def whole_number(least, most=None):
    """An argparse type; 1e8 and 100_000_000 are whole numbers too."""
    def parse(text):
        try:
            number = int(text) if "e" not in text.lower() else int(float(text))
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number")
        if number < least or most is not None and number > most:
            raise argparse.ArgumentTypeError(f"{number} is outside [{least}, {'any' if most is None else most}]")
        return number
    return parse


def run(main):
    """Runs main() and ends the process: an error is one sentence on stderr and its code."""
    try:
        main()
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.code)
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(EXIT_IO)
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def read_bytes(path, what):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ToolError(EXIT_NO_INPUT, f"{what} {path}: {error.strerror}")


def lines_of(text):
    """The lines of a file; str.splitlines would also cut at U+2028 and its like, which may stand inside a line of JSON."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


# ---- files ------------------------------------------------------------------------------------------------------------

def make_directory(path):
    try:
        os.makedirs(path or ".", exist_ok=True)
    except OSError as error:
        raise ToolError(EXIT_NO_OUTPUT, f"directory {path}: {error.strerror}")


@contextlib.contextmanager
def whole_file(path):
    """A binary file that appears under its name only when everything in it is on the disk."""
    temporary = f"{path}.tmp"
    try:
        file = open(temporary, "wb")
    except OSError as error:
        raise ToolError(EXIT_NO_OUTPUT, f"{temporary}: {error.strerror}")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ToolError(EXIT_IO, f"{path}: {error.strerror} (nothing was changed)")
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_json(path, record, indent=1):
    with whole_file(path) as file:
        file.write((json.dumps(record, indent=indent) + "\n").encode())


# ---- shards -----------------------------------------------------------------------------------------------------------

def token_array(vocab_size):
    """An empty array for the ids of a vocabulary: uint16 while they fit, else uint32."""
    return array.array("H" if vocab_size <= 1 << 16 else "I")


def little_endian(numbers):
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


def write_shard(path, tokens):
    """tokens: an array of type H (llm.c's magic 20240520) or I (20240801)."""
    magic, version = next((magic, version) for magic, (version, kind) in SHARD_KINDS.items() if kind == tokens.typecode)
    with whole_file(path) as file:
        file.write(SHARD_HEADER.pack(magic, version, len(tokens), *([0] * 253)))
        little_endian(tokens).tofile(file)


def shard_tokens(header, size, name):
    """How many tokens a shard of `size` bytes that begins with `header` has, and their array type; an error where the two disagree."""
    if len(header) < SHARD_HEADER.size:
        raise ToolError(EXIT_DATA, f"shard {name}: {size} bytes, but its header alone takes {SHARD_HEADER.size} (cut copy?)")
    magic, version, count = SHARD_HEADER.unpack(header[:SHARD_HEADER.size])[:3]
    if magic not in SHARD_KINDS or version != SHARD_KINDS[magic][0]:
        raise ToolError(EXIT_DATA, f"shard {name}: magic {magic} version {version}, expected 20240520 version 1 or 20240801 version 7")
    kind = SHARD_KINDS[magic][1]
    expected = SHARD_HEADER.size + count * array.array(kind).itemsize
    if count < 1 or expected != size:
        raise ToolError(EXIT_DATA, f"shard {name}: header promises {count} tokens in {expected} bytes, file has {size} (cut copy?)")
    return count, kind


def check_shard(path):
    """Tokens of a shard file after a check of header against size; raises where they disagree."""
    try:
        with open(path, "rb") as file:
            return shard_tokens(file.read(SHARD_HEADER.size), os.fstat(file.fileno()).st_size, path)[0]
    except OSError as error:
        raise ToolError(EXIT_NO_INPUT, f"shard {path}: {error.strerror}")


def read_shard(path):
    data = read_bytes(path, "shard")
    tokens = array.array(shard_tokens(data, len(data), path)[1])
    tokens.frombytes(data[SHARD_HEADER.size:])
    return little_endian(tokens)


# ---- GPT-2 byte-pair encoding ------------------------------------------------------------------------------------------

def add_bpe_options(parser):
    parser.add_argument("--encoder", metavar="FILE", help="OpenAI's encoder.json; with --vocab-bpe nothing is fetched")
    parser.add_argument("--vocab-bpe", metavar="FILE", help="OpenAI's vocab.bpe")


def check_bpe_options(options):
    if bool(options.encoder) != bool(options.vocab_bpe):
        raise ToolError(EXIT_USAGE, "--encoder and --vocab-bpe go together: the vocabulary and its merges")


def byte_alphabet():
    """GPT-2's printable stand-ins: character -> byte, in the order of the first 256 ids."""
    plain = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(others)}}


def merge_ranks(vocab_bpe, encoder, names=("vocab.bpe", "encoder.json")):
    """From the two files' contents: token bytes in order of rank (= id), without the end-of-text token, whose id comes after them."""
    alphabet = byte_alphabet()
    try:
        ranks = [bytes([b]) for b in alphabet.values()]
        for line in vocab_bpe.decode().split("\n"):
            if line and not line.startswith("#version"):
                left, right = line.split(" ")
                ranks.append(bytes(alphabet[c] for c in left + right))
    except (ValueError, KeyError) as error:
        raise ToolError(EXIT_DATA, f"{names[0]}: not a list of merges ({error}); expected GPT-2's vocab.bpe")
    try:
        ids = json.loads(encoder.decode())
        eot = ids.pop(EOT_TEXT)
        listed = {bytes(alphabet[c] for c in token): number for token, number in ids.items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise ToolError(EXIT_DATA, f"{names[1]}: not a vocabulary with {EOT_TEXT} ({error}); expected GPT-2's encoder.json")
    if listed != {token: rank for rank, token in enumerate(ranks)} or eot != len(ranks):
        raise ToolError(EXIT_DATA, f"{names[1]} and {names[0]} disagree: {len(listed)} ids against {len(ranks)} merges (files of one model?)")
    return ranks


def read_ranks(options):
    return merge_ranks(read_bytes(options.vocab_bpe, "merges"), read_bytes(options.encoder, "vocabulary"), (options.vocab_bpe, options.encoder))


def gpt2_encoding(options):
    """A tiktoken encoding: of the local files where they are named, else of those tiktoken fetches and keeps."""
    check_bpe_options(options)
    try:
        import tiktoken
    except ImportError:
        raise ToolError(EXIT_NO_INPUT, "the Python package tiktoken is missing: pip install tiktoken")
    if not options.encoder:
        try:
            return tiktoken.get_encoding("gpt2")
        except Exception as error:                     # whatever its HTTP library raises
            raise ToolError(EXIT_NO_INPUT, f"GPT-2's vocabulary could not be fetched ({type(error).__name__}); "
                                           "name local files: --encoder --vocab-bpe")
    ranks = read_ranks(options)
    return tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks={token: rank for rank, token in enumerate(ranks)},
                             special_tokens={EOT_TEXT: len(ranks)})


# ---- progress ---------------------------------------------------------------------------------------------------------

class Progress:
    """A tqdm bar on a terminal where tqdm is installed, else a line on stderr every few seconds."""

    def __init__(self, label, unit, total=None, every=10.0):
        self.label, self.unit, self.total, self.every = label, unit, total, every
        self.done, self.start = 0, time.monotonic()
        self.said, self.bar = self.start, None
        if sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                import tqdm
                self.bar = tqdm.tqdm(desc=label, unit=unit, unit_scale=True, total=total)

    def add(self, amount):
        self.done += amount
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(amount)
        elif now - self.said >= self.every:
            self.said = now
            share = f" of {self.total:,} ({100 * self.done / self.total:.0f}%)" if self.total else ""
            print(f"{self.label}: {self.done:,}{share} {self.unit}, {self.done / (now - self.start):,.0f}/s", file=sys.stderr, flush=True)

    def close(self):
        """Ends the bar; returns a sentence on what was done and how fast."""
        if self.bar is not None:
            self.bar.close()
        seconds = max(time.monotonic() - self.start, 1e-3)
        return f"{self.done:,} {self.unit} in {seconds:,.1f} s: {self.done / seconds:,.0f} {self.unit}/s"

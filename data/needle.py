#!/usr/bin/env python3
"""Makes needle-in-a-haystack tasks for train_moba --eval-data: one sentence with a number, hidden in a long text, asked for at its end.

    python3 data/needle.py --encoder encoder.json --vocab-bpe vocab.bpe --kind 2 --haystack novels.txt --lengths 4096 8192 --out needle2.bin

The three single-needle tasks of RULER (S-NIAH), in its words:
    1   haystack of one passage over and over, a number of 7 digits
    2   haystack of running text (--haystack), a number of 7 digits
    3   haystack of running text, a UUID
Depth 0 puts the needle before the first sentence, 100 behind the last. An item is right if greedy decoding gives the whole value at once; RULER
also takes a value that comes later in the answer. The same command writes the same bytes."""
import random
import re
import uuid

import common
import encoders
import eval_tasks
from common import EXIT_DATA, EXIT_USAGE, ToolError

PASSAGE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
ADJECTIVES = ("able amber ancient bitter bold brave brief bright calm careful clever coastal common cosmic crimson curious daring "
              "deep distant eager early electric faint fancy fearless gentle giant golden grand happy hidden hollow humble icy jolly "
              "keen kind late lively lonely lucky mellow mighty misty narrow noble olive plain polite proud purple quick quiet rapid "
              "ready royal rustic sandy scarlet secret sharp silent silver simple sleepy smooth solid spicy steady stormy sturdy "
              "sunny sweet swift tidy tiny urban velvet vivid warm wild windy wise witty young zesty").split()
NOUNS = ("acorn anchor apron arrow badge basket beacon bell bridge bucket button cabin candle canyon carpet castle chapel clock "
         "cloud comet compass cottage desert dolphin dragon drum engine falcon feather forest fountain garden glacier guitar "
         "hammer harbor helmet island jacket kettle ladder lantern lemon library magnet marble meadow mirror monkey mountain "
         "needle ocean orchard otter paddle palace pepper piano pillow planet pocket prairie puzzle rabbit river rocket saddle "
         "shadow shelter signal spoon statue summit temple thunder ticket tunnel turtle valley velvet village violin wagon "
         "walnut whistle window winter zebra").split()
KINDS = {1: ("number", False), 2: ("number", True), 3: ("uuid", True)}      # what the value is; is the haystack running text?


def sentences_of(path):
    """Sentences of a text: cut behind . ! ? where white space follows."""
    text = re.sub(r"\s+", " ", common.read_bytes(path, "haystack").decode(errors="replace")).strip()
    sentences = re.split(r"(?<=[.!?]) ", text)
    if len(sentences) < 2:
        raise ToolError(EXIT_DATA, f"haystack {path}: fewer than two sentences; expected running text")
    return sentences


def value_of(what, source):
    return str(source.randint(1_000_000, 9_999_999)) if what == "number" else str(uuid.UUID(int=source.getrandbits(128), version=4))


def prompt_around(what, key, haystack):
    opening = (f"A special magic {what} is hidden within the following text. Make sure to memorize it. I will quiz you about the {what} afterwards.\n")
    asked = f"special magic {what} for {key} mentioned in the provided text"
    return f"{opening}{haystack}\nWhat is the {asked}? The {asked} is"


class Haystacks:
    """Haystacks of just so many tokens, begun at a random sentence."""

    def __init__(self, encoder, sentences, joint):
        self.encoder, self.sentences, self.joint = encoder, sentences, joint
        self.sizes = [len(encoder.encode(sentence + joint)) for sentence in sentences]

    def take(self, start, budget):
        """As many sentences from `start` on, round and round, as have at most `budget` tokens one by one."""
        taken = []
        while True:
            at = (start + len(taken)) % len(self.sentences)
            if self.sizes[at] > budget:
                return taken
            budget -= self.sizes[at]
            taken.append(self.sentences[at])

    def item(self, what, length, depth, source):
        """-> context tokens, continuation tokens, characters of the value; together at most `length` tokens"""
        key, value = f"{source.choice(ADJECTIVES)}-{source.choice(NOUNS)}", value_of(what, source)
        needle = f"One of the special magic {what}s for {key} is: {value}."
        start = source.randrange(len(self.sentences))
        bare = len(self.encoder.encode(prompt_around(what, key, needle + self.joint) + " " + value))
        taken = self.take(start, length - bare)
        while True:
            at = round(len(taken) * depth / 100)
            context = prompt_around(what, key, self.joint.join(taken[:at] + [needle] + taken[at:]))
            before, after = eval_tasks.encode_pair(self.encoder, context, " " + value)
            if len(before) + len(after) <= length:
                return before, after, len(value)
            if not taken:
                raise ToolError(EXIT_USAGE, f"--lengths: {length} tokens do not hold question, needle and answer, which take {len(before) + len(after)}")
            taken.pop()                                # joined, the sentences take a few tokens more than one by one


def items_of(encoder, options):
    what, running = KINDS[options.kind]
    haystacks = Haystacks(encoder, sentences_of(options.haystack), " ") if running else Haystacks(encoder, [PASSAGE], "\n")
    depths = [round(100 * i / (options.depths - 1)) for i in range(options.depths)] if options.depths > 1 else [50]
    progress = common.Progress("needles", "items", len(options.lengths) * len(depths) * options.items)
    for length in options.lengths:
        for depth in depths:
            for i in range(options.items):
                source = random.Random(f"{options.seed}/{options.kind}/{length}/{depth}/{i}")
                yield 0, length, depth, [haystacks.item(what, length, depth, source)]
                progress.add(1)
    progress.close()


def main():
    parser = common.Parser("Makes needle-in-a-haystack tasks (RULER's S-NIAH) for train_moba --eval-data.")
    encoders.add_options(parser)
    parser.add_argument("--kind", type=int, choices=sorted(KINDS), default=1, help="1: noise and a number, 2: text and a number, 3: text and a UUID")
    parser.add_argument("--haystack", metavar="FILE", help="running text for kinds 2 and 3")
    parser.add_argument("--lengths", type=common.whole_number(64, 1 << 20), nargs="+", default=[4096, 8192, 16384, 32768, 65536],
                        metavar="N", help="tokens of an item, question and answer included")
    parser.add_argument("--depths", type=common.whole_number(1, 101), default=11, metavar="N", help="places of the needle, evenly from 0 to 100 percent")
    parser.add_argument("--items", type=common.whole_number(1), default=5, metavar="N", help="items for each length and depth")
    parser.add_argument("--seed", type=common.whole_number(0), default=1337, metavar="N", help="seed of keys, values and haystacks")
    parser.add_argument("--out", required=True, metavar="NAME.bin", help="the shard to write; the sidecar is NAME.json beside it")
    options = parser.parse_args()
    if KINDS[options.kind][1] != (options.haystack is not None):
        raise ToolError(EXIT_USAGE, f"--kind {options.kind} " + ("needs --haystack, a text file" if options.haystack is None else "makes its own haystack"))
    encoder = encoders.open_encoder(options)
    eval_tasks.write_task(options.out, f"s_niah_{options.kind}", "needle", encoder, items_of(encoder, options), options.haystack or "passage")


if __name__ == "__main__":
    common.run(main)

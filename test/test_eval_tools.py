#!/usr/bin/env python3
"""Tests of what prepares evaluations: eval_tasks.py, needle.py, wikitext2.py's protocol B. See tool_test.py."""
import bz2
import json
import os
import re

from tool_test import TEMPORARY, case, check, equal, fresh, kit, package, read, run_cases, tool, write

import common
import eval_tasks
import wikitext2

BYTE = ("--tokenizer", "byte")


def gpt2():
    package("tiktoken")
    return "--encoder", kit("gpt2-bpe/encoder.json"), "--vocab-bpe", kit("gpt2-bpe/vocab.bpe")


def requests_of(shard):
    """[(item, context, continuation, characters)] of a byte-level task, and its sidecar"""
    sidecar, tokens, at, found = json.loads(read(shard[:-4] + ".json")), common.read_shard(shard), 0, []
    for item, size, scored, characters in sidecar["requests"]:
        text = bytes(list(tokens[at:at + size]))
        found.append((item, text[:size - scored].decode(), text[size - scored:].decode(), characters))
        at += size
    equal((at, sidecar["tokens"]), (len(tokens), len(tokens)), "tokens of the requests")
    return found, sidecar


def prepared(task, source, *more):
    out = fresh(f"{task}.bin")
    tool("eval_tasks", *BYTE, "--task", task, "--out", out, *more, source)
    return requests_of(out)


# ---- eval_tasks.py ------------------------------------------------------------------------------------------------------

HELLASWAG_TEXT = "Clean and jerk: A lady walks to a barbell. She bends\n3\nswings.\npulls [step] it.\nhits.\nstands  up.\n" \
                 "Bread [title] Mix\u00e4n\n0\na\nb\nc\nd\n"
HELLASWAG_JSON = "".join(json.dumps(row) + "\n" for row in (
    {"activity_label": "Clean and jerk", "ctx_a": "A lady walks to a barbell.", "ctx_b": "she bends", "label": 3,
     "endings": ["swings.", "pulls [step] it.", "hits.", "stands  up."]},
    {"activity_label": "Bread", "ctx_a": "[title] Mix\u00e4n", "ctx_b": "", "label": "0", "endings": list("abcd")}))


@case
def eval_tasks_hellaswag_by_hand():
    text = HELLASWAG_TEXT.replace("Bread [title]", "Bread: [title]")
    found, sidecar = prepared("hellaswag", write("h.txt", text))
    context = "Clean and jerk: A lady walks to a barbell. She bends"
    equal(found[:4], [(0, context, " swings.", 7), (0, context, " pulls it.", 9), (0, context, " hits.", 5), (0, context, " stands up.", 10)],
          "continuations of the first item")
    equal(found[4:6], [(1, "Bread:. Mix\u00e4n", " a", 1), (1, "Bread:. Mix\u00e4n", " b", 1)], "continuations of the second")
    equal(sidecar["items"], [[3, 0, 0], [0, 0, 0]], "answers")
    equal((sidecar["task"], sidecar["kind"], sidecar["vocab"]), ("hellaswag", "choices", 257), "kind")
    for other in (write("h.jsonl", HELLASWAG_JSON), write("h.txt.bz2", bz2.compress(text.encode()))):
        again = prepared("hellaswag", other)
        equal((again[0], again[1]["items"]), (found, sidecar["items"]), other)


@case
def eval_tasks_lambada_by_hand():
    rows = {"context": "He saw the sign and", "continuation": "ran"}, {"text": "\"One,\" she said,  two"}
    found, sidecar = prepared("lambada", write("l.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    # white space at the end of a context belongs to the continuation
    equal(found, [(0, "He saw the sign and", " ran", 3), (1, "\"One,\" she said,", "  two", 3)], "continuations")
    equal(sidecar["kind"], "word", "kind")
    # a line ends where a file's lines do, and half a surrogate pair is U+FFFD, as tiktoken has it
    odd = '\n' + json.dumps({"text": "a\u2028b\u0085c d"}, ensure_ascii=False) + '\r\n\n{"text": "e\\ud800 f"}\n'
    equal(prepared("lambada", write("odd.jsonl", odd))[0], [(0, "a\u2028b\u0085c", " d", 1), (1, "e\ufffd", " f", 1)], "continuations of odd lines")


@case
def eval_tasks_questions_by_hand():
    arc = {"query": "Question: What falls?", "choices": ["rain", "a \u00fc-stone"], "gold": 1}
    found, sidecar = prepared("arc_easy", write("a.jsonl", json.dumps(arc)))
    equal(found, [(0, "Question: What falls?\nAnswer:", " rain", 4), (0, "Question: What falls?\nAnswer:", " a \u00fc-stone", 9)], "continuations")
    equal(sidecar["items"], [[1, 0, 0]], "answers")
    equal(prepared("piqa", write("p.jsonl", json.dumps({**arc, "query": "Question: What falls?\n"})))[0], found, "PIQA's continuations")
    equal(prepared("arc_challenge", write("c.jsonl", json.dumps({**arc, "question": "What falls?"})))[0], found, "ARC-Challenge's continuations")


@case
def eval_tasks_border_is_the_contexts_own():
    class Pairs:                                       # a tokenizer that joins pairs of characters: the context decides where it is cut
        eot = 99
        encode = staticmethod(lambda text: [text[i:i + 2] for i in range(0, len(text), 2)])
    equal(eval_tasks.encode_pair(Pairs, "abc", "de"), (["ab", "c"], ["e"]), "an odd context")
    equal(eval_tasks.encode_pair(Pairs, "ab", " c"), (["ab"], [" c"]), "an even context")
    equal(eval_tasks.encode_pair(Pairs, "ab  ", "c"), (["ab"], ["  ", "c"]), "a context that ends in spaces")
    equal(eval_tasks.encode_pair(Pairs, "", "ab"), ([99], ["ab"]), "no context")


@case
def eval_tasks_writes_the_same_bytes_again():
    source = write("h.jsonl", HELLASWAG_JSON)
    outs = [fresh("again.bin") for _ in range(2)]
    for out in outs:
        tool("eval_tasks", *BYTE, "--task", "hellaswag", "--out", out, source)
    check(read(outs[0]) == read(outs[1]) and read(outs[0][:-4] + ".json") == read(outs[1][:-4] + ".json"), "two runs differ")


@case
def eval_tasks_of_the_kit():
    out = fresh("kit.bin")
    for task, source, items, requests, tokens in (("lambada", "lambada_openai.jsonl", 5153, 5153, 430230), ("arc_easy", "arc_easy.jsonl", 2376, 9504, 304017),
                                                  ("arc_challenge", "arc_challenge.jsonl", 1172, 4688, 174219), ("piqa", "piqa.jsonl", 1838, 3676, 133665)):
        said = tool("eval_tasks", *gpt2(), "--task", task, "--out", out, kit(f"eval/{source}"))
        check(f"{items} items, {requests} continuations, {tokens} tokens" in said, f"{task}: {said}")
        equal(json.loads(read(out[:-4] + ".json"))["vocab"], 50257, "vocabulary")


@case
def eval_tasks_refuses_in_sentences():
    out = fresh("never.bin")
    good = write("h.jsonl", HELLASWAG_JSON)
    refuse = lambda status, part, *arguments: check(part in tool("eval_tasks", *arguments, status=status), f"no word of '{part}'")
    refuse(64, "hellaswag", *BYTE, "--task", "riddles", "--out", out, good)
    refuse(64, "does not end in .bin", *BYTE, "--task", "hellaswag", "--out", out + "x", good)
    refuse(66, "missing.jsonl", *BYTE, "--task", "piqa", "--out", out, "missing.jsonl")
    refuse(65, "line 2 is not JSON (cut copy?)", *BYTE, "--task", "hellaswag", "--out", out, write("cut.jsonl", HELLASWAG_JSON[:-30]))
    refuse(65, "lines 7 to 12", *BYTE, "--task", "hellaswag", "--out", out, write("cut.txt", HELLASWAG_TEXT.replace("Bread", "Bread:")[:-4]))
    refuse(65, "cut copy", *BYTE, "--task", "hellaswag", "--out", out, write("cut.txt.bz2", bz2.compress(HELLASWAG_TEXT.encode())[:-9]))
    refuse(65, "lacks 'choices'", *BYTE, "--task", "piqa", "--out", out, write("x.jsonl", '{"query":"a","gold":0}'))
    for row in ('{"query":"a","choices":["b"],"gold":0}', '{"query":"a","choices":7,"gold":0}', '{"query":7,"choices":["b","c"],"gold":0}', '"a row"'):
        refuse(65, "a row has another form than piqa's", *BYTE, "--task", "piqa", "--out", out, write("form.jsonl", row))
    refuse(65, "none of its 2 choices", *BYTE, "--task", "arc_easy", "--out", out, write("y.jsonl", '{"query":"a","choices":["b","c"],"gold":2}'))
    refuse(65, "item 0 lacks", *BYTE, "--task", "hellaswag", "--out", out, write("test.jsonl", HELLASWAG_JSON.replace('"label"', '"split"')))
    refuse(65, "item 0 lacks", *BYTE, "--task", "piqa", "--out", out, write("z.jsonl", '{"query":"a","choices":["b","c"],"gold":null}'))
    refuse(65, "item 0 lacks", *BYTE, "--task", "arc_easy", "--out", out, write("n.jsonl", '{"query":"a","choices":["b",7],"gold":0}'))
    refuse(65, "holds nothing", *BYTE, "--task", "piqa", "--out", out, write("empty.jsonl", ""))
    refuse(66, "nowhere.json", "--tokenizer", "nowhere.json", "--task", "hellaswag", "--out", out, good)
    check(not os.path.exists(out), "a refused source left a file")


# ---- needle.py ------------------------------------------------------------------------------------------------------------

HAYSTACK = " ".join(f"Sentence number {i} is here." for i in range(40))


def needles(kind, *more):
    out = fresh("needle.bin")
    tool("needle", *BYTE, "--kind", kind, "--out", out, "--lengths", 800, 1500, "--depths", 3, "--items", 2, *more)
    return *requests_of(out), out


@case
def needle_is_where_it_should_be():
    for kind, more in ((1, ()), (2, ("--haystack", write("hay.txt", HAYSTACK)))):
        found, sidecar, _ = needles(kind, *more)
        equal(len(found), 12, "items")
        equal(sidecar["items"], [[0, length, depth] for length in (800, 1500) for depth in (0, 50, 100) for _ in range(2)], "lengths and depths")
        for (_, context, answer, characters), (_, length, depth) in zip(found, sidecar["items"]):
            size = len((context + answer).encode())
            check(length - 100 < size <= length, f"an item of {length} has {size} bytes")
            key, value = re.search(r"One of the special magic numbers for ([a-z]+-[a-z]+) is: (\d{7})\.", context).groups()
            equal((answer, characters), (f" {value}", 7), "answer")
            check(context.endswith(f"What is the special magic number for {key} mentioned in the provided text? "
                                   f"The special magic number for {key} mentioned in the provided text is"), context[-200:])
            haystack = context.split("\n", 1)[1].rsplit("\nWhat is", 1)[0]
            at = haystack.index("One of the special") / (len(haystack) - len("One of the special magic numbers for  is: 1234567.") - len(key))
            check(abs(at - depth / 100) < 0.08, f"the needle is at {at:.2f}, expected {depth} %")


@case
def needle_of_a_uuid():
    found, sidecar, _ = needles(3, "--haystack", write("hay.txt", HAYSTACK))
    check(all(re.fullmatch(r" [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", answer) for _, _, answer, _ in found), "answers are no UUIDs")
    equal((sidecar["task"], sidecar["kind"]), ("s_niah_3", "needle"), "task")


@case
def needle_is_a_function_of_its_seed():
    first, again, other = (needles(1, "--seed", seed) for seed in (5, 5, 6))
    check(read(first[2]) == read(again[2]) and read(first[2][:-4] + ".json") == read(again[2][:-4] + ".json"), "two runs differ")
    check(read(first[2]) != read(other[2]), "another seed gives the same needles")


@case
def needle_refuses_in_sentences():
    out = fresh("never.bin")
    refuse = lambda status, part, *arguments: check(part in tool("needle", *BYTE, "--out", out, *arguments, status=status), f"no word of '{part}'")
    refuse(64, "--kind 2 needs --haystack", "--kind", 2)
    refuse(64, "makes its own haystack", "--kind", 1, "--haystack", write("hay.txt", HAYSTACK))
    refuse(64, "do not hold question, needle and answer", "--lengths", 64)
    refuse(65, "fewer than two sentences", "--kind", 2, "--haystack", write("hay.txt", "no end"))
    refuse(66, "nothing.txt", "--kind", 2, "--haystack", "nothing.txt")
    refuse(64, "kind", "--kind", 4)
    check(not os.path.exists(out), "a refused command left a file")


# ---- wikitext2.py, protocol B ---------------------------------------------------------------------------------------------

WIKI = " \n = First page = \n \n It 's 3 @.@ 5 \" big \" ( or so ) . \n \n = = Part = = \n \n a , b ; c \n = Second = \n \n end \n"


@case
def wikitext2_pages_by_hand():
    pages = [WIKI[2:WIKI.index("\n = Second")], " = Second = \n \n end \n"]          # blank lines before the first heading are no page
    equal(wikitext2.pages_of(WIKI), pages, "pages")
    equal(wikitext2.detokenise(" It 's 3 @.@ 5 \" big \" ( or so ) . \n x"), " It's 3.5 \"big\" (or so). \nx".replace(". \n", ".\n"), "detokenised")
    out = fresh("wiki.bin")
    tool("wikitext2", *BYTE, "--protocol", "b", "--out", out, write("wiki.raw", WIKI))
    sidecar, tokens = json.loads(read(out[:-4] + ".json")), list(common.read_shard(out))
    first, second = (list(wikitext2.detokenise(page).encode()) for page in pages)
    equal(tokens, [256, *first, 256, *second], "tokens")
    equal((sidecar["documents"], sidecar["join"]), ([0, len(first) + 1], "documents"), "documents")
    # as the harness counts, the empty texts before the first and behind the last white space are words
    equal((sidecar["bytes"], sidecar["words"]), (len(WIKI) - 3, 29 + 6), "figures of the pages")


@case
def wikitext2_protocol_b_of_the_kit():
    out = fresh("wiki.bin")
    said = tool("wikitext2", *gpt2(), "--protocol", "b", "--out", out, kit("wikitext-2/wiki.test.raw"))
    sidecar = json.loads(read(out[:-4] + ".json"))
    equal((len(sidecar["documents"]), sidecar["words"], sidecar["bytes"], sidecar["tokens"]), (62, 241335, 1290527, 272093), "pages, words, bytes, tokens")
    check("note:" not in said, said)


@case
def evaluation_with_a_tokenizers_file():
    package("tokenizers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    model = Tokenizer(models.WordLevel({"<eos>": 0, "[UNK]": 1, "rain": 2, "falls": 3, "?": 4, "Question": 5, ":": 6, "Answer": 7}, "[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.save(os.path.join(TEMPORARY, "words.json"))
    out = fresh("words.bin")
    source = write("a.jsonl", json.dumps({"query": "Question: falls?", "choices": ["rain", "snow"], "gold": 0}))
    tool("eval_tasks", "--tokenizer", os.path.join(TEMPORARY, "words.json"), "--task", "arc_easy", "--out", out, source)
    equal(list(common.read_shard(out)), [5, 6, 3, 4, 7, 6, 2, 5, 6, 3, 4, 7, 6, 1], "tokens")
    equal(json.loads(read(out[:-4] + ".json"))["vocab"], 8, "vocabulary")


run_cases()

#!/usr/bin/env python3
"""Tests of what prepares evaluations: eval_tasks.py, needle.py, wikitext2.py's protocol B; and of what the program says of them, with a model whose answers
are known. See tool_test.py."""
import array
import bz2
import functools
import json
import math
import os
import re
import shutil
import subprocess
import sys

from tool_test import ROOT, TEMPORARY, case, check, equal, fresh, kit, package, read, run_cases, tool, write

sys.path.insert(0, os.path.join(ROOT, "export"))
import common
import eval_tasks
import safetensors_file
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


# ---- the program, with a model whose answers are known ------------------------------------------------------------------------
#
# Layers of zeros leave log p(next | byte) = logits normalised, logit(next) = -embedding[byte] . embedding[next] / rms(embedding[byte]), as the last norm's
# weight is -1. Neighbours of CHAIN share a channel with opposite signs, a later pair a stronger one: after each byte of the chain the next is likeliest, the
# one before it less so, itself least. Every other embedding is zero, and all tokens are equally likely after one.

CHAIN, CHANNELS, EOT = "s 4839201", 32, 256


def pull(pair):
    return 2 + 0.25 * pair


def loglik(before, after):
    """log p(after | before) for two ids, by hand"""
    at = CHAIN.find(chr(before)) if before < EOT else -1
    if at < 0:
        return -math.log(257)
    left, right = pull(at - 1) if at > 0 else 0, pull(at) if at + 1 < len(CHAIN) else 0
    rms = math.sqrt((left + right) / CHANNELS + 1e-6)
    logits = {ord(CHAIN[at]): -(left + right) / rms}
    if left:
        logits[ord(CHAIN[at - 1])] = left / rms
    if right:
        logits[ord(CHAIN[at + 1])] = right / rms
    return logits.get(after, 0) - math.log(257 - len(logits) + sum(map(math.exp, logits.values())))


def total(context, continuation):
    ids = list((context + continuation).encode())
    return sum(loglik(*pair) for pair in zip(ids[len(context.encode()) - 1:], ids[len(context.encode()):]))


def program(*arguments):
    done = subprocess.run([os.path.join(ROOT, "train_moba_cpu"), *map(str, arguments)], capture_output=True, text=True, cwd=TEMPORARY, env={**os.environ, "OMP_NUM_THREADS": "1"})
    equal(done.returncode, 0, f"exit status of the program ({(done.stdout + done.stderr).strip()[-300:]})")
    return done.stdout


@functools.lru_cache(None)
def known():
    """The run directory: a step of training, exported, its weights replaced, imported."""
    for target in ("train_moba_cpu", "build/data/bytes"):
        made = subprocess.run(["make", "-s", target], cwd=ROOT, capture_output=True, text=True)
        check(made.returncode == 0, f"make {target} failed: {made.stderr.strip()[-300:]}")
    shard, run, folder, back = fresh("text.bin"), fresh("run"), fresh("exported"), fresh("known")
    subprocess.run([os.path.join(ROOT, "build/data/bytes"), "--out", shard, os.path.join(ROOT, "README.md")], check=True, capture_output=True)
    program("--train-data", shard, "--out", run, *f"--layers 2 --channels {CHANNELS} --heads 2 --mlp 16 --pattern S16,M16:2 --kconv 3 --seq-len 32 --steps 1 --save-every 0".split())
    tool("to_hf", run, folder, folder="export")
    tensors = safetensors_file.Reader(os.path.join(folder, "model.safetensors")).shapes
    embedding = array.array("f", bytes(4 * 257 * CHANNELS))
    for pair, (first, second) in enumerate(zip(CHAIN, CHAIN[1:])):
        embedding[ord(first) * CHANNELS + pair] = math.sqrt(pull(pair))
        embedding[ord(second) * CHANNELS + pair] = -math.sqrt(pull(pair))
    weights = {"model.embed.weight": embedding, "model.norm.weight": array.array("f", [-1] * CHANNELS)}
    data_of = lambda name: lambda: weights[name].tobytes() if name in weights else bytes(4 * math.prod(tensors[name]))
    safetensors_file.write(os.path.join(folder, "model.safetensors"), {name: (shape, data_of(name)) for name, shape in tensors.items()})
    tool("from_hf", folder, back, folder="export")
    return back


def scored(*arguments):
    """What the program prints of --eval-data, and the lines of --eval-out"""
    scores = fresh("scores.jsonl")
    said = program("--out", known(), "--eval-only", "--eval-out", scores, *arguments)
    return said, [json.loads(line) for line in read(scores).decode().splitlines()]


def close(found, expected, what, digits=0):
    """As near as fp32 sums come, and as the printed digits say."""
    slack = 1e-5 * abs(expected) + (0.51 * 10 ** -digits if digits else 0)
    check(abs(float(found) - expected) <= slack, f"{what} is {found}, expected {expected:.6f}")


def known_scores(task, source, expected):
    """A task of these lines: the program's log-likelihoods are those of (context, continuation) in `expected`; returns what it prints, and the lines"""
    out = fresh(f"{task}.bin")
    tool("eval_tasks", *BYTE, "--task", task, "--out", out, write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in source)))
    said, lines = scored("--eval-data", out)
    equal(len(lines), len(expected), "scores")
    for line, pair in zip(lines, expected):
        close(line["loglik"], total(*pair), f"log-likelihood of {pair}")
    return said, lines


@case
def program_scores_choices_as_known():
    #         right of the likeliest choice, right of the likeliest a character
    items = [(["4839", "48x", "x", "yz"], 0),      # yes, yes
             (["x", "4839201 4", "yz", "xyz"], 0),     # yes, no: a character of the long one costs less
             (["x", "4839201 4", "yz", "xyz"], 1),     # no, yes
             (["483920 48", "yz", "x", "xyz"], 0),     # no, yes
             (["4", "48x", "yz", "x"], 2)]             # no, no
    rows = [{"activity_label": "Sum", "ctx_a": "it is", "ctx_b": "", "endings": endings, "label": label} for endings, label in items]
    said, lines = known_scores("hellaswag", rows, [("Sum: it is", " " + ending) for endings, _ in items for ending in endings])
    check("task              hellaswag, 5 items\naccuracy          0.4000 ± 0.2449\nacc, normalised   0.6000 ± 0.2449\n" in said, said)
    equal([line["choice"] for line in lines if line["gold"]], [0, 0, 1, 0, 2], "right choices")


@case
def program_scores_words_as_known():
    words = {"4839": True, "4839201": True, "483x": False, "x": False, "4": True}
    said, lines = known_scores("lambada", [{"text": f"it is {word}"} for word in words], [("it is", " " + word) for word in words])
    equal([line["greedy"] for line in lines], list(words.values()), "what greedy decoding finds")
    logs = [total("it is", " " + word) for word in words]
    perplexity, mean = math.exp(-sum(logs) / 5), sum(logs) / 5
    found = re.search(r"task +lambada, 5 items\naccuracy +0\.6000 ± 0\.2449\nperplexity +([\d.]+) ± ([\d.]+)\n", said)
    check(found, said)
    close(found[1], perplexity, "perplexity", 4)
    close(found[2], perplexity * math.sqrt(sum((log - mean) ** 2 for log in logs) / 4 / 5), "its error", 4)


@case
def program_finds_the_needles_it_should():
    out = fresh("needle.bin")
    tool("needle", *BYTE, "--kind", 1, "--out", out, "--lengths", 500, 600, "--depths", 2, "--items", 2)
    tokens, end = common.read_shard(out), 0
    answer = array.array("H", list(CHAIN[1:].encode()))
    for item, size, count, _ in json.loads(read(out[:-4] + ".json"))["requests"]:
        end += size
        if item in (0, 1, 4):                          # both of length 500 at depth 0, one of two of length 600 there
            equal(count, len(answer), "tokens of an answer")
            tokens[end - count:end] = answer
    common.write_shard(out, tokens)
    said, lines = scored("--eval-data", out, "--eval-context", 600)
    equal([line["item"] for line in lines if line["greedy"]], [0, 1, 4], "needles found")
    close(lines[0]["loglik"], total("text is", CHAIN[1:]), "log-likelihood of a needle")
    table = [line.split() for line in said[said.index("task "):].splitlines()]
    equal(table, [["task", "s_niah_1,", "8", "items"], ["accuracy", "0.3750", "±", "0.1830"], ["depth,", "tokens", "500", "600"],
                  ["0", "%", "1.00", "█", "0.50", "▒"], ["100", "%", "0.00", "0.00"], ["all", "0.50", "▒", "0.25", "░"]], "what is printed")


@case
def program_perplexities_are_as_known():
    source = write("wiki.raw", " = One = \n \n it is 4839201 . \n = Two = \n \n it was 483 . \n")
    rows = " = One = \n\n\n\n\n it is 4839201 . \n\n\n = Two = \n\n\n\n\n it was 483 . \n".encode()
    pages = [[EOT, *page.encode()] for page in (" = One =\n\nit is 4839201. ", " = Two =\n\nit was 483.\n")]
    #                         text, its parts, bytes and words of the raw text
    for protocol, parts, size, words in (("a", [rows], 57, 20), ("b", pages, 56, 18)):
        out = fresh("wiki.bin")
        tool("wikitext2", *BYTE, "--protocol", protocol, "--out", out, source)
        equal(list(common.read_shard(out)), [token for part in parts for token in part], "tokens")
        said, _ = scored("--eval-data", out)
        count = sum(len(part) - 1 for part in parts)
        nll = -sum(loglik(*pair) for part in parts for pair in zip(part, part[1:]))
        number = lambda name: re.search(rf"^{name} +([\d.]+)", said, re.M)[1]
        close(number("token perplexity"), math.exp(nll / count), "token perplexity", 4)
        close(number("word perplexity"), math.exp(nll / words), "word perplexity", 4)
        close(number("bits per byte"), nll / math.log(2) / size, "bits per byte", 5)
        close(number("loss per token"), nll / count, "loss per token", 6)
        equal(number("tokens scored"), str(count), "tokens scored")
        check(f"({words} words of the raw text)" in said and f"({size} bytes of the raw text)" in said, said)


# ---- how far a tool is ----------------------------------------------------------------------------------------------------------

HASTE = "#include <time.h>\nint clock_gettime(clockid_t id, struct timespec* t) { static long calls; (void)id; t->tv_sec = 11 * ++calls; t->tv_nsec = 0; return 0; }\n"


@case
def tools_say_how_far_they_are():
    """Where 11 seconds pass between two looks at the clock every step is worth a line; in truth these take no second, and none is said."""
    made = subprocess.run(["make", "-s", "tools"], cwd=ROOT, capture_output=True, text=True)
    check(made.returncode == 0, f"make tools failed: {made.stderr.strip()[-300:]}")
    haste = fresh("haste.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", haste, write("haste.c", HASTE)], check=True)
    run, out = known(), fresh("out")
    step, text, wiki = os.path.join(run, "checkpoints", "step_00000001"), os.path.join(ROOT, "README.md"), write("wiki.raw", WIKI)
    ids = {character: number for number, character in enumerate(common.byte_alphabet())}
    encoder, merges = write("encoder.json", json.dumps({**ids, "th": 256, common.EOT_TEXT: 257})), write("vocab.bpe", "#version: 0.2\nt h\n")
    tool("gpt2_tokenizer", "--encoder", encoder, "--vocab-bpe", merges, out + ".tok")
    python = lambda folder, name, *arguments: [sys.executable, "-B", os.path.join(ROOT, folder, name + ".py"), *arguments]
    built = lambda name, *arguments: [os.path.join(ROOT, "build", "data", name), *arguments]
    commands = [python("data", "wikitext2", *BYTE, "--out", out + "_a.bin", wiki), python("data", "wikitext2", *BYTE, "--protocol", "b", "--out", out + "_b.bin", wiki),
                python("data", "eval_tasks", *BYTE, "--task", "hellaswag", "--out", out + "_h.bin", write("h.jsonl", HELLASWAG_JSON)),
                python("data", "needle", *BYTE, "--kind", "1", "--lengths", "800", "--items", "1", "--out", out + "_n.bin"),
                python("export", "to_hf", run, out + "_hf"), python("export", "from_hf", out + "_hf", out + "_run"),
                built("bytes", "--out", out + "_t.bin", text), built("tokenize", "--tokenizer", out + ".tok", "--out", out + "_u.bin", text),
                built("synthetic", "--tokens", "9000", "--out", out + "_s.bin"), built("shardinfo", out + "_s.bin"),
                built("ckptinfo", "list", run), built("ckptinfo", "show", step), built("ckptinfo", "diff", step, step)]
    for environment, spoken in (({"LD_PRELOAD": haste}, True), ({}, False)):
        for command in commands:
            name = " ".join(map(os.path.basename, command))
            done = subprocess.run(command, capture_output=True, text=True, cwd=TEMPORARY, env={**os.environ, **environment})
            equal(done.returncode, 0, f"exit status of {name} ({done.stderr.strip()[-300:]})")
            shares = [int(share) for share in re.findall(r"^[^:]+: [\d,.]+ of [\d,.]+ .*?\((\d+)%\)", done.stderr, re.M)]
            # (ckptinfo shows the values of all but the options, so it ends shortly before 100)
            check((shares and shares[-1] > 95 and shares == sorted(shares)) if spoken else not shares, f"{name} says {done.stderr[-300:]!r}")
        shutil.rmtree(out + "_hf")
        shutil.rmtree(out + "_run")


# ---- export/compare.py ------------------------------------------------------------------------------------------------

@case
def compare_by_hand():
    export = functools.partial(tool, folder="export")

    def rows(task, table, right=0):
        """Lines of scores; right None: as a program writes them that does not know the answers"""
        gold = lambda choice: {} if right is None else {"gold": choice == right}
        return "".join(json.dumps({"task": task, "item": item, "choice": choice, "loglik": score, "greedy": greedy, **gold(choice)}) + "\n"
                       for item, scores in enumerate(table) for choice, (score, greedy) in enumerate(scores))

    def check_limit(ours, theirs, limits, status):
        done = subprocess.run([sys.executable, os.path.join(ROOT, "export", "compare.py"), ours, theirs, *map(str, limits)], capture_output=True)
        equal(done.returncode, status, f"exit status with {limits}")

    piqa = [[(-1, None), (-2, None)], [(-3, None), (-2.9, None)]], [[(-1.2, None), (-2, None)], [(-2.8, None), (-2.9, None)]]
    ours = write("ours.jsonl", rows("piqa", piqa[0]) + rows("lambada", [[(-1, True)], [(-2, False)]]))
    theirs = write("theirs.jsonl", rows("piqa", piqa[1]) + rows("lambada_openai", [[(-1, True)], [(-2, True)]]))
    said = export("compare", ours, theirs).splitlines()
    check(re.search(r"piqa +2 items +right +1 +2 +answers differ +1 .* 0\.1 on average, 0\.2 at most; .* 0\.1 at most", said[0]), said[0])
    check(re.search(r"lambada +2 items +right +1 +2 +answers differ +1 ", said[1]), said[1])
    for limits, status in ((("--accuracy", 0.5, "--loglik", 0.25), 0), (("--accuracy", 0.4), 1), (("--loglik", 0.15), 1)):
        check_limit(ours, theirs, limits, status)
    for ours_right, theirs_right, printed in ((None, 1, "1      0"), (None, None, "-      -")):
        said = export("compare", write("ours.jsonl", rows("piqa", piqa[0], ours_right)), write("theirs.jsonl", rows("piqa", piqa[1], theirs_right)), "--accuracy", 0.5)
        check(f"right      {printed}   answers differ    1 " in said, said)
    check_limit(write("ours.jsonl", rows("piqa", piqa[0], None)), write("theirs.jsonl", rows("piqa", piqa[1], None)), ("--accuracy", 0.4), 1)
    check("no task in common" in export("compare", ours, write("other.jsonl", rows("arc_easy", [[(-1, None)]])), status=65), "no word of tasks")
    check("line 2 is not a score" in export("compare", ours, write("cut.jsonl", rows("piqa", [[(-1, None), (-2, None)]])[:-20]), status=65), "no word of line 2")


run_cases()

#!/usr/bin/env python3
"""Tokenises an evaluation task for train_moba --eval-data: a shard of contexts and continuations, and its sidecar.

    python3 data/eval_tasks.py --encoder encoder.json --vocab-bpe vocab.bpe --task hellaswag --out hellaswag.bin hellaswag_val_full.txt.bz2

Prompts, continuations and the border between their tokens are those of lm-evaluation-harness (v0.4), without few-shot examples.
    hellaswag                 lines of context, label, four endings (.txt, .txt.bz2), or the published .jsonl
    lambada                   .jsonl with "text", or "context" and "continuation"
    arc_easy, arc_challenge   .jsonl with "query" (or "question"), "choices", "gold"
    piqa                      the same"""
import bz2
import json
import os
import re

import common
import encoders
from common import EXIT_DATA, EXIT_USAGE, ToolError

TASKS = ("hellaswag", "lambada", "arc_easy", "arc_challenge", "piqa")


# ---- documents: the rows of the data sets that the harness reads ------------------------------------------------------------

def read_text(path):
    data = common.read_bytes(path, "evaluation set")
    try:
        return (bz2.decompress(data) if path.endswith(".bz2") else data).decode()
    except (OSError, EOFError, ValueError):
        raise ToolError(EXIT_DATA, f"evaluation set {path}: cannot be decompressed or is not UTF-8 (cut copy?)")


def json_rows(path, text):
    rows = []
    for number, line in enumerate(common.lines_of(text), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ToolError(EXIT_DATA, f"evaluation set {path}: line {number} is not JSON (cut copy?)")
    return rows


def hellaswag_docs(path, text):
    if ".jsonl" in os.path.basename(path):
        return json_rows(path, text)
    lines = common.lines_of(text)
    docs = []
    for at in range(0, len(lines), 6):
        block = lines[at:at + 6]
        if len(block) < 6 or block[1] not in ("0", "1", "2", "3") or ": " not in block[0]:
            raise ToolError(EXIT_DATA, f"evaluation set {path}: lines {at + 1} to {at + 6} are not context, label 0 to 3, four endings (cut copy?)")
        label, context = block[0].split(": ", 1)
        docs.append({"activity_label": label, "ctx_a": context, "ctx_b": "", "endings": block[2:], "label": block[1]})
    return docs


def lambada_docs(path, text):
    return [row if "text" in row else {"text": f"{row['context']} {row['continuation']}"} for row in json_rows(path, text)]


def question_of(row):
    return row["question"] if "question" in row else row["query"].removeprefix("Question: ").rstrip("\n")


def arc_docs(path, text):
    return [{"question": question_of(row), "choices": {"text": row["choices"], "label": [str(i) for i in range(len(row["choices"]))]},
             "answerKey": str(row["gold"])} for row in json_rows(path, text)]


def piqa_docs(path, text):
    return [{"goal": question_of(row), "sol1": row["choices"][0], "sol2": row["choices"][1], "label": row["gold"]} for row in json_rows(path, text)]


READERS = {"hellaswag": hellaswag_docs, "lambada": lambada_docs, "arc_easy": arc_docs, "arc_challenge": arc_docs, "piqa": piqa_docs}


def read_docs(task, path):
    try:
        docs = READERS[task](path, read_text(path))
    except KeyError as error:
        raise ToolError(EXIT_DATA, f"evaluation set {path}: a row lacks {error}; see --help for what {task} is read from")
    except (TypeError, IndexError, AttributeError) as error:
        raise ToolError(EXIT_DATA, f"evaluation set {path}: a row has another form than {task}'s have, or too few choices ({error}); see --help for what it is read from")
    if not docs:
        raise ToolError(EXIT_DATA, f"evaluation set {path}: it holds nothing")
    return docs


# ---- prompts ------------------------------------------------------------------------------------------------------------------

def clean_hellaswag(text):
    """Without the artifacts of its WikiHow half."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def prompt_of(task, doc):
    """-> context, choices, gold; a choice follows the context after one space"""
    if task == "hellaswag":
        context = f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}"
        return clean_hellaswag(context), [clean_hellaswag(ending) for ending in doc["endings"]], int(doc["label"])
    if task == "lambada":
        context, _, last = doc["text"].rpartition(" ")
        return context, [last], 0
    if task == "piqa":
        return f"Question: {doc['goal']}\nAnswer:", [doc["sol1"], doc["sol2"]], doc["label"]
    labels = doc["choices"]["label"]
    return f"Question: {doc['question']}\nAnswer:", doc["choices"]["text"], labels.index(doc["answerKey"]) if doc["answerKey"] in labels else -1


def encode_pair(encoder, context, continuation):
    """Tokens of both; where context ends and continuation begins is decided by the context alone, as in the harness."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if not context:
        return [encoder.eot], encoder.encode(continuation)
    before = encoder.encode(context)
    return before, encoder.encode(context + continuation)[len(before):]


# ---- the shard ------------------------------------------------------------------------------------------------------------------

def write_task(path, task, kind, encoder, items, source):
    """items: (gold, length, depth, [(context tokens, continuation tokens, characters)]). Writes the shard and its sidecar."""
    name, extension = os.path.splitext(path)
    if extension != ".bin":
        raise ToolError(EXIT_USAGE, f"--out: {path} does not end in .bin")
    tokens, rows, requests = common.token_array(encoder.vocab), [], []
    for number, (gold, length, depth, continuations) in enumerate(items):
        rows.append([gold, length, depth])
        for context, continuation, characters in continuations:
            if not continuation:
                raise ToolError(EXIT_DATA, f"{task}: a continuation of item {number} has no tokens of its own with this tokenizer")
            tokens.extend(context)
            tokens.extend(continuation)
            requests.append([number, len(context) + len(continuation), len(continuation), characters])
    common.make_directory(os.path.dirname(path))
    common.write_shard(path, tokens)
    common.write_json(f"{name}.json", {"task": task, "kind": kind, "tokenizer": encoder.name, "vocab": encoder.vocab, "tokens": len(tokens),
                                       "source": os.path.basename(source), "items": rows, "requests": requests}, indent=None)
    print(f"{path}: {task}, {len(rows)} items, {len(requests)} continuations, {len(tokens)} tokens")


def tokenised(task, docs, encoder):
    progress = common.Progress(task, "items", len(docs))
    for number, doc in enumerate(docs):
        try:
            context, choices, gold = prompt_of(task, doc)
            if not 0 <= gold < len(choices) or not all(choices):
                raise ToolError(EXIT_DATA, f"{task}: an item's answer is none of its {len(choices)} choices, or a choice is empty: {context[:60]!r}")
            pairs = [(*encode_pair(encoder, context, " " + choice), len(choice)) for choice in choices]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ToolError(EXIT_DATA, f"{task}: item {number} lacks what its kind has, or has it in another form ({type(error).__name__}: {error}); "
                                       "a set without answers cannot be scored")
        yield gold, 0, 0, pairs
        progress.add(1)
    progress.close()


def main():
    parser = common.Parser("Tokenises an evaluation task for train_moba --eval-data: a shard and its sidecar.")
    encoders.add_options(parser)
    parser.add_argument("--task", required=True, choices=TASKS, help="which task the source is of")
    parser.add_argument("--out", required=True, metavar="NAME.bin", help="the shard to write; the sidecar is NAME.json beside it")
    parser.add_argument("source", help="the task's own file")
    options = parser.parse_args()
    docs = read_docs(options.task, options.source)
    encoder = encoders.open_encoder(options)
    kind = "word" if options.task == "lambada" else "choices"
    write_task(options.out, options.task, kind, encoder, tokenised(options.task, docs, encoder), options.source)


if __name__ == "__main__":
    common.run(main)

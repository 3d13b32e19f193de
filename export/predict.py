#!/usr/bin/env python3
"""Answers the prompts of RULER or LongBench with an exported model, in the files their own scoring scripts read.

    RULER      python3 export/predict.py exported/340M ruler 4096/niah_single_2/validation.jsonl pred/4096/niah_single_2.jsonl --max-new 128
               (lines with "input", "outputs"; then RULER's scripts/eval/evaluate.py --data_dir pred/4096)
    LongBench  python3 export/predict.py exported/340M longbench data/qasper.jsonl pred/qasper.jsonl --prompts config/dataset2prompt.json --max-new 128
               (lines with "context", "input", "answers", ...; then LongBench's eval.py)

One line is written as soon as it is answered; run again, the tool goes on behind the last one. A prompt longer than the context loses its middle,
as in LongBench. For RULER's files the share of reference answers found in the predictions is printed, which is its string_match_all."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import common
import exported
from common import EXIT_DATA, EXIT_NO_INPUT, EXIT_USAGE, ToolError


def read_lines(path, what, needed):
    rows = []
    for number, line in enumerate(common.lines_of(common.read_bytes(path, what).decode(errors="replace")), 1):
        try:
            row = json.loads(line)
            missing = [key for key in needed if key not in row]
        except (ValueError, TypeError):
            raise ToolError(EXIT_DATA, f"{what} {path}: line {number} is not JSON (cut copy?)")
        if missing:
            raise ToolError(EXIT_DATA, f"{what} {path}: line {number} lacks \"{missing[0]}\"")
        rows.append(row)
    if not rows:
        raise ToolError(EXIT_DATA, f"{what} {path}: it holds nothing")
    return rows


# ---- the two kinds: prompts in, lines out -----------------------------------------------------------------------------------

def ruler_prompts(path, _):
    return [(row["input"], row) for row in read_lines(path, "RULER set", ("input", "outputs"))]


def ruler_line(row, answer):
    return {"index": row.get("index"), "pred": answer, "input": row["input"], "outputs": row["outputs"], "others": row.get("others", {}),
            "truncation": row.get("truncation", -1), "length": row.get("length", -1)}


def longbench_prompts(path, templates):
    if templates is None:
        raise ToolError(EXIT_USAGE, "longbench needs --prompts, LongBench's config/dataset2prompt.json")
    rows = read_lines(path, "LongBench set", ("context", "input", "answers", "all_classes", "length"))
    name = os.path.basename(path).removesuffix(".jsonl").removesuffix("_e")
    try:
        template = json.loads(common.read_bytes(templates, "prompts"))[name]
        return [(template.format(**row), row) for row in rows]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ToolError(EXIT_DATA, f"prompts {templates}: no template that fits {name} ({error})")


def longbench_line(row, answer):
    return {"pred": answer, "answers": row["answers"], "all_classes": row["all_classes"], "length": row["length"]}


KINDS = {"ruler": (ruler_prompts, ruler_line), "longbench": (longbench_prompts, longbench_line)}


def without_middle(ids, most):
    """The first and the last half of what fits."""
    return ids if len(ids) <= most else ids[:most // 2] + ids[len(ids) - (most - most // 2):]


# ---- going on where one was ---------------------------------------------------------------------------------------------------

def finished(path, total):
    """Whole lines of an output begun before; a half-written last one is cut off."""
    if not os.path.exists(path):
        return 0
    data = common.read_bytes(path, "predictions")
    whole = data[:data.rfind(b"\n") + 1]
    if len(whole) != len(data):
        os.truncate(path, len(whole))
    if whole.count(b"\n") > total:
        raise ToolError(EXIT_DATA, f"predictions {path}: more lines than the set has ({total}); of another set? remove it to begin anew")
    return whole.count(b"\n")


def answer_all(prompts, line_of, answer, out):
    """Answers what `out` lacks, appending line by line."""
    common.make_directory(os.path.dirname(out))
    done = finished(out, len(prompts))
    progress = common.Progress("prompts", "prompts", len(prompts) - done)
    with open(out, "a", encoding="utf-8") as file:
        for prompt, row in prompts[done:]:
            file.write(json.dumps(line_of(row, answer(prompt)), ensure_ascii=False) + "\n")
            file.flush()
            progress.add(1)
    progress.close()
    return done


def string_match_all(rows):
    """Mean share of an item's references found in its prediction, case aside, in percent."""
    share = lambda row: sum(reference.lower() in row["pred"].lower() for reference in row["outputs"]) / len(row["outputs"])
    return 100 * sum(share(row) for row in rows) / len(rows)


def model_answers(options):
    """-> a function from prompt to answer"""
    exported.check(options.model)
    try:
        import torch
        import transformers
    except ImportError as missing:
        raise ToolError(EXIT_NO_INPUT, f"a Python package is missing: {missing} (pip install torch transformers)")
    exported.check_device(torch, options.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model, trust_remote_code=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, trust_remote_code=True, dtype=getattr(torch, options.dtype))
    model = model.to(options.device).eval()
    room = (options.context or model.config.max_position_embeddings) - options.max_new
    if room < 1:
        raise ToolError(EXIT_USAGE, f"--max-new: {options.max_new} leaves no room for a prompt in the context")

    def answer(prompt):
        ids = without_middle(tokenizer(prompt).input_ids, room)
        with torch.no_grad():
            new = model.generate(torch.tensor([ids], device=options.device), max_new_tokens=options.max_new, do_sample=False)[0][len(ids):]
        return tokenizer.decode(new, skip_special_tokens=True)

    return answer


def main():
    parser = common.Parser("Answers the prompts of RULER or LongBench with an exported model.")
    parser.add_argument("--max-new", type=common.whole_number(1), default=128, metavar="N", help="tokens of an answer")
    parser.add_argument("--context", type=common.whole_number(2), metavar="N", help="tokens of prompt and answer (default: the model's)")
    parser.add_argument("--prompts", metavar="FILE", help="LongBench's config/dataset2prompt.json")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="what the model computes in")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("model", help="a directory written by to_hf.py")
    parser.add_argument("kind", choices=sorted(KINDS), help="whose files these are")
    parser.add_argument("source", help="the set, JSON lines")
    parser.add_argument("out", help="the predictions, JSON lines")
    options = parser.parse_args()
    prompts_of, line_of = KINDS[options.kind]
    prompts = prompts_of(options.source, options.prompts)
    done = answer_all(prompts, line_of, model_answers(options), options.out)
    print(f"{options.out}: {len(prompts)} answers, {done} of them from before")
    if options.kind == "ruler":
        print(f"string_match_all  {string_match_all(read_lines(options.out, 'predictions', ('pred', 'outputs'))):.2f}")


if __name__ == "__main__":
    common.run(main)

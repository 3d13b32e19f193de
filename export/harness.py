#!/usr/bin/env python3
"""Scores an exported model with lm-evaluation-harness, its own tasks and code, over local files instead of downloads.

    python3 export/harness.py exported/124M wikitext=wiki.test.raw hellaswag=hellaswag_val_full.txt.bz2 --limit 1000 --out harness.jsonl

Tasks: wikitext, hellaswag, lambada_openai, arc_easy, arc_challenge, piqa. Needs torch and transformers, for tasks lm_eval too (tested with 0.4.13).
--out gets the log-likelihood of every continuation in the form of train_moba --eval-out; compare.py holds the two against each other.
--protocol-a FILE scores protocol A (data/wikitext2.py) by transformers alone."""
import importlib
import json
import math
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "data"))
import common
import eval_tasks
import exported
import wikitext2
from common import EXIT_NO_INPUT, EXIT_USAGE, ToolError

#  task            the data set it asks for, by path or by name
TASKS = {
    "wikitext":       "EleutherAI/wikitext_document_level",
    "hellaswag":      "Rowan/hellaswag",
    "lambada_openai": "EleutherAI/lambada_openai",
    "arc_easy":       "ARC-Easy",
    "arc_challenge":  "ARC-Challenge",
    "piqa":           "baber/piqa",
}
SPLITS = ("train", "validation", "test")      # a task scores one of them; the others would serve few-shot examples, which nobody asks for


def packages(*names):
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as missing:
        raise ToolError(EXIT_NO_INPUT, f"a Python package is missing: {missing} (pip install lm_eval torch transformers)")


def rows_of(task, path):
    if task == "wikitext":
        return [{"page": page} for page in wikitext2.pages_of(wikitext2.read_source(path)[1])]
    return eval_tasks.read_docs(task.removesuffix("_openai"), path)


def serve_locally(datasets, sources):
    """Makes datasets.load_dataset answer with the local files; every other name is refused."""
    local = {TASKS[task]: (path, task) for task, path in sources.items()}

    def load_dataset(path=None, name=None, **_):
        file, task = local.get(path) or local[name]
        return dict.fromkeys(SPLITS, datasets.Dataset.from_list(rows_of(task, file)))

    datasets.load_dataset = load_dataset


def sources_of(arguments):
    sources = {}
    for argument in arguments:
        task, separator, path = argument.partition("=")
        if task not in TASKS or not separator:
            raise ToolError(EXIT_USAGE, f"'{argument}' is not TASK=FILE with a task of {', '.join(TASKS)}")
        if not os.path.exists(path):
            raise ToolError(EXIT_NO_INPUT, f"{task}: {path} is not there")
        sources[task] = path
    return sources


def write_scores(path, samples):
    with common.whole_file(path) as file:
        for task, items in samples.items():
            for item in sorted(items, key=lambda item: item["doc_id"]):
                for choice, answer in enumerate(item["filtered_resps"]):
                    pair = answer if isinstance(answer, (list, tuple)) else (answer, None)
                    line = {"task": task, "item": item["doc_id"], "choice": choice, "loglik": pair[0], "greedy": pair[1]}
                    file.write((json.dumps(line) + "\n").encode())


def protocol_a(torch, model, tokens, context, stride, device):
    """Sliding windows as Hugging Face's recipe has them; each token is scored once, with the context of the first window that holds it."""
    nll, scored, scored_to, begin = 0.0, 0, 0, 0
    while scored_to < len(tokens):
        end = min(begin + context, len(tokens))
        ids = torch.tensor(tokens[begin:end], device=device)[None]
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0].float()
        first = max(scored_to, begin + 1)
        wanted = ids[0, first - begin:]
        nll += float(torch.nn.functional.cross_entropy(logits[first - begin - 1:], wanted, reduction="none").double().sum())
        scored, scored_to, begin = scored + len(wanted), end, begin + stride
    return nll, scored


def options_of():
    parser = common.Parser("Scores an exported model with lm-evaluation-harness over local files.")
    parser.add_argument("--limit", type=common.whole_number(1), metavar="N", help="the first N items of each task (default: all)")
    parser.add_argument("--batch-size", type=common.whole_number(1), default=16, metavar="N", help="rows a forward pass")
    parser.add_argument("--context", type=common.whole_number(2), metavar="N", help="tokens of context (default: the model's)")
    parser.add_argument("--stride", type=common.whole_number(1), metavar="N", help="tokens a window of protocol A moves on (default: half the context)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="what the model computes in")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dense", action="store_true", help="M layers attend to every block")
    parser.add_argument("--protocol-a", metavar="FILE", help="a shard of data/wikitext2.py to score by transformers alone")
    parser.add_argument("--out", metavar="FILE", help="log-likelihoods of every continuation, one JSON line each")
    parser.add_argument("model", help="a directory written by to_hf.py")
    parser.add_argument("tasks", nargs="*", metavar="TASK=FILE", help=f"{', '.join(TASKS)}")
    return parser.parse_args()


def main():
    options = options_of()
    sources = sources_of(options.tasks)
    exported.check(options.model)
    tokens = list(common.read_shard(options.protocol_a)) if options.protocol_a else None
    if sources:                                        # before anything is computed
        datasets, lm_eval, _, huggingface = packages("datasets", "lm_eval", "lm_eval.tasks", "lm_eval.models.huggingface")
    torch, transformers = packages("torch", "transformers")
    exported.check_device(torch, options.device)
    config = transformers.AutoConfig.from_pretrained(options.model, trust_remote_code=True)
    config.eval_attention = "dense" if options.dense else "sparse"
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, config=config, trust_remote_code=True,
                                                              dtype=getattr(torch, options.dtype))
    model = model.to(options.device).eval()
    context = options.context or config.max_position_embeddings
    if tokens:
        with torch.no_grad():
            nll, scored = protocol_a(torch, model, tokens, context, options.stride or max(context // 2, 1), options.device)
        print(f"protocol A        token perplexity {math.exp(nll / scored):.4f}, loss per token {nll / scored:.6f}, {scored} tokens scored",
              flush=True)
    if not sources:
        return
    serve_locally(datasets, sources)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model, trust_remote_code=True)
    # in bf16 log-probabilities would be rounded to 1/16; windows of the whole context go one at a time, as their logits take gigabytes
    wrapped = lambda rows: huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=rows, max_length=context, device=options.device,
                                            softmax_dtype="float32")
    manager = lm_eval.tasks.TaskManager(include_path=[os.path.join(os.path.dirname(lm_eval.tasks.__file__), folder)
                                                      for folder in ("wikitext", "hellaswag", "lambada", "arc", "piqa")], include_defaults=False)
    samples = {}
    for task in sources:
        rows = 1 if task == "wikitext" else options.batch_size
        results = lm_eval.simple_evaluate(wrapped(rows), tasks=[task], limit=options.limit, task_manager=manager, bootstrap_iters=0)
        figures = {name: value for name, value in results["results"][task].items() if isinstance(value, float)}
        print(f"{task:<17} " + ", ".join(f"{name.removesuffix(',none')} {value:.6g}" for name, value in figures.items()), flush=True)
        samples.update(results["samples"])
    if options.out:
        write_scores(options.out, samples)


if __name__ == "__main__":
    common.run(main)

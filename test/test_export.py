#!/usr/bin/env python3
# long: PyTorch on the CPU
"""Tests of export/: a tiny model trained here, exported, imported, compared with the program. What needs torch, transformers or lm_eval is skipped
where they are not installed."""
import array
import functools
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys

from tool_test import ROOT, TEMPORARY, case, check, equal, fresh, kit, package, read, run_cases, tool, write

sys.path.insert(0, os.path.join(ROOT, "export"))
import checkpoint
import common
import names
import predict
import safetensors_file
import tokenizers_json

PROGRAM = os.path.join(ROOT, "train_moba_cpu")
SHAPE = "--layers 4 --channels 32 --heads 2 --mlp 48 --pattern S16,M16:2,M8:4,D --kconv 3 --seq-len 96".split()
WIKI = "".join(f" = Page {n} = \n \n A text with {n * 7919} numbers , and some words ; of page {n} . \n" * 3 for n in range(4))
export = functools.partial(tool, folder="export")


def program(*arguments, status=0):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, errors="replace", env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=TEMPORARY)
    equal(done.returncode, status, f"exit status of the program ({(done.stdout + done.stderr).strip()[-300:]})")
    return done.stdout


@functools.lru_cache(None)
def text():
    """A byte-level shard of this repository's own text."""
    path = os.path.join(TEMPORARY, "text.bin")
    made = subprocess.run([os.path.join(ROOT, "build", "data", "bytes"), "--out", path, "--sidecar", os.path.join(ROOT, "data", "README.md")], capture_output=True)
    equal(made.returncode, 0, "exit status of build/data/bytes")
    return path


@functools.lru_cache(None)
def trained():
    """A run directory: 30 steps, enough for weights that are no longer the initial ones and logits that differ."""
    out = os.path.join(TEMPORARY, "run")
    program("--train-data", text(), "--out", out, *SHAPE, "--micro-batch", 4, "--steps", 30, "--lr", 0.01, "--warmup", 3, "--save-every", 0)
    return out


@functools.lru_cache(None)
def exported():
    out = os.path.join(TEMPORARY, "exported")
    export("to_hf", trained(), out)
    return out


# ---- the files ------------------------------------------------------------------------------------------------------------

@case
def export_and_import_give_the_same_bits():
    back = fresh("back")
    export("from_hf", exported(), back)
    first, second = checkpoint.find(trained()), checkpoint.find(back)
    equal((second.step, second.options), (first.step, first.options), "step and options")
    equal(second.weight_names(), first.weight_names(), "weights")
    for name in first.weight_names():
        check(first.records[f"master/{name}"] == second.records[f"master/{name}"], f"{name}: another shape")
        check(first.read(f"master/{name}") == second.read(f"master/{name}"), f"{name}: other bits")
        check(not any(second.read(f"m/{name}")), f"{name}: a moment is not zero")
    score = lambda run: program("--out", run, "--eval-only", "--eval-data", text(), "--eval-context", 96).split("\n", 1)[1]
    equal(score(back), score(trained()), "perplexity of the imported model")


@case
def export_imported_run_goes_on():
    back = fresh("back")
    export("from_hf", exported(), back)
    said = program("--train-data", text(), "--out", back, *SHAPE, "--micro-batch", 4, "--steps", 31, "--new-schedule", "--lr", 0.001, "--save-every", 0)
    check("resuming" in said and "finished at step 31/31" in said, said[-300:])


@case
def export_holds_what_the_checkpoint_holds():
    saved, tensors = checkpoint.find(trained()), safetensors_file.Reader(os.path.join(exported(), "model.safetensors"))
    equal(len(tensors.shapes), len(saved.weight_names()), "tensors")
    equal(tensors.shapes["model.embed.weight"], (257, 32), "embedding without padding")
    equal(tensors.shapes["model.layers.1.attn.conv.weight"], (32, 1, 3), "taps")
    taps = struct.unpack("<96f", saved.read("master/layer.01.kconv"))
    conv = struct.unpack("<96f", tensors.read("model.layers.1.attn.conv.weight"))
    for channel in range(32):
        for lag in range(3):
            check(conv[channel * 3 + 2 - lag] == taps[lag * 32 + channel], f"channel {channel}, lag {lag}")
    check("model.layers.0.attn.conv.weight" not in tensors.shapes, "an S layer has taps")
    config = json.loads(read(os.path.join(exported(), "config.json")))
    equal((config["vocab_size"], config["pattern"], config["kconv"], config["eos_token_id"]), (257, "S16,M16:2,M8:4,D", 3, 256), "configuration")
    check(read(os.path.join(exported(), "modeling_moba.py")) == read(os.path.join(ROOT, "export", "modeling_moba.py")), "modeling_moba.py differs")


@case
def export_reads_a_checkpoint_of_several_parts():
    """The parts of a save by ranks: slices of tensors, which an export joins."""
    saved = checkpoint.find(trained())
    folder = fresh("parts")
    os.makedirs(folder)
    halves = [{}, {}]
    for name, (dtype, shape) in saved.records.items():
        data, size, count = saved.read(name), checkpoint.ELEMENT_BYTES[dtype], checkpoint.elements(shape)
        cut = count // 3 if name.startswith("master/") else count
        halves[0][name] = dtype, shape, 0, data[:cut * size]
        if cut < count:
            halves[1][name] = dtype, shape, cut, data[cut * size:]
    for part, records in enumerate(halves):
        payload, table = b"", b""
        for name, (dtype, shape, first, data) in records.items():
            stored = data.ljust(checkpoint.padded(len(data)), b"\0")
            table += checkpoint.RECORD.pack(name.encode(), dtype, len(shape), part, checkpoint.zlib.crc32(stored), *shape, *[0] * (4 - len(shape)),
                                            64 + len(payload), first, len(data) // checkpoint.ELEMENT_BYTES[dtype])
            payload += stored
        header = checkpoint.HEADER.pack(checkpoint.MAGIC, 2, len(records), saved.step, 64 + len(payload), 64 + len(payload) + len(table), part, 2, 7,
                                        checkpoint.zlib.crc32(table))
        with open(os.path.join(folder, f"part_{part:04d}.bin"), "wb") as file:
            file.write(header + struct.pack("<I", checkpoint.zlib.crc32(header)) + payload + table)
    joined = fresh("joined")
    export("to_hf", folder, joined)
    check(read(os.path.join(joined, "model.safetensors")) == read(os.path.join(exported(), "model.safetensors")), "the joined export differs")
    os.remove(os.path.join(folder, "part_0001.bin"))
    check("part_0001.bin" in export("to_hf", folder, fresh("never"), status=66), "no word of the missing part")


@case
def export_of_gpt2s_tokenizer_is_gpt2s():
    vocab, encoder, tok = kit("gpt2-bpe/vocab.bpe"), kit("gpt2-bpe/encoder.json"), fresh("gpt2.tok")
    tool("gpt2_tokenizer", "--encoder", encoder, "--vocab-bpe", vocab, tok)
    record, count, eot, _ = tokenizers_json.open_tokenizer(tok)
    equal((count, eot), (50257, 50256), "tokens and end-of-text")
    check([" ".join(merge) for merge in record["model"]["merges"]] == read(vocab).decode().splitlines()[1:50001], "merges are not vocab.bpe's")
    check(record["model"]["vocab"] == json.loads(read(encoder)), "the vocabulary is not encoder.json's")


@case
def export_tokenizer_encodes_as_the_program():
    package("tokenizers")
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(os.path.join(exported(), "tokenizer.json"))
    sample = "int main(void) { return '\u00e4\u20ac\U0001f600'; }\n\n  tab\tend"
    equal(tokenizer.encode(sample).ids, list(sample.encode()), "ids of bytes")
    equal(tokenizer.decode(list(sample.encode())), sample, "text of ids")


@case
def export_refuses_in_sentences():
    run, never = trained(), fresh("never")
    step = os.path.join(run, "checkpoints", "step_00000030")
    refuse = lambda status, part, *arguments: check(part in export("to_hf", *arguments, status=status), f"no word of '{part}'")

    def damaged(change):
        folder = os.path.join(fresh("damaged"), "step_00000030")
        shutil.copytree(step, folder)
        path = os.path.join(folder, "part_0000.bin")
        data = bytearray(read(path))
        change(data)
        with open(path, "wb") as file:
            file.write(data)
        return folder

    def flip(data):
        data[len(data) // 4] ^= 1

    def version(data):
        data[8] = 9

    refuse(65, "checksum", damaged(flip), never)
    refuse(65, "format version 9, this tool reads 2", damaged(version), never)
    refuse(65, "the file holds", damaged(lambda data: data.extend(b"x")), never)
    refuse(65, "does not begin as a checkpoint does", damaged(lambda data: data.clear()), never)
    refuse(66, "part_0000.bin", os.path.join(TEMPORARY, "nothing"), never)
    refuse(73, "holds a model already", run, exported())
    refuse(64, "required", run)
    words = write("words.json", json.dumps({"model": {"vocab": {f"w{i}": i for i in range(50000)}}, "added_tokens": [{"id": 50000, "content": "</s>"}]}))
    refuse(65, "has 50001 tokens, the checkpoint's vocabulary 257", run, never, "--tokenizer", words)
    refuse(65, "not a tokenizer file", run, never, "--tokenizer", write("x.tok", b"nothing of the kind"))
    refuse(66, "missing.tok", run, never, "--tokenizer", "missing.tok")
    check(not os.path.exists(os.path.join(never, "config.json")), "a refused export left a model")


@case
def import_refuses_in_sentences():
    never = fresh("never")
    refuse = lambda part, folder, status=65: check(part in export("from_hf", folder, never, status=status), f"no word of '{part}'")

    def changed(name, change):
        folder = fresh("changed")
        shutil.copytree(exported(), folder)
        data = change(read(os.path.join(folder, name)))
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
        return folder

    refuse("cut copy", changed("model.safetensors", lambda data: data[:-100]))
    refuse("not a safetensors file", changed("model.safetensors", lambda data: b"\xff" * 100))
    refuse("config.json describes another model", changed("config.json", lambda data: data.replace(b'"layers": 4', b'"layers": 5')))
    refuse("config.json describes another model", changed("config.json", lambda data: data.replace(b'"mlp": 48', b'"mlp": 56')))
    refuse("no \"train_moba\"", changed("config.json", lambda data: b"{}"))
    refuse("expected F32", changed("model.safetensors", lambda data: data.replace(b'"F32"', b'"F16"', 1)))
    refuse("config.json", os.path.join(TEMPORARY, "nothing"), status=66)
    check(not os.path.exists(os.path.join(never, "checkpoints")) or not os.listdir(os.path.join(never, "checkpoints")), "a refused import left a checkpoint")
    full = fresh("full")
    export("from_hf", exported(), full)
    check("holds checkpoints already" in export("from_hf", exported(), full, status=73), "no word of the checkpoints that are there")


# ---- evaluation through the program ---------------------------------------------------------------------------------------

def task(name="needle"):
    out = fresh(f"{name}.bin")
    if name == "needle":
        tool("needle", "--tokenizer", "byte", "--lengths", 500, 600, "--depths", 2, "--items", 1, "--out", out)
    else:
        rows = [{"query": f"Question: {a} of {b}?", "choices": [a, b, "none"], "gold": 1} for a in ("shard", "token", "file") for b in ("bytes", "documents")]
        tool("eval_tasks", "--tokenizer", "byte", "--task", "arc_easy", "--out", out, write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    return out


@case
def program_prints_tasks_and_writes_their_scores():
    questions, needles, scores = task("questions"), task(), fresh("scores.jsonl")
    both = os.path.join(fresh("both"), "*.bin")
    os.makedirs(os.path.dirname(both))
    for path in (questions, needles):
        for ending in (".bin", ".json"):
            shutil.copy(path[:-4] + ending, os.path.dirname(both))
    said = program("--out", trained(), "--eval-only", "--eval-data", both, "--eval-context", 600, "--eval-out", scores)
    lines = [json.loads(line) for line in read(scores).decode().splitlines()]
    equal(len(lines), 6 * 3 + 4, "scores")
    best = [max(range(3), key=lambda choice: lines[3 * item + choice]["loglik"]) for item in range(6)]
    check(all(line["loglik"] < 0 for line in lines), "a log-likelihood is not negative")
    check(f"arc_easy, 6 items\naccuracy          {sum(choice == 1 for choice in best) / 6:.4f} " in said, said)
    check(re.search(r"depth, tokens +500 +600 *\n +0 % +0\.00 .*\n +100 % +0\.00 .*\n +all +0\.00 ", said), said)
    equal([(line["length"], line["depth"], line["greedy"]) for line in lines[18:]], [(500, 0, False), (500, 100, False), (600, 0, False), (600, 100, False)],
          "needles")
    first = fresh("first.jsonl")
    program("--out", trained(), "--eval-only", "--eval-data", questions, "--eval-items", 2, "--eval-out", first)
    equal([json.loads(line)["loglik"] for line in read(first).decode().splitlines()], [line["loglik"] for line in lines[:6]], "scores of the first two items")


@case
def program_refuses_evaluations_in_sentences():
    def refuse(status, part, *arguments):
        done = subprocess.run([PROGRAM, "--out", trained(), *map(str, arguments)], capture_output=True, text=True, cwd=TEMPORARY)
        equal(done.returncode, status, f"exit status ({done.stderr.strip()[-300:]})")
        check(part in done.stderr and done.stderr.count("error:") == 1, f"'{part}' is not in: {done.stderr}")

    def changed(change_shard=bytes, change_sidecar=bytes):
        path, out = task("questions"), fresh("changed.bin")
        for name, change in ((".bin", change_shard), (".json", change_sidecar)):
            with open(out[:-4] + name, "wb") as file:
                file.write(change(read(path[:-4] + name)))
        return out

    only = "--eval-only", "--eval-data"
    refuse(65, "cut copy", *only, changed(lambda data: data[:-2]))
    refuse(65, "cut copy", *only, changed(change_sidecar=lambda data: data[:-20]))
    refuse(65, "a task of kind 'riddle'", *only, changed(change_sidecar=lambda data: data.replace(b'"choices"', b'"riddle"')))
    refuse(65, "tokenizer of 50257 tokens", *only, changed(change_sidecar=lambda data: data.replace(b'"vocab": 257', b'"vocab": 50257')))
    refuse(65, "sidecar", *only, changed(change_sidecar=lambda data: b"{}"))
    refuse(65, "outside the vocabulary", *only, changed(lambda data: data[:-2] + b"\xff\x7f"))
    refuse(64, "is too short for s_niah_1", *only, task(), "--eval-context", 400)
    refuse(64, "--eval-out and --eval-items are only used with --eval-data", "--eval-only", "--val-data", text(), "--eval-items", 3)
    refuse(73, "cannot be written", *only, task("questions"), "--eval-out", "no/such/folder/scores.jsonl")
    refuse(66, "none.bin", *only, "none.bin")


@case
def program_speaks_with_a_tokenizer_that_fits():
    """A run's tokenizer file may have moved; one that cannot be the model's is refused, as its ids would be noise."""
    letters = [bytes([byte]) for byte in common.byte_alphabet().values()]
    ids = {character: i for i, character in enumerate(common.byte_alphabet())}
    ids.update({"th": len(letters), common.EOT_TEXT: len(letters) + 1})
    here, there = fresh("here.tok"), fresh("there.tok")
    tool("gpt2_tokenizer", "--encoder", write("encoder.json", json.dumps(ids)), "--vocab-bpe", write("vocab.bpe", "#version: 0.2\nt h\n"), here)
    shape = "--layers 1 --channels 16 --heads 2 --mlp 16 --pattern D --seq-len 32 --steps 1 --save-every 0".split()
    run, wide = fresh("run"), fresh("wide")
    program("--train-data", text(), "--out", run, *shape, "--vocab", 258, "--tokenizer", here)
    program("--train-data", text(), "--out", wide, *shape, "--vocab", 600)
    os.rename(here, there)

    def refuse(status, part, *arguments):
        done = subprocess.run([PROGRAM, *map(str, arguments), "--prompt", "the"], capture_output=True, text=True, cwd=TEMPORARY)
        equal(done.returncode, status, f"exit status ({done.stderr.strip()[-300:]})")
        check(part in done.stderr and done.stderr.count("error:") == 1, f"'{part}' is not in: {done.stderr}")

    refuse(66, "here.tok", "--out", run)
    check("the" in program("--out", run, "--tokenizer", there, "--prompt", "the", "--sample-tokens", 3), "no prompt in the sample")
    refuse(64, "258 tokens, the model's vocabulary 257", "--out", trained(), "--tokenizer", there)
    refuse(64, "byte has 257 tokens, the model's vocabulary 600", "--out", wide)
    refuse(64, "258 tokens, the model's vocabulary 600", "--out", wide, "--tokenizer", there)


@case
def evaluate_script_scores_what_is_there():
    sets, run = fresh("sets"), fresh("run")
    os.makedirs(sets)
    shutil.copytree(trained(), run)
    question = "Question: how " + "very " * 30 + "much?"                     # more than the model's context
    for name, data in (("wiki.test.raw", WIKI), ("haystack.txt", "One sentence. " * 9), ("piqa.jsonl", json.dumps({"query": question, "choices": ["a", "b"], "gold": 0}))):
        with open(os.path.join(sets, name), "w") as file:
            file.write(data)
    ran = lambda: subprocess.run([os.path.join(ROOT, "scripts", "evaluate.sh"), run, sets, "--eval-attention", "dense"], capture_output=True, text=True,
                                 env={**os.environ, "TOKENIZER": "byte", "PROGRAM": PROGRAM, "LENGTHS": "500 600", "ITEMS": "1", "OMP_NUM_THREADS": "1"})
    for _ in range(2):                                 # the second time the sets are there
        done = ran()
        equal(done.returncode, 0, f"exit status ({done.stderr[-300:]})")
        check("has no files for hellaswag lambada arc_easy arc_challenge;" in done.stderr, f"what is missing is not said: {done.stderr[-300:]}")
        equal(re.findall(r"^task +(\w+), (\d+) items", done.stdout, re.M), [("piqa", "1"), ("s_niah_1", "22"), ("s_niah_2", "22"), ("s_niah_3", "22")], "tasks")
        equal(re.findall(r"^context, (.+?)  +(.+)$", done.stdout, re.M), [("stride", "96, 48"), ("windows", "96, rolling over each of 12 documents")],
              "contexts of texts: the model's own, not the needles'")
    lines = [json.loads(line) for line in read(os.path.join(run, "scores.jsonl")).decode().splitlines()]
    equal([line["task"] for line in lines], ["piqa"] * 2 + [f"s_niah_{kind}" for kind in (1, 2, 3) for _ in range(22)], "scores")
    direct = fresh("direct.jsonl")
    program("--out", run, "--eval-only", "--eval-data", os.path.join(sets, "prepared", "piqa.bin"), "--eval-attention", "dense", "--eval-out", direct)
    equal([line["loglik"] for line in lines[:2]], [json.loads(line)["loglik"] for line in read(direct).decode().splitlines()], "scores of a task: at the model's context")


@case
def harness_refuses_in_sentences():
    """What is not a whole export of to_hf.py is named before torch or the harness are needed."""
    rows = write("rows.jsonl", '{"query":"Question: how?","choices":["a","b"],"gold":0}\n')
    refuse = lambda status, part, *arguments: check(part in export("harness", *arguments, status=status), f"no word of '{part}'")

    def changed(name, change):
        folder = fresh("changed")
        shutil.copytree(exported(), folder)
        data = change(read(os.path.join(folder, name)))
        os.remove(os.path.join(folder, name))
        if data:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
        return folder

    refuse(64, "with a task of wikitext, hellaswag", exported(), f"winogrande={rows}")
    refuse(66, "nothing.jsonl is not there", exported(), "piqa=nothing.jsonl")
    refuse(66, "config.json", os.path.join(TEMPORARY, "nothing"), f"piqa={rows}")
    refuse(65, "model type llama, expected moba", changed("config.json", lambda data: data.replace(b'"model_type": "moba"', b'"model_type": "llama"')), f"piqa={rows}")
    refuse(65, "not a JSON object", changed("config.json", lambda data: data[:-30]), f"piqa={rows}")
    refuse(65, "is missing, config.json asks for [32, 32]", changed("config.json", lambda data: data.replace(b'"num_hidden_layers": 4', b'"num_hidden_layers": 5')), f"piqa={rows}")
    refuse(65, "config.json asks for none", changed("config.json", lambda data: data.replace(b'"num_hidden_layers": 4', b'"num_hidden_layers": 3')), f"piqa={rows}")
    refuse(65, "cut copy?", changed("model.safetensors", lambda data: data[:-100]), f"piqa={rows}")
    refuse(66, "has no tokenizer.json", changed("tokenizer.json", lambda data: None), f"piqa={rows}")
    refuse(66, "nothing.bin", exported(), "--protocol-a", "nothing.bin")
    refuse(65, "cut copy?", exported(), "--protocol-a", write("cut.bin", read(text())[:-2]))
    source = write("niah.jsonl", '{"input": "a", "outputs": ["b"]}\n')
    check("config.json" in export("predict", os.path.join(TEMPORARY, "nothing"), "ruler", source, fresh("never.jsonl"), status=66), "predict: no word of config.json")


# ---- against transformers and the harness ---------------------------------------------------------------------------------

def hugging_face(folder):
    """An exported model as transformers loads it, fp32."""
    package("torch")
    package("transformers")
    import transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="float32").eval()


@functools.lru_cache(None)
def lively():
    """The export with random matrices, and a run imported from it: its greedy text is no single byte over and over."""
    folder, run = fresh("lively"), fresh("lively_run")
    shutil.copytree(exported(), folder)
    tensors = safetensors_file.Reader(os.path.join(exported(), "model.safetensors"))

    def other(name):
        numbers, source = array.array("f", tensors.read(name)), random.Random(name)
        return array.array("f", (source.gauss(0, 0.4) for _ in numbers)).tobytes() if len(tensors.shapes[name]) == 2 else numbers.tobytes()

    safetensors_file.write(os.path.join(folder, "model.safetensors"),
                           {name: (shape, functools.partial(other, name)) for name, shape in tensors.shapes.items()})
    export("from_hf", folder, run)
    return folder, run


@case
def export_logits_are_the_programs():
    model = hugging_face(exported())
    import torch
    made = subprocess.run([os.path.join(ROOT, "build", "model", "dump_cpu"), TEMPORARY, "--logits", "--train-data", "none", *SHAPE, "--vocab", "257", "--micro-batch", "2",
                           "--seq-len", "90"], capture_output=True, text=True)
    equal(made.returncode, 0, f"exit status of dump_cpu ({made.stderr[-300:]})")
    dump = checkpoint.Checkpoint(os.path.join(TEMPORARY, "step_00000001"))
    floats = lambda name: torch.frombuffer(bytearray(dump.read(name)), dtype=torch.float32)
    whole = lambda name: torch.tensor(dump.numbers(name)).view(2, 90)
    state = {}
    for name in dump.records:
        if name.startswith("param/"):
            name, (_, shape) = name[len("param/"):], dump.records[name]
            data = names.to_exported(name, shape, dump.read(f"param/{name}"), 257)
            state[names.exported_name(name)] = torch.frombuffer(bytearray(data), dtype=torch.float32).view(names.exported_shape(name, shape, 257))
    loaded = type(model)(model.config).eval()
    lacking = loaded.load_state_dict(state, strict=False)
    equal(([name for name in lacking.missing_keys if name != "lm_head.weight"], lacking.unexpected_keys), ([], []), "tensors")
    loaded.tie_weights()
    code = sys.modules[type(loaded).__module__]
    for chunk in (code.QUERY_CHUNK, 16, 7):                       # 16 and 7: chunks of fewer blocks than a query reads
        code.QUERY_CHUNK = chunk
        with torch.no_grad():
            logits = loaded(whole("tokens")).logits
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), whole("targets").flatten(), reduction="none")
        error = float((losses - floats("losses")).abs().max())
        check(error < 1e-4, f"losses differ by {error:.3g}, {chunk} queries at a time")
        expected = floats("logits").view(2, 90, 257)
        error = float((logits - expected).abs().max())
        check(error < 1e-4 * float(expected.abs().max()), f"logits differ by {error:.3g}, {chunk} queries at a time")


@case
def export_generates_the_programs_tokens():
    folder, run = lively()
    model = hugging_face(folder)
    import torch
    for prompt in ("A shard of tokens is", "| `", "the bytes of each"):
        said = subprocess.run([PROGRAM, "--out", run, "--prompt", prompt, "--temperature", "0", "--sample-tokens", "64"], capture_output=True).stdout
        ids = torch.tensor([[256, *prompt.encode()]])
        for cache in (True, False):
            with torch.no_grad():
                new = model.generate(ids, do_sample=False, max_new_tokens=64, use_cache=cache, eos_token_id=None)[0, ids.shape[1]:].tolist()
            new = bytes(new[:new.index(256)] if 256 in new else new)
            equal(said.split(b"\n", 1)[1], prompt.encode() + new + b"\n", f"{'cached' if cache else 'whole'} generation after '{prompt}'")
            check(len(set(new)) > 5, f"the text is monotonous: {new}")


@case
def export_cache_in_pieces_gives_the_same_logits():
    model = hugging_face(exported())
    import torch
    ids = torch.randint(0, 257, (2, 90), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole, cache, pieces = model(ids, use_cache=False).logits, None, []
        for begin, end in ((0, 37), (37, 38), (38, 64), (64, 90)):
            out = model(ids[:, begin:end], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            pieces.append(out.logits)
    error = float((torch.cat(pieces, 1) - whole).abs().max())
    check(error < 1e-4, f"logits in pieces differ by {error:.3g}")
    padded = torch.cat((ids, torch.zeros(2, 5, dtype=torch.long)), 1)
    with torch.no_grad():
        check(float((model(padded, use_cache=False).logits[:, :90] - whole).abs().max()) < 1e-4, "padding on the right shows")
    try:
        model(ids, attention_mask=torch.tensor([[0] + [1] * 89] * 2))
        check(False, "rows padded on the left were accepted")
    except ValueError as error:
        check("batch_size 1" in str(error), str(error))


@case
def export_dense_is_the_programs_dense():
    package("torch")
    package("transformers")
    shard, lacking = fresh("wiki_a.bin"), fresh("lacking")
    tool("wikitext2", "--tokenizer", "byte", "--out", shard, write("wiki.raw", WIKI))
    os.mkdir(lacking)
    with open(os.path.join(lacking, "lm_eval.py"), "w") as file:       # texts do not need the harness
        file.write("raise ImportError('none here')\n")
    for mode, more in (("sparse", ()), ("dense", ("--dense",))):
        said = export("harness", exported(), "--protocol-a", shard, *more, PYTHONPATH=lacking)
        ours = program("--out", trained(), "--eval-only", "--eval-data", shard, "--eval-attention", mode)
        equal(re.search(r"loss per token +([\d.]+)", ours)[1][:7], re.search(r"loss per token ([\d.]+)", said)[1][:7], f"loss per token, {mode}")
    said = export("harness", exported(), f"wikitext={write('wiki.raw', WIKI)}", status=66, PYTHONPATH=lacking)
    check("none here (pip install lm_eval" in said or "missing: No module named 'datasets'" in said, said)


@case
def export_scores_are_the_harness():
    for name in ("torch", "transformers", "lm_eval"):
        package(name)
    questions, scores, theirs = task("questions"), fresh("ours.jsonl"), fresh("theirs.jsonl")
    wiki, source = fresh("wiki.bin"), write("wiki.raw", WIKI)
    tool("wikitext2", "--tokenizer", "byte", "--protocol", "b", "--out", wiki, source)
    rows = next(os.path.join(TEMPORARY, name) for name in sorted(os.listdir(TEMPORARY), reverse=True) if name.endswith("rows.jsonl"))
    said = export("harness", exported(), f"arc_easy={rows}", f"wikitext={source}", "--out", theirs)
    ours = program("--out", trained(), "--eval-only", "--eval-data", questions, "--eval-out", scores)
    export("compare", scores, theirs, "--accuracy", 0, "--loglik", 1e-3)
    accuracy, normalized = (float(re.search(rf"{name} +([\d.]+)", ours)[1]) for name in ("accuracy", "acc, normalised"))
    check(abs(accuracy - float(re.search(r"acc ([\d.]+)", said)[1])) < 1e-4, f"accuracy: {ours}{said}")
    check(abs(normalized - float(re.search(r"acc_norm ([\d.]+)", said)[1])) < 1e-4, f"normalised accuracy: {ours}{said}")
    perplexity = re.search(r"bits per byte +([\d.]+)", program("--out", trained(), "--eval-only", "--eval-data", wiki))[1]
    check(abs(float(perplexity) / float(re.search(r"bits_per_byte ([\d.]+)", said)[1]) - 1) < 1e-4, f"protocol B: {perplexity}, {said}")


# ---- predict.py -----------------------------------------------------------------------------------------------

RULER = [{"index": i, "input": f"Where is {i}?", "outputs": [f"Place {i}", "Z"], "length": 9} for i in range(5)]
LONGBENCH = [{"context": f"text {i}", "input": f"question {i}", "answers": ["a"], "all_classes": None, "length": 4, "dataset": "qasper", "_id": "x"} for i in range(3)]
lines = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)


@case
def predict_writes_what_ruler_reads():
    out = fresh("niah.jsonl")
    prompts = predict.ruler_prompts(write("validation.jsonl", lines(RULER)), None)
    asked = []

    def answer(prompt):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(prompt)
        return f"it is at place {prompt[9]}, or z" if prompt[9] != "1" else "nowhere \u00e4"

    try:
        predict.answer_all(prompts, predict.ruler_line, answer, out)
    except KeyboardInterrupt:
        pass
    with open(out, "a") as file:
        file.write('{"index": 3, "pr')                 # as a kill leaves it
    asked.clear()
    equal(predict.answer_all(prompts, predict.ruler_line, answer, out), 3, "answers from before")
    equal(asked, ["Where is 3?", "Where is 4?"], "asked the second time")
    rows = predict.read_lines(out, "predictions", ("pred", "outputs"))
    equal(rows[1], {"index": 1, "pred": "nowhere \u00e4", "input": "Where is 1?", "outputs": ["Place 1", "Z"], "others": {}, "truncation": -1, "length": 9}, "a line")
    equal(predict.string_match_all(rows), 80.0, "string_match_all")


@case
def predict_writes_what_longbench_reads():
    source, out = os.path.join(TEMPORARY, "qasper_e.jsonl"), fresh("qasper.jsonl")
    with open(source, "w") as file:
        file.write(lines(LONGBENCH))
    templates = write("dataset2prompt.json", json.dumps({"qasper": "Read {context}. Answer {input}"}))
    prompts = predict.longbench_prompts(source, templates)
    equal(prompts[2][0], "Read text 2. Answer question 2", "prompt")
    predict.answer_all(prompts, predict.longbench_line, str.upper, out)
    equal(json.loads(read(out).splitlines()[0]), {"pred": "READ TEXT 0. ANSWER QUESTION 0", "answers": ["a"], "all_classes": None, "length": 4}, "a line")
    equal(predict.without_middle(list(range(10)), 5), [0, 1, 7, 8, 9], "a prompt without its middle")
    equal(predict.without_middle(list(range(5)), 5), list(range(5)), "a prompt that fits")


@case
def predict_answers_are_the_models():
    """Greedy text after a prompt, also after one that loses its middle; run again, nothing is asked."""
    folder, _ = lively()
    model, out = hugging_face(folder), fresh("answers.jsonl")
    import torch
    prompts = ["A shard of tokens is", "".join(f"{i} of many, " for i in range(30))]
    source = write("niah.jsonl", lines({"input": prompt, "outputs": ["none"]} for prompt in prompts))
    options = "ruler", source, out, "--device", "cpu", "--dtype", "float32", "--context", 60, "--max-new", 10
    said = export("predict", folder, *options)
    check("2 answers, 0 of them from before" in said and "string_match_all  0.00" in said, said)
    for row, prompt in zip(read(out).decode().splitlines(), prompts):
        ids = list(prompt.encode())
        ids = torch.tensor([ids if len(ids) <= 50 else ids[:25] + ids[-25:]])
        with torch.no_grad():
            new = model.generate(ids, do_sample=False, max_new_tokens=10)[0, ids.shape[1]:].tolist()
        check(len(set(new)) > 2, f"the answer is monotonous: {new}")
        equal(json.loads(row)["pred"], bytes(new[:new.index(256)] if 256 in new else new).decode(errors="replace"), f"answer to {prompt[:20]}")
    check("2 answers, 2 of them from before" in export("predict", folder, *options), "the second run asked again")


@case
def predict_refuses_in_sentences():
    out = fresh("never.jsonl")
    refuse = lambda status, part, *arguments: check(part in export("predict", exported(), *arguments, status=status), f"no word of '{part}'")
    refuse(64, "invalid choice", "riddles", "x", out)
    refuse(66, "nothing.jsonl", "ruler", "nothing.jsonl", out)
    refuse(65, "line 5 is not JSON (cut copy?)", "ruler", write("cut.jsonl", lines(RULER)[:-9]), out)
    refuse(65, "line 1 lacks \"outputs\"", "ruler", write("other.jsonl", '{"input": "a"}'), out)
    refuse(64, "longbench needs --prompts", "longbench", write("qasper.jsonl", lines(LONGBENCH)), out)
    refuse(65, "no template that fits", "longbench", write("qasper.jsonl", lines(LONGBENCH)), out, "--prompts", write("p.json", "{}"))
    refuse(65, "holds nothing", "ruler", write("empty.jsonl", ""), out)
    check(not os.path.exists(out), "a refused command left a file")


@case
def export_tools_have_help():
    for name in sorted(os.listdir(os.path.join(ROOT, "export"))):
        if name.endswith(".py") and b"common.run(main)" in read(os.path.join(ROOT, "export", name)):
            check("usage:" in export(name[:-3], "--help"), f"{name} has no --help")


@case
def export_twice_is_the_same_twice():
    again = fresh("again")
    export("to_hf", trained(), again)
    equal(sorted(os.listdir(again)), sorted(os.listdir(exported())), "files")
    for name in os.listdir(again):
        check(read(os.path.join(again, name)) == read(os.path.join(exported(), name)), f"{name} differs between two exports")


run_cases()

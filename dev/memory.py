#!/usr/bin/env python3
"""What recompute levels cost and save, and what --micro-batch auto takes: the 340M hybrid at 8K on this GPU.

    dev/memory.py              writes dev/results/memory.jsonl, a line a process; two minutes on an H100
    dev/memory.py --table      the lines as Markdown

Levels: 4 rows a micro-batch, medians of the steps after the first 4; auto: after the first 2. Used: all that is in use on the GPU, CUDA's own included, as the trainer's log
has it; nothing else may be on it. Planned: the trainer's line of memory.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(ROOT, "dev/results/memory.jsonl")
MODEL = ["--preset", "340M", "--pattern", "S256,M128:8", "--kconv", "3", "--seq-len", "8192", "--lr", "1e-4", "--warmup", "10", "--schedule", "constant", "--save-every", "0"]
WARM, LIMIT_S = 4, 120
# name, options, steps; level 0 first and last: a GPU that has warmed up is slower
RUNS = [("level 0", ["--micro-batch", "4", "--recompute", "0"], 20), ("level 1", ["--micro-batch", "4", "--recompute", "1"], 20),
        ("level 2", ["--micro-batch", "4", "--recompute", "2"], 20), ("level 3", ["--micro-batch", "4", "--recompute", "3"], 20),
        ("level 4", ["--micro-batch", "4", "--recompute", "4"], 20), ("level 0 again", ["--micro-batch", "4", "--recompute", "0"], 20),
        ("auto, 64 rows", ["--micro-batch", "auto", "--total-batch", str(64 * 8192)], 6), ("auto, 60 rows", ["--micro-batch", "auto", "--total-batch", str(60 * 8192)], 6)]


def steps_of(log):
    """The log's whole lines of steps."""
    if not os.path.exists(log):
        return []
    with open(log) as lines:
        return [json.loads(line) for line in lines if line.endswith("}\n") and '"kind":"step"' in line]


def train(data, out, options, steps):
    """Runs the trainer for so many steps, then ends it at once: nobody wants its checkpoint. Returns its console and its steps."""
    command = [os.environ.get("PROGRAM", "./train_moba"), "--train-data", data, "--out", out, *MODEL, *options, "--steps", "100000"]
    with open(os.path.join(out, "console"), "w+") as console:
        trainer = subprocess.Popen(command, cwd=ROOT, stdout=console, stderr=subprocess.STDOUT)
        end = time.monotonic() + LIMIT_S
        while trainer.poll() is None and time.monotonic() < end and len(steps_of(out + "/log.jsonl")) < steps:
            time.sleep(0.1)
        trainer.kill()
        trainer.wait()
        console.seek(0)
        said = console.read()
    log = steps_of(out + "/log.jsonl")
    if len(log) < steps:
        sys.exit(f"error: {' '.join(command)}: {len(log)} of {steps} steps; it said: {said[-500:]}")
    return said, log[:steps]


def record(name, options, said, log):
    warm = min(WARM, len(log) // 3)
    ms = sorted(round(step["ms"], 2) for step in log[warm:])
    line = {"run": name, "options": " ".join(options), "steps": len(ms), "ms": ms[len(ms) // 2], "ms_min": ms[0], "ms_max": ms[-1],
            "tok_s": round(log[-1]["tokens"] / log[-1]["step"] / ms[len(ms) // 2] * 1e3), "used_mib": round(max(step["mem_mib"] for step in log)),
            "planned_mib": round(float(re.search(r"\nmemory .* in all ([0-9.]+) MiB", said)[1])), "loss": log[-1]["loss"]}
    chosen = re.search(r"\nmicro-batch (\d+) of (\d+) rows: .* fit ([0-9.]+) MiB", "\n" + said)
    if chosen:
        line.update(micro_batch=int(chosen[1]), rows=int(chosen[2]), room_mib=round(float(chosen[3])))
    return line


def table():
    if not os.path.exists(RESULTS):
        sys.exit("error: dev/results/memory.jsonl is not there: dev/memory.py writes it, on a GPU")
    with open(RESULTS) as lines:
        records = [json.loads(line) for line in lines]
    print("| | micro-batch | ms | range | tokens/s | MiB used, planned |\n|---|---|---|---|---|---|")
    for r in records:
        print(f"| {r['run']} | {r.get('micro_batch', 4)} | {r['ms']:.1f} | {r['ms_min']:.1f} to {r['ms_max']:.1f} | {r['tok_s'] / 1e3:.1f}k | {r['used_mib']}, {r['planned_mib']} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        table()
        return
    subprocess.run(["make", "-s", "build/data/synthetic"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as work:
        data = os.path.join(work, "text.bin")
        subprocess.run([os.path.join(ROOT, "build/data/synthetic"), "--kind", "zipf", "--tokens", "8000000", "--vocab", "50257", "--out", data], check=True, stdout=subprocess.DEVNULL)
        records = []
        for i, (name, options, steps) in enumerate(RUNS):
            out = os.path.join(work, str(i))
            os.mkdir(out)
            records.append(record(name, options, *train(data, out, options, steps)))
            print(json.dumps(records[-1]), flush=True)
    with open(RESULTS, "w") as file:
        file.writelines(json.dumps(r) + "\n" for r in records)


if __name__ == "__main__":
    main()

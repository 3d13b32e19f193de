#!/usr/bin/env python3
"""What Nsight Compute says of the attention kernels of MoBA, one launch of each: a table, and dev/results/ncu_attention.jsonl.

    make ncu                                   both paths, 8192 tokens, head dim 64 (builds build/bench/moba_pipeline)
    dev/ncu_attention.py [--path hopper] [--T 8192] [--dim 64]

Batch 2, 16 heads, block 128, top-k 8, random routing, clocks as they are. Under the profiler a kernel starts with cold caches.
"""
import argparse
import csv
import json
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RESULTS = os.path.join(ROOT, "dev/results/ncu_attention.jsonl")
PROGRAM = os.path.join(ROOT, "build/bench/moba_pipeline")
KERNELS = {                # path -> (kernels of a forward, kernels of a backward)
    "hopper": (["hopper_forward", "hopper_merge"], ["backward_stats", "hopper_backward", "backward_combine"]),
    "portable": (["routed_forward", "own_forward"], ["backward_stats", "portable_backward", "backward_combine"]),
}
SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "SchedulerStats", "LaunchStats", "Occupancy")
COLUMNS = {                # column -> ncu's name for it, in the base unit
    "us": "Duration", "DRAM %": "DRAM Throughput", "L2 %": "L2 Cache Throughput", "SM %": "Compute (SM) Throughput",
    "issue %": "Issue Slots Busy", "warps a scheduler": "Active Warps Per Scheduler", "eligible": "Eligible Warps Per Scheduler",
    "registers": "Registers Per Thread",
}


def fail(sentence):
    sys.exit(f"error: {sentence}")


def profile(kernels, path, T, dim):
    """ncu's rows, {kernel: {metric: value}}."""
    command = ["ncu", "--csv", "--page", "details", "--print-units", "base", "--clock-control", "none"]
    for section in SECTIONS:
        command += ["--section", section]
    command += ["-k", f"regex:moba_({'|'.join(kernels)})_kernel", "-c", str(len(kernels)), PROGRAM, "--routing", "random", "--path", path,
                "--T", str(T), "--D", str(dim)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if not lines:
        fail(f"ncu says nothing of moba_({'|'.join(kernels)})_kernel: {(done.stdout + done.stderr).strip()[-300:]}")
    found = {}
    for row in csv.DictReader(lines):
        try:
            value = float(row["Metric Value"].replace(",", ""))
        except ValueError:                                           # a word, as of the cache policy
            continue
        found.setdefault(row["Kernel Name"].split("(")[0].removeprefix("void "), {})[row["Metric Name"]] = value
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", choices=KERNELS)
    parser.add_argument("--T", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=64)
    arguments = parser.parse_args()
    os.environ["PATH"] += ":/usr/local/cuda/bin"
    if shutil.which("ncu") is None:
        fail("ncu (Nsight Compute, part of the CUDA toolkit) is neither on PATH nor in /usr/local/cuda/bin")
    if not os.path.exists(PROGRAM):
        fail(f"{PROGRAM} is not there; make build/bench/moba_pipeline builds it")
    print(f"T {arguments.T}, head dim {arguments.dim}\n\n| path | kernel | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
    with open(RESULTS, "a") as results:
        for path in [arguments.path] if arguments.path else KERNELS:
            for kernels in KERNELS[path]:
                for kernel, metrics in profile(kernels, path, arguments.T, arguments.dim).items():
                    values = {column: metrics.get(name) for column, name in COLUMNS.items()}
                    values["us"] = values["us"] and values["us"] / 1e3
                    print(f"| {path} | {kernel} | {' | '.join('-' if x is None else f'{x:.3g}' for x in values.values())} |", flush=True)
                    print(json.dumps({"op": "ncu_attention", "path": path, "kernel": kernel, "T": arguments.T, "D": arguments.dim, **values}), file=results)


if __name__ == "__main__":
    main()

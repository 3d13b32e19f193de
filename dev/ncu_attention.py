#!/usr/bin/env python3
"""What Nsight Compute says of the attention kernels of MoBA, one launch of each: a table, and dev/results/ncu_attention.jsonl.

    make ncu                                   both paths, 8192 tokens, head dims 64 and 128 (builds build/bench/moba_pipeline); the file is made anew
    dev/ncu_attention.py [--path hopper] [--T 8192] [--dim 64]         some of them, added to the file

Batch 2, 16 heads, block 128, top-k 8, random routing, clocks as they are. Under the profiler a kernel starts with cold caches.
tensor pipe % is ncu's counter; tensor % is the share of the peak that the products a query and its keys need take, from ncu's cycles.
"""
import argparse
import csv
import itertools
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
PRODUCTS = {               # kernel -> products of a query and a key it makes, with routed keys and with those of the own block
    "hopper_forward": (2, 2), "routed_forward": (2, 0), "own_forward": (0, 2), "hopper_backward": (5, 5), "portable_backward": (5, 5),
}
BATCH, HEADS, BLOCK, SLOTS = 2, 16, 128, 7
TENSOR_PIPE = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed"
TENSOR_FLOPS = 4096        # dense bf16, a multiprocessor of an H100 and cycle
COLUMNS = {                # column -> ncu's name for it, in the base unit
    "us": "Duration", "DRAM %": "DRAM Throughput", "L2 %": "L2 Cache Throughput", "SM %": "Compute (SM) Throughput",
    "issue %": "Issue Slots Busy", "warps a scheduler": "Active Warps Per Scheduler", "eligible": "Eligible Warps Per Scheduler",
    "registers": "Registers Per Thread", "tensor pipe %": TENSOR_PIPE,
}


def fail(sentence):
    sys.exit(f"error: {sentence}")


def tensor_share(kernel, metrics, T, dim):
    """% of what the tensor cores can do in the kernel's cycles, counting only products of queries with keys that they see; None without products."""
    factors = next((f for name, f in PRODUCTS.items() if name in kernel), None)
    cycles, cores = metrics.get("Elapsed Cycles"), metrics.get("# SMs", 132)
    if factors is None or not cycles:
        return None
    blocks = T // BLOCK
    routed = BLOCK * sum(min(j, SLOTS) for j in range(blocks)) / blocks
    keys = factors[0] * routed + factors[1] * (BLOCK + 1) / 2
    return 100 * 2 * dim * keys * BATCH * HEADS * T / (cycles * cores * TENSOR_FLOPS)


def profile(kernels, path, T, dim):
    """ncu's rows, {kernel: {metric: value}}."""
    command = ["ncu", "--csv", "--page", "details", "--print-units", "base", "--clock-control", "none", "--metrics", TENSOR_PIPE]
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
    parser.add_argument("--dim", type=int, choices=(64, 128))
    arguments = parser.parse_args()
    os.environ["PATH"] += ":/usr/local/cuda/bin"
    if shutil.which("ncu") is None:
        fail("ncu (Nsight Compute, part of the CUDA toolkit) is neither on PATH nor in /usr/local/cuda/bin")
    if not os.path.exists(PROGRAM):
        fail(f"{PROGRAM} is not there; make build/bench/moba_pipeline builds it")
    paths, dims = [arguments.path] if arguments.path else list(KERNELS), [arguments.dim] if arguments.dim else [64, 128]
    print(f"T {arguments.T}\n\n| path | kernel | {' | '.join(COLUMNS)} | tensor % |\n|{'---|' * (len(COLUMNS) + 3)}")
    with open(RESULTS, "a" if arguments.path or arguments.dim or arguments.T != 8192 else "w") as results:
        for path, dim, backward in itertools.product(paths, dims, (0, 1)):
            for kernel, metrics in profile(KERNELS[path][backward], path, arguments.T, dim).items():
                values = {column: metrics.get(name) for column, name in COLUMNS.items()}
                values["us"] = values["us"] and values["us"] / 1e3
                values["tensor %"] = tensor_share(kernel, metrics, arguments.T, dim)
                print(f"| {path} | {kernel} | {' | '.join('-' if x is None else f'{x:.3g}' for x in values.values())} |", flush=True)
                print(json.dumps({"op": "ncu_attention", "path": path, "kernel": kernel, "T": arguments.T, "D": dim, **values}), file=results)


if __name__ == "__main__":
    main()

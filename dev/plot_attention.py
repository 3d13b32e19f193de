#!/usr/bin/env python3
"""Draws dev/results/attention.png: time of MoBA attention against sequence length, beside dense attention and flash-moba.

    make bench OP=moba_pipeline              writes dev/results/moba_pipeline.jsonl (ours; its lines carry the peers' times too)
    dev/plot_attention.py [--dim 64]         needs matplotlib
    dev/plot_attention.py --torch            first measures PyTorch's cuDNN and FlashAttention-2 on this GPU (needs PyTorch), and appends
                                             its lines to dev/results/torch_attention.jsonl. --seconds 7 is the most that a length may take a
                                             backend: on an H100 dense attention then ends at 256K, after 20 s in all; with 30 at
                                             512K, after 70 s

All times: batch 2, 16 heads, block 128, top-k 8, random routing, milliseconds. Forward is everything from centroids to the output.
"""
import argparse
import functools
import importlib.util
import json
import os
import sys

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
PIPELINE, TORCH, PICTURE = (os.path.join(RESULTS, name) for name in ("moba_pipeline.jsonl", "torch_attention.jsonl", "attention.png"))
BATCH, HEADS, LENGTHS = 2, 16, [8192 << i for i in range(7)]
EXTRAPOLATED = 524288      # moba_pipeline's dense times are cuDNN's up to 128K, and FlashAttention-2's extrapolated at this length
CURVES = {                 # name -> colour, marker
    "moba.c": ("#c0392b", "o"), "flash-moba": ("#2471a3", "s"), "cuDNN dense": ("#7f8c8d", "^"), "FlashAttention-2 dense": ("#b7950b", "v"),
}


def fail(sentence):
    sys.exit(f"error: {sentence}")


def need(package, what):
    if importlib.util.find_spec(package) is None:
        fail(f"{what} needs the Python package {package}")


# ---- what PyTorch ships, measured here -----------------------------------------------------------------------------------------
def median_ms(torch, call, runs):
    times = []
    for _ in range(runs):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def measure_length(torch, tensors, runs):
    """(forward, backward) in milliseconds; a forward and a backward before them, where the library chooses its kernels."""
    q, k, v, dout = tensors
    forward = functools.partial(torch.nn.functional.scaled_dot_product_attention, q, k, v, is_causal=True)
    out = forward()
    backward = functools.partial(torch.autograd.grad, out, (q, k, v), dout, retain_graph=True)
    backward()
    return median_ms(torch, forward, runs), median_ms(torch, backward, runs)


def measure(dim, seconds):
    need("torch", "--torch")
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    if not torch.cuda.is_available():
        fail("--torch needs a GPU, and PyTorch sees none")
    backends = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FA2": SDPBackend.FLASH_ATTENTION}
    expected = dict.fromkeys(backends, 0)                            # milliseconds of a forward and a backward: quadratic in T
    os.makedirs(RESULTS, exist_ok=True)
    with open(TORCH, "a") as lines:
        for T in LENGTHS:
            tensors = [torch.randn(BATCH, HEADS, T, dim, device="cuda", dtype=torch.bfloat16, requires_grad=i < 3) for i in range(4)]
            for name, backend in backends.items():
                runs = 9 if expected[name] < 200 else 3 if expected[name] < 2000 else 1
                if (runs + 1) * expected[name] > 1e3 * seconds:
                    print(f"{name:5s} T {T:6d}  not measured: about {1e-3 * (runs + 1) * expected[name]:.0f} s", flush=True)
                    expected[name] *= 4
                    continue
                with sdpa_kernel(backend):
                    forward, backward = measure_length(torch, tensors, runs)
                expected[name] = 4 * (forward + backward)
                line = {"op": "torch_attention", "backend": name, "B": BATCH, "H": HEADS, "T": T, "D": dim, "runs": runs, "fwd_ms": round(forward, 4),
                        "bwd_ms": round(backward, 4), "torch": torch.__version__, "gpu": torch.cuda.get_device_name()}
                print(json.dumps(line), file=lines, flush=True)
                print(f"{name:5s} T {T:6d}  forward {forward:9.3f}  backward {backward:9.3f}  ({runs} runs)", flush=True)


# ---- the picture ---------------------------------------------------------------------------------------------------------------------
def read(path):
    found = []
    with open(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.startswith("{"):
                continue
            try:
                found.append(json.loads(line))
            except ValueError:
                fail(f"{path} line {number} is not JSON")
    return found


def collect(dim):
    """{curve: {T: (forward, backward)}}, and the same of extrapolated times."""
    if not os.path.exists(PIPELINE):
        fail(f"{PIPELINE} is not there; make bench OP=moba_pipeline writes it")
    curves, extrapolated = {name: {} for name in CURVES}, {}
    for row in read(PIPELINE):
        if (row.get("op"), row.get("routing"), row.get("D"), row.get("B")) != ("moba_pipeline", "random", dim, BATCH):
            continue
        T = row["T"]
        curves["moba.c"][T] = row["fwd_ms"], row["bwd_ms"]
        if "flash_moba_fwd" in row:
            curves["flash-moba"][T] = row["flash_moba_fwd"], row["flash_moba_bwd"]
        if "dense_fwd" in row:
            dense = row["dense_fwd"], row["dense_bwd"]
            (extrapolated if T == EXTRAPOLATED else curves["cuDNN dense"])[T] = dense
    if not curves["moba.c"]:
        fail(f"{PIPELINE} has no line of random routing with batch {BATCH} and head dim {dim}")
    for row in read(TORCH) if os.path.exists(TORCH) else []:         # later lines replace earlier ones
        if (row.get("D"), row.get("B")) == (dim, BATCH):
            curves["cuDNN dense" if row["backend"] == "cuDNN" else "FlashAttention-2 dense"][row["T"]] = row["fwd_ms"], row["bwd_ms"]
    if EXTRAPOLATED in curves["FlashAttention-2 dense"]:
        extrapolated = {}
    return curves, extrapolated


def draw(curves, extrapolated, dim):
    need("matplotlib", "the picture")
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True)
    lengths = sorted({T for points in [*curves.values(), extrapolated] for T in points})
    for side, panel in enumerate(panels):
        for name, points in curves.items():
            colour, marker = CURVES[name]
            if points:
                panel.plot(sorted(points), [points[T][side] for T in sorted(points)], color=colour, marker=marker, label=name, linewidth=1.8)
        if extrapolated:
            colour, marker = CURVES["FlashAttention-2 dense"]
            panel.plot(list(extrapolated), [ms[side] for ms in extrapolated.values()], color=colour, marker=marker, linestyle="none",
                       markerfacecolor="none", label="FlashAttention-2, extrapolated")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(lengths, [f"{T // 1024}K" for T in lengths])
        panel.minorticks_off()
        panel.grid(color="#e5e5e5")
        panel.set_xlabel("tokens")
        panel.set_title(("forward", "backward")[side])
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(frameon=False, fontsize=9)
    figure.suptitle(f"Attention, batch {BATCH}, {HEADS} heads of {dim}, bf16; MoBA with block 128, top-k 8", fontsize=11)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)
    print(f"{PICTURE}: {os.path.getsize(PICTURE) // 1024} KB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--seconds", type=float, default=7)
    arguments = parser.parse_args()
    if arguments.torch:
        measure(arguments.dim, arguments.seconds)
    curves, extrapolated = collect(arguments.dim)
    draw(curves, extrapolated, arguments.dim)


if __name__ == "__main__":
    main()

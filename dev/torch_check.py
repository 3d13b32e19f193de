#!/usr/bin/env python3
"""Holds the whole model against PyTorch: loss, picked blocks, and the gradient of every parameter.

    make model-dumps && python3 dev/torch_check.py [--build build] [--case TEXT]

The network is written here a second time, in plain PyTorch and from its description alone (README, "The model"). The dump programs
(test/model/dump.c) give parameters, tokens, targets, picked blocks, losses and gradients of one step; PyTorch repeats the step on those
parameters and those picked blocks, with gradients by autograd.

    dump_cpu        within 1e-4 of the largest element of each gradient, against PyTorch in fp64; the picked blocks are the best ones
    dump_cuda       each gradient at most twice as far (2-norm) from PyTorch in fp64 as PyTorch in bf16 is, all three on the same bf16
                    weights and the same picked blocks
    dump_rounded    the same: the CPU build that rounds where a GPU stores bf16, from which the tests of kernels take their tolerances

Prints "ok NAME", "FAIL NAME why" or "skip NAME why" for each, on stderr the table behind it. Exit status 1 if any failed.
"""
import argparse
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import zlib

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    print(f"skip torch_check (needs PyTorch and NumPy: {missing})")
    sys.exit(0)

#        name           options
CASES = {
    "kconv3":        "--pattern S64,M64:3,D,M128:2 --kconv 3 --seq-len 512",
    "kconv5_ragged": "--pattern S64,M64:3,D,M128:2 --kconv 5 --seq-len 500",
    "no_kconv":      "--pattern M64:4,S100,M64:1,D --kconv 0 --seq-len 512",
    "head128":       "--pattern S64,M64:3,D,M128:2 --kconv 3 --seq-len 500 --channels 256",
}
COMMON = "--train-data none --layers 4 --micro-batch 2"
NO_BLOCK = 0xFFFF
EPS = 1e-6


# ---- the dump --------------------------------------------------------------------------------------------------------
HEADER = struct.Struct("<8sIIqQQIIQII")
RECORD = struct.Struct("<64sBBHI4QQQQ")
DTYPES = {1: "<f4", 2: "<u8", 3: "u1", 4: "<f8"}


def read_dump(path):
    """Records of a checkpoint of one part by name, as arrays of their shape."""
    with open(os.path.join(path, "step_00000001", "part_0000.bin"), "rb") as file:
        data = file.read()
    magic, version, count, _, table, size, _, parts, _, _, _ = HEADER.unpack_from(data)
    assert magic == b"mobackpt" and version == 2 and parts == 1 and size == len(data), f"{path}: not a dump"
    records = {}
    for i in range(count):
        name, dtype, ndim, _, crc, *rest = RECORD.unpack_from(data, table + i * RECORD.size)
        shape, offset, elements = rest[:ndim], rest[4], rest[6]
        length = elements * np.dtype(DTYPES[dtype]).itemsize
        padded = data[offset:offset + (length + 63) // 64 * 64]
        name = name.rstrip(b"\0").decode()
        assert zlib.crc32(padded) == crc, f"{path}: {name} is damaged"
        records[name] = np.frombuffer(data, DTYPES[dtype], elements, offset).reshape(shape)
    return records


def run_dump(program, options):
    with tempfile.TemporaryDirectory() as out:
        if not os.path.exists(program):
            raise RuntimeError(f"{program} is not there: make model-dumps")
        done = subprocess.run([program, out] + options.split(), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{program} ended with status {done.returncode}: {done.stderr.strip()}")
        return read_dump(out)


def has_gpu():
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


# ---- the network -----------------------------------------------------------------------------------------------------
class Network:
    """One step of the model. `stored` is the type of activations, `inner` that of sums, norms and softmax, and of all parameters."""

    def __init__(self, dump, stored, inner, bf16_weights):
        self.cfg = json.loads(bytes(dump["options"]))
        self.stored, self.inner = stored, inner
        self.layers = pattern_of(self.cfg["pattern"], self.cfg["layers"])
        self.B, self.T, self.H = self.cfg["micro-batch"], self.cfg["seq-len"], self.cfg["heads"]
        self.D = self.cfg["channels"] // self.H
        self.tokens, self.targets = (torch.from_numpy(dump[name].astype(np.int64)).view(self.B, self.T) for name in ("tokens", "targets"))
        self.picked = [self.picked_of(dump[f"sel/{i}"]) for i in range(sum(kind == "M" for kind, _ in self.layers))]
        self.params = {}
        for name, value in dump.items():
            if name.startswith("param/"):
                value = torch.tensor(value)
                is_matrix = value.shape[0] > 1 and not name.endswith(".kconv")
                if bf16_weights and is_matrix:
                    value = value.to(torch.bfloat16)
                self.params[name[len("param/"):]] = value.to(inner).requires_grad_()
        self.routing_faults, self.agreeing, self.routed = [], 0, 0

    def picked_of(self, flat):
        return torch.from_numpy(flat.astype(np.int64)).view(self.B, self.H, self.T, -1)

    def store(self, x):
        return x.to(self.stored)

    def linear(self, x, weight):
        return self.store(x.to(self.inner) @ weight.T)

    def rmsnorm(self, x, weight):
        x = x.to(self.inner)
        return self.store(x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * weight)

    def add(self, x, branch):
        return self.store(x.to(self.inner) + branch.to(self.inner))

    def rope(self, x):
        """Pairs (i, i + D/2) of (B, H, T, D) turn by t * theta^(-2i/D)."""
        half = self.D // 2
        angle = torch.outer(torch.arange(self.T, dtype=torch.float64),
                            self.cfg["theta"] ** (-torch.arange(half, dtype=torch.float64) / half))
        cos, sin = angle.cos().float().to(self.inner), angle.sin().float().to(self.inner)
        first, second = x.to(self.inner).split(half, dim=-1)
        return self.store(torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1))

    def kconv(self, k, taps):
        """k + silu(depthwise causal convolution of k), k: (B, T, C), taps[i] weighs the key i tokens before."""
        k = k.to(self.inner)
        z = sum(taps[i] * F.pad(k, (0, 0, i, 0))[:, :self.T] for i in range(taps.shape[0]))
        return self.store(k + F.silu(z))

    def attention(self, q, k, v, mask):
        scores = q.to(self.inner) @ k.to(self.inner).transpose(-1, -2) / math.sqrt(self.D)
        p = self.store(scores.masked_fill(~mask, -math.inf).softmax(-1))
        return self.store(p.to(self.inner) @ v.to(self.inner))

    def window_mask(self, window):
        t, u = torch.arange(self.T)[:, None], torch.arange(self.T)[None, :]
        return (u <= t) & (u > t - window)

    def moba_mask(self, picked, block):
        """(B, H, T, T): keys of the own block and of the picked ones, never later than the query."""
        t, u = torch.arange(self.T)[:, None], torch.arange(self.T)[None, :]
        n = math.ceil(self.T / block)
        reads = F.one_hot(picked.clamp(max=n), n + 1).sum(-2)[..., :n].bool()                   # (B, H, T, n)
        return (u <= t) & ((u // block == t // block) | reads.gather(-1, (u // block).expand(self.B, self.H, self.T, self.T)))

    @torch.no_grad()
    def check_routing(self, l, q, k, picked, block, topk):
        """Are the picked blocks distinct past ones, as many as asked for, ascending, and the best by q . mean(k)?"""
        q, k, n = q.to(self.inner), k.to(self.inner), math.ceil(self.T / block)
        centroids = torch.stack([c.mean(-2) for c in k.split(block, dim=-2)], dim=-2)
        own = torch.arange(self.T) // block
        past = torch.arange(n) < own[:, None]                                                   # (T, n)
        scores = (q @ centroids.transpose(-1, -2)).masked_fill(~past, -math.inf)
        wanted = own.clamp(max=topk - 1)
        real = picked != NO_BLOCK
        if (real.sum(-1) != wanted).any() or (picked[..., 1:] < picked[..., :-1]).any() or ((picked >= own[:, None]) & real).any():
            self.routing_faults.append(f"layer {l}: picked blocks are not {topk - 1} past ones in order")
            return
        taken = F.one_hot(picked.clamp(max=n), n + 1).sum(-2)[..., :n]
        if (taken > 1).any():
            self.routing_faults.append(f"layer {l}: a block is picked twice")
        taken = taken.bool()
        worst_in = scores.masked_fill(~taken, math.inf).amin(-1)
        best_out = scores.masked_fill(taken, -math.inf).amax(-1)
        gap = (best_out - worst_in) / scores[scores.isfinite()].abs().max()                     # above 0: a better one was left out
        self.agreeing += int((gap <= 0).sum())
        self.routed += gap.numel()
        if self.stored != torch.bfloat16 and gap.max() > 1e-5:
            self.routing_faults.append(f"layer {l}: a block better by {gap.max():.2g} of the largest score was left out")

    def attention_half(self, l, h, moba_layer):
        kind, numbers = self.layers[l]
        heads = lambda x: x.view(self.B, self.T, self.H, self.D).transpose(1, 2)
        q, k, v = self.linear(h, self.params[f"layer.{l:02d}.wqkv"]).chunk(3, dim=-1)
        if kind == "M" and self.cfg["kconv"]:
            k = self.kconv(k, self.params[f"layer.{l:02d}.kconv"])
        q, k, v = heads(q), heads(k), heads(v)
        if kind == "M":
            picked = self.picked[moba_layer]
            self.check_routing(l, q, k, picked, *numbers)
            mask = self.moba_mask(picked, numbers[0])
        else:
            mask = self.window_mask(numbers[0])
        if kind == "S":
            q, k = self.rope(q), self.rope(k)
        out = self.attention(q, k, v, mask).transpose(1, 2).reshape(self.B, self.T, -1)
        return self.linear(out, self.params[f"layer.{l:02d}.wo"])

    def mlp_half(self, l, h):
        gate, up = self.linear(h, self.params[f"layer.{l:02d}.w13"]).chunk(2, dim=-1)
        product = self.store(F.silu(gate.to(self.inner)) * up.to(self.inner))
        return self.linear(product, self.params[f"layer.{l:02d}.w2"])

    def step(self):
        """Losses (tokens), and gradients by name."""
        w, V, moba_layer = self.params, self.cfg["vocab"], 0
        x = self.store(w["wte"][self.tokens])
        for l, (kind, _) in enumerate(self.layers):
            x = self.add(x, self.attention_half(l, self.rmsnorm(x, w[f"layer.{l:02d}.norm1"]), moba_layer))
            x = self.add(x, self.mlp_half(l, self.rmsnorm(x, w[f"layer.{l:02d}.norm2"])))
            moba_layer += kind == "M"
        logits = self.linear(self.rmsnorm(x, w["normf"]), w["wte"])[..., :V]
        losses = F.cross_entropy(logits.to(self.inner).reshape(-1, V), self.targets.reshape(-1), reduction="none")
        losses.mean().backward()
        return losses.detach().double(), {name: value.grad.double() for name, value in w.items()}


def pattern_of(text, layers):
    """[("S", [window]), ("M", [block, topk]), ("D", [everything])], cycled to `layers`."""
    cycle = [(item[0], [int(n) for n in item[1:].split(":")] if item[1:] else [1 << 30]) for item in text.split(",")]
    return [cycle[l % len(cycle)] for l in range(layers)]


def split_tensors(grads):
    """q, k, v and gate, up apart: the gradients of v and of q differ by orders of magnitude."""
    parts = {"wqkv": "qkv", "w13": ("gate", "up")}
    split = {}
    for name, value in grads.items():
        names = parts.get(name.split(".")[-1])
        if names:
            split.update({f"{name}.{part}": rows for part, rows in zip(names, value.chunk(len(names)))})
        else:
            split[name] = value
    return split


# ---- checks ----------------------------------------------------------------------------------------------------------
def report(name, rows, faults):
    """rows: (tensor, error, budget)"""
    table = [f"\n{name}", f"  {'tensor':<20} {'error':>10} {'budget':>10}   used"]
    for tensor, error, budget in rows:
        good = error <= budget
        table.append(f"  {tensor:<20} {error:>10.3g} {budget:>10.3g} {100 * error / budget:>5.3g} %{'' if good else '   <-- out'}")
        if not good:
            faults = faults + [f"{tensor} is off by {error:.3g}, budget {budget:.3g}"]
    print("\n".join(table), file=sys.stderr)
    print(f"FAIL {name} {faults[0]}" if faults else f"ok {name}", flush=True)
    return not faults


def gradients_of(dump):
    return split_tensors({name[len("grad/"):]: torch.tensor(value).double() for name, value in dump.items() if name.startswith("grad/")})


def padding_faults(dump):
    vocab = json.loads(bytes(dump["options"]))["vocab"]
    return ["padded rows of wte have a gradient"] if np.any(dump["grad/wte"][vocab:]) else []


def check_exact(name, dump):
    truth = Network(dump, torch.float64, torch.float64, bf16_weights=False)
    losses, grads = truth.step()
    rows = [("losses", float((torch.tensor(dump["losses"]).double() - losses).abs().max()), 1e-4 * float(losses.abs().max()))]
    found = gradients_of(dump)
    for tensor, grad in split_tensors(grads).items():
        rows.append((tensor, float((found[tensor] - grad).abs().max()), 1e-4 * float(grad.abs().max())))
    return report(name, rows, truth.routing_faults + padding_faults(dump))


def check_bf16(name, dump):
    truth = Network(dump, torch.float64, torch.float64, bf16_weights=True)
    peer = Network(dump, torch.bfloat16, torch.float32, bf16_weights=True)
    losses, grads = truth.step()
    peer_losses, peer_grads = peer.step()
    relative = lambda a, b: float((a - b).norm() / b.norm())
    rows = [("losses", relative(torch.tensor(dump["losses"]).double(), losses), 2 * relative(peer_losses, losses))]
    found, grads, peer_grads = gradients_of(dump), split_tensors(grads), split_tensors(peer_grads)
    rows += [(tensor, relative(found[tensor], grad), 2 * relative(peer_grads[tensor], grad)) for tensor, grad in grads.items()]
    good = report(name, rows, peer.routing_faults + padding_faults(dump))
    print(f"{peer.agreeing} of {peer.routed} queries read the blocks that PyTorch in bf16 would pick", file=sys.stderr)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", help="where make put model/dump_cpu, model/dump_rounded and model/dump_cuda")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    args = parser.parse_args()
    good, gpu = True, has_gpu()
    for build, check in (("cpu", check_exact), ("rounded", check_bf16), ("cuda", check_bf16)):
        program = os.path.join(args.build, "model", f"dump_{build}")
        for case, options in CASES.items():
            name = f"torch_{build}_{case}"
            if args.case not in name:
                continue
            if os.path.exists(program):
                good = check(name, run_dump(program, f"{COMMON} {options}")) and good
            elif build == "cuda":
                print(f"skip {name} (needs a GPU)")
            else:
                print(f"FAIL {name} {program} is not there: make model-dumps")
                good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

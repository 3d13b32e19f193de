#!/usr/bin/env python3
"""Turns an exported model directory back into a checkpoint the trainer reads: the weights bit for bit, the moments of the optimizer zero.

    python3 export/from_hf.py exported/124M runs/again
    ./train_moba --out runs/again --eval-only --eval-data wikitext2.bin
"""
import json
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import checkpoint
import common
import names
import safetensors_file
from common import EXIT_DATA, EXIT_NO_OUTPUT, ToolError


COUNTER_UPDATES = 1        # where the record "counters" has the number of applied updates (llmc/state.c)


def layer_has_taps(options, layer):
    cycle = options["pattern"].split(",")
    return options["kconv"] > 0 and cycle[layer % len(cycle)].startswith("M")


def shapes_of(options):
    """name -> (rows, columns) of every weight, in the order the trainer writes them (llmc/params.h)"""
    C, F, W, rows = options["channels"], options["mlp"], options["kconv"], (options["vocab"] + 127) // 128 * 128
    shapes = {"wte": (rows, C), "normf": (1, C)}
    for layer in range(options["layers"]):
        fields = {"norm1": (1, C), "wqkv": (3 * C, C), "kconv": (W, C), "wo": (C, C), "norm2": (1, C), "w13": (2 * F, C), "w2": (C, F)}
        if not layer_has_taps(options, layer):
            del fields["kconv"]
        shapes.update({f"layer.{layer:02d}.{field}": shape for field, shape in fields.items()})
    return shapes


def weights_of(reader, options):
    """(name, shape, bytes) of every weight; raises where the file has others"""
    shapes = shapes_of(options)
    expected = {names.exported_name(name): name for name in shapes}
    if set(reader.shapes) != set(expected):
        odd = sorted(set(reader.shapes) ^ set(expected))[0]
        raise ToolError(EXIT_DATA, f"{reader.path}: tensor {odd} is {'missing' if odd in expected else 'unknown'}; config.json describes another model")
    for exported, name in expected.items():
        shape, size = shapes[name], 4
        for extent in reader.shapes[exported]:
            size *= extent
        columns = shape[1]
        if size != 4 * columns * (options["vocab"] if name == "wte" else shape[0]):
            raise ToolError(EXIT_DATA, f"{reader.path}: tensor {exported} has shape {list(reader.shapes[exported])}; config.json describes another model")
        yield name, shape, names.from_exported(name, shape, reader.read(exported))


def read_config(path):
    try:
        record = json.loads(common.read_bytes(path, "configuration"))["train_moba"]
        record["counters"][COUNTER_UPDATES] = 0                       # the optimizer begins anew, as its moments do
        return record["step"], record["options"], record["counters"], record["detector"]
    except (ValueError, KeyError, TypeError, IndexError):
        raise ToolError(EXIT_DATA, f"configuration {path}: no \"train_moba\" with step, options and counters; expected what export/to_hf.py writes")


def main():
    parser = common.Parser("Turns an exported model directory back into a checkpoint of the trainer.")
    parser.add_argument("model", help="a directory written by to_hf.py")
    parser.add_argument("out", help="the run directory to write; must not hold checkpoints yet")
    options = parser.parse_args()
    step, saved, counters, detector = read_config(os.path.join(options.model, "config.json"))
    reader = safetensors_file.Reader(os.path.join(options.model, "model.safetensors"))
    folder = os.path.join(options.out, "checkpoints")
    if os.path.isdir(folder) and os.listdir(folder):
        raise ToolError(EXIT_NO_OUTPUT, f"{folder} holds checkpoints already; give another directory")
    weights = list(weights_of(reader, saved))
    text = json.dumps(saved, separators=(",", ":")).encode()
    records = [("options", checkpoint.BYTES, (len(text),), text),
               ("counters", checkpoint.U64, (len(counters),), struct.pack(f"<{len(counters)}Q", *counters)),
               ("detector", checkpoint.F64, (2, len(detector) // 2), struct.pack(f"<{len(detector)}d", *detector))]
    for kind in ("master", "m", "v"):
        records += [(f"{kind}/{name}", checkpoint.F32, shape, data if kind == "master" else None) for name, shape, data in weights]
    print(f"{checkpoint.write(folder, step, records)}: {len(weights)} tensors of {options.model}, step {step}; the optimizer's moments are zero")


if __name__ == "__main__":
    common.run(main)

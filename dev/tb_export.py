#!/usr/bin/env python3
"""Writes runs as TensorBoard event files; needs neither TensorFlow nor TensorBoard.

    python3 dev/tb_export.py runs/moba runs/dense --out tb
    tensorboard --logdir tb                     (pip install tensorboard)

An event file is a list of records: length (uint64), CRC of the length, bytes, CRC of the bytes; the bytes are a protocol buffer, tensorflow.Event.
The same log gives the same bytes."""
import math
import os
import struct

import runlog
import common
from common import EXIT_USAGE, ToolError


# ---- records: CRC-32C, masked as TensorFlow does ------------------------------------------------------------------------

def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = crc_table()


def masked_crc(data):
    crc = 0xffffffff
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ crc >> 8
    crc ^= 0xffffffff
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def record(data):
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


# ---- protocol buffers: a field is its number and wire type, then the value -----------------------------------------------

def varint(value):
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_bytes(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def event(wall_time, step=0, version=None, scalars=()):
    """Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5 }
    Summary { repeated Value value = 1 }   Value { string tag = 1; float simple_value = 2 }"""
    data = varint(1 << 3 | 1) + struct.pack("<d", wall_time)
    if step:
        data += varint(2 << 3) + varint(step)
    if version:
        data += field_bytes(3, version.encode())
    values = b"".join(field_bytes(1, field_bytes(1, tag.encode()) + varint(2 << 3 | 5) + struct.pack("<f", value)) for tag, value in scalars)
    return data + (field_bytes(5, values) if values else b"")


# ---- a run ------------------------------------------------------------------------------------------------------------

TAGS = {"loss": "train/loss", "norm": "train/gradient_norm", "lr": "train/learning_rate", "tok_s": "speed/tokens_per_second", "ms": "speed/ms_per_step",
        "mfu": "speed/mfu", "mem_mib": "memory/device_mib", "tokens": "train/tokens"}


def events_of(run):
    """Event after event, evaluations behind their step. Times are the run's start and the steps' own."""
    evals = {}
    for name, points in sorted(run.evals.items()):
        for step, loss in points:
            evals.setdefault(int(step), []).extend([(f"eval/{name}_loss", loss), (f"eval/{name}_perplexity", math.exp(min(loss, 80)))])
    start = float(run.started_at())
    yield event(start, version="brain.Event:2")
    for i, (step, hours) in enumerate(zip(run.columns["step"], run.hours())):
        scalars = [(tag, run.columns[field][i]) for field, tag in TAGS.items()] + evals.get(int(step), [])
        yield event(start + 3600 * hours, int(step), scalars=[(tag, value) for tag, value in scalars if math.isfinite(value)])


def main():
    parser = common.Parser("Writes runs of the trainer as TensorBoard event files.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory (the trainer's --out)")
    parser.add_argument("--out", default="tb", metavar="DIR", help="one folder a run is made in it, with one event file")
    options = parser.parse_args()
    runs = runlog.read_runs(options.runs)
    folders = [run.name.strip("./").replace(os.sep, "_") for run in runs]
    if len(set(folders)) < len(folders):
        raise ToolError(EXIT_USAGE, f"a run is named twice: {', '.join(options.runs)}")
    for run, folder in zip(runs, folders):
        common.make_directory(os.path.join(options.out, folder))
        path = os.path.join(options.out, folder, f"events.out.tfevents.{int(run.started_at()):010d}.moba")
        with common.whole_file(path) as file:
            for data in events_of(run):
                file.write(record(data))
        print(f"{path}: {len(run.columns['step'])} steps")


if __name__ == "__main__":
    common.run(main)

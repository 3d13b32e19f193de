"""Reads and writes the trainer's checkpoints (llmc/checkpoint.h has the format). Every byte read is held against its checksum."""
import json
import os
import re
import struct
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import common
from common import EXIT_DATA, EXIT_NO_INPUT, ToolError

MAGIC, VERSION, ALIGN = b"mobackpt", 1, 64
HEADER = struct.Struct("<8sIIqQQ16sI")              # its own checksum follows
RECORD = struct.Struct("<64sII4QQQII")
F32, U64, BYTES = 1, 2, 3
ELEMENT_BYTES = {F32: 4, U64: 8, BYTES: 1}


def padded(size):
    return (size + ALIGN - 1) // ALIGN * ALIGN


class Checkpoint:
    """records: name -> (dtype, shape). read(name) gives the bytes of one."""

    def __init__(self, path):
        self.path, self.records, self._place = path, {}, {}
        self._file_name = os.path.join(path, "state.bin")
        try:
            self._file = open(self._file_name, "rb")
        except OSError as error:
            raise ToolError(EXIT_NO_INPUT, f"checkpoint {path}: state.bin: {error.strerror}; expected a directory step_N of a run's checkpoints/")
        self._read_table(os.fstat(self._file.fileno()).st_size)
        self.options = json.loads(self.read("options"))

    def _bad(self, why):
        return ToolError(EXIT_DATA, f"checkpoint {self.path}: {why}")

    def _read_table(self, size):
        header = self._file.read(HEADER.size + 4)
        if len(header) < HEADER.size + 4 or header[:8] != MAGIC:
            raise self._bad("it does not begin as a checkpoint does")
        _, version, count, self.step, table_at, promised, _, table_crc = HEADER.unpack(header[:-4])
        if version != VERSION:
            raise self._bad(f"it has format version {version}, this tool reads {VERSION}")
        if zlib.crc32(header[:-4]) != struct.unpack("<I", header[-4:])[0]:
            raise self._bad("its header's checksum is wrong")
        if promised != size:
            raise self._bad(f"its header promises {promised} bytes, the file holds {size}")
        self._file.seek(table_at)
        table = self._file.read(count * RECORD.size)
        if len(table) != count * RECORD.size or zlib.crc32(table) != table_crc:
            raise self._bad("its table's checksum is wrong")
        for name, dtype, ndim, *rest in RECORD.iter_unpack(table):
            name = name.rstrip(b"\0").decode()
            self.records[name] = dtype, tuple(rest[:ndim])
            self._place[name] = rest[4], rest[5], rest[6]              # offset, bytes, checksum

    def read(self, name):
        if name not in self.records:
            raise self._bad(f"it has no record '{name}'")
        offset, size, crc = self._place[name]
        self._file.seek(offset)
        data = self._file.read(padded(size))
        if len(data) != padded(size) or zlib.crc32(data) != crc:
            raise self._bad(f"the checksum of '{name}' is wrong")
        return data[:size] if padded(size) != size else data

    def weight_names(self):
        return [name[len("master/"):] for name in self.records if name.startswith("master/")]


def find(path):
    """A checkpoint from its own directory, or the newest of a run directory."""
    folder = os.path.join(path, "checkpoints")
    if not os.path.isdir(folder):
        return Checkpoint(path)
    steps = sorted(name for name in os.listdir(folder) if re.fullmatch(r"step_\d{8,}", name))
    if not steps:
        raise ToolError(EXIT_NO_INPUT, f"{folder} holds no checkpoint")
    return Checkpoint(os.path.join(folder, max(steps, key=lambda name: int(name[5:]))))


def write(folder, step, records):
    """records: (name, dtype, shape, bytes); bytes may be None for zeros. The directory step_N appears in `folder` whole or not at all."""
    common.make_directory(folder)
    final, temporary = os.path.join(folder, f"step_{step:08d}"), os.path.join(folder, f".tmp-import-{os.getpid()}")
    common.make_directory(temporary)
    with common.whole_file(os.path.join(temporary, "state.bin")) as file:
        file.write(bytes(HEADER.size + 4))
        place, table = HEADER.size + 4, b""
        for name, dtype, shape, data in records:
            size = ELEMENT_BYTES[dtype]
            for extent in shape:
                size *= extent
            crc = 0
            for start in range(0, padded(size), 1 << 24):
                chunk = (data or b"")[start:start + (1 << 24)]
                chunk = bytes(chunk) + bytes(min(1 << 24, padded(size) - start) - len(chunk))
                crc = zlib.crc32(chunk, crc)
                file.write(chunk)
            table += RECORD.pack(name.encode(), dtype, len(shape), *shape, *[0] * (4 - len(shape)), place, size, crc, 0)
            place += padded(size)
        file.write(table)
        header = HEADER.pack(MAGIC, VERSION, len(table) // RECORD.size, step, place, place + len(table), bytes(16), zlib.crc32(table))
        file.seek(0)
        file.write(header + struct.pack("<I", zlib.crc32(header)))
    os.rename(temporary, final)
    return final

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

MAGIC, VERSION, ALIGN = b"mobackpt", 2, 64
HEADER = struct.Struct("<8sIIqQQIIQI")              # its own checksum follows
RECORD = struct.Struct("<64sBBHI4QQQQ")
F32, U64, BYTES, F64 = 1, 2, 3, 4
CHUNK = 1 << 24                                      # bytes written at once
ELEMENT_BYTES = {F32: 4, U64: 8, BYTES: 1, F64: 8}


def padded(size):
    return (size + ALIGN - 1) // ALIGN * ALIGN


def elements(shape):
    product = 1
    for extent in shape:
        product *= extent
    return product


class Checkpoint:
    """records: name -> (dtype, shape). read(name) gives the bytes of one, joined from the parts that hold it."""

    def __init__(self, path):
        self.path, self.records, self._ranges = path, {}, {}       # _ranges: name -> [(first, count, file, offset, checksum)]
        self._files, saves, parts = [], set(), 1
        while len(self._files) < parts:
            parts, save = self._open_part(len(self._files))
            saves.add((self.step, save, parts))
        if len(saves) != 1:
            raise self._bad("its parts are of different saves")
        for name, (dtype, shape) in self.records.items():
            place = 0
            for first, count, *_ in sorted(self._ranges[name], key=lambda piece: piece[0]):
                if first != place:
                    raise self._bad(f"its parts do not hold '{name}' exactly once")
                place += count
            if place != elements(shape):
                raise self._bad(f"its parts do not hold all of '{name}'")
        try:
            self.options = json.loads(self.read("options"))
        except ValueError:
            raise self._bad("its options are not JSON")

    def _bad(self, why):
        return ToolError(EXIT_DATA, f"checkpoint {self.path}: {why}")

    def _open_part(self, part):
        name = f"part_{part:04d}.bin"
        try:
            file = open(os.path.join(self.path, name), "rb")
        except OSError as error:
            raise ToolError(EXIT_NO_INPUT, f"checkpoint {self.path}: {name}: {error.strerror}; expected a run directory, or step_N of its checkpoints/")
        header, size = file.read(HEADER.size + 4), os.fstat(file.fileno()).st_size
        if len(header) < HEADER.size + 4 or header[:8] != MAGIC:
            raise self._bad(f"{name} does not begin as a checkpoint does")
        _, version, count, self.step, table_at, promised, number, parts, save, table_crc = HEADER.unpack(header[:-4])
        if version != VERSION:
            raise self._bad(f"{name} has format version {version}, this tool reads {VERSION}")
        if zlib.crc32(header[:-4]) != struct.unpack("<I", header[-4:])[0] or number != part:
            raise self._bad(f"{name}: its header's checksum is wrong, or it is another part")
        if promised != size:
            raise self._bad(f"{name}: its header promises {promised} bytes, the file holds {size} (cut copy?)")
        file.seek(table_at)
        table = file.read(count * RECORD.size)
        if len(table) != count * RECORD.size or zlib.crc32(table) != table_crc:
            raise self._bad(f"{name}: its table's checksum is wrong")
        for name, dtype, ndim, _, crc, *rest in RECORD.iter_unpack(table):
            name, shape, (offset, first, extent) = name.rstrip(b"\0").decode(), tuple(rest[:ndim]), rest[4:]
            self.records[name] = dtype, shape
            self._ranges.setdefault(name, []).append((first, extent, file, offset, crc))
        self._files.append(file)
        return parts, save

    def read(self, name):
        if name not in self.records:
            raise self._bad(f"it has no record '{name}'")
        pieces, size = [], ELEMENT_BYTES[self.records[name][0]]
        for _, count, file, offset, crc in sorted(self._ranges[name], key=lambda piece: piece[0]):
            file.seek(offset)
            data = file.read(padded(count * size))
            if len(data) != padded(count * size) or zlib.crc32(data) != crc:
                raise self._bad(f"the checksum of '{name}' is wrong")
            pieces.append(data[:count * size])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def numbers(self, name):
        """A small record as a list of numbers."""
        return list(struct.unpack(f"<{elements(self.records[name][1])}{'Q' if self.records[name][0] == U64 else 'd'}", self.read(name)))

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
    final, temporary = os.path.join(folder, f"step_{step:08d}"), os.path.join(folder, f".tmp-import-{os.getpid()}")
    common.make_directory(temporary)
    progress = common.Progress(f"writing {os.path.basename(final)}", "bytes", sum(padded(elements(shape) * ELEMENT_BYTES[dtype]) for _, dtype, shape, _ in records))
    with common.whole_file(os.path.join(temporary, "part_0000.bin")) as file:
        file.write(bytes(HEADER.size + 4))
        place, table = HEADER.size + 4, b""
        for name, dtype, shape, data in records:
            size, crc = elements(shape) * ELEMENT_BYTES[dtype], 0
            for start in range(0, padded(size), CHUNK):
                chunk = (data or b"")[start:start + CHUNK].ljust(min(CHUNK, padded(size) - start), b"\0")
                crc = zlib.crc32(chunk, crc)
                file.write(chunk)
                progress.add(len(chunk))
            table += RECORD.pack(name.encode(), dtype, len(shape), 0, crc, *shape, *[0] * (4 - len(shape)), place, 0, elements(shape))
            place += padded(size)
        file.write(table)
        save = int.from_bytes(os.urandom(8), "little")
        header = HEADER.pack(MAGIC, VERSION, len(table) // RECORD.size, step, place, place + len(table), 0, 1, save, zlib.crc32(table))
        file.seek(0)
        file.write(header + struct.pack("<I", zlib.crc32(header)))
    progress.close()
    os.rename(temporary, final)
    return final

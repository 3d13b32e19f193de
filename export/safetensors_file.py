"""The safetensors format: an 8-byte length, a JSON header of names, types, shapes and offsets, then the tensors' bytes."""
import json
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import common
from common import EXIT_DATA, EXIT_NO_INPUT, ToolError

LARGEST_HEADER = 100_000_000


def write(path, tensors):
    """tensors: name -> (shape, a function that gives the fp32 bytes); each is in memory only while it is written."""
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, _) in tensors.items():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    progress = common.Progress(f"writing {os.path.basename(path)}", "bytes", place)
    with common.whole_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (_, data_of) in tensors.items():
            data = data_of()
            begin, end = header[name]["data_offsets"]
            assert len(data) == end - begin, f"{name}: {len(data)} bytes"
            file.write(data)
            progress.add(len(data))
    progress.close()


class Reader:
    """shapes: name -> shape. read(name) gives the fp32 bytes."""

    def __init__(self, path):
        self.path = path
        try:
            self._file = open(path, "rb")
        except OSError as error:
            raise ToolError(EXIT_NO_INPUT, f"{path}: {error.strerror}")
        size = os.fstat(self._file.fileno()).st_size
        length = struct.unpack("<Q", self._file.read(8).ljust(8, b"\0"))[0]
        try:
            if length > min(size - 8, LARGEST_HEADER):
                raise ValueError("its header is longer than the file")
            self._header = json.loads(self._file.read(length))
            self._header.pop("__metadata__", None)
            self.shapes = {name: tuple(entry["shape"]) for name, entry in self._header.items()}
            ends = [entry["data_offsets"][1] for entry in self._header.values()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ToolError(EXIT_DATA, f"{path}: not a safetensors file ({error})")
        self._data = 8 + length
        if self._data + max(ends, default=0) != size:
            raise ToolError(EXIT_DATA, f"{path}: its header promises {self._data + max(ends, default=0)} bytes, the file holds {size} (cut copy?)")

    def read(self, name):
        entry = self._header[name]
        if entry["dtype"] != "F32":
            raise ToolError(EXIT_DATA, f"{self.path}: {name} is {entry['dtype']}, expected F32 (master weights are fp32, nothing is converted)")
        begin, end = entry["data_offsets"]
        self._file.seek(self._data + begin)
        return self._file.read(end - begin)

"""The tensors of a checkpoint and of an exported model: one line each, in both directions.

The token embedding loses the rows that pad the vocabulary to a multiple of 128 (they are zero). The taps of the key convolution, stored (W, C) by lag,
become the weight of a Conv1d, (C, 1, W), whose last tap is lag 0."""
import array

#                 checkpoint, exported
MODEL = {"wte": "model.embed.weight", "normf": "model.norm.weight"}
LAYER = {"norm1": "norm1.weight", "wqkv": "attn.qkv.weight", "kconv": "attn.conv.weight", "wo": "attn.out.weight",
         "norm2": "norm2.weight", "w13": "mlp.gate_up.weight", "w2": "mlp.down.weight"}


def exported_name(name):
    """'layer.03.wqkv' -> 'model.layers.3.attn.qkv.weight'"""
    if name in MODEL:
        return MODEL[name]
    _, layer, field = name.split(".")
    return f"model.layers.{int(layer)}.{LAYER[field]}"


def turned(data, rows, columns):
    """The bytes of a matrix of floats (rows, columns), transposed."""
    source, target = array.array("f", bytes(data)), array.array("f", bytes(len(data)))
    for row in range(rows):
        target[row::rows] = source[row * columns:(row + 1) * columns]
    return target.tobytes()


def backwards(data, row_bytes):
    """Rows in the opposite order."""
    return b"".join(data[start:start + row_bytes] for start in range(len(data) - row_bytes, -1, -row_bytes))


def exported_shape(name, shape, vocab):
    field = name.split(".")[-1]
    if field == "wte":
        return vocab, shape[1]
    if field == "kconv":
        return shape[1], 1, shape[0]
    return shape if shape[0] > 1 else shape[1:]                         # a vector is stored as one row


def to_exported(name, shape, data, vocab):
    """The bytes of a record of this shape as the exported tensor holds them."""
    field = name.split(".")[-1]
    if field == "wte":
        return data[:vocab * shape[1] * 4]
    if field == "kconv":
        taps, channels = shape
        return turned(backwards(data, channels * 4), taps, channels)
    return data


def from_exported(name, shape, data):
    """The inverse."""
    field = name.split(".")[-1]
    if field == "wte":
        return data + bytes(shape[0] * shape[1] * 4 - len(data))
    if field == "kconv":
        taps, channels = shape
        return backwards(turned(data, channels, taps), channels * 4)
    return data

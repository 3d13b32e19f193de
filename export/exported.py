"""A directory written by to_hf.py, looked at before transformers is asked to read it: it would begin missing weights at random, with a warning."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import common
import from_hf
import names
import safetensors_file
from common import EXIT_DATA, EXIT_NO_INPUT, EXIT_USAGE, ToolError

#         option of the trainer: key of config.json
OPTIONS = {"layers": "num_hidden_layers", "channels": "hidden_size", "mlp": "intermediate_size", "vocab": "vocab_size", "pattern": "pattern", "kconv": "kconv"}


def read_config(path):
    try:
        config = json.loads(common.read_bytes(path, "configuration"))
        found = config.get("model_type")
        options = {option: config.get(key) for option, key in OPTIONS.items()}
    except (ValueError, AttributeError):
        raise ToolError(EXIT_DATA, f"configuration {path}: not a JSON object (cut copy?)")
    if found != "moba" or not isinstance(options["pattern"], str) or not all(isinstance(value, int) for key, value in options.items() if key != "pattern"):
        raise ToolError(EXIT_DATA, f"configuration {path}: model type {found}, expected moba with its sizes; export/to_hf.py writes such a directory")
    return options


def check(directory):
    """Raises where the directory lacks a part, its weights are cut, or are not those that config.json describes."""
    options = read_config(os.path.join(directory, "config.json"))
    for name in ("modeling_moba.py", "tokenizer.json", "tokenizer_config.json"):
        if not os.path.exists(os.path.join(directory, name)):
            raise ToolError(EXIT_NO_INPUT, f"{directory} has no {name}; export it again (export/to_hf.py, with --tokenizer where the run has none)")
    reader = safetensors_file.Reader(os.path.join(directory, "model.safetensors"))
    expected = {names.exported_name(name): names.exported_shape(name, shape, options["vocab"]) for name, shape in from_hf.shapes_of(options).items()}
    for name in sorted(set(expected) | set(reader.shapes) - {"lm_head.weight"}):
        wanted, found = expected.get(name), reader.shapes.get(name)
        if wanted != found:
            raise ToolError(EXIT_DATA, f"{reader.path}: tensor {name} is {list(found) if found else 'missing'}, config.json asks for {list(wanted) if wanted else 'none'}")


def check_device(torch, device):
    if device.split(":")[0] == "cuda" and not torch.cuda.is_available():
        raise ToolError(EXIT_USAGE, f"--device {device}: PyTorch finds no GPU here; --device cpu works, more slowly")

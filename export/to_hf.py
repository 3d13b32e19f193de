#!/usr/bin/env python3
"""Exports a checkpoint as a Hugging Face model directory: model.safetensors (fp32 master weights), config.json, tokenizer files, modeling_moba.py.

    python3 export/to_hf.py runs/124M exported/124M --tokenizer gpt2.tok
    AutoModelForCausalLM.from_pretrained("exported/124M", trust_remote_code=True, dtype="bfloat16")

Needs nothing but Python. from_hf.py turns the directory back into a checkpoint, bit for bit."""
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
import checkpoint
import common
import names
import safetensors_file
import tokenizers_json
from common import EXIT_DATA, EXIT_NO_OUTPUT, ToolError

HERE = os.path.dirname(os.path.abspath(__file__))


def config_json(saved, eot):
    options = saved.options
    return {
        "architectures": ["MobaForCausalLM"],
        "auto_map": {"AutoConfig": "modeling_moba.MobaConfig", "AutoModelForCausalLM": "modeling_moba.MobaForCausalLM"},
        "model_type": "moba",
        "vocab_size": options["vocab"],
        "hidden_size": options["channels"],
        "num_hidden_layers": options["layers"],
        "num_attention_heads": options["heads"],
        "intermediate_size": options["mlp"],
        "pattern": options["pattern"],
        "kconv": options["kconv"],
        "theta": options["theta"],
        "norm_eps": 1e-6,
        "max_position_embeddings": options["seq-len"],
        "eval_attention": "sparse",
        "tie_word_embeddings": True,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "dtype": "float32",
        # what from_hf.py needs beside the weights
        "train_moba": {"step": saved.step, "options": options, "counters": saved.numbers("counters"), "detector": saved.numbers("detector")},
    }


def checked_tokenizer(saved, name):
    """The tokenizer, if it can be the model's: the embedding's rows are the vocabulary, rounded up to 128."""
    record, count, eot, eot_name = tokenizers_json.open_tokenizer(name)
    vocab, rounded = saved.options["vocab"], lambda n: (n + 127) // 128
    if count > vocab or rounded(count) != rounded(vocab):
        raise ToolError(EXIT_DATA, f"--tokenizer {name} has {count} tokens, the checkpoint's vocabulary {vocab}; "
                                   "name the tokenizer the model was trained with")
    return record, eot, tokenizers_json.tokenizer_config(saved.options["seq-len"], eot_name)


def tensors_of(saved):
    """name -> (shape, a function that gives the bytes), in the order of the checkpoint"""
    vocab, tensors = saved.options["vocab"], {}
    for name in saved.weight_names():
        dtype, shape = saved.records[f"master/{name}"]
        try:
            exported = names.exported_name(name)
        except (KeyError, ValueError):
            raise ToolError(EXIT_DATA, f"checkpoint {saved.path}: its weight '{name}' is none this export knows (written by another version?)")
        tensors[exported] = (names.exported_shape(name, shape, vocab),
                             lambda name=name, shape=shape: names.to_exported(name, shape, saved.read(f"master/{name}"), vocab))
    return tensors


def main():
    parser = common.Parser("Exports a checkpoint as a Hugging Face model directory.")
    parser.add_argument("--tokenizer", metavar="FILE", help="'byte', a tokenizer file of the trainer, a tokenizer.json, or 'none' for no "
                                                            "tokenizer files (default: the checkpoint's own)")
    parser.add_argument("checkpoint", help="a run directory (its newest checkpoint), or a checkpoint's directory step_N")
    parser.add_argument("out", help="the directory to write; must not hold a model yet")
    options = parser.parse_args()
    saved = checkpoint.find(options.checkpoint)
    tokenizer = options.tokenizer or saved.options["tokenizer"]
    record, eot, facts = (None, None, None) if tokenizer == "none" else checked_tokenizer(saved, tokenizer)
    tensors = tensors_of(saved)
    if os.path.exists(os.path.join(options.out, "config.json")):
        raise ToolError(EXIT_NO_OUTPUT, f"{options.out} holds a model already; give another directory, or remove it")

    common.make_directory(options.out)
    within = lambda name: os.path.join(options.out, name)
    safetensors_file.write(within("model.safetensors"), tensors)
    if record:
        common.write_json(within("tokenizer.json"), record)
        common.write_json(within("tokenizer_config.json"), facts)
    shutil.copyfile(os.path.join(HERE, "modeling_moba.py"), within("modeling_moba.py"))
    common.write_json(within("config.json"), config_json(saved, eot))       # last: a directory with config.json is whole
    print(f"{options.out}: {len(tensors)} tensors of {saved.path}, step {saved.step}, tokenizer {tokenizer}")


if __name__ == "__main__":
    common.run(main)

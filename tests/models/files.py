"""Small checkpoints for the tests, written as real safetensors files without any weights library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from profiles.models.schema import DTYPE_BITS, TensorInfo

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def header_of(tensors: Mapping[str, tuple[str, list[int]]]) -> dict[str, Any]:
    """A consistent header: offsets one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = DTYPE_BITS[dtype] // 8
        for dim in shape:
            size *= dim
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return header


def write_raw(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    """Bytes as given, so that a test can break them."""
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, list[int]]]) -> None:
    """A valid file of zeros."""
    header = header_of(tensors)
    data = max((e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0)
    write_raw(path, json.dumps(header).encode(), bytes(data))


def as_table(tensors: Iterable[TensorInfo]) -> dict[str, tuple[str, list[int]]]:
    """Synthesised tensors in the form that `write_tensors` takes."""
    return {t.name: (t.dtype, list(t.shape)) for t in tensors}


def write_model(folder: Path, config: dict[str, Any], tensors: Mapping[str, tuple[str, list[int]]]) -> Path:
    """A checkpoint folder with config.json and one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def llama_tensors(config: dict[str, Any] = LLAMA) -> dict[str, tuple[str, list[int]]]:
    """The published names and shapes of a Llama checkpoint, written out by hand."""
    hidden, inter = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    table: dict[str, tuple[str, list[int]]] = {
        "model.embed_tokens.weight": ("BF16", [config["vocab_size"], hidden]),
        "model.norm.weight": ("BF16", [hidden]),
        "lm_head.weight": ("BF16", [config["vocab_size"], hidden]),
    }
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name, shape in {
            "self_attn.q_proj": [hidden, hidden],
            "self_attn.k_proj": [kv, hidden],
            "self_attn.v_proj": [kv, hidden],
            "self_attn.o_proj": [hidden, hidden],
            "mlp.gate_proj": [inter, hidden],
            "mlp.up_proj": [inter, hidden],
            "mlp.down_proj": [hidden, inter],
            "input_layernorm": [hidden],
            "post_attention_layernorm": [hidden],
        }.items():
            table[f"{p}{name}.weight"] = ("BF16", shape)
    if config.get("tie_word_embeddings"):
        del table["lm_head.weight"]
    return table

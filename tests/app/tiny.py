"""A checkpoint of a few kilobytes: real headers and shapes, random weights, no tokenizer."""

from __future__ import annotations

import json
import struct
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of the tiny Llama."""
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (256, 128), "model.norm.weight": (128,)}
    for block in range(2):
        prefix = f"model.layers.{block}"
        out |= {
            f"{prefix}.self_attn.q_proj.weight": (128, 128),
            f"{prefix}.self_attn.k_proj.weight": (64, 128),
            f"{prefix}.self_attn.v_proj.weight": (64, 128),
            f"{prefix}.self_attn.o_proj.weight": (128, 128),
            f"{prefix}.mlp.gate_proj.weight": (256, 128),
            f"{prefix}.mlp.up_proj.weight": (256, 128),
            f"{prefix}.mlp.down_proj.weight": (128, 256),
            f"{prefix}.input_layernorm.weight": (128,),
            f"{prefix}.post_attention_layernorm.weight": (128,),
        }
    return out


def write_tiny(folder: Path, *, weights: bool = True) -> Path:
    """Write the checkpoint and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if not weights:
        return folder
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes().items():
        count = 1
        for dim in shape:
            count *= dim
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + count * 2]}
        offset += count * 2
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = bytes((7 * i) % 251 for i in range(offset))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder

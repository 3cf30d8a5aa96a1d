"""Write the GGUF file of a Llama-like model: metadata, then one tensor after another, each in its type."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from profiles.errors import EnvironmentProblem, UsageError
from profiles.provenance import Contract
from tuners.events import Emit, Ticker
from tuners.gguf.kquants import quantize_q4_k, quantize_q6_k
from tuners.gguf.source import Checkpoint
from tuners.gguf.vocabulary import add_vocabulary

STAGE = "gguf"
TYPES = ("bf16", "q8_0", "q6_k", "q4_k", "q4_0")
"""Types that can be written here."""

_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
"""Checkpoint module to GGUF tensor (gguf-py tensor_mapping.py); a test holds them to the gguf package."""

_BLOCK = re.compile(r"^model\.layers\.(\d+)\.(.+)\.weight$")


class GgufSpec(Contract):
    """One file to write. `types`: GGUF tensor name -> type; tensors that it does not name stay `others`."""

    model_path: str
    out: str
    types: dict[str, str]
    others: str = Field(default="bf16", pattern="^(bf16|q8_0)$")
    name: str = ""


class GgufResult(Contract):
    """What was written. `error`: root mean square error over that of the weights, per type."""

    path: str
    bytes: int
    tensors: dict[str, int]  # type -> tensors
    error: dict[str, float]


def write_gguf(spec: GgufSpec, emit: Emit) -> GgufResult:
    """Write the file under a temporary name and rename it.

    Raises:
        UsageError: an architecture or tokenizer that is not known here, or a type that cannot store a row.
        EnvironmentProblem: the gguf package is not installed.
    """
    try:
        import gguf
    except ImportError as exc:
        raise EnvironmentProblem("the gguf package is not installed", next_step="pip install gguf") from exc
    folder, out = Path(spec.model_path), Path(spec.out)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _check(config, folder, spec)
    source = Checkpoint(folder)
    partial = out.with_name(out.name + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        counts, errors = _write(gguf, partial, source, config, spec, emit)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return GgufResult(
        path=str(out),
        bytes=out.stat().st_size,
        tensors=counts,
        error={
            k: float(np.sqrt(sum(e for e, _ in pairs) / max(sum(w for _, w in pairs), 1e-30)))
            for k, pairs in errors.items()
        },
    )


def _write(
    gguf: Any, path: Path, source: Checkpoint, config: dict[str, Any], spec: GgufSpec, emit: Emit
) -> tuple[dict[str, int], dict[str, list[tuple[float, float]]]]:
    """Header first, then a tensor at a time: nothing but the one at hand is in memory."""
    names = [n for n in source if not (n == "lm_head.weight" and config.get("tie_word_embeddings"))]
    names.sort(key=_order)
    kinds = {
        n: "f32" if len(source.shape(n)) == 1 else spec.types.get(gguf_name(n), spec.others) for n in names
    }
    writer = gguf.GGUFWriter(str(path), "llama")
    counts: dict[str, int] = {}
    errors: dict[str, list[tuple[float, float]]] = {}
    try:
        _metadata(writer, config, spec.name or Path(spec.model_path).name)
        add_vocabulary(writer, Path(spec.model_path), config)
        for name in names:
            kind, shape = gguf.GGMLQuantizationType[kinds[name].upper()], source.shape(name)
            stored = shape if kinds[name] == "f32" else _byte_shape(shape, kind, gguf)
            dtype = np.dtype(np.float32 if kinds[name] == "f32" else np.uint8)
            writer.add_tensor_info(gguf_name(name), stored, dtype, math.prod(stored) * dtype.itemsize, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        tick = Ticker(emit, STAGE, len(names))
        for done, name in enumerate(names, 1):
            kind = kinds[name]
            weight = _permuted(name, source.read(name), config)
            data = encode(weight, kind, gguf)
            writer.write_tensor_data(data)
            counts[kind] = counts.get(kind, 0) + 1
            errors.setdefault(kind, []).append(_error(weight, data, kind, gguf))
            tick(done, f"{gguf_name(name)} {kind}")
    finally:
        writer.close()
    return counts, errors


def _byte_shape(shape: tuple[int, ...], kind: Any, gguf: Any) -> tuple[int, ...]:
    """Shape of the encoded rows in bytes.

    Raises:
        UsageError: a row is not made of whole blocks.
    """
    per_block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % per_block:
        raise UsageError(
            f"{kind.name.lower()} cannot store a row of {shape[-1]}", allowed=f"multiples of {per_block}"
        )
    return (*shape[:-1], shape[-1] // per_block * nbytes)


def gguf_name(name: str) -> str:
    """The GGUF tensor of a checkpoint tensor.

    Raises:
        UsageError: the name is none of a Llama-like model.
    """
    match = _BLOCK.match(name)
    if match and match[2] in _NAMES:
        return f"blk.{match[1]}.{_NAMES[match[2]]}.weight"
    plain = name.removesuffix(".weight")
    if match is None and plain in _NAMES:
        return f"{_NAMES[plain]}.weight"
    raise UsageError("a tensor that no Llama has", got=name, next_step="convert_hf_to_gguf.py may know it")


def encode(weight: npt.NDArray[np.float32], kind: str, gguf: Any) -> npt.NDArray[Any]:
    """The weight in that type: the bytes of its rows."""
    if kind == "f32":
        return weight
    if kind == "q4_k":
        return quantize_q4_k(weight)
    if kind == "q6_k":
        return quantize_q6_k(weight)
    return np.asarray(gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind.upper()]))


def _check(config: dict[str, Any], folder: Path, spec: GgufSpec) -> None:
    architecture = (config.get("architectures") or ["?"])[0]
    scaling = config.get("rope_scaling") or (config.get("rope_parameters") or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if architecture not in {"LlamaForCausalLM", "MistralForCausalLM"} or kind != "default":
        raise UsageError(
            "this model is not written to GGUF here",
            where=str(folder),
            got=f"{architecture}, RoPE {kind}",
            allowed="LlamaForCausalLM and MistralForCausalLM with plain RoPE",
            next_step="deploy/llama.cpp/quantize.sh of the bundle uses llama.cpp's own converter",
        )
    unknown = set(spec.types.values()) - set(TYPES)
    if unknown:
        raise UsageError("a type that is not written here", got=", ".join(sorted(unknown)),
                         allowed=", ".join(TYPES))  # fmt: skip


def _metadata(writer: Any, config: dict[str, Any], name: str) -> None:
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta", 10000.0)
    writer.add_name(name)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(theta))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_quantization_version(2)


def _permuted(name: str, weight: npt.NDArray[np.float32], config: dict[str, Any]) -> npt.NDArray[np.float32]:
    """llama.cpp rotates neighbouring pairs, transformers halves: q and k rows change places
    (convert_hf_to_gguf.py LlamaModel.permute)."""
    heads = int(config["num_attention_heads"])
    if name.endswith("k_proj.weight"):
        heads = int(config.get("num_key_value_heads") or heads)
    elif not name.endswith("q_proj.weight"):
        return weight
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _error(
    weight: npt.NDArray[np.float32], data: npt.NDArray[Any], kind: str, gguf: Any
) -> tuple[float, float]:
    """Squared error and squared weights; the encoded rows are read back by the gguf package."""
    back = data if kind == "f32" else gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind.upper()])
    return _squares(back - weight), _squares(weight)


def _squares(values: npt.NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _order(name: str) -> tuple[int, str]:
    match = _BLOCK.match(name)
    return (int(match[1]) if match else -1, name)

"""Safetensors files made of zeros, for tests that look at headers only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from profiles.formats import get_format
from profiles.models.schema import TensorInfo
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import quantization_config
from tuners.quantize.layout import StoredTensor, stored_tensors

REST: dict[str, StoredTensor] = {
    "model.embed_tokens.weight": ("BF16", (32, 128)),
    "model.norm.weight": ("BF16", (128,)),
    "model.layers.0.router_bias": ("F32", (4,)),
}
"""Tensors outside every unit; one is float32 in the source."""


def write_zeros(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """One safetensors file with these tensors, all zero."""
    header: dict[str, object] = {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = TensorInfo(name=name, dtype=dtype, shape=shape).nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


def write_source(folder: Path, units: tuple[Unit, ...], dtype: str = "BF16") -> Path:
    """An unquantized checkpoint of the units."""
    folder.mkdir()
    weights = {f"{m.name}.weight": (dtype, (m.out_features, m.in_features)) for u in units for m in u.linears}
    write_zeros(folder / "model.safetensors", {**REST, **weights})
    (folder / "config.json").write_text("{}")
    return folder


def quantized_tensors(units: tuple[Unit, ...], plan: PrecisionPlan) -> dict[str, StoredTensor]:
    """What the quantizer should store."""
    tensors = dict(REST)
    for unit in units:
        for m in unit.linears:
            layout = stored_tensors(get_format(plan.formats[unit.name]), m.out_features, m.in_features)
            tensors.update({f"{m.name}.{leaf}": t for leaf, t in layout.items()})
    return tensors


def write_quantized(
    folder: Path, units: tuple[Unit, ...], plan: PrecisionPlan, tensors: Mapping[str, StoredTensor]
) -> Path:
    """A finished checkpoint holding `tensors`."""
    folder.mkdir()
    write_zeros(folder / "model.safetensors", tensors)
    config = {"quantization_config": quantization_config(units, plan)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder

"""Which tensors compressed-tensors stores for a weight of each format: suffix, dtype, shape.

Read off checkpoints written by llm-compressor 0.14 with compressed-tensors 0.19
(`compressors/*/base.py: compression_param_names`). `profiles.formats.Format.weight_bytes` is the price
of the same tensors; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from profiles.formats import Activations, Format, Strategy
from tuners.quantize.groups import NVFP4_GROUP

StoredTensor = tuple[str, tuple[int, ...]]
"""safetensors dtype and shape."""

MAY_BE_FLOAT32 = ("weight_global_scale", "input_global_scale")
"""The only tensors of a quantized weight that are float32 by design (NVFP4's per-tensor scales)."""


def stored_tensors(
    fmt: Format, out_features: int, in_features: int, dtype: str = "BF16"
) -> Mapping[str, StoredTensor]:
    """Suffix to (dtype, shape) of one weight; `dtype` is the checkpoint's 16-bit type."""
    shape = (out_features, in_features)
    scale: tuple[int, ...]
    match fmt.strategy:
        case Strategy.NONE:
            return {"weight": (dtype, shape)}
        case Strategy.CHANNEL:
            scale = (out_features, 1)
        case Strategy.GROUP:
            assert fmt.group_size is not None
            scale = (out_features, in_features // fmt.group_size)
        case Strategy.BLOCK:
            assert fmt.block is not None
            scale = (math.ceil(out_features / fmt.block[0]), math.ceil(in_features / fmt.block[1]))
        case Strategy.TENSOR:
            scale = (1,)
    if fmt.packed_shape_bytes:
        words = math.ceil(in_features * fmt.weight_bits / 32)
        zeros: dict[str, StoredTensor] = {}
        if not fmt.symmetric and fmt.group_size:
            rows = math.ceil(out_features * fmt.weight_bits / 32)
            zeros["weight_zero_point"] = ("I32", (rows, in_features // fmt.group_size))
        return zeros | {
            "weight_packed": ("I32", (out_features, words)),
            "weight_scale": (dtype, scale),
            "weight_shape": ("I64", (2,)),
        }
    if fmt.family == "fp4":
        packed: dict[str, StoredTensor] = {"weight_packed": ("U8", (out_features, in_features // 2))}
        if fmt.group_size != NVFP4_GROUP:
            return packed | {"weight_scale": ("U8", scale)}
        inputs = {"input_global_scale": ("F32", (1,))} if fmt.activations is Activations.NVFP4 else {}
        return packed | inputs | {"weight_scale": ("F8_E4M3", scale), "weight_global_scale": ("F32", (1,))}
    element = "I8" if fmt.weight_type == "int" else f"F8_{fmt.fp8.upper()}"
    return {"weight": (element, shape), "weight_scale": (dtype, scale)} | _static_inputs(fmt, dtype)


def _static_inputs(fmt: Format, dtype: str) -> dict[str, StoredTensor]:
    match fmt.activations:
        case Activations.INT8_TENSOR | Activations.FP8_TENSOR:
            return {"input_scale": (dtype, (1,))}
        case Activations.INT8_TENSOR_ASYM:
            return {"input_scale": (dtype, (1,)), "input_zero_point": ("I8", (1,))}
        case _:
            return {}

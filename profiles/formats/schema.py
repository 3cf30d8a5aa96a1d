"""A quantization format: what is stored, what it costs in bytes, what its arithmetic needs."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal

from profiles.provenance import Contract


class Strategy(StrEnum):
    """What shares one weight scale (the words of compressed-tensors)."""

    NONE = "none"
    TENSOR = "tensor"
    CHANNEL = "channel"
    GROUP = "group"
    BLOCK = "block"


class Activations(StrEnum):
    """What the layer's input is rounded to before the matmul."""

    A16 = "16-bit"
    INT8_TOKEN = "int8 per token, dynamic"
    INT8_TOKEN_ASYM = "int8 per token, dynamic, asymmetric"
    INT8_TENSOR = "int8 per tensor, static"
    INT8_TENSOR_ASYM = "int8 per tensor, static, asymmetric"
    FP8_TOKEN = "fp8 e4m3 per token, dynamic"
    FP8_TENSOR = "fp8 e4m3 per tensor, static"
    FP8_GROUP = "fp8 e4m3 per group of 128, dynamic"
    NVFP4 = "nvfp4, dynamic local scales"
    MXFP4 = "mxfp4, dynamic"


CALIBRATED = frozenset(
    {Activations.INT8_TENSOR, Activations.INT8_TENSOR_ASYM, Activations.FP8_TENSOR, Activations.NVFP4}
)
"""Roundings with a scale that is found on calibration text and stored in the checkpoint."""


class Format(Contract):
    """One entry of the menu; `name` is what users type and what a plan stores.

    Byte counts follow the compressed-tensors files that llm-compressor 0.14 writes (read off
    checkpoints written by it): INT4 is packed eight to an int32 along the input axis with a 16-byte
    `weight_shape`, scales are stored in the model's 16-bit dtype, zero points packed like weights.
    """

    name: str
    family: Literal["16-bit", "int8", "fp8", "int4", "fp4"]
    weight_bits: int
    weight_type: Literal["float", "int"]
    strategy: Strategy
    group_size: int | None = None
    block: tuple[int, int] | None = None
    symmetric: bool = True
    activations: Activations = Activations.A16
    fp8: Literal["e4m3", "e5m2"] = "e4m3"  # of 8-bit float weights
    scale_bits: int = 16
    tensor_scale_bits: int = 0  # scales of the whole tensor: NVFP4's global ones, static input scales
    packed_shape_bytes: int = 0  # `weight_shape`, int64 x 2, of the packed layout
    aliases: tuple[str, ...] = ()
    summary: str = ""

    def scales(self, out_features: int, in_features: int) -> int:
        """Number of weight scales of an (out, in) weight."""
        match self.strategy:
            case Strategy.NONE:
                return 0
            case Strategy.TENSOR:
                return 1
            case Strategy.CHANNEL:
                return out_features
            case Strategy.GROUP:
                assert self.group_size is not None
                return out_features * math.ceil(in_features / self.group_size)
            case Strategy.BLOCK:
                assert self.block is not None
                return math.ceil(out_features / self.block[0]) * math.ceil(in_features / self.block[1])

    def weight_bytes(self, out_features: int, in_features: int, *, unquantized_bits: int = 16) -> int:
        """Bytes of one (out, in) weight with its scales, as stored in the checkpoint.

        `unquantized_bits` prices the 16-bit format when it is *served* in float32 (32).
        """
        if self.strategy is Strategy.NONE:
            return out_features * in_features * unquantized_bits // 8
        if self.weight_bits < 8 and self.weight_type == "int":
            row_bytes = math.ceil(in_features * self.weight_bits / 32) * 4
        else:
            row_bytes = math.ceil(in_features * self.weight_bits / 8)
        scales = self.scales(out_features, in_features)
        total = out_features * row_bytes + scales * self.scale_bits // 8
        if not self.symmetric and self.weight_type == "int":
            groups = scales // out_features
            total += math.ceil(out_features * self.weight_bits / 32) * 4 * groups
        return total + self.tensor_scale_bits // 8 + self.packed_shape_bytes

    def bits_per_weight(self, out_features: int, in_features: int) -> float:
        """Average bits per weight, scales included."""
        return self.weight_bytes(out_features, in_features) * 8 / (out_features * in_features)

    def shape_problem(self, out_features: int, in_features: int) -> str | None:
        """Why the format cannot store a weight of this shape at all, or None."""
        if self.group_size is not None and in_features % self.group_size:
            return f"group_size {self.group_size} does not divide in_features {in_features}"
        if self.block is not None and in_features % self.block[1]:
            return f"in_features {in_features} is not made of whole blocks of {self.block[1]}"
        if self.packed_shape_bytes and in_features * self.weight_bits % 32:
            return f"in_features {in_features} does not fill whole int32 words at {self.weight_bits} bits"
        return None

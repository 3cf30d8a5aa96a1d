"""A written weight as codes, scales and zero points, and back: what a compressed-tensors file holds of it.

Integers of `pack-quantized`, `int-quantized` and E4M3 weights with a scale per channel or group. The packing
is compressed-tensors' own (`compressors/pack_quantized/helpers.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from profiles.formats import CALIBRATED, Format, Strategy
from tuners.model.variants import LinearVariant

READABLE = (Strategy.CHANNEL, Strategy.GROUP)
"""What shares a scale in the weights that are read here."""


def is_readable(fmt: Format) -> bool:
    """Whether the format's weights are codes times a scale per output channel or group, and its activations
    need nothing from the file."""
    plain = fmt.strategy in READABLE and fmt.activations not in CALIBRATED
    return plain and (fmt.weight_type == "int" or fmt.weight_bits == 8)


def read_codes(tensors: Mapping[str, Tensor], module: str, fmt: Format) -> LinearVariant:
    """Codes (out, in) in int8 or E4M3, scales (out, groups) and zero points of a module of the file."""
    scale = tensors[f"{module}.weight_scale"]
    if not fmt.packed_shape_bytes:
        return LinearVariant(tensors[f"{module}.weight"], scale)
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    shape = torch.Size(tensors[f"{module}.weight_shape"].tolist())
    codes = unpack_from_int32(tensors[f"{module}.weight_packed"], fmt.weight_bits, shape)
    zero = tensors.get(f"{module}.weight_zero_point")
    if zero is not None:
        zero = unpack_from_int32(zero, fmt.weight_bits, torch.Size(scale.shape), packed_dim=0)
    return LinearVariant(codes, scale, zero)


def write_codes(module: str, fmt: Format, codes: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """The tensors of a module that hold its codes and scales; zero points and shapes stay as they are."""
    out = {f"{module}.weight_scale": scale.contiguous()}
    if not fmt.packed_shape_bytes:
        return {**out, f"{module}.weight": codes.contiguous()}
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    packed = pack_to_int32(codes.to(torch.int8), fmt.weight_bits)
    return {**out, f"{module}.weight_packed": packed.contiguous()}

"""FP4: E2M1 values and the scales of NVFP4 and MXFP4, as compressed-tensors computes them (bit for bit).

Values follow the OCP Microscaling specification 1.0: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; all of
them are E4M3 numbers too, so codes are kept as float8_e4m3fn.
"""

from __future__ import annotations

import torch
from torch import Tensor

E2M1_MAX = 6.0
"""Largest E2M1 value."""

E4M3_MAX = 448.0
"""Largest finite E4M3 value (OCP 8-bit floating point specification)."""

SMALLEST_LOCAL = 0.125
"""What compressed-tensors stores for a group whose scale rounds to zero (the spacing of E4M3 at 1)."""

ROUNDS_UP = 0.875
"""Mantissa (0.5 to 1) from which an MX scale takes the next power of two: 1.75 / 2, so that the largest value
of a group is rounded to 6 or less often clipped (`generate_mx_scales`)."""


def to_e2m1(x: Tensor) -> Tensor:
    """The nearest E2M1 value, ties to even; what is beyond 6 becomes 6."""
    size = x.abs().clamp_max(E2M1_MAX)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0)).to(x.dtype)
    return torch.copysign((size / step).round() * step, x)


def global_scale(absmax: Tensor) -> Tensor:
    """NVFP4's scale of a whole tensor (float32): the largest group scale becomes 448 (`generate_gparam`)."""
    tiny = torch.finfo(torch.float32).tiny
    return (E4M3_MAX * E2M1_MAX / absmax.float().clamp_min(tiny)).nan_to_num(nan=1.0, posinf=1.0)


def nvfp4_scales(absmax: Tensor, whole: Tensor) -> Tensor:
    """Step (float32) of each group with that largest value: an E4M3 scale over the global one."""
    local = (whole * (absmax.float() / E2M1_MAX)).clamp(-E4M3_MAX, E4M3_MAX)
    local = local.to(torch.float8_e4m3fn).float()
    return torch.where(local == 0, torch.full_like(local, SMALLEST_LOCAL), local) / whole


def mx_scales(absmax: Tensor) -> Tensor:
    """Step (float32) of each group with that largest value: a power of two (E8M0)."""
    mantissa, exponent = torch.frexp(absmax.float())
    exponent = exponent - 1 + (mantissa >= ROUNDS_UP).to(exponent.dtype) - 2  # 2: floor(log2(6))
    smallest = torch.full_like(exponent, -126)
    return torch.exp2(torch.where(absmax > 0, exponent, smallest).clamp(-126, 127).float())

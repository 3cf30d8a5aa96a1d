"""What a format does to a layer's input, imitated in torch.

Dynamic roundings follow vLLM's kernels, static ones the scale that llm-compressor finds on calibration text
(`calculate_qparams` over the smallest and largest input seen) and stores in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from profiles.formats import CALIBRATED, Activations
from tuners.model.fp4 import E4M3_MAX, global_scale, mx_scales, nvfp4_scales, to_e2m1

Rounding = Callable[[Tensor], Tensor]

FP8_GROUP = 128
"""Inputs that share an FP8 scale beside 128 x 128 weight blocks."""


def int8_per_token(x: Tensor) -> Tensor:
    """Dynamic symmetric INT8 rounding of each token's vector (vLLM `scaled_int8_quant`: absmax / 127)."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-10) / 127.0
    return (x / scale).round_().clamp_(-128, 127).mul_(scale)


def int8_per_token_asymmetric(x: Tensor) -> Tensor:
    """Dynamic INT8 rounding with a zero point: 255 steps from each token's least to its largest value."""
    low = x.amin(-1, keepdim=True)
    scale = (x.amax(-1, keepdim=True) - low).clamp_min(1e-10) / 255.0
    zero = (-128.0 - low / scale).round_()
    return (x / scale).add_(zero).round_().clamp_(-128, 127).sub_(zero).mul_(scale)


def fp8_per_token(x: Tensor) -> Tensor:
    """Dynamic FP8 E4M3 rounding of each token's vector (vLLM `scaled_fp8_quant`: absmax / 448)."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-10) / E4M3_MAX
    return _to_e4m3(x / scale).mul_(scale)


def fp8_per_group(x: Tensor) -> Tensor:
    """The same for each 128 values of a token's vector."""
    return fp8_per_token(x.unflatten(-1, (-1, FP8_GROUP))).flatten(-2)


def mxfp4_per_group(x: Tensor) -> Tensor:
    """Dynamic MXFP4: a power of two per 32 values."""
    groups = x.unflatten(-1, (-1, 32))
    scale = mx_scales(groups.abs().amax(-1, keepdim=True)).to(x.dtype)
    return (to_e2m1(groups / scale) * scale).flatten(-2)


def static_int8(low: Tensor, high: Tensor, stored: torch.dtype, *, symmetric: bool) -> Rounding:
    """INT8 rounding with one calibrated scale, and zero point unless symmetric."""
    low, high = low.float().clamp_max(0.0), high.float().clamp_min(0.0)
    wide = torch.maximum(-low, high) * 2 if symmetric else high - low
    scale = _stored(wide / 255.0, stored)
    zero = torch.zeros_like(scale) if symmetric else (-128.0 - low / scale).round().clamp(-128, 127)

    def rounded(x: Tensor) -> Tensor:
        step, shift = scale.to(x), zero.to(x)
        return (x / step).add_(shift).round_().clamp_(-128, 127).sub_(shift).mul_(step)

    return rounded


def static_fp8(low: Tensor, high: Tensor, stored: torch.dtype) -> Rounding:
    """FP8 E4M3 rounding with one calibrated scale."""
    scale = _stored(torch.maximum(-low, high).float() / E4M3_MAX, stored)

    def rounded(x: Tensor) -> Tensor:
        step = scale.to(x)
        return _to_e4m3(x / step).mul_(step)

    return rounded


def nvfp4(low: Tensor, high: Tensor) -> Rounding:
    """NVFP4: an E4M3 scale per 16 values of a token, relative to one calibrated global scale."""
    whole = global_scale(torch.maximum(-low, high))

    def rounded(x: Tensor) -> Tensor:
        groups = x.unflatten(-1, (-1, 16))
        scale = nvfp4_scales(groups.abs().amax(-1, keepdim=True), whole.to(x.device)).to(x.dtype)
        return (to_e2m1(groups / scale) * scale).flatten(-2)

    return rounded


def rounding(
    kind: Activations,
    scale: Tensor | None = None,
    span: Tensor | None = None,
    stored: torch.dtype = torch.bfloat16,
) -> Rounding | None:
    """What `kind` does to a layer's input; None for 16-bit activations.

    With a `scale` (in,) the input is rounded divided by it, then multiplied back. `span` (2,) holds the
    smallest and largest input of the calibration text, for the kinds that need it.
    """
    if kind is Activations.A16:
        return None
    if kind in CALIBRATED and span is None:
        raise ValueError(f"{kind.value} needs the range of the inputs")
    plain = _DYNAMIC.get(kind) or _static(kind, span, stored)
    if scale is None:
        return plain

    def scaled(x: Tensor) -> Tensor:
        by = scale.to(x)
        return plain(x / by).mul_(by)

    return scaled


def _static(kind: Activations, span: Tensor | None, stored: torch.dtype) -> Rounding:
    assert span is not None
    low, high = span[0], span[1]
    if kind is Activations.FP8_TENSOR:
        return static_fp8(low, high, stored)
    if kind is Activations.NVFP4:
        return nvfp4(low, high)
    return static_int8(low, high, stored, symmetric=kind is Activations.INT8_TENSOR)


def _to_e4m3(x: Tensor) -> Tensor:
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(x.dtype)


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    return scale.to(dtype).clamp_min(torch.finfo(dtype).tiny).float()


_DYNAMIC: dict[Activations, Rounding] = {
    Activations.INT8_TOKEN: int8_per_token,
    Activations.INT8_TOKEN_ASYM: int8_per_token_asymmetric,
    Activations.FP8_TOKEN: fp8_per_token,
    Activations.FP8_GROUP: fp8_per_group,
    Activations.MXFP4: mxfp4_per_group,
}

"""Quantized variants of linears: codes and scales as the checkpoint stores them, dequantized on demand.

Every (unit, format) is quantized once, with the method of the final checkpoint: GPTQ for INT4
(llm-compressor's own `quantize_weight`), round-to-nearest for INT8 and FP8 (a scale per output channel
leaves GPTQ little to gain at eight bits). After that a plan is only a choice of pointers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from profiles.formats import Activations, Format, get_format
from tuners.model.host import ModelHost

FP8_MAX = 448.0
"""Largest finite E4M3 value (OCP 8-bit floating point specification)."""


@dataclass(frozen=True)
class LinearVariant:
    """Codes (int8 or float8_e4m3) of shape (out, in), scales (out, groups) in bfloat16, and for asymmetric
    formats zero points (out, groups) in int8."""

    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight that a kernel multiplies by: (code - zero point) times scale."""
        out_features, in_features = self.codes.shape
        groups = self.scale.shape[1]
        wide = self.codes.to(torch.float32).view(out_features, groups, in_features // groups)
        if self.zero is not None:
            wide = wide - self.zero.to(torch.float32).unsqueeze(-1)
        return (wide * self.scale.to(torch.float32).unsqueeze(-1)).view(out_features, in_features).to(dtype)


def round_scale(scale: Tensor) -> Tensor:
    """Scales as the checkpoint stores them (bfloat16), never zero."""
    return scale.to(torch.bfloat16).clamp_min(torch.finfo(torch.bfloat16).tiny)


def minmax(weight: Tensor, fmt: Format) -> tuple[Tensor, Tensor | None]:
    """Min-max scale and zero point (out, groups), as compressed-tensors' `calculate_qparams` has them.

    Symmetric: absmax over half the code range (2^bits - 1 codes for integers, 2 x 448 for E4M3).
    Asymmetric: the range of the group, zero included, over 2^bits - 1.
    """
    out_features, in_features = weight.shape
    group = fmt.group_size or in_features
    groups = weight.float().view(out_features, in_features // group, group)
    if fmt.symmetric:
        half_range = FP8_MAX if fmt.weight_type == "float" else (2**fmt.weight_bits - 1) / 2
        return round_scale(groups.abs().amax(-1) / half_range), None
    low, high = groups.amin(-1).clamp_max(0.0), groups.amax(-1).clamp_min(0.0)
    scale = round_scale((high - low) / (2**fmt.weight_bits - 1))
    least = -(2 ** (fmt.weight_bits - 1))
    zero = (least - low / scale.float()).round().clamp(least, -least - 1)
    return scale, zero.to(torch.int8)


def encode(weight: Tensor, scale: Tensor, fmt: Format, zero: Tensor | None = None) -> Tensor:
    """Round to the format's codes with the scales and zero points given."""
    out_features, in_features = weight.shape
    groups = scale.shape[1]
    scaled = weight.float().view(out_features, groups, in_features // groups) / scale.float().unsqueeze(-1)
    if fmt.weight_type == "float":
        return scaled.clamp(-FP8_MAX, FP8_MAX).view(out_features, in_features).to(torch.float8_e4m3fn)
    if zero is not None:
        scaled = scaled + zero.float().unsqueeze(-1)
    low, high = -(2 ** (fmt.weight_bits - 1)), 2 ** (fmt.weight_bits - 1) - 1
    return scaled.round().clamp(low, high).view(out_features, in_features).to(torch.int8)


def rtn(weight: Tensor, fmt: Format) -> LinearVariant:
    """Round to nearest."""
    scale, zero = minmax(weight, fmt)
    return LinearVariant(encode(weight, scale, fmt, zero), scale, zero)


def gptq(weights: list[Tensor], hessians: list[Tensor], fmt: Format, damping: float) -> list[LinearVariant]:
    """GPTQ of equally shaped weights in one batch, each with its own Hessian (in, in).

    llm-compressor's `quantize_weight` does the work; codes are read back from its result with the same
    scales, so what is searched is what its checkpoint will hold for the same Hessian.
    """
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

    from tuners.quantize import gptq_cpu

    gptq_cpu.register()
    args = QuantizationArgs(
        num_bits=fmt.weight_bits,
        type="int",
        symmetric=fmt.symmetric,
        strategy="group",
        group_size=fmt.group_size,
        actorder="static",
    )
    parameters = [minmax(w, fmt) for w in weights]
    stacked = torch.stack([s.float() for s, _ in parameters])
    zeros = torch.stack(
        [torch.zeros_like(s, dtype=torch.float32) if z is None else z.float() for s, z in parameters]
    )
    rounded, _losses, _fallback = quantize_weight(
        torch.stack([w.float() for w in weights]),
        torch.stack([h.float() for h in hessians]),
        stacked,
        zeros,
        None,
        args,
        percdamp=damping,
    )
    return [
        LinearVariant(encode(q, s, fmt, z), s, z)
        for q, (s, z) in zip(rounded.unbind(0), parameters, strict=True)
    ]


class VariantStore:
    """All (unit, format) variants on disk, memory-mapped, with a bounded cache of dequantized weights."""

    def __init__(self, host: ModelHost, folder: Path, memory_bytes: int) -> None:
        self.host = host
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._dense: OrderedDict[tuple[str, str], dict[str, Tensor]] = OrderedDict()
        self._used_bytes = 0

    def path(self, unit: str, fmt: str) -> Path:
        """The file of one variant."""
        return self.folder / f"{unit}--{fmt}.safetensors"

    def has(self, unit: str, fmt: str) -> bool:
        """Whether the variant is on disk (16-bit always is: the original)."""
        return fmt == "BF16" or self.path(unit, fmt).exists()

    def put(self, unit: str, fmt: str, variants: Mapping[str, LinearVariant]) -> None:
        """Write the variants of a unit's linears; a reader never sees half a file."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for name, variant in variants.items():
            tensors[f"{name}.codes"] = variant.codes.contiguous()
            tensors[f"{name}.scale"] = variant.scale.contiguous()
            if variant.zero is not None:
                tensors[f"{name}.zero"] = variant.zero.contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path(unit, fmt).with_suffix(".partial")
        save_file(tensors, partial)
        partial.replace(self.path(unit, fmt))

    def codes(self, unit: str, fmt: str) -> dict[str, LinearVariant]:
        """The stored variants of a unit."""
        from safetensors import safe_open

        asymmetric = not get_format(fmt).symmetric
        with safe_open(self.path(unit, fmt), "pt") as file:
            return {
                m.name: LinearVariant(
                    file.get_tensor(f"{m.name}.codes"),
                    file.get_tensor(f"{m.name}.scale"),
                    file.get_tensor(f"{m.name}.zero") if asymmetric else None,
                )
                for m in self.host.units[unit].linears
            }

    def dense(self, unit: str, fmt: str) -> dict[str, Tensor]:
        """Dequantized weights in the compute dtype; least recently used ones leave memory first."""
        if fmt == "BF16":
            return {m.name: self.host.original[m.name] for m in self.host.units[unit].linears}
        key = (unit, fmt)
        if key in self._dense:
            self._dense.move_to_end(key)
            return self._dense[key]
        weights = {}
        for name, variant in self.codes(unit, fmt).items():
            like = self.host.original[name]
            weights[name] = variant.dequantize(like.dtype).to(like.device)
        self._dense[key] = weights
        self._used_bytes += _nbytes(weights)
        while self._used_bytes > self.memory_bytes and len(self._dense) > 1:
            _, dropped = self._dense.popitem(last=False)
            self._used_bytes -= _nbytes(dropped)
        return weights

    def install(self, formats: Mapping[str, str]) -> None:
        """Point the units' linears at the weights of their format, with its activation rounding."""
        for unit, name in formats.items():
            kind = _activation_rounding(get_format(name))
            round_input = None if kind is None else _Rounded(kind)
            for linear_name, weight in self.dense(unit, name).items():
                module = self.host.linear(linear_name)
                module.weight.data = weight
                if round_input is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = _rounded_forward(module, round_input)

    @contextmanager
    def installed(self, formats: Mapping[str, str]) -> Iterator[None]:
        """Install for the block and put the original weights back after it."""
        self.install(formats)
        try:
            yield
        finally:
            self.install(dict.fromkeys(formats, "BF16"))


def _nbytes(weights: Mapping[str, Tensor]) -> int:
    return sum(w.numel() * w.element_size() for w in weights.values())


def int8_per_token(x: Tensor) -> Tensor:
    """Dynamic symmetric INT8 rounding of each token's vector (vLLM `scaled_int8_quant`: absmax / 127)."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-10) / 127.0
    return (x / scale).round_().clamp_(-128, 127).mul_(scale)


def fp8_per_token(x: Tensor) -> Tensor:
    """Dynamic FP8 E4M3 rounding of each token's vector (vLLM `scaled_fp8_quant`: absmax / 448)."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-10) / FP8_MAX
    return (x / scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).to(x.dtype).mul_(scale)


def _activation_rounding(fmt: Format) -> Callable[[Tensor], Tensor] | None:
    match fmt.activations:
        case Activations.INT8_TOKEN:
            return int8_per_token
        case Activations.FP8_TOKEN:
            return fp8_per_token
        case Activations.A16:
            return None
        case _:
            raise NotImplementedError(f"no activation rounding written for {fmt.name}")


class _Rounded:
    """The last input rounded, and the result: q, k and v (gate and up) ask for the same one in turn."""

    def __init__(self, round_input: Callable[[Tensor], Tensor]) -> None:
        self._round = round_input
        self._before: Tensor | None = None
        self._after: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._before is not x or self._after is None:
            self._before, self._after = x, self._round(x)
        return self._after


def _rounded_forward(module: nn.Linear, round_input: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    def forward(x: Tensor) -> Tensor:
        return F.linear(round_input(x), module.weight, module.bias)

    return forward

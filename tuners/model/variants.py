"""Quantized variants of linears: codes and scales as the checkpoint stores them, dequantized on demand.

Every (unit, format) is quantized once, with the method of the final checkpoint: GPTQ for INT4
(llm-compressor's own `quantize_weight`), round-to-nearest for INT8 and FP8 (a scale per output channel
leaves GPTQ little to gain at eight bits). After that a plan is only a choice of pointers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from profiles.formats import CALIBRATED, Activations, Format, Strategy, get_format
from tuners.model import fp4, inputs, smoothing
from tuners.model.clipping import clipped, range_parameters
from tuners.model.host import ModelHost

INPUT_SCALE = "input_scale"
"""Name of the scale's exponents in a variant's file."""

INPUT_SPAN = "input_span"
"""Name of the smallest and largest input (2,) in a variant's file, for calibrated activation scales."""

NVFP4_GROUP = 16
"""Inputs per scale of NVFP4; MXFP4 has 32."""

FP8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class LinearVariant:
    """Codes (int8 or float8) of shape (out, in), scales (out, groups) in bfloat16 (float32 for FP4: a local
    scale over a global one), and for asymmetric formats zero points (out, groups) in int8."""

    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight that a kernel multiplies by: (code - zero point) times scale."""
        out_features, in_features = self.codes.shape
        groups = self.scale.shape[1]
        wide = self.codes.to(torch.float32, copy=True).view(out_features, groups, in_features // groups)
        if self.zero is not None:
            wide.sub_(self.zero.to(torch.float32).unsqueeze(-1))
        return wide.mul_(self.scale.to(torch.float32).unsqueeze(-1)).view(out_features, in_features).to(dtype)


def round_scale(scale: Tensor) -> Tensor:
    """Scales as the checkpoint stores them (bfloat16), never zero."""
    return scale.to(torch.bfloat16).clamp_min(torch.finfo(torch.bfloat16).tiny)


def minmax(weight: Tensor, fmt: Format, absmax: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Min-max scale and zero point (out, groups): absmax over the largest code for floats,
    `range_parameters` for integers. `absmax` is the largest weight of the fused layer, which NVFP4 shares."""
    out_features, in_features = weight.shape
    if fmt.strategy is Strategy.BLOCK:
        return _block_scales(weight, fmt), None
    group = fmt.group_size or in_features
    groups = weight.float().view(out_features, in_features // group, group)
    if fmt.weight_type == "float":
        largest = groups.abs().amax(-1)
        if fmt.weight_bits == 8:
            return round_scale(largest / torch.finfo(FP8[fmt.fp8]).max), None
        if fmt.group_size != NVFP4_GROUP:
            return fp4.mx_scales(largest), None
        return fp4.nvfp4_scales(largest, fp4.global_scale(largest.max() if absmax is None else absmax)), None
    scale, zero = range_parameters(
        groups.amin(-1).clamp_max(0.0),
        groups.amax(-1).clamp_min(0.0),
        bits=fmt.weight_bits,
        symmetric=fmt.symmetric,
        round_scale=round_scale,
    )
    return round_scale(scale), None if fmt.symmetric else zero.to(torch.int8)


def _block_scales(weight: Tensor, fmt: Format) -> Tensor:
    """The scale of each (rows, columns) block, repeated for its rows: (out, column blocks)."""
    assert fmt.block is not None
    rows, columns = fmt.block
    out_features, in_features = weight.shape
    largest = weight.float().abs().view(out_features, in_features // columns, columns).amax(-1)
    blocks = torch.stack([part.amax(0) for part in largest.split(rows)])
    scale = round_scale(blocks / torch.finfo(FP8[fmt.fp8]).max)
    return scale.repeat_interleave(rows, 0)[:out_features].contiguous()


def encode(weight: Tensor, scale: Tensor, fmt: Format, zero: Tensor | None = None) -> Tensor:
    """Round to the format's codes with the scales and zero points given."""
    out_features, in_features = weight.shape
    groups = scale.shape[1]
    scaled = weight.float().view(out_features, groups, in_features // groups) / scale.float().unsqueeze(-1)
    if fmt.weight_type == "float":
        flat = scaled.view(out_features, in_features)
        if fmt.weight_bits == 4:
            return fp4.to_e2m1(flat).to(torch.float8_e4m3fn)
        largest = torch.finfo(FP8[fmt.fp8]).max
        return flat.clamp(-largest, largest).to(FP8[fmt.fp8])
    if zero is not None:
        scaled.add_(zero.float().unsqueeze(-1))
    low, high = -(2 ** (fmt.weight_bits - 1)), 2 ** (fmt.weight_bits - 1) - 1
    return scaled.round_().clamp_(low, high).view(out_features, in_features).to(torch.int8)


def rtn(weight: Tensor, fmt: Format, absmax: Tensor | None = None) -> LinearVariant:
    """Round to nearest; `absmax` as in `minmax`."""
    scale, zero = minmax(weight, fmt, absmax)
    return LinearVariant(encode(weight, scale, fmt, zero), scale, zero)


def rtn_all(weights: Sequence[Tensor], fmt: Format) -> list[LinearVariant]:
    """The linears of one fused layer, rounded to nearest."""
    absmax = None
    if fmt.family == "fp4" and fmt.group_size == NVFP4_GROUP:
        absmax = torch.stack([w.abs().max() for w in weights]).max()
    return [rtn(w, fmt, absmax) for w in weights]


def gptq(weights: list[Tensor], hessians: list[Tensor], fmt: Format, damping: float) -> list[LinearVariant]:
    """GPTQ of equally shaped weights in one batch, each with its own Hessian (in, in), clipped scales.

    llm-compressor's `quantize_weight` does the work; codes are read back from its result with the same
    scales, so what is searched is what its checkpoint will hold for the same Hessian.
    """
    assert fmt.group_size is not None
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
    parameters = [
        clipped(
            w,
            h.diagonal(),
            bits=fmt.weight_bits,
            group=fmt.group_size,
            symmetric=fmt.symmetric,
            round_scale=round_scale,
        )
        for w, h in zip(weights, hessians, strict=True)
    ]
    rounded, _losses, _fallback = quantize_weight(
        torch.stack([w.float() for w in weights]),
        torch.stack([h.float() for h in hessians]),
        torch.stack([scale for scale, _ in parameters]),
        torch.stack([zero for _, zero in parameters]),
        None,
        args,
        percdamp=damping,
    )
    made = []
    for codes, (scale, zero) in zip(rounded.unbind(0), parameters, strict=True):
        shift = None if fmt.symmetric else zero.to(torch.int8)
        made.append(LinearVariant(encode(codes, scale, fmt, shift), round_scale(scale), shift))
    return made


class VariantStore:
    """All (unit, format) variants on disk, memory-mapped, with a bounded cache of dequantized weights."""

    def __init__(
        self,
        host: ModelHost,
        folder: Path,
        memory_bytes: int,
        rounds: Mapping[str, Activations] | None = None,
    ) -> None:
        """`rounds`: what the target's kernel does to the input, by format, where that is not the format's."""
        self.host = host
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._rounds = dict(rounds or {})
        self._dense: OrderedDict[tuple[str, str], dict[str, Tensor]] = OrderedDict()
        self._used_bytes = 0
        self._scales: dict[tuple[str, str], Tensor | None] = {}
        host.on_enter = self._enter

    def activations(self, fmt: str) -> Activations:
        """What the input is rounded to when the format is served on the target."""
        return self._rounds.get(fmt, get_format(fmt).activations)

    def takes_input_scale(self, fmt: str) -> bool:
        """Whether units get an input scale in that format where something can absorb it."""
        return smoothing.rounds_inputs(get_format(fmt)) and self.activations(fmt) is not Activations.A16

    def path(self, unit: str, fmt: str) -> Path:
        """The file of one variant."""
        return self.folder / f"{unit}--{fmt}.safetensors"

    def has(self, unit: str, fmt: str) -> bool:
        """Whether the variant is on disk (16-bit always is: the original)."""
        return fmt == "BF16" or self.path(unit, fmt).exists()

    def put(
        self,
        unit: str,
        fmt: str,
        variants: Mapping[str, LinearVariant],
        input_scale: Tensor | None = None,
        input_span: Tensor | None = None,
    ) -> None:
        """Write the variants of a unit's linears; a reader never sees half a file.

        With `input_scale` (in,), powers of two, the codes are those of the weight times that scale.
        `input_span` (2,) is the range of the inputs, for formats with calibrated activation scales.
        """
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for name, variant in variants.items():
            tensors[f"{name}.codes"] = variant.codes.contiguous()
            tensors[f"{name}.scale"] = variant.scale.contiguous()
            if variant.zero is not None:
                tensors[f"{name}.zero"] = variant.zero.contiguous()
        if input_scale is not None:
            tensors[INPUT_SCALE] = smoothing.exponents(input_scale)
        if input_span is not None:
            tensors[INPUT_SPAN] = input_span.float().cpu()
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

    def input_scale(self, unit: str, fmt: str) -> Tensor | None:
        """The stored input scale (in,) of a variant, None when it has none."""
        from safetensors import safe_open

        if not self.takes_input_scale(fmt):
            return None
        if (unit, fmt) not in self._scales:
            with safe_open(self.path(unit, fmt), "pt") as file:
                found = file.get_tensor(INPUT_SCALE) if INPUT_SCALE in file.keys() else None  # noqa: SIM118
            self._scales[unit, fmt] = None if found is None else smoothing.from_exponents(found)
        return self._scales[unit, fmt]

    def input_span(self, unit: str, fmt: str) -> Tensor | None:
        """The stored range (2,) of a variant's inputs, None when its activations need none."""
        from safetensors import safe_open

        if self.activations(fmt) not in CALIBRATED:
            return None
        with safe_open(self.path(unit, fmt), "pt") as file:
            return file.get_tensor(INPUT_SPAN)

    def save_input_scales(self, path: Path) -> None:
        """All input scales as one .npz of int8 exponents, keyed `UNIT--FORMAT`; written whole or not."""
        found = {
            f"{unit.name}--{fmt}": smoothing.exponents(scale).cpu().numpy()
            for unit in self.host.units.values()
            for fmt in unit.options
            if self.has(unit.name, fmt) and (scale := self.input_scale(unit.name, fmt)) is not None
        }
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **found)
        partial.replace(path)

    def dense(self, unit: str, fmt: str) -> dict[str, Tensor]:
        """Dequantized weights in the compute dtype; least recently used ones leave memory first.

        An input scale is taken out again (exactly: it is a power of two): `install` applies it to the input.
        """
        if fmt == "BF16":
            return {m.name: self.host.original[m.name] for m in self.host.units[unit].linears}
        key = (unit, fmt)
        if key in self._dense:
            self._dense.move_to_end(key)
            return self._dense[key]
        weights = {}
        scale = self.input_scale(unit, fmt)
        for name, variant in self.codes(unit, fmt).items():
            weights[name] = variant.dequantize(self.host.dtype).to(self.host.device)
            if scale is not None:
                weights[name] /= scale.to(weights[name])
        self._dense[key] = weights
        self._used_bytes += _nbytes(weights)
        while self._used_bytes > self.memory_bytes and self._dense:
            _, dropped = self._dense.popitem(last=False)
            self._used_bytes -= _nbytes(dropped)
        return weights

    def install(self, formats: Mapping[str, str]) -> None:
        """Point the units' linears at the weights of their format, with its activation rounding.

        Those of a block that is not in memory get theirs when it is entered.
        """
        for unit, name in formats.items():
            if self.host.in_memory(self.host.block_of(unit)):
                self._install(unit, name)
            if self.host.stream is not None:
                self.host.planned.pop(unit, None)
                if name != "BF16":
                    self.host.planned[unit] = name

    def _install(self, unit: str, name: str) -> None:
        round_input = round_once(
            inputs.rounding(self.activations(name), self.input_scale(unit, name), self.input_span(unit, name))
        )
        for linear_name, weight in self.dense(unit, name).items():
            module = self.host.linear(linear_name)
            module.weight.data = weight
            set_input_rounding(module, round_input)

    def _enter(self, block: int) -> None:
        for unit, name in self.host.planned.items():
            if self.host.block_of(unit) == block:
                self._install(unit, name)

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


def round_once(round_input: inputs.Rounding | None) -> inputs.Rounding | None:
    """The same rounding for linears that read the same input, done once."""
    return None if round_input is None else _Rounded(round_input)


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


def set_input_rounding(module: nn.Linear, round_input: Callable[[Tensor], Tensor] | None) -> None:
    """Let a linear round its input before the product; None takes the rounding off again."""
    if round_input is None:
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["forward"] = _rounded_forward(module, round_input)


def _rounded_forward(module: nn.Linear, round_input: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    def forward(x: Tensor) -> Tensor:
        return F.linear(round_input(x), module.weight, module.bias)

    return forward

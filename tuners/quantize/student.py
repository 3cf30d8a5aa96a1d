"""A quantized model whose scales, norms and rounding can be trained, computing exactly what is stored.

Every quantized linear multiplies by (round(latent) - zero) x scale with the scale rounded to the stored type;
gradients pass the rounding straight through (arXiv 1308.3432). `latent` starts inside the cell of the written
code, so an untrained student is the checkpoint to the bit; within its cell it starts where the original
weight lies, so that weights near a boundary change their code first (as AutoRound's offset does).

Trained are scales and norms of any width and the rounding of weights of at most 4 bits: at 8 bits a code more
or less changes nothing that can be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from profiles.formats import Format
from tuners.model.host import ModelHost
from tuners.model.inputs import rounding
from tuners.model.variants import LinearVariant
from tuners.plan import PrecisionPlan
from tuners.quantize.codes import read_codes, write_codes
from tuners.quantize.served import install_checkpoint, linears

CELL = 0.45
"""How far from the middle of its cell a latent weight may start; 0.5 would be on the boundary."""

FOLDED = 0.5
"""Relative difference between stored and original weight above which the original says nothing about the
codes: input scales were folded in. Four bits round within 0.2."""

TRAINED_BITS = 4
"""Weights of more bits keep their codes."""


class _Dequantize(torch.autograd.Function):  # type: ignore[misc]
    """(round(latent) - zero) x scale, straight through the rounding; saves nothing but its inputs."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, scale: Tensor, zero: Tensor | None, low: int, high: int) -> Tensor:
        ctx.save_for_backward(latent, scale, zero)
        ctx.bounds = low, high
        codes = latent.float().round().clamp(low, high)
        return _scaled(codes, scale, zero)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        latent, scale, zero = ctx.saved_tensors
        low, high = ctx.bounds
        rows, groups = scale.shape
        wide = grad.float().view(rows, groups, -1)
        codes = latent.float().round().clamp(low, high).view(rows, groups, -1)
        if zero is not None:
            codes = codes - zero.float().unsqueeze(-1)
        by_scale = (wide * codes).sum(-1)
        if not ctx.needs_input_grad[0]:
            return None, by_scale, None, None, None
        inside = (latent >= low - 0.5) & (latent <= high + 0.5)
        by_latent = (wide * scale.unsqueeze(-1)).view_as(latent) * inside
        return by_latent.to(latent.dtype), by_scale, None, None, None


def _scaled(codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    rows, groups = scale.shape
    grouped = codes.view(rows, groups, -1)
    if zero is not None:
        grouped = grouped - zero.float().unsqueeze(-1)
    return (grouped * scale.unsqueeze(-1)).view(rows, -1)


def as_stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The value rounded to the stored type, in float32; gradients pass straight through."""
    return value + (value.to(dtype).float() - value).detach()


@dataclass
class TrainedLinear:
    """One quantized linear: `latent` (out, in) in codes, `growth` (out, groups) of the scale's logarithm."""

    module: nn.Linear
    format: Format
    stored: LinearVariant
    latent: Tensor
    growth: Tensor
    round_input: Callable[[Tensor], Tensor] | None

    @property
    def learns_rounding(self) -> bool:
        """Whether its codes may change."""
        return self.format.weight_bits <= TRAINED_BITS and self.format.weight_type == "int"

    def scale(self) -> Tensor:
        """Scales (out, groups) in float32 as they will be stored."""
        return as_stored(self.stored.scale.float() * self.growth.exp(), self.stored.scale.dtype)

    def codes(self) -> Tensor:
        """Codes as they will be stored."""
        if not self.learns_rounding:
            return self.stored.codes
        return self.latent.float().round().clamp(*_bounds(self.format)).to(torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        """What the engine's kernel computes, differentiable."""
        if self.round_input is not None:
            x = x + (self.round_input(x.detach()) - x).detach()
        if self.format.weight_type == "int":
            weight = _Dequantize.apply(self.latent, self.scale(), self.stored.zero, *_bounds(self.format))
        else:
            weight = _scaled(self.latent.float(), self.scale(), None)
        return F.linear(x, weight.to(x.dtype), self.module.bias)


def _bounds(fmt: Format) -> tuple[int, int]:
    return -(2 ** (fmt.weight_bits - 1)), 2 ** (fmt.weight_bits - 1) - 1


@dataclass
class TrainedNorm:
    """A norm's weight: stored value times exp(growth)."""

    module: nn.Module
    stored: Tensor
    growth: Tensor
    dtype: torch.dtype  # of the computation

    def weight(self) -> Tensor:
        """As it will be stored, in float32."""
        return as_stored(self.stored.float() * self.growth.exp(), self.stored.dtype)


@dataclass
class Student:
    """The model with its trained parts, by checkpoint name."""

    host: ModelHost
    tensors: dict[str, Tensor]
    linears: dict[str, TrainedLinear] = field(default_factory=dict)
    norms: dict[str, TrainedNorm] = field(default_factory=dict)

    def growths(self) -> Iterator[Tensor]:
        """Logarithms of scales and norms: all that is small."""
        yield from (linear.growth for linear in self.linears.values())
        yield from (norm.growth for norm in self.norms.values())

    def latents(self) -> Iterator[Tensor]:
        """Latent weights of the linears that learn their rounding."""
        yield from (part.latent for part in self.linears.values() if part.learns_rounding)

    def logits(self, ids: Tensor) -> Tensor:
        """Logits (batch, tokens, vocab), differentiable."""
        for norm in self.norms.values():
            norm.module._buffers["weight"] = norm.weight().to(norm.dtype)
        return self.host.model(input_ids=ids.to(self.host.device), use_cache=False).logits

    def changed(self) -> dict[str, Tensor]:
        """The tensors to store instead of those of the file."""
        out: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, part in self.linears.items():
                scale = part.scale().to(part.stored.scale.dtype)
                out |= write_codes(name, part.format, part.codes(), scale)
            for name, norm in self.norms.items():
                out[f"{name}.weight"] = norm.weight().to(norm.stored.dtype)
        return out

    def flipped(self) -> float:
        """Share of the codes that learn that are not the written ones any more."""
        parts = [p for p in self.linears.values() if p.learns_rounding]
        total = sum(p.latent.numel() for p in parts)
        moved = sum(int((p.codes() != p.stored.codes).sum()) for p in parts)
        return moved / total if total else 0.0


@torch.no_grad()
def make_student(host: ModelHost, folder: Path, plan: PrecisionPlan) -> Student:
    """Turn the loaded original into the checkpoint's trainable twin; the original's weights are let go.

    Raises:
        UsageError: the plan has a format that is not read back (see `served.linears`).
    """
    planned = dict(linears(host, plan))
    originals = {name: host.original[name] for name in planned}
    student = Student(host, install_checkpoint(host, folder, plan))
    for name, fmt in planned.items():
        module = host.linear(name)
        stored = _on(host.device, read_codes(student.tensors, name, fmt))
        part = TrainedLinear(
            module=module,
            format=fmt,
            stored=stored,
            latent=_latent(stored, fmt, originals.pop(name)),
            growth=torch.zeros_like(stored.scale, dtype=torch.float32),
            round_input=rounding(fmt.activations),
        )
        module.weight.data = module.weight.data[:0]  # freed: the codes hold it
        module.__dict__["forward"] = part.forward
        student.linears[name] = part
    host.original = {}
    for name, module in host.model.named_modules():
        stored_norm = student.tensors.get(f"{name}.weight")
        weight = getattr(module, "weight", None)
        if stored_norm is None or not isinstance(weight, nn.Parameter) or weight.dim() != 1:
            continue
        del module._parameters["weight"]
        stored_norm = stored_norm.to(host.device)
        module._buffers["weight"] = stored_norm.to(weight.dtype)
        growth = torch.zeros_like(stored_norm, dtype=torch.float32)
        student.norms[name] = TrainedNorm(module, stored_norm, growth, weight.dtype)
    return student


def _on(device: torch.device, stored: LinearVariant) -> LinearVariant:
    zero = None if stored.zero is None else stored.zero.to(device)
    return LinearVariant(stored.codes.to(device), stored.scale.to(device), zero)


def _latent(stored: LinearVariant, fmt: Format, original: Tensor) -> Tensor:
    """Codes in float32, moved within their cells towards the original weight where it says something."""
    codes = stored.codes.float()
    if fmt.weight_bits > TRAINED_BITS or fmt.weight_type != "int":
        return codes
    weight = stored.dequantize(torch.float32)
    if float((weight - original.float()).norm() / original.float().norm()) > FOLDED:
        return codes
    rows, groups = stored.scale.shape
    exact = (original.float().view(rows, groups, -1) / stored.scale.float().unsqueeze(-1)).view_as(codes)
    if stored.zero is not None:
        exact = (exact.view(rows, groups, -1) + stored.zero.float().unsqueeze(-1)).view_as(codes)
    return codes + (exact - codes).clamp(-CELL, CELL)

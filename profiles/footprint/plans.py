"""The uniform plans of a model on a device: every family, how it runs there, and which ones do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from profiles.footprint.uniform import family_formats, uniform_formats
from profiles.formats import Format
from profiles.formats.kernels import KernelSupport, kernel_support
from profiles.hardware.schema import Device, DeviceKind
from profiles.models.schema import ModelProfile

FAMILIES = ("16-bit", "fp8", "int8", "w8a16", "int4", "fp4", "mxfp4")
"""Families in the order of what they keep of the original."""


class UniformPlan(NamedTuple):
    """One family for every linear that can have it; `formats` is None for the model as stored.

    `runs` is `native`, `weight-only`, `slow` or `unchecked` (no kernel table for that kind of device).
    """

    label: str
    family: str
    formats: dict[str, str] | None
    runs: str
    cost: str


class Refused(NamedTuple):
    """A family that this device or model cannot have, and why."""

    family: str
    reason: str


def uniform_plans(
    model: ModelProfile, device: Device, families: Sequence[str] = FAMILIES, *, tensor_parallel_size: int = 1
) -> tuple[list[UniformPlan], list[Refused]]:
    """The model as stored first, then each family that the device runs; a checkpoint that is already
    quantized has no other plan: quantizing it again would start from rounded weights.

    Raises:
        UsageError: neither a family nor a format.
    """
    stored = model.quantization
    if stored is not None:
        plans = [UniformPlan(f"as stored: {stored.label}", "stored", None, "as stored", "")]
        reason = f"the checkpoint is already quantized ({stored.label}): start from the 16-bit original"
        return plans, [Refused("other formats", reason)]
    plans = [UniformPlan("uniform 16-bit", "16-bit", None, "native", "")]
    refused: list[Refused] = []
    for family in dict.fromkeys(families):
        formats = family_formats(family)
        if not formats:
            continue
        found = uniform_formats(model, device, family, tensor_parallel_size=tensor_parallel_size)
        support = {f.name: kernel_support(f, device) for f in formats}
        if not found:
            refused.append(Refused(family, _why_not(formats, support)))
            continue
        used = [support[name] for name in dict.fromkeys(found.values())]
        label = f"uniform {family.lower() if len(formats) > 1 or family.islower() else family}"
        plans.append(UniformPlan(label, family, found, _runs(used, device), _cost(used)))
    return plans, refused


def _why_not(formats: Sequence[Format], support: dict[str, KernelSupport]) -> str:
    missing = [s.reason for s in support.values() if not s.runs]
    if missing:
        return missing[0]
    return f"no layer's shape takes {' or '.join(f.name for f in formats)}"


def _runs(used: Sequence[KernelSupport], device: Device) -> str:
    if device.kind not in (DeviceKind.CUDA, DeviceKind.CPU):
        return "unchecked"
    if any(s.slow for s in used):
        return "slow"
    return "native" if all(s.native for s in used) else "weight-only"


def _cost(used: Sequence[KernelSupport]) -> str:
    return "; ".join(dict.fromkeys(s.cost for s in used if s.cost))

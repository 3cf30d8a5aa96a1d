"""Which options can be used at all: the engine's kernels, the devices' memory, the caller's footprint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from advisor.recommend.capacity import concrete_format, does_not_fit, weights_bytes
from advisor.recommend.schema import Dropped, ModelFacts, Option
from profiles.formats.kernels import KernelSupport, supported_formats
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.models.schema import ModelProfile
from profiles.provenance import Figure

KERNEL_SOURCE = "vLLM 0.32, kernels and minimum compute capabilities"
VLLM_DEVICES = frozenset({DeviceKind.CUDA, DeviceKind.ROCM, DeviceKind.CPU, DeviceKind.XPU, DeviceKind.HPU})
"""Devices that vLLM has a platform for (vllm/platforms and its plugins); Apple's GPU is not one."""

VLLM_MIN_SM = 70
"""Oldest compute capability that vLLM documents for NVIDIA GPUs (installation page: 7.0 or higher)."""


class Candidate(NamedTuple):
    """An option that runs here, with its concrete format, kernel and size."""

    option: Option
    format: str
    kernel: KernelSupport | None  # None: the hardware is not known, or the engine is not vLLM
    weights: Figure | None
    note: str

    @property
    def is_native(self) -> bool:
        """The arithmetic type is in the hardware (taken as true while the hardware is not known)."""
        return self.kernel is None or self.kernel.native


def candidates(
    options: tuple[Option, ...],
    hardware: HardwareProfile | None,
    model: ModelProfile | None,
    facts: ModelFacts | None,
    refused: Mapping[str, str],
) -> tuple[list[Candidate], list[Dropped]]:
    """Options that can be used, and the others with the reason.

    `refused` maps a format name or option id to why it does not fit, from a footprint of the caller's.
    """
    device = hardware.device if hardware else None
    supported = supported_formats(device) if device else {}
    kept: list[Candidate] = []
    dropped: list[Dropped] = []
    for option in options:
        name, note = concrete_format(option, model, device)
        kernel = supported.get(name) if option.engine == "vllm" else None
        weights = weights_bytes(facts, option, name) if facts else None
        problem = _engine_problem(option, device, kernel)
        source = KERNEL_SOURCE
        if problem is None and (option.id in refused or name in refused):
            problem, source = refused.get(option.id) or refused[name], "footprint"
        if problem is None and weights is not None and hardware is not None:
            problem, source = does_not_fit(weights, hardware), "arithmetic on the weights alone"
        if problem is None:
            kept.append(Candidate(option, name, kernel, weights, note))
        else:
            dropped.append(Dropped(option=option, reason=problem, source=source))
    return kept, dropped


def _engine_problem(option: Option, device: Device | None, kernel: KernelSupport | None) -> str | None:
    if option.engine != "vllm" or device is None:
        return None
    if device.kind not in VLLM_DEVICES:
        return f"vLLM does not run on {device.kind.value} devices"
    if device.kind is DeviceKind.CUDA and device.sm is not None and device.sm < VLLM_MIN_SM:
        return f"vLLM needs compute capability {VLLM_MIN_SM / 10}, {device.name} has {device.sm / 10}"
    if kernel is not None and not kernel.runs:
        return kernel.reason
    return None

"""What every artifact of a bundle is made from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from profiles.footprint.schema import ServingSpec
from profiles.formats.kernels import TORCH_INT4_KERNEL
from profiles.hardware.schema import DeviceKind, HardwareProfile
from profiles.models.schema import ModelProfile
from tuners.plan import PrecisionPlan, Unit
from tuners.solver import Scores
from tuners.validate.schema import ValidationReport

HOST, PORT = "127.0.0.1", 8000
"""Only this machine by default: the server has no authentication unless the user adds an API key."""


@dataclass(frozen=True)
class BundleContext:
    """The facts of one deployment."""

    checkpoint: Path
    model: ModelProfile
    hardware: HardwareProfile
    plan: PrecisionPlan
    units: Sequence[Unit]
    report: ValidationReport
    serving: ServingSpec
    task_name: str
    inputs: Mapping[str, str] = field(default_factory=dict)  # what was asked, seeds included; no paths
    scores: Scores = field(default_factory=dict)  # measured KL of each unit in each format, if there is any

    @property
    def on_cpu(self) -> bool:
        """Whether the target is the CPU."""
        return self.hardware.device.kind is DeviceKind.CPU

    @property
    def base_name(self) -> str:
        """The base model as others may know it: never a path of this machine."""
        name = self.model.model_id.rstrip("/")
        return Path(name).name if Path(name).is_absolute() or name.startswith(".") else name

    @property
    def served_name(self) -> str:
        """The name that clients pass as `model`."""
        words = f"{self.base_name.rpartition('/')[2]}-{self.plan.label or self.plan.key}"
        return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")

    @property
    def needs_plugin(self) -> bool:
        """Whether the engine served a unit with Advisor's own kernel."""
        return TORCH_INT4_KERNEL in self.report.quantized.kernels.values()

    @property
    def bits_per_weight(self) -> float:
        """Average over the units, scales included."""
        return self.plan.bits_per_weight(self.units)

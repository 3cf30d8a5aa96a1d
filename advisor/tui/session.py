"""What the user has chosen so far, and the command line that says the same."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles.footprint.schema import ServingSpec
    from profiles.hardware import HardwareProfile


@dataclass
class Session:
    """Choices that all screens share. None means: not chosen, the commands' own default holds."""

    hardware: HardwareProfile | None = None
    gpu: str | None = None
    count: int = 1
    model: str | None = None
    task: str = "generic"
    use: str | None = None
    context: int | None = None
    concurrency: int = 1
    kv_cache_dtype: str = "auto"
    tp: int = 1
    budget: str = "5.5bits"
    trials: int = 32
    through: str = "export"
    run: Path | None = None
    notes: list[str] = field(default_factory=list)

    def spec(self) -> ServingSpec:
        """The serving arguments that the steppers show."""
        from profiles.footprint.schema import ServingSpec

        return ServingSpec.model_validate(
            {
                "max_model_len": self.context,
                "concurrency": self.concurrency,
                "kv_cache_dtype": self.kv_cache_dtype,
                "tensor_parallel_size": self.tp,
            }
        )

    def device_arguments(self) -> list[str]:
        """--gpu and --count, when a device is simulated."""
        if self.gpu is None:
            return []
        return ["--gpu", self.gpu, *(["--count", str(self.count)] if self.count > 1 else [])]

    def serving_arguments(self) -> list[str]:
        """The serving options that differ from the engine's defaults."""
        out: list[str] = []
        if self.context is not None:
            out += ["--context", str(self.context)]
        if self.concurrency > 1:
            out += ["--concurrency", str(self.concurrency)]
        if self.kv_cache_dtype != "auto":
            out += ["--kv-cache-dtype", self.kv_cache_dtype]
        if self.tp > 1:
            out += ["--tp", str(self.tp)]
        return out

    def hardware_command(self) -> list[str]:
        """The twin of the hardware screen."""
        return ["hardware", "--formats", *self.device_arguments()]

    def fit_command(self) -> list[str]:
        """The twin of the models screen."""
        return ["fit", self.model or "MODEL", *self.device_arguments(), *self.serving_arguments()]

    def tune_command(self) -> list[str]:
        """The twin of the tune screen: also what it starts."""
        out = ["tune", self.model or "MODEL"]
        if self.budget:
            out += ["--budget", self.budget]
        if self.task != "generic":
            out += ["--task", self.task]
        out += [*self.device_arguments(), *self.serving_arguments()]
        if self.trials != 32:
            out += ["--trials", str(self.trials)]
        if self.through != "search":
            out += ["--through", self.through]
        if self.run is not None:
            out += ["--run", str(self.run)]
        return out

    def stage_command(self, stage: str) -> list[str]:
        """The twin of a later stage of the run."""
        return [stage, "--run", str(self.run) if self.run else "DIR"]


def shown(arguments: list[str]) -> str:
    """Arguments as the user would type them."""
    return shlex.join(["advisor", *arguments])

"""What the user has chosen so far, and the command line that says the same."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiles.footprint.schema import ServingSpec
    from profiles.hardware import HardwareProfile

SERVING_OPTIONS = {"pipeline_parallel_size": "--pp", "kv_cache_memory_bytes": "--kv-cache-memory"}
"""Options whose name is not the field's."""
MORE = frozenset(
    {
        "calibration_samples", "formats", "offline", "revision", "rounding_steps", "seed", "storage",
        "trust_remote_code", "workers", "yes",
    }
)  # fmt: skip
"""Fields of a run's inputs that the command line takes; the others are effort and keep their defaults."""


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
    methods: dict[str, str] = field(default_factory=dict)
    recover_steps: int = 0
    max_ms_per_token: float | None = None
    objective: str = "quality"
    max_kl: float | None = None
    memory: str = "auto"
    sensitivity: str = "auto"
    latency: str = "auto"
    run: Path | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """What the run that is open was asked besides: fields of RunInputs that no form shows."""
    more_serving: dict[str, Any] = field(default_factory=dict)
    """The same of its ServingSpec."""
    opened: tuple[object, ...] | None = None
    """The question of the run that is open, to tell whether the forms still ask it."""

    @property
    def question(self) -> tuple[object, ...]:
        """What names a run; effort (trials, last stage) does not."""
        return (
            self.model,
            self.task,
            self.budget,
            self.gpu,
            self.count,
            self.context,
            self.concurrency,
            self.kv_cache_dtype,
            self.tp,
            self.max_ms_per_token,
            self.objective,
            self.max_kl,
            *sorted(map(str, (*self.more.items(), *self.more_serving.items()))),
        )

    def choose_model(self, name: str) -> None:
        """Another model: what an earlier run was asked besides does not hold for it."""
        if name != self.model:
            self.model, self.more, self.more_serving = name, {}, {}

    def spec(self) -> ServingSpec:
        """The serving arguments that the steppers show."""
        from profiles.footprint.schema import ServingSpec

        return ServingSpec.model_validate(
            {
                "max_model_len": self.context,
                "concurrency": self.concurrency,
                "kv_cache_dtype": self.kv_cache_dtype,
                "tensor_parallel_size": self.tp,
                **self.more_serving,
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
        return [*out, *_options(self.more_serving, SERVING_OPTIONS)]

    def hardware_command(self) -> list[str]:
        """The twin of the hardware screen."""
        return ["hardware", "--formats", *self.device_arguments()]

    def fit_command(self) -> list[str]:
        """The twin of the models screen."""
        return ["fit", self.model or "MODEL", *self.device_arguments(), *self.serving_arguments()]

    def tune_command(self) -> list[str]:
        """The twin of the tune screen: also what it starts."""
        from advisor.pipeline.inputs import default_trials

        out = ["tune", self.model or "MODEL"]
        if self.budget:
            out += ["--budget", self.budget]
        if self.task != "generic":
            out += ["--task", self.task]
        out += [*self.device_arguments(), *self.serving_arguments()]
        if self.trials != default_trials(self.sensitivity, self.objective):
            out += ["--trials", str(self.trials)]
        if self.max_ms_per_token is not None:
            out += ["--max-ms-per-token", f"{self.max_ms_per_token:g}"]
        if self.objective != "quality":
            out += ["--objective", self.objective]
        if self.max_kl is not None:
            out += ["--max-kl", f"{self.max_kl:g}"]
        for option in ("memory", "sensitivity", "latency"):
            if getattr(self, option) != "auto":
                out += [f"--{option}", getattr(self, option)]
        if self.methods:
            out += ["--method", method_words(self.methods)]
        if self.recover_steps:
            out += ["--recover", str(self.recover_steps)]
        out += _options({k: v for k, v in self.more.items() if k in MORE}, {})
        if self.through != "search":
            out += ["--through", self.through]
        if self.run is not None and self.opened in (None, self.question):
            out += ["--run", str(self.run)]
        return out

    def stage_command(self, stage: str) -> list[str]:
        """The twin of a later stage of the run."""
        return [stage, "--run", str(self.run) if self.run else "DIR"]


def method_words(methods: dict[str, str]) -> str:
    """Methods as --method takes them: one for all formats, or W4A16=awq,W8A8=smoothquant."""
    return ",".join(method if scope == "*" else f"{scope}={method}" for scope, method in methods.items())


def _options(fields: dict[str, Any], names: dict[str, str]) -> list[str]:
    """Fields as the command line takes them: a flag when true, a list word by word."""
    out: list[str] = []
    for field_name, value in fields.items():
        option = names.get(field_name, "--" + field_name.replace("_", "-"))
        if value is True:
            out.append(option)
        elif isinstance(value, list | tuple):
            out += [option, ",".join(map(str, value))]
        else:
            out += [option, str(value)]
    return out


def shown(arguments: list[str]) -> str:
    """Arguments as the user would type them; a shell opens the ~ of a path."""
    words = (at_home(word) for word in ["advisor", *arguments])
    return " ".join("~/" + shlex.quote(w[2:]) if w.startswith("~/") else shlex.quote(w) for w in words)


def at_home(path: str | Path) -> str:
    """A path as people write it: ~ stands for the home directory."""
    text, home = str(path), str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(home + os.sep) else text

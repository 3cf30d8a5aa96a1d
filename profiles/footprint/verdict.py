"""Does it fit, would a lever make it fit: one judgement for the estimate of one plan and for the ranking."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from profiles.footprint.core import Prediction
from profiles.footprint.facts import ModelFacts
from profiles.footprint.levers import Trial, holds, slack, trials
from profiles.footprint.schema import ServingSpec, Verdict
from profiles.footprint.serving import DeviceView, filled
from profiles.footprint.startup import memory_refusals, platform_refusals, shape_refusals
from profiles.footprint.version import Version
from profiles.footprint.weights import FormatChoice
from profiles.hardware.schema import DeviceKind, HardwareProfile

Predictor = Callable[[ServingSpec, FormatChoice | None], Prediction]
"""Filled serving arguments and formats to the memory of every stage."""

OTHER_FORMATS = {
    "fp8": "next to no loss",
    "int8": "a small loss; needs calibration",
    "int4": "a loss that tasks of high sensitivity notice; needs calibration",
}
"""Families tried as levers, and what each gives up (decision framework, tasks by sensitivity)."""

FP8_KV_SM = 80
"""From here on an FP8 cache is worth trying."""


class Judge(NamedTuple):
    """One model on one machine. `platform` refuses whatever the memory."""

    facts: ModelFacts
    hardware: HardwareProfile
    view: DeviceView
    version: Version
    predict: Predictor
    platform: tuple[str, ...]

    @classmethod
    def of(
        cls,
        facts: ModelFacts,
        hardware: HardwareProfile,
        view: DeviceView,
        version: Version,
        predict: Predictor,
        spec: ServingSpec,
        formats: Collection[str] = (),
    ) -> tuple[Judge, list[str]]:
        """The judge of a plan with these formats, and notes about what the device runs."""
        platform, notes = platform_refusals(
            facts, hardware.device, spec, {name: name for name in formats} or None
        )
        return cls(facts, hardware, view, version, predict, tuple(platform)), notes

    def refusals(self, full: ServingSpec, p: Prediction) -> list[str]:
        """Why the engine would not start."""
        return [
            *shape_refusals(self.facts, self.hardware, full),
            *self.platform,
            *memory_refusals(self.facts, self.view, full, p, self.version),
        ]

    def attempt(self, changed: ServingSpec, choice: FormatChoice | None) -> tuple[float, bool]:
        """Changed arguments: the bytes that they leave, and whether all fits then."""
        again = filled(changed, self.facts, self.view, self.version)
        found = self.predict(again, choice)
        fits = not self.refusals(again, found) and holds(found, again, self.version)
        return slack(found, again), fits

    def trials(self, full: ServingSpec) -> list[Trial]:
        """Changes of arguments worth trying on this machine, the cheapest first."""
        fp8 = self.view.kind is not DeviceKind.CPU and (self.view.sm or 0) >= FP8_KV_SM
        return trials(full, self.facts, self.view, len(self.hardware.devices), fp8_kv=fp8)

    def fits(self, full: ServingSpec, p: Prediction) -> bool:
        """Whether the engine starts and holds what was asked, at the pessimistic ends."""
        return not self.refusals(full, p) and holds(p, full, self.version)

    def verdict(
        self,
        full: ServingSpec,
        p: Prediction,
        choice: FormatChoice | None,
        others: Iterable[FormatChoice] = (),
    ) -> Verdict:
        """Fits, fits with one lever, or neither; `others` are the formats that count as levers too."""
        if self.fits(full, p):
            return Verdict.FITS
        if not self._hopeless(full, p):
            tried = [t for t in self.trials(full) if self._has_devices(t.spec)]
            if self._worth_trying(full, tried, choice) and any(
                self.attempt(trial.spec, choice)[1] for trial in tried
            ):
                return Verdict.FITS_IF
        if any(self.attempt(full, other)[1] for other in others):
            return Verdict.FITS_IF
        return Verdict.DOES_NOT_FIT

    def _hopeless(self, full: ServingSpec, p: Prediction) -> bool:
        """Whether no argument can help: the weights exceed the device, and none is spare."""
        spare = len(self.hardware.devices) > _ranks(full)
        return bool(self.platform) or (not spare and p.ranks[p.tight].weights > self.view.total)

    def _has_devices(self, spec: ServingSpec) -> bool:
        return self.view.cpu or _ranks(spec) <= len(self.hardware.devices)

    def _worth_trying(self, full: ServingSpec, tried: list[Trial], choice: FormatChoice | None) -> bool:
        """False when not even all changes together make it fit: then none alone does.

        Each change alone lowers what is needed; only the utilization can also refuse (free memory), so it is
        taken in and left out. Other parallel sizes and the CPU's cache are not of that kind: tried singly.
        """
        layout = ("tensor_parallel_size", "kv_cache_memory_bytes")
        if any(getattr(t.spec, name) != getattr(full, name) for t in tried for name in layout):
            return True
        update: dict[str, object] = {}
        for trial in tried:
            update |= {k: v for k, v in trial.spec if v != getattr(full, k)}
        higher = update.pop("gpu_memory_utilization", None)
        if self.attempt(full.model_copy(update=update), choice)[1]:
            return True
        update["gpu_memory_utilization"] = higher
        return higher is not None and self.attempt(full.model_copy(update=update), choice)[1]


def _ranks(spec: ServingSpec) -> int:
    return spec.tensor_parallel_size * spec.pipeline_parallel_size * spec.data_parallel_size

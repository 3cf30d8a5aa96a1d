"""A run as its events tell it: folded one by one, so that a replay and a live run look the same."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuners.events import Event, FrontPoint, Measured, Message, TrialFinished

FULL = frozenset({"complete", "known"})
"""States of a trial whose KL was measured to its end."""


@dataclass
class StageView:
    """One stage: `state` is running, done, kept (nothing had changed) or failed."""

    name: str
    title: str
    state: str = "running"
    done: float = 0
    total: float | None = None
    unit: str = ""
    eta_s: float | None = None
    text: str = ""
    seconds: float | None = None
    peak_rss_bytes: int | None = None


@dataclass
class RunState:
    """Everything that the screens show of one run."""

    root: Path | None = None
    stages: dict[str, StageView] = field(default_factory=dict)
    trials: list[TrialFinished] = field(default_factory=list)
    front: list[FrontPoint] = field(default_factory=list)
    sensitivity: dict[str, dict[str, float]] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    error: dict[str, Any] | None = None
    owner: int | None = None
    paused: bool = False
    _best: tuple[float, TrialFinished] | None = None

    def apply(self, events: Iterable[Event]) -> None:
        """Fold events in."""
        for event in events:
            self._one(event)

    def _one(self, event: Event) -> None:
        if event.kind == "stage_started":
            self.error = None
            self.stages.pop(event.stage, None)
            self.stages[event.stage] = StageView(event.stage, event.title, total=event.total, unit=event.unit)
        elif event.kind == "progress":
            stage = self._stage(event.stage)
            stage.done, stage.eta_s, stage.text = event.done, event.eta_s, event.text
            stage.total = stage.total if event.total is None else event.total
        elif event.kind == "stage_finished":
            stage = self._stage(event.stage, event.title)
            stage.state = "kept" if event.skipped else "done"
            stage.seconds, stage.peak_rss_bytes = event.seconds, event.peak_rss_bytes
            stage.text, stage.eta_s = event.summary, None
        elif event.kind == "stage_failed":
            stage = self._stage(event.stage)
            stage.state, stage.text, stage.eta_s = "failed", str(event.error.get("what", "")), None
            self.error = event.error
        elif event.kind == "sensitivity":
            self.sensitivity.setdefault(event.unit, {})[event.format] = event.value
            stage = self._stage(event.stage)
            stage.done, stage.total = event.done, event.total
        elif event.kind == "trial":
            self.trials.append(event)
            best = math.inf if self._best is None else self._best[0]
            if event.kl is not None and event.state in FULL and event.kl < best:
                self._best = (event.kl, event)
        elif event.kind == "front_point":
            self.front.append(event)
        elif event.kind == "measured":
            self.measured[event.name] = event
        elif event.kind == "message":
            self.messages.append(event)

    def _stage(self, name: str, title: str = "") -> StageView:
        return self.stages.setdefault(name, StageView(name, title or name))

    @property
    def best_trial(self) -> TrialFinished | None:
        """The trial with the lowest measured KL that was measured to its end."""
        return None if self._best is None else self._best[1]

    @property
    def current(self) -> StageView | None:
        """The stage that runs now: the one that began last."""
        running = [s for s in self.stages.values() if s.state == "running"]
        return running[-1] if running else None

    @property
    def words(self) -> str:
        """live, paused, failed, stopped or finished."""
        if self.owner is not None:
            return "paused" if self.paused else "live"
        if self.error is not None:
            return "stopped" if self.error.get("error") == "Interrupted" else "failed"
        if self.current is not None:
            return "ended without a word"
        return "finished" if self.stages else "nothing yet"

    @property
    def error_text(self) -> str:
        """The error with its next step, as text."""
        if self.error is None:
            return ""
        parts = [str(self.error.get("what") or "failed")]
        for key, word in (("where", "where"), ("got", "got"), ("allowed", "allowed"), ("next_step", "next")):
            if self.error.get(key):
                parts.append(f"  {word}: {self.error[key]}")
        return "\n".join(parts)

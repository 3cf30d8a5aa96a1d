"""The one stream that the TUI, the CLI, the tests and the run directory share: a JSON object per line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid")

    time: float = Field(default_factory=time.time)
    stage: str = ""


class StageStarted(_Event):
    """A stage begins; `total` is in `unit`s when it is known."""

    kind: Literal["stage_started"] = "stage_started"
    title: str
    total: float | None = None
    unit: str = ""


class Progress(_Event):
    """`done` of `total`; `eta_s` from the rate so far, None until there is one."""

    kind: Literal["progress"] = "progress"
    done: float
    total: float | None = None
    eta_s: float | None = None
    text: str = ""


class StageFinished(_Event):
    """A stage ended well; `skipped` when its inputs had not changed. Peak memory is that of its process."""

    kind: Literal["stage_finished"] = "stage_finished"
    title: str
    seconds: float
    skipped: bool = False
    peak_rss_bytes: int | None = None
    summary: str = ""


class StageFailed(_Event):
    """A stage ended badly: the parts of an AdvisorError."""

    kind: Literal["stage_failed"] = "stage_failed"
    error: dict[str, Any]


class SensitivityMeasured(_Event):
    """One cell of the sensitivity table: KL (nats per token) with one unit changed."""

    kind: Literal["sensitivity"] = "sensitivity"
    unit: str
    format: str
    signal: str
    value: float
    done: int
    total: int


class TrialFinished(_Event):
    """One trial of the study; `kl` is measured, `decode_ms` (per token) predicted from the latency column.
    `state` complete, pruned or failed."""

    kind: Literal["trial"] = "trial"
    number: int
    label: str
    state: str
    kl: float | None
    weight_bytes: int
    bits_per_weight: float
    best_kl: float | None
    trials_total: int
    seconds: float
    formats: dict[str, str] = {}
    decode_ms: float | None = None


class FrontPoint(_Event):
    """A measured plan for the front: a uniform scheme, an exact solution, or the search's best."""

    kind: Literal["front_point"] = "front_point"
    label: str
    kl: float
    weight_bytes: int
    bits_per_weight: float
    split: str
    formats: dict[str, str] = {}
    decode_ms: float | None = None


class Measured(_Event):
    """One validated line: predicted against measured."""

    kind: Literal["measured"] = "measured"
    name: str
    predicted: float | None
    measured: float
    unit: str
    ok: bool | None = None


class Message(_Event):
    """A line for the user: level info, warning or error."""

    kind: Literal["message"] = "message"
    level: Literal["info", "warning", "error"] = "info"
    text: str


class ChildLog(_Event):
    """A line that a child process printed (engine or quantizer), kept for `l` and the log file."""

    kind: Literal["log"] = "log"
    source: str
    text: str


Event = Annotated[
    StageStarted
    | Progress
    | StageFinished
    | StageFailed
    | SensitivityMeasured
    | TrialFinished
    | FrontPoint
    | Measured
    | Message
    | ChildLog,
    Field(discriminator="kind"),
]
Emit = Callable[[Event], None]
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str | bytes) -> Event:
    """One line of the stream. Raises pydantic.ValidationError when it is not an event."""
    return _ADAPTER.validate_json(line)


class Ticker:
    """Turns steps done into Progress events with an ETA, at most `per_second` of them."""

    def __init__(self, emit: Emit, stage: str, total: float, per_second: float = 5.0) -> None:
        self._emit = emit
        self._stage = stage
        self._total = total
        self._gap = 1.0 / per_second
        self._start = time.monotonic()
        self._last = 0.0

    def __call__(self, done: float, text: str = "") -> None:
        """Report `done` of the total."""
        now = time.monotonic()
        if now - self._last < self._gap and done < self._total:
            return
        self._last = now
        elapsed = now - self._start
        eta = elapsed / done * (self._total - done) if done > 0 else None
        self._emit(Progress(stage=self._stage, done=done, total=self._total, eta_s=eta, text=text))

"""Progress on stderr, from the event stream: bars with ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

from tuners.events import (
    Event,
    FrontPoint,
    Measured,
    Message,
    Progress,
    SensitivityMeasured,
    StageFailed,
    StageFinished,
    StageStarted,
    TrialFinished,
)
from tuners.nats import nats

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

PLAIN_GAP_S = 10.0
"""Seconds between two plain progress lines of one stage."""


class Renderer(Protocol):
    """Shows events to a person until it is closed."""

    def __call__(self, event: Event) -> None: ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def renderer(*, quiet: bool) -> Renderer:
    """The renderer that fits stderr."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else Plain()


class Silent:
    """Warnings and errors only."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Message) and event.level != "info":
            print(f"{event.level}: {event.text}", file=sys.stderr)

    def close(self) -> None:
        """Nothing is open."""


class Plain:
    """A line when something begins, ends, or has gone on for a while."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            text = self._line(event)
        if text:
            print(text, file=sys.stderr, flush=True)

    def _line(self, event: Event) -> str | None:
        if isinstance(event, (Progress, SensitivityMeasured)):
            now = time.monotonic()
            if now - self._last.get(event.stage, now - PLAIN_GAP_S) < PLAIN_GAP_S:
                return None
            self._last[event.stage] = now
        return line(event)

    def close(self) -> None:
        """Nothing is open."""


class Bar:
    """A bar for each stage that runs, lines above it for what is worth keeping."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True, highlight=False)
        self._bars: Bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._bars.start()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, StageStarted):
                self._task(event.stage, event.title, event.total)
                return
            if isinstance(event, Progress):
                self._advance(event.stage, event.done, event.total, event.eta_s, event.text)
                return
            if isinstance(event, SensitivityMeasured):
                self._advance(event.stage, event.done, event.total, None, event.unit)
                return
            if isinstance(event, TrialFinished):
                best = "" if event.best_kl is None else f"best KL {nats(event.best_kl)}"
                self._advance(event.stage, event.number + 1, event.trials_total, None, best)
                return
            if isinstance(event, (StageFinished, StageFailed)):
                task = self._tasks.pop(event.stage, None)
                if task is not None:
                    self._bars.remove_task(task)
            text = line(event)
            if text:
                self._console.print(text, markup=False)

    def _task(self, stage: str, title: str, total: float | None) -> TaskID:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(title or stage, total=total, count="", eta="")
        return self._tasks[stage]

    def _advance(self, stage: str, done: float, total: float | None, eta_s: float | None, text: str) -> None:
        task = self._task(stage, stage, total)
        count = f"{done:g}/{total:g}" if total else f"{done:g}"
        eta = "" if eta_s is None else f"ETA {duration(eta_s)}"
        self._bars.update(task, completed=done, total=total, count=count, eta=f"{eta} {text}".strip()[:60])

    def close(self) -> None:
        """Remove the bars."""
        self._bars.stop()


def line(event: Event) -> str | None:
    """One event as one line; None for what nobody wants to read."""
    if isinstance(event, StageStarted):
        return f"{event.stage}: {event.title} ..."
    if isinstance(event, StageFinished):
        how = "unchanged, skipped" if event.skipped else f"done in {duration(event.seconds)}"
        return f"{event.stage}: {how}" + (f" - {event.summary}" if event.summary else "")
    if isinstance(event, StageFailed):
        return f"{event.stage}: failed - {event.error.get('what', '')}"
    if isinstance(event, Progress):
        share = f"{event.done:g}/{event.total:g}" if event.total else f"{event.done:g}"
        eta = "" if event.eta_s is None else f", ETA {duration(event.eta_s)}"
        return f"{event.stage}: {share}{eta}" + (f" ({event.text})" if event.text else "")
    if isinstance(event, SensitivityMeasured):
        return f"{event.stage}: {event.done}/{event.total} ({event.unit} {event.format})"
    if isinstance(event, TrialFinished):
        kl = "-" if event.kl is None else nats(event.kl)
        best = "-" if event.best_kl is None else nats(event.best_kl)
        number = f"{event.number + 1}/{event.trials_total}"
        return f"trial {number}: {event.label} {event.state}, KL {kl}, best {best}"
    if isinstance(event, FrontPoint):
        return (
            f"front: {event.label}: KL {nats(event.kl)} at {event.bits_per_weight:.2f} bits ({event.split})"
        )
    if isinstance(event, Measured):
        predicted = "-" if event.predicted is None else f"{event.predicted:g}"
        measured = f"{event.measured:g} {event.unit}".rstrip()
        return f"measured: {event.name}: predicted {predicted}, measured {measured}"
    if isinstance(event, Message):
        return event.text if event.level == "info" else f"{event.level}: {event.text}"
    return None


def duration(seconds: float) -> str:
    """Seconds for people: 8.3 s, 4 min 05 s, 1 h 12 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"

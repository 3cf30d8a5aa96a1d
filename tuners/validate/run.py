"""The parent's side of a measurement: start the child, return its result, explain its death."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from profiles.errors import AdvisorError, RunFailed
from tuners.child import run_child
from tuners.events import Emit
from tuners.validate.measure import STAGE, MeasureSpec
from tuners.validate.schema import EngineMeasurement

JOB = "tuners.validate.job"
_CAUSE = re.compile(r"\b(\w*(?:Error|Exception|Killed|Aborted)|out of memory|Segmentation fault)\b")
_PREFIX = re.compile(
    r"^\((?:\w+ )?\w*(?:Process|Core|Worker)\w*[^)]*\)\s*(?:(?:ERROR|WARNING) \S+ \S+ \[\S+\] ?)?"
)
_TAIL_BYTES = 256 * 1024


def measure_checkpoint(
    spec: MeasureSpec,
    *,
    emit: Emit,
    log_path: Path,
    python: str | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> EngineMeasurement:
    """Measure in a child process; everything that the engine prints goes to `log_path`.

    Raises:
        RunFailed: the engine did not start or died; the log's own last error lines are in it.
        Interrupted: cancelled.
    """
    begins = log_path.stat().st_size if log_path.exists() else 0
    named = spec.model_copy(update={"log_path": spec.log_path or str(log_path)})
    try:
        result = run_child(
            JOB, named, emit=emit, log_path=log_path, stage=STAGE, python=python, cancelled=cancelled
        )
    except RunFailed as exc:
        raise _explained(exc, log_path, begins) from exc
    return EngineMeasurement.model_validate(result)


def last_causes(log: str, count: int = 3) -> list[str]:
    """The last distinct lines of an engine log that name an error, oldest first."""
    found: list[str] = []
    for line in reversed(log.splitlines()):
        text = _PREFIX.sub("", line).strip()
        if _CAUSE.search(text) and not text.startswith(("File ", "raise ", "except ", "Traceback")):
            if text not in found:
                found.append(text)
            if len(found) == count:
                break
    return found[::-1]


def _explained(exc: RunFailed, log_path: Path, begins: int) -> AdvisorError:
    try:
        with log_path.open("rb") as log:
            log.seek(max(begins, log_path.stat().st_size - _TAIL_BYTES))
            causes = last_causes(log.read().decode("utf-8", "replace"))
    except OSError:
        causes = []
    words = [c for c in causes if not exc.got or c not in exc.got]
    return RunFailed(
        exc.what,
        where=f"{exc.where} (log: {log_path})" if exc.where != str(log_path) else exc.where,
        got=" | ".join([*([exc.got] if exc.got else []), *words]) or None,
        allowed=exc.allowed,
        next_step=exc.next_step,
    )

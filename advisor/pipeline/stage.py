"""Running one stage: skipped when nothing changed, recorded when it finished, an event either way."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.workspace import StageRecord, Workspace, disk_errors, fingerprint
from profiles.errors import AdvisorError, Interrupted, RunFailed
from tuners.events import Emit, Event, StageFailed, StageFinished, StageStarted


@dataclass(frozen=True)
class StageContext:
    """What a stage works with; `emit` also notes the peak memory that children report."""

    workspace: Workspace
    emit: Emit
    cancelled: Callable[[], bool] | None = None


VERSIONED = ("precision-advisor", "torch", "transformers", "llmcompressor", "compressed-tensors", "optuna")
"""Packages whose version is part of a heavy stage's fingerprint."""


def versions(names: Sequence[str] = VERSIONED) -> dict[str, str]:
    """Installed versions, by metadata alone; `-` when a package is absent."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def run_stage(
    context: StageContext,
    name: str,
    title: str,
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    work: Callable[[StageContext], str],
    *,
    resume: bool = True,
) -> StageRecord:
    """Run `work` unless the stage finished with these `inputs`; `work` returns a one-line summary.

    Raises:
        AdvisorError: the stage failed; a StageFailed event has been sent, nothing is recorded.
    """
    stage_fingerprint = fingerprint(inputs)
    fresh = context.workspace.is_fresh(name, stage_fingerprint) if resume else None
    if fresh is not None:
        context.emit(
            StageFinished(
                stage=name,
                title=title,
                seconds=fresh.seconds,
                skipped=True,
                peak_rss_bytes=fresh.peak_rss_bytes,
                summary=fresh.summary,
            )
        )
        return fresh
    peaks: list[int] = []

    def watched(event: Event) -> None:
        if isinstance(event, StageFinished) and event.peak_rss_bytes:
            peaks.append(event.peak_rss_bytes)
            if event.stage in ("", name):
                return  # a child's own end of this stage: the stage's end follows below
        if isinstance(event, StageStarted) and event.stage in ("", name):
            return
        context.emit(event)

    context.emit(StageStarted(stage=name, title=title))
    start = time.monotonic()
    try:
        with disk_errors(context.workspace.root):
            summary = work(StageContext(context.workspace, watched, context.cancelled))
    except KeyboardInterrupt:
        stopped = Interrupted(
            f"{title} was stopped", next_step="run the same command again to resume: finished steps are kept"
        )
        context.emit(StageFailed(stage=name, error=stopped.as_dict()))
        raise stopped from None
    except AdvisorError as exc:
        context.emit(StageFailed(stage=name, error=exc.as_dict()))
        raise
    missing = [o for o in outputs if not context.workspace.path(o).exists()]
    if missing:
        failed = RunFailed(
            f"{title} ended without its output",
            where=str(context.workspace.root),
            got="missing: " + ", ".join(missing),
            next_step=f"read {context.workspace.log_path(name)}",
        )
        context.emit(StageFailed(stage=name, error=failed.as_dict()))
        raise failed
    record = StageRecord(
        name=name,
        fingerprint=stage_fingerprint,
        seconds=round(time.monotonic() - start, 3),
        peak_rss_bytes=max(peaks, default=None),
        summary=summary,
        outputs=tuple(outputs),
    )
    context.workspace.finish(record)
    context.emit(
        StageFinished(
            stage=name,
            title=title,
            seconds=record.seconds,
            peak_rss_bytes=record.peak_rss_bytes,
            summary=summary,
        )
    )
    return record

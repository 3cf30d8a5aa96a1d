"""Task profiles as a child process: every task in turn, from the cache where it can, then compared."""

from __future__ import annotations

import hashlib
import json
import time

from profiles.tasks.schema import TaskProfile
from tuners.child import child_main
from tuners.events import Emit, StageFinished
from tuners.model import versions
from tuners.sensitivity.bench import STAGE, Bench
from tuners.sensitivity.crossing import conclude, correlate, crossings
from tuners.sensitivity.one_task import OneTask
from tuners.sensitivity.task_schema import TaskSensitivity, TasksResult, TasksSpec


def run(spec: TasksSpec, emit: Emit) -> TasksResult:
    """Profile every task that is not in the cache, then compare them."""
    start = time.monotonic()
    bench = Bench(spec, emit)
    profiles = [profile(bench, task) for task in spec.tasks]
    weights = sum(u.numel for u in spec.units)
    crossed = crossings(bench, spec.tasks, profiles) if len(profiles) > 1 else ()
    correlations = correlate(profiles, spec.units)
    return TasksResult(
        model_id=spec.model_id,
        budget_bits=spec.budget_bytes * 8 / weights,
        tasks=tuple(profiles),
        correlations=correlations,
        crossings=crossed,
        conclusion=conclude(profiles, correlations, crossed),
        seconds=time.monotonic() - start,
    )


def profile(bench: Bench, task: TaskProfile) -> TaskSensitivity:
    """The profile of one task, from the cache when the task and the settings are the same."""
    units = hashlib.sha256("".join(u.model_dump_json() for u in bench.spec.units).encode()).hexdigest()
    settings = bench.set.model_dump(mode="json")
    question = json.dumps(
        [versions.PROFILES, task.model_dump(mode="json"), settings, bench.spec.budget_bytes, units]
    )
    path = bench.folder / f"profile-{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"
    if path.exists():
        bench.emit(StageFinished(stage=STAGE, title=task.title, seconds=0, skipped=True))
        return TaskSensitivity.model_validate_json(path.read_text())
    found = OneTask(bench, task).run()
    partial = path.with_suffix(".partial")
    partial.write_text(found.model_dump_json())
    partial.replace(path)
    bench.emit(StageFinished(stage=STAGE, title=task.title, seconds=found.seconds, summary=found.stopped.why))
    return found


if __name__ == "__main__":
    child_main(TasksSpec, run)

"""What was measured about a task on a model, kept in the cache so that `advisor recommend` finds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from advisor.workspace import fingerprint, write_text

if TYPE_CHECKING:
    from profiles.models.schema import ModelProfile
    from profiles.tasks import TaskProfile
    from tuners.sensitivity.task_schema import TaskSensitivity


def cache_root() -> Path:
    """The folder of task profiles and the variants that they share."""
    from platformdirs import user_cache_path

    return user_cache_path("advisor") / "tasks"


def _path(model: ModelProfile, task: TaskProfile) -> Path:
    from advisor.pipeline.facts import checkpoint_stamp
    from tuners.model import versions

    key = fingerprint(
        {
            "model": checkpoint_stamp(model),
            "task": task.model_dump(mode="json"),
            "versions": [versions.PROFILES, versions.VARIANTS],
        }
    )
    return cache_root() / "measured" / f"{key}.json"


def remember(model: ModelProfile, task: TaskProfile, found: TaskSensitivity) -> None:
    """Keep the latest profile of this task on this model."""
    path = _path(model, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, found.model_dump_json())


def recall(model: ModelProfile, task: TaskProfile) -> TaskSensitivity | None:
    """The profile measured earlier, when model, task and measurement are still the same, else None."""
    from tuners.sensitivity.task_schema import TaskSensitivity

    if model.path is None:
        return None
    try:
        return TaskSensitivity.model_validate_json(_path(model, task).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

"""A mixture of tasks with weights is a task: `code:0.7,chat:0.3`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from profiles.errors import UsageError
from profiles.tasks.schema import (
    EvaluationItem,
    Sensitivity,
    SplitName,
    TaskPart,
    TaskProfile,
    TextSplits,
)

_PART = re.compile(r"^\s*(?P<name>.+?)\s*:\s*(?P<weight>[^:]*?)\s*$")
ORDER: tuple[Sensitivity, ...] = ("low", "medium", "high")
SPLITS: tuple[SplitName, ...] = ("search", "select", "evaluate")


def is_mixture(text: str) -> bool:
    """Whether the text names tasks with weights (a path holds a slash or a dot before its suffix)."""
    first = _PART.match(text.split(",")[0])
    return first is not None and "/" not in first["name"] and "\\" not in text


def parse_mixture(text: str, load: Callable[[str], TaskProfile]) -> list[tuple[TaskProfile, float]]:
    """Tasks with their weights, which are scaled to sum to 1.

    Raises:
        UsageError: not NAME:WEIGHT parts, an unknown task, a weight that is no positive number, a repeat.
    """
    parts: list[tuple[TaskProfile, float]] = []
    for piece in text.split(","):
        found = _PART.match(piece)
        weight = _number(found["weight"]) if found else None
        if found is None or weight is None:
            raise UsageError(
                "not a mixture of tasks",
                got=text,
                allowed="NAME:WEIGHT parts with weights above 0",
                next_step="--task 'code:0.7,chat:0.3'",
            )
        task = load(found["name"])
        if task.name in {t.name for t, _ in parts} and task.name != "custom":
            raise UsageError("a task occurs twice in the mixture", got=text, next_step="name each task once")
        parts.append((task, weight))
    total = sum(weight for _, weight in parts)
    return [(task, weight / total) for task, weight in parts]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def mix(parts: Sequence[tuple[TaskProfile, float]]) -> TaskProfile:
    """One task of several: the most cautious prior and floor of its parts, their texts in proportion."""
    if len(parts) == 1:
        return parts[0][0]
    tasks = [task for task, _ in parts]
    cautious = max(tasks, key=lambda t: ORDER.index(t.prior))
    strict = min(tasks, key=lambda t: t.quality_floor_ppl_ratio)
    name = "+".join(f"{task.name}:{weight:.2g}" for task, weight in parts)
    return TaskProfile(
        name=name,
        title="Mixture of " + ", ".join(f"{weight:.0%} {task.title}" for task, weight in parts),
        prior=cautious.prior,
        prior_source=f"the most sensitive part, {cautious.name}: {cautious.prior_source}",
        origin="; ".join(f"{task.name}: {task.origin}" for task in tasks),
        licence=", ".join(dict.fromkeys(task.licence for task in tasks)),
        quality_floor_ppl_ratio=strict.quality_floor_ppl_ratio,
        quality_floor_source=f"the strictest part, {strict.name}: {strict.quality_floor_source}",
        splits=_splits(parts),
        prior_losses=tuple(loss for task in tasks for loss in task.prior_losses),
        own_texts=all(task.own_texts for task in tasks),
        items=_items(parts),
        seq_len=max(task.seq_len for task in tasks),
        parts=tuple(TaskPart(name=t.name, weight=w, splits=t.splits) for t, w in parts),
        hub=tuple(source for task in tasks for source in task.hub),
        notes=tuple(f"{task.name}: {note}" for task in tasks for note in task.notes),
    )


def _in_turn(sizes: Sequence[int], weights: Sequence[float]) -> list[tuple[int, int]]:
    """(part, item) pairs: as many of each part as its weight says, spread evenly, none twice."""
    total = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    counts = [
        max(1, min(size, int(weight * total + 0.5))) for size, weight in zip(sizes, weights, strict=True)
    ]
    places = [((i + 0.5) / count, part, i) for part, count in enumerate(counts) for i in range(count)]
    return [(part, i) for _, part, i in sorted(places)]


def _splits(parts: Sequence[tuple[TaskProfile, float]]) -> TextSplits:
    texts: dict[str, tuple[str, ...]] = {}
    weights = [weight for _, weight in parts]
    for name in SPLITS:
        own: list[tuple[str, ...]] = [getattr(task.splits, name) for task, _ in parts]
        texts[name] = tuple(own[part][i] for part, i in _in_turn([len(o) for o in own], weights))
    prompts = [task.splits.prompts for task, _ in parts]
    shown = _in_turn([max(1, len(p)) for p in prompts], weights)
    texts["prompts"] = tuple(prompts[part][i] for part, i in shown if i < len(prompts[part]))
    return TextSplits.model_validate(texts)


def _items(parts: Sequence[tuple[TaskProfile, float]]) -> tuple[EvaluationItem, ...]:
    if not all(task.items for task, _ in parts):
        return ()
    order = _in_turn([len(task.items) for task, _ in parts], [weight for _, weight in parts])
    return tuple(parts[part][0].items[i] for part, i in order)

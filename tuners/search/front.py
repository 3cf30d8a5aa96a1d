"""A measured front answers a changed budget: the best measured plan that it holds, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from profiles.errors import InfeasibleError, UsageError
from tuners.budget import Budget
from tuners.search.schema import Front, MeasuredPlan


def efficient(points: Iterable[MeasuredPlan]) -> tuple[MeasuredPlan, ...]:
    """The points by rising bytes, without those that a smaller one equals or beats."""
    out: list[MeasuredPlan] = []
    for point in sorted(points, key=lambda p: (p.unit_bytes, p.quality.kl)):
        if not out or point.quality.kl < out[-1].quality.kl:
            out.append(point)
    return tuple(out)


def nearest_below(front: Front, budget: Budget) -> MeasuredPlan:
    """The best measured plan that the budget holds.

    Raises:
        InfeasibleError: the smallest measured plan is larger; the message says its size.
    """
    fitting = [p for p in front.points if p.unit_bytes <= budget.unit_bytes]
    if fitting:
        return min(fitting, key=lambda p: p.quality.kl)
    least = min(p.unit_bytes for p in front.points)
    raise InfeasibleError(
        "no measured plan is that small",
        got=f"{budget.text} = {budget.total_bytes} bytes",
        allowed=f"at least {least + front.fixed_bytes} bytes",
        next_step=f"advisor tune MODEL --budget {budget.text} searches at this budget",
    )


def load_front(path: Path) -> Front:
    """Read front.json.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    try:
        return Front.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise UsageError(
            "this run has no measured front",
            where=str(path),
            got=str(exc).splitlines()[0],
            next_step="advisor tune MODEL --budget 5.5bits makes one",
        ) from exc

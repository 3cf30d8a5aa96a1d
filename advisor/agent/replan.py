"""Other plans from the measured sensitivities: within a budget, or as small as a target allows."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from tuners.plan import PrecisionPlan, Unit
from tuners.solver import Scores, predicted_loss, solve

GAIN = 0.02
"""A new plan in the same budget must promise this much less summed KL: scores are noisier than that."""

SHOWN = 4
"""How many promoted units a reason names."""


def exact_plan(
    units: Sequence[Unit], scores: Scores, budget_bytes: int, label: str, model_id: str = ""
) -> PrecisionPlan:
    """The plan of least summed score within the budget (tuners/solver.py)."""
    return PrecisionPlan(formats=solve(units, scores, budget_bytes), label=label, model_id=model_id)


def estimated_ratio(ratio: float, plan: PrecisionPlan, other: PrecisionPlan, scores: Scores) -> float:
    """Perplexity ratio of `other`, from the measured one of `plan`: an estimate.

    log(ratio) is taken as proportional to the summed single-unit KL; additivity holds well at 4 to 8 bits
    (FACTS.md section 9: 0.443 summed, 0.434 measured) and fails below 4.
    """
    here = predicted_loss(plan.formats, scores)
    if here <= 0 or ratio <= 1:
        return ratio
    return math.exp(math.log(ratio) * predicted_loss(other.formats, scores) / here)


def smallest_plan(
    units: Sequence[Unit],
    scores: Scores,
    target_loss: float,
    low_bytes: int,
    high_bytes: int,
    label: str,
    model_id: str = "",
    steps: int = 12,
) -> PrecisionPlan:
    """The plan of fewest bytes in the interval whose summed score is at most the target; the plan at
    `high_bytes` when none reaches it. Halves the interval `steps` times: 1/4096 of it is close enough."""
    best = exact_plan(units, scores, high_bytes, label, model_id)
    if predicted_loss(best.formats, scores) > target_loss:
        return best
    low, high = low_bytes, high_bytes
    for _ in range(steps):
        middle = (low + high) // 2
        tried = exact_plan(units, scores, middle, label, model_id)
        if predicted_loss(tried.formats, scores) <= target_loss:
            best, high = tried, middle
        else:
            low = middle
    return best


def promotions(
    units: Sequence[Unit], scores: Scores, before: PrecisionPlan, after: PrecisionPlan
) -> list[tuple[str, str, str, float]]:
    """Units that `after` gives more bytes: (unit, from, to, score saved per KiB), the best bargain first."""
    out = []
    for unit in units:
        old, new = before.formats[unit.name], after.formats[unit.name]
        added = unit.bytes_as(new) - unit.bytes_as(old)
        if added > 0:
            row = scores.get(unit.name, {})
            out.append((unit.name, old, new, (row.get(old, 0.0) - row.get(new, 0.0)) / added * 1024))
    return sorted(out, key=lambda change: -change[3])


def in_words(changes: Sequence[tuple[str, str, str, float]]) -> tuple[str, ...]:
    """The first promotions, a line each."""
    lines = [f"{u}: {old} -> {new}, KL {gain:.2e} less per KiB" for u, old, new, gain in changes[:SHOWN]]
    rest = len(changes) - SHOWN
    return (*lines, *([f"and {rest} more units"] if rest > 0 else []))


def without(units: Sequence[Unit], banned: Collection[tuple[str, str]]) -> list[Unit]:
    """The units without the (unit, format) pairs; 16-bit always stays."""
    return [
        u.model_copy(
            update={"options": tuple(o for o in u.options if o == "BF16" or (u.name, o) not in banned)}
        )
        for u in units
    ]

"""Tasks against each other: rank correlation of their units, and the cost of another task's plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from profiles.tasks.schema import TaskProfile
from tuners.evaluate import counted_tokens, paired_difference
from tuners.evaluate_schema import token_mean
from tuners.events import Progress
from tuners.model.items import Sequences
from tuners.nats import signed
from tuners.plan import Unit
from tuners.sensitivity.stopping import LEAST_SEQUENCES, rank_correlation
from tuners.sensitivity.task_schema import Correlation, Crossing, TaskSensitivity

if TYPE_CHECKING:
    from tuners.sensitivity.bench import Bench

MATTERS = 0.05
"""Share of the task's own loss from which a more costly plan is worth a plan of its own (a choice)."""


def correlate(profiles: Sequence[TaskSensitivity], units: Sequence[Unit]) -> tuple[Correlation, ...]:
    """Spearman over the units in their cheapest format, for every pair of tasks.

    The ceiling is what two measurements of one and the same task would reach: the root of the product of
    both reliabilities (Spearman 1904).
    """
    lowest = {u.name: min(u.options, key=u.bytes_as) for u in units}
    found = []
    for a, b in combinations(profiles, 2):
        one, other = a.losses(), b.losses()
        cells = [c for c in lowest.items() if c in one and c in other]
        rank = rank_correlation([one[c] for c in cells], [other[c] for c in cells])
        ceiling = float(np.sqrt(a.reliability * b.reliability))
        found.append(Correlation(a=a.task, b=b.task, rank=rank, ceiling=ceiling))
    return tuple(found)


def crossings(
    bench: Bench, tasks: Sequence[TaskProfile], profiles: Sequence[TaskSensitivity]
) -> tuple[Crossing, ...]:
    """Every task's plan on every task's selection text, which neither scores nor plans have seen."""
    found = []
    for task, own in zip(tasks, profiles, strict=True):
        text = bench.sequences(task, "select", bench.set.cross_sequences)
        losses = {p.task: _kl(bench, text, p.plan) for p in profiles}
        base = losses[own.task]
        tokens = counted_tokens(text.ids, text.weights)
        for p in profiles:
            mean, low, high = paired_difference(losses[p.task], base, tokens, seed=bench.set.seed)
            found.append(
                Crossing.model_validate(
                    {
                        "plan_for": p.task, "measured_on": own.task, "kl": token_mean(losses[p.task], tokens),
                        "own_kl": token_mean(base, tokens), "difference": mean, "low": low, "high": high,
                        "verdict": _verdict(p, own, low, high, len(tokens)),
                    }
                )
            )  # fmt: skip
    return tuple(found)


def _verdict(plan: TaskSensitivity, own: TaskSensitivity, low: float, high: float, sequences: int) -> str:
    if plan.task == own.task:
        return "own plan"
    if plan.plan == own.plan:
        return "no measurable difference"
    if sequences < LEAST_SEQUENCES:
        return "too little text"
    return "costs more" if low > 0 else "costs less" if high < 0 else "no measurable difference"


def _kl(bench: Bench, text: Sequences, plan: dict[str, str]) -> list[float]:
    losses: list[float] = []
    for start in range(0, len(text), 4):
        rows = slice(start, start + 4)
        chunk = Sequences(text.ids[rows], None if text.weights is None else text.weights[rows])
        losses += [x.kl for x in bench.losses(chunk, bench.reference(chunk), plan)]
        bench.emit(Progress(stage="sensitivity", done=start, total=len(text), text="plans on other tasks"))
    return losses


def conclude(
    profiles: Sequence[TaskSensitivity],
    correlations: Sequence[Correlation],
    crossed: Sequence[Crossing],
) -> str:
    """Whether these tasks need different plans, in one sentence with the numbers that say so."""
    if len(profiles) < 2:
        return "one task: name several (--task code,math) to see whether they need different plans"
    others = [c for c in crossed if c.verdict not in ("own plan", "too little text")]
    if not others:
        return "whether these tasks need different plans cannot be told: there is too little selection text"
    costly = [c for c in others if c.verdict == "costs more" and c.difference > MATTERS * c.own_kl]
    least = min(c.rank for c in correlations)
    if costly:
        worst = max(costly, key=lambda c: c.difference / c.own_kl)
        return (
            f"different plans are worth it: the plan for {worst.plan_for} costs {worst.measured_on} "
            f"{worst.difference / worst.own_kl:+.0%} of its loss at equal bytes "
            f"(95 %: {signed(worst.low)} to {signed(worst.high)} nats per token)"
        )
    told = len(others) == sum(c.verdict != "own plan" for c in crossed)
    sure = told and all(c.high <= MATTERS * c.own_kl for c in others)
    worst = max(others, key=lambda c: c.difference / max(c.own_kl, 1e-12))
    said = (
        "these tasks do not need different plans at this budget"
        if sure
        else ("no need for different plans was found at this budget, but the intervals do not rule one out")
    )
    return (
        f"{said}: the worst exchange costs {worst.difference / max(worst.own_kl, 1e-12):+.0%} of the loss "
        f"({worst.plan_for} on {worst.measured_on}, 95 %: {signed(worst.low)} to {signed(worst.high)}); "
        f"rank correlation of the units at least {least:.2f}"
    )

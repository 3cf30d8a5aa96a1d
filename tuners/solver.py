"""The exact choice of formats under a byte budget: a multiple-choice knapsack.

The linear relaxation is solved by sorting (Sinha and Zoltners 1979): it gives a lower bound, a price per
byte and a plan near the optimum. Options whose reduced cost exceeds the gap between bound and plan cannot
be in any optimal plan; what is left, a core of a few units however large the model, goes to HiGHS. Where
bound and plan agree within `NEGLIGIBLE` (always on very large models), the plan is taken: no score is
known to five digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from profiles.errors import InfeasibleError, UsageError
from profiles.sizes import size
from tuners.milp import Resource, pick
from tuners.plan import Unit

Scores = Mapping[str, Mapping[str, float]]
"""unit -> format -> predicted loss of giving that unit that format (BF16 counts as 0 when absent)."""

NEGLIGIBLE = 1e-5
"""Relative gap to the lower bound below which a plan of more than `SMALL` options counts as optimal."""
SMALL = 1500
"""Options up to which the gap is closed to zero (300 units with five formats: a second at most)."""


def solve(
    units: Sequence[Unit], scores: Scores, budget_bytes: int, *, absent: float | None = 0.0
) -> dict[str, str]:
    """The assignment that minimises the summed scores within `budget_bytes` over the units.

    `absent` is the score of 16-bit where there is none (None: it must be there). Options that cost no less
    and lose no less than another of the same unit are removed first. Ties go to fewer bytes.

    Raises:
        InfeasibleError: even the cheapest formats exceed the budget.
        UsageError: a score is missing or not finite.
    """
    menus = [_undominated(unit, scores, absent) for unit in units]
    smallest = sum(menu[0][1] for menu in menus)
    if smallest > budget_bytes:
        raise InfeasibleError(
            "no plan fits the budget",
            got=f"{size(budget_bytes, 3)} over {len(units)} units",
            allowed=f"at least {size(smallest, 3)}",
        )
    if sum(menu[-1][1] for menu in menus) <= budget_bytes:
        chosen = [len(menu) - 1 for menu in menus]
    else:
        chosen = _exact(menus, budget_bytes)
    return {u.name: menu[i][0] for u, menu, i in zip(units, menus, chosen, strict=True)}


Choice = tuple[str, int, float]  # format, bytes, loss


def loss_of(unit: Unit, fmt: str, scores: Scores, absent: float | None = 0.0) -> float:
    """The score of a unit in a format.

    Raises:
        UsageError: it is missing or not finite.
    """
    loss = scores.get(unit.name, {}).get(fmt, absent if fmt == "BF16" else None)
    if loss is None or not np.isfinite(loss):
        raise UsageError(
            "a unit has no usable score",
            where=f"{unit.name} as {fmt}",
            got=repr(loss),
            allowed="a finite number",
        )
    return float(loss)


def _undominated(unit: Unit, scores: Scores, absent: float | None) -> list[Choice]:
    """The unit's options by rising bytes and strictly falling loss."""
    raw = [(fmt, unit.bytes_as(fmt), loss_of(unit, fmt, scores, absent)) for fmt in unit.options]
    raw.sort(key=lambda c: (c[1], c[2]))
    kept: list[Choice] = []
    for choice in raw:
        if not kept or choice[2] < kept[-1][2]:
            kept.append(choice)
    return kept


def _exact(menus: list[list[Choice]], budget_bytes: int) -> list[int]:
    """Index into each menu of an optimal choice."""
    chosen, price = _relaxed(menus, budget_bytes)
    upper = sum(menu[i][2] for menu, i in zip(menus, chosen, strict=True))
    reduced = [[loss + price * cost for _, cost, loss in menu] for menu in menus]
    floors = [min(row) for row in reduced]
    lower = sum(floors) - price * budget_bytes
    large = sum(len(menu) for menu in menus) > SMALL
    if large and upper - lower <= NEGLIGIBLE * abs(upper):
        return chosen
    slack = (upper - lower) + 1e-9 * max(abs(upper), 1e-300)
    kept = [
        [i for i, value in enumerate(row) if value - floor <= slack]
        for row, floor in zip(reduced, floors, strict=True)
    ]
    core = [u for u, options in enumerate(kept) if len(options) > 1]
    for u, options in enumerate(kept):
        if len(options) == 1:
            chosen[u] = options[0]
    if not core:
        return chosen
    in_core = set(core)
    spent = sum(menu[chosen[u]][1] for u, menu in enumerate(menus) if u not in in_core)
    small = [[menus[u][i] for i in kept[u]] for u in core]
    relaxed = sum(menus[u][chosen[u]][2] for u in core)
    above = relaxed - sum(menu[-1][2] for menu in small)
    gap = min(0.05, 0.5 * NEGLIGIBLE * abs(upper) / max(above, 1e-300)) if large else 0.0
    found = _milp(small, budget_bytes - spent, gap)
    if found is not None and sum(menus[u][kept[u][i]][2] for u, i in zip(core, found, strict=True)) < relaxed:
        for u, i in zip(core, found, strict=True):
            chosen[u] = kept[u][i]
    return chosen


def _relaxed(menus: list[list[Choice]], budget_bytes: int) -> tuple[list[int], float]:
    """A feasible choice near the optimum, and the price per byte of the linear relaxation."""
    steps: list[tuple[float, int, int, int]] = []  # minus gain per byte, unit, index before, index after
    for u, menu in enumerate(menus):
        hull = [0]
        for i in range(1, len(menu)):
            while len(hull) > 1 and _gain(menu, hull[-2], hull[-1]) <= _gain(menu, hull[-1], i):
                hull.pop()
            hull.append(i)
        steps += [(-_gain(menu, a, b), u, a, b) for a, b in itertools.pairwise(hull)]
    steps.sort()
    chosen = [0] * len(menus)
    left = budget_bytes - sum(menu[0][1] for menu in menus)
    price = 0.0
    for gain, u, before, after in steps:
        cost = menus[u][after][1] - menus[u][before][1]
        if chosen[u] == before and cost <= left:
            chosen[u] = after
            left -= cost
        elif price == 0.0:
            price = -gain  # the first step that does not fit: the relaxation's break item
    return chosen, price


def _gain(menu: list[Choice], a: int, b: int) -> float:
    return (menu[a][2] - menu[b][2]) / (menu[b][1] - menu[a][1])


def _milp(menus: list[list[Choice]], budget_bytes: int, gap: float) -> list[int] | None:
    """HiGHS on the core, to a relative gap. None when its tolerance would exceed the budget: the relaxed plan
    then stands, which is within the gap of the bound."""
    # what every choice of a unit shares is taken off: the numbers that are compared stay small
    losses = np.array([loss - menu[-1][2] for menu in menus for _, _, loss in menu])
    costs = np.array([cost - menu[0][1] for menu in menus for _, cost, _ in menu], dtype=float)
    owner = np.repeat(np.arange(len(menus)), [len(m) for m in menus])
    room = budget_bytes - sum(menu[0][1] for menu in menus)
    found = pick(losses, owner, [Resource(costs, float(room), 1.0)], gap)
    if found is None:
        return None
    starts = np.cumsum([0, *(len(m) for m in menus[:-1])])
    return [i - int(start) for i, start in zip(found, starts, strict=True)]


def predicted_loss(chosen: Mapping[str, str], scores: Scores) -> float:
    """The additive prediction for an assignment. Never shown as a result: plans are measured."""
    return sum(scores.get(u, {}).get(f, 0.0) for u, f in chosen.items())

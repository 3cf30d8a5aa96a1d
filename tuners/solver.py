"""The exact choice of formats under a byte budget: a multiple-choice knapsack, solved by HiGHS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from profiles.errors import InfeasibleError, UsageError
from tuners.plan import Unit

Scores = Mapping[str, Mapping[str, float]]
"""unit -> format -> predicted loss of giving that unit that format (BF16 counts as 0 when absent)."""


def solve(units: Sequence[Unit], scores: Scores, budget_bytes: int) -> dict[str, str]:
    """The assignment that minimises the summed scores within `budget_bytes` over the units.

    Options that cost no less and lose no less than another of the same unit are removed first; what is
    left goes to `scipy.optimize.milp` (HiGHS), whose gap is closed to zero. Ties go to fewer bytes.

    Raises:
        InfeasibleError: even the cheapest formats exceed the budget.
        UsageError: a score is missing or not finite.
    """
    menus = [_undominated(unit, scores) for unit in units]
    smallest = sum(min(cost for _, cost, _ in menu) for menu in menus)
    if smallest > budget_bytes:
        raise InfeasibleError(
            "no plan fits the budget",
            got=f"{budget_bytes} bytes over {len(units)} units",
            allowed=f"at least {smallest} bytes",
        )
    if sum(menu[-1][1] for menu in menus) <= budget_bytes:
        return {u.name: menu[-1][0] for u, menu in zip(units, menus, strict=True)}
    return _milp(units, menus, budget_bytes)


Choice = tuple[str, int, float]  # format, bytes, loss


def _undominated(unit: Unit, scores: Scores) -> list[Choice]:
    """The unit's options by rising bytes and strictly falling loss."""
    raw: list[Choice] = []
    for fmt in unit.options:
        loss = scores.get(unit.name, {}).get(fmt, 0.0 if fmt == "BF16" else None)
        if loss is None or not np.isfinite(loss):
            raise UsageError(
                "a unit has no usable score",
                where=f"{unit.name} as {fmt}",
                got=repr(loss),
                allowed="a finite number",
            )
        raw.append((fmt, unit.bytes_as(fmt), float(loss)))
    raw.sort(key=lambda c: (c[1], c[2]))
    kept: list[Choice] = []
    for choice in raw:
        if not kept or choice[2] < kept[-1][2]:
            kept.append(choice)
    return kept


def _milp(units: Sequence[Unit], menus: list[list[Choice]], budget_bytes: int) -> dict[str, str]:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    losses = np.array([loss for menu in menus for _, _, loss in menu])
    costs = np.array([cost for menu in menus for _, cost, _ in menu], dtype=float)
    owner = np.repeat(np.arange(len(menus)), [len(m) for m in menus])
    # scale both to about 1: HiGHS works with absolute tolerances
    scale = max(float(np.abs(losses).max()), 1e-300)
    tie_break = 1e-9 * costs / max(costs.max(), 1.0)
    pick_one = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    unit_bytes = max(costs.max(), 1.0)
    result = milp(
        c=losses / scale + tie_break,
        integrality=np.ones(len(losses), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(pick_one, 1, 1),
            LinearConstraint(csr_matrix(costs / unit_bytes), -np.inf, budget_bytes / unit_bytes),
        ],
        options={"mip_rel_gap": 0.0, "presolve": True},
    )
    if result.x is None:
        raise InfeasibleError("the solver found no plan within the budget", got=str(result.message))
    chosen: dict[str, str] = {}
    position = 0
    for unit, menu in zip(units, menus, strict=True):
        best = int(np.argmax(result.x[position : position + len(menu)]))
        chosen[unit.name] = menu[best][0]
        position += len(menu)
    return _within(units, menus, chosen, budget_bytes)


def _within(
    units: Sequence[Unit], menus: list[list[Choice]], chosen: dict[str, str], budget_bytes: int
) -> dict[str, str]:
    """Undo a rounding of HiGHS's feasibility tolerance (1e-6 relative): never exceed the budget."""
    menu_of = dict(zip((u.name for u in units), menus, strict=True))
    cost_of = {n: {f: c for f, c, _ in m} for n, m in menu_of.items()}
    excess = sum(cost_of[n][f] for n, f in chosen.items()) - budget_bytes
    while excess > 0:
        best: tuple[float, str, str, int] | None = None
        for name, fmt in chosen.items():
            index = [f for f, _, _ in menu_of[name]].index(fmt)
            if index == 0:
                continue
            lower_fmt, lower_cost, lower_loss = menu_of[name][index - 1]
            saved = cost_of[name][fmt] - lower_cost
            price = (lower_loss - menu_of[name][index][2]) / saved
            if best is None or price < best[0]:
                best = (price, name, lower_fmt, saved)
        if best is None:
            raise InfeasibleError("no plan fits the budget", got=f"{budget_bytes} bytes")
        chosen[best[1]] = best[2]
        excess -= best[3]
    return chosen


def predicted_loss(chosen: Mapping[str, str], scores: Scores) -> float:
    """The additive prediction for an assignment. Never shown as a result: plans are measured."""
    return sum(scores.get(u, {}).get(f, 0.0) for u, f in chosen.items())

"""The exact choice under two limits: bytes and milliseconds, or bytes and loss for the fastest plan.

Two prices (one per limit) make a Lagrangian: every pair of prices bounds the optimum from below, and the
plans that are optimal at some prices contain good feasible ones. Cutting planes find the prices; then, as
with one limit (`tuners/solver.py`), options whose reduced cost exceeds the gap between bound and plan are
left out, and HiGHS closes the gap on what remains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from profiles.errors import InfeasibleError
from profiles.sizes import size
from tuners.milp import Resource, pick, quiet_stdout
from tuners.plan import Unit
from tuners.solver import NEGLIGIBLE, SMALL, Scores, loss_of, solve

Costs = Mapping[str, Mapping[str, float]]
"""unit -> format -> milliseconds of a step."""

Value = Callable[[Unit, str], float]

CUTS = 80
"""Decodings at most; twenty to forty are usual."""
CLOSE = 1e-9
"""Relative distance of the best bound from what the planes still allow, at which the prices are found."""

CORE = 2000
"""Options of a large model that HiGHS is given at most; above it the plan within the gap stands."""


def solve_within_ms(
    units: Sequence[Unit], scores: Scores, budget_bytes: int, costs: Costs, most_ms: float
) -> dict[str, str]:
    """The assignment that minimises the summed scores within the budget and `most_ms` over the units.

    Raises:
        InfeasibleError: nothing fits the budget, or nothing that fits is that fast; the message says what is.
        UsageError: a score is missing or not finite.
    """
    plain = solve(units, scores, budget_bytes)
    if summed(plain, costs) <= most_ms:
        return plain
    problem = _Problem.of(units, lambda u, f: loss_of(u, f, scores), lambda u, f: costs[u.name][f])
    chosen = _choose(problem, float(budget_bytes), most_ms)
    if chosen is None:
        least = summed(fastest(units, scores, budget_bytes, costs), costs)
        raise InfeasibleError(
            "no plan within the budget is that fast",
            got=f"{most_ms:.4g} ms for the quantizable layers",
            allowed=f"at least {least:.4g} ms within {size(budget_bytes)} over the units",
            next_step="a larger --budget, a higher --max-ms-per-token, or another --formats",
        )
    return problem.named(chosen)


def fastest(
    units: Sequence[Unit],
    scores: Scores,
    budget_bytes: int,
    costs: Costs,
    most_loss: float | None = None,
) -> dict[str, str]:
    """The assignment of least milliseconds within the budget whose summed scores are at most `most_loss`.

    Raises:
        InfeasibleError: nothing fits the budget, or nothing that fits loses so little.
    """
    if most_loss is None:
        return solve(units, costs, budget_bytes, absent=None)
    problem = _Problem.of(units, lambda u, f: costs[u.name][f], lambda u, f: loss_of(u, f, scores))
    chosen = _choose(problem, float(budget_bytes), most_loss)
    if chosen is None:
        least = summed(solve(units, scores, budget_bytes), scores)
        raise InfeasibleError(
            "no plan within the budget loses so little",
            got=f"a predicted loss of at most {most_loss:.4g}",
            allowed=f"at least {least:.4g} within {size(budget_bytes)} over the units",
            next_step="a larger --budget or a higher --max-kl",
        )
    return problem.named(chosen)


def summed(formats: Mapping[str, str], table: Mapping[str, Mapping[str, float]]) -> float:
    """What an assignment adds up to in a table of units and formats; an absent 16-bit entry counts as 0."""
    return sum(table.get(u, {}).get(f, 0.0) for u, f in formats.items())


class _Problem(NamedTuple):
    """Options as arrays of (widest menu, units); absent ones have an infinite objective."""

    names: tuple[str, ...]
    formats: tuple[tuple[str, ...], ...]
    objective: np.ndarray
    first: np.ndarray  # bytes
    second: np.ndarray

    @classmethod
    def of(cls, units: Sequence[Unit], objective: Value, second: Value) -> _Problem:
        """Every option of every unit with what it costs."""
        wide = max(len(u.options) for u in units)
        goal = np.full((wide, len(units)), np.inf)
        used = np.zeros((2, wide, len(units)))
        for column, unit in enumerate(units):
            for row, fmt in enumerate(unit.options):
                goal[row, column] = objective(unit, fmt)
                used[:, row, column] = unit.bytes_as(fmt), second(unit, fmt)
        return cls(tuple(u.name for u in units), tuple(u.options for u in units), goal, used[0], used[1])

    @property
    def resources(self) -> tuple[np.ndarray, np.ndarray]:
        """What the two limits are on."""
        return self.first, self.second

    @property
    def options(self) -> int:
        """How many there are in all."""
        return int(np.isfinite(self.objective).sum())

    def named(self, chosen: np.ndarray) -> dict[str, str]:
        """A choice as formats."""
        return {n: f[int(i)] for n, f, i in zip(self.names, self.formats, chosen, strict=True)}

    def total(self, array: np.ndarray, chosen: np.ndarray) -> float:
        """What a choice adds up to."""
        return float(np.take_along_axis(array, chosen[None, :], 0).sum())

    def within(self, chosen: np.ndarray, rooms: Sequence[float]) -> bool:
        """Whether a choice keeps both limits."""
        return all(self.total(a, chosen) <= room for a, room in zip(self.resources, rooms, strict=True))


class _Best:
    """The best feasible choice and the best bound seen so far."""

    def __init__(self, problem: _Problem, rooms: tuple[float, float]) -> None:
        self.problem, self.rooms = problem, rooms
        self.chosen: np.ndarray | None = None
        self.upper = np.inf
        self.lower, self.prices = -np.inf, (0.0, 0.0)

    @property
    def scale(self) -> tuple[float, float]:
        """A unit of each price: the objective of all over the limit."""
        there = np.isfinite(self.problem.objective)
        size = float(np.abs(np.where(there, self.problem.objective, 0.0)).max(0).sum()) or 1.0
        return tuple(  # type: ignore[return-value]
            size / max(abs(room), float(a.max()), 1e-300)
            for a, room in zip(self.problem.resources, self.rooms, strict=True)
        )

    def at(self, prices: tuple[float, float]) -> tuple[float, list[float]]:
        """Decode prices into a choice: the bound that they give, and by how much each limit is exceeded."""
        p = self.problem
        reduced = p.objective + prices[0] * p.first + prices[1] * p.second
        chosen = reduced.argmin(0)
        bound = p.total(reduced, chosen) - prices[0] * self.rooms[0] - prices[1] * self.rooms[1]
        if bound > self.lower:
            self.lower, self.prices = bound, prices
        over = [p.total(a, chosen) - room for a, room in zip(p.resources, self.rooms, strict=True)]
        if all(o <= 0 for o in over) and (value := p.total(p.objective, chosen)) < self.upper:
            self.upper, self.chosen = value, chosen
        return bound, over

    @property
    def settled(self) -> bool:
        """Whether the plan of a large model is within `NEGLIGIBLE` of the bound."""
        return (
            self.chosen is not None
            and self.problem.options > SMALL
            and self.upper - self.lower <= NEGLIGIBLE * abs(self.upper)
        )


def _choose(problem: _Problem, first_room: float, second_room: float) -> np.ndarray | None:
    best = _Best(problem, (first_room, second_room))
    _search_prices(best)
    if best.chosen is None or not best.settled:
        _make_feasible(best)
    if best.chosen is not None:
        _fill_up(best)
    return best.chosen if best.settled else _close(best)


def _search_prices(best: _Best) -> None:
    """Maximise the bound over both prices by cutting planes (Kelley 1960): each decoding is a plane above it,
    and the next prices are where the planes so far allow the most."""
    scale = best.scale
    tops = [1e6 * s for s in scale]
    planes: list[np.ndarray] = []
    prices = (0.0, 0.0)
    for _ in range(CUTS):
        value, slope = best.at(prices)
        if all(s <= 0 for s in slope) and prices == (0.0, 0.0):
            return  # neither limit binds
        # bound <= value + slope * (new prices - prices), in units of `scale`
        lean = np.array([s * u for s, u in zip(slope, scale, strict=True)])
        here = np.array([p / u for p, u in zip(prices, scale, strict=True)])
        planes.append(np.array([value - float(lean @ here), *lean]))
        found = _highest(np.array(planes), [t / u for t, u in zip(tops, scale, strict=True)])
        if found is None:
            return
        top, proposed = found
        if top - best.lower <= CLOSE * max(abs(top), 1e-300):
            return
        prices = (proposed[0] * scale[0], proposed[1] * scale[1])


def _highest(planes: np.ndarray, tops: Sequence[float]) -> tuple[float, tuple[float, float]] | None:
    """The highest point under all planes within the box of prices."""
    from scipy.optimize import linprog

    size = max(float(np.abs(planes).max()), 1e-300)
    limits = np.c_[np.ones(len(planes)), -planes[:, 1:] / size]
    with quiet_stdout():
        found = linprog(
            [-1.0, 0.0, 0.0],
            A_ub=limits,
            b_ub=planes[:, 0] / size,
            bounds=[(None, None), (0.0, tops[0]), (0.0, tops[1])],
            method="highs",
        )
    if found.x is None:
        return None
    return float(found.x[0]) * size, (float(found.x[1]), float(found.x[2]))


def _make_feasible(best: _Best) -> None:
    """Raise the price of whatever limit is broken until both hold, or nothing more can be done."""
    prices, step = list(best.prices), 1e-7
    for _ in range(CUTS):
        _, slope = best.at((prices[0], prices[1]))
        if all(s <= 0 for s in slope):
            return
        for i, over in enumerate(slope):
            if over > 0:
                prices[i] = max(prices[i] * (1 + step), step * best.scale[i])
        step *= 2


def _fill_up(best: _Best) -> None:
    """Take single changes that lower the objective and keep both limits, the largest gain first."""
    p = best.problem
    assert best.chosen is not None
    chosen = best.chosen.copy()
    here = np.take_along_axis(p.objective, chosen[None, :], 0)
    gains = here - p.objective
    order = np.argsort(-gains, axis=None, kind="stable")[: int((gains > 0).sum())]
    left = [room - p.total(a, chosen) for room, a in zip(best.rooms, p.resources, strict=True)]
    for row, column in zip(*np.unravel_index(order, gains.shape), strict=True):
        now = chosen[column]
        more = [float(a[row, column] - a[now, column]) for a in p.resources]
        lower = p.objective[row, column] < p.objective[now, column]
        if lower and all(m <= room for m, room in zip(more, left, strict=True)):
            chosen[column] = row
            left = [room - m for room, m in zip(left, more, strict=True)]
    if p.within(chosen, best.rooms):
        best.chosen, best.upper = chosen, p.total(p.objective, chosen)


def _close(best: _Best) -> np.ndarray | None:
    """HiGHS on the options whose reduced cost is within the gap; what they share is taken off first."""
    p = best.problem
    reduced = p.objective + best.prices[0] * p.first + best.prices[1] * p.second
    slack = np.inf if best.chosen is None else best.upper - best.lower + 1e-9 * max(abs(best.upper), 1e-300)
    kept = np.isfinite(reduced) & (reduced - reduced.min(0) <= slack)
    several = kept.sum(0) > 1
    size = int(kept[:, several].sum())
    if best.chosen is not None and (size == 0 or (size > CORE and p.options > SMALL)):
        return best.chosen
    chosen = kept.argmax(0)  # right where one option is left
    if size:
        columns, rows = np.nonzero(kept[:, several].T)
        where = rows, np.flatnonzero(several)[columns]

        def above_least(array: np.ndarray) -> tuple[np.ndarray, float]:
            least = np.where(kept, array, np.inf).min(0)
            return array[where] - least[where[1]], float(least.sum())

        resources = []
        for array, room, step in zip(p.resources, best.rooms, (1.0, 0.0), strict=True):
            used, floor = above_least(array)
            least_step = step or max(1e-9 * float(used.max()), 1e-300)
            resources.append(Resource(used, room - floor, least_step))
        found = pick(above_least(p.objective)[0], columns, resources)
        if found is None:
            return best.chosen
        chosen[several] = rows[found]
    if not p.within(chosen, best.rooms):
        return best.chosen
    return chosen if p.total(p.objective, chosen) < best.upper else best.chosen

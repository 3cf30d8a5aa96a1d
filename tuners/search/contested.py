"""The second stage: units whose format flips between good trials become direct categoricals.

A trial fixes their formats; the exact solver fills in all other units within what is left of the budget,
which is the repair: no trial exceeds the budget or leaves bytes unused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from profiles.errors import InfeasibleError
from tuners.plan import Unit
from tuners.solver import Scores, solve

GOOD_SHARE = 0.3
"""Share of the distinct plans, best first, that count as good."""
MIN_GOOD = 4


def contested_units(
    plans: Sequence[tuple[Mapping[str, str], float]], most: int
) -> dict[str, tuple[str, ...]]:
    """Unit to the formats it has among good plans (the better ones first), the most undecided units first.

    `plans` are (formats, measured KL) pairs, in any order.
    """
    distinct = {tuple(sorted(f.items())): (f, kl) for f, kl in plans}
    ranked = sorted(distinct.values(), key=lambda p: p[1])
    good = [f for f, _ in ranked[: max(MIN_GOOD, round(GOOD_SHARE * len(ranked)))]]
    if len(good) < 2:
        return {}
    counts = {unit: Counter(formats[unit] for formats in good) for unit in good[0]}
    undecided = {unit: _entropy(c) for unit, c in counts.items() if len(c) > 1}
    chosen = sorted(undecided, key=lambda u: (-undecided[u], u))[:most]
    return {unit: tuple(dict.fromkeys(f[unit] for f in good)) for unit in chosen}


def _entropy(counts: Counter[str]) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


Decoder = Callable[[Sequence[Unit], Scores, int], dict[str, str]]
"""Units, scores and budget to the exact solution."""


def solve_with(
    units: Sequence[Unit],
    scores: Scores,
    budget_bytes: int,
    forced: Mapping[str, str],
    decode: Decoder = solve,
) -> dict[str, str]:
    """The exact solution with the formats of `forced` fixed.

    What is forced beyond the budget is given back to the solver, the most expensive upgrade first; all of it
    when `decode` has another limit that it breaks.

    Raises:
        InfeasibleError: no plan at all fits the budget.
    """
    smallest = {u.name: min(u.bytes_as(f) for f in u.options) for u in units}
    size_of = {u.name: u.bytes_as(forced[u.name]) for u in units if u.name in forced}
    excess = sum(smallest.values()) - budget_bytes
    extra = {name: size - smallest[name] for name, size in size_of.items()}
    excess += sum(extra.values())
    kept = dict(forced)
    for name in sorted(extra, key=lambda n: (-extra[n], n)):
        if excess <= 0:
            break
        if extra[name] > 0:
            excess -= extra[name]
            del kept[name]
    fixed = [u.model_copy(update={"options": (kept[u.name],)}) if u.name in kept else u for u in units]
    try:
        return decode(fixed, scores, budget_bytes)
    except InfeasibleError:
        return decode(units, scores, budget_bytes)

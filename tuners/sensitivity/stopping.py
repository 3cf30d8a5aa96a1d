"""When to stop measuring: resample what is there and see whether the decision would come out alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from profiles.errors import InfeasibleError
from profiles.sizes import size
from tuners.evaluate_schema import bootstrap
from tuners.plan import Unit
from tuners.solver import predicted_loss, solve

LEAST_SEQUENCES = 6
"""With fewer sequences no decision is called sure: a 95 % bootstrap interval of 4 normal samples covers 87 %
in a simulation, of 6 samples 95 %."""

Cell = tuple[str, str]
Samples = Mapping[Cell, Sequence[float]]
"""(unit, format) to one value for each sequence, all of the same length."""


def table(
    samples: Samples,
    tokens: Sequence[int],
    rows: Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> dict[str, dict[str, float]]:
    """Mean over the tokens of all sequences (or of `rows` of them) as unit -> format -> score, never below
    1e-12."""
    out: dict[str, dict[str, float]] = {}
    chosen = np.arange(len(tokens)) if rows is None else np.asarray(rows)
    share = np.asarray(tokens, dtype=float)[chosen]
    share = share / share.sum()
    for (unit, fmt), values in samples.items():
        mean = float(np.asarray(values, dtype=float)[chosen] @ share)
        out.setdefault(unit, {})[fmt] = max(mean, 1e-12)
    return out


def plan_certainty(
    units: Sequence[Unit],
    samples: Samples,
    tokens: Sequence[int],
    budget_bytes: int,
    *,
    tolerance: float,
    bootstraps: int,
    seed: int,
) -> tuple[dict[str, str], float]:
    """The plan of all sequences, and the share of resamples whose plan loses at most `tolerance` more.

    Plans that differ only between units of nearly equal price decide nothing, so plans are compared by
    what they lose (under the scores of all sequences), not unit by unit. The resamples are solved greedily,
    so their yardstick is the greedy plan of all sequences; the plan that is returned is exact.
    """
    full = table(samples, tokens)
    best = predicted_loss(greedy(units, full, budget_bytes), full)
    count = len(tokens)
    if count < LEAST_SEQUENCES:
        return solve(units, full, budget_bytes), 0.0
    rng = np.random.default_rng(seed)
    alike = 0
    for _ in range(bootstraps):
        rows = rng.integers(0, count, count)
        other = greedy(units, table(samples, tokens, rows), budget_bytes)
        alike += predicted_loss(other, full) <= best * (1 + tolerance)
    return solve(units, full, budget_bytes), alike / bootstraps


def greedy(
    units: Sequence[Unit], scores: Mapping[str, Mapping[str, float]], budget_bytes: int
) -> dict[str, str]:
    """A plan within a step of the best one, in a millisecond: the steps of each unit's lower convex hull by
    loss saved per byte, as long as they fit (the linear relaxation of the multiple-choice knapsack).

    Raises:
        InfeasibleError: even the cheapest formats exceed the budget.
    """
    steps: list[tuple[float, int, str, str, int]] = []
    plan: dict[str, str] = {}
    left = budget_bytes
    for unit in units:
        menu = sorted((unit.bytes_as(f), scores[unit.name].get(f, 0.0), f) for f in unit.options)
        hull = [menu[0]]
        for choice in menu[1:]:
            if choice[1] >= hull[-1][1]:
                continue
            while len(hull) > 1 and _rate(hull[-2], hull[-1]) <= _rate(hull[-2], choice):
                hull.pop()
            if choice[0] == hull[-1][0]:
                hull.pop()
            hull.append(choice)
        plan[unit.name] = hull[0][2]
        left -= hull[0][0]
        steps += [(-_rate(a, b), i, unit.name, b[2], b[0] - a[0]) for i, (a, b) in enumerate(pairwise(hull))]
    if left < 0:
        raise InfeasibleError("no plan fits the budget", got=size(budget_bytes))
    blocked: set[str] = set()
    for _, _, name, fmt, cost in sorted(steps):
        if name in blocked or cost > left:
            blocked.add(name)
            continue
        plan[name] = fmt
        left -= cost
    return plan


def _rate(cheap: tuple[int, float, str], dear: tuple[int, float, str]) -> float:
    """Loss saved per byte between two choices of a unit."""
    return (cheap[1] - dear[1]) / max(dear[0] - cheap[0], 1)


def interval(
    values: Sequence[float],
    tokens: Sequence[int] = (),
    *,
    seed: int = 0,
    of: Callable[[float], float] | None = None,
) -> tuple[float, float, float]:
    """Mean over tokens with a 95 % bootstrap interval, passed through `of` when given."""
    three = bootstrap(values, tokens, seed=seed)
    if of is not None:
        three = (of(three[0]), of(three[1]), of(three[2]))
    value, low_, high_ = three
    return value, min(low_, value), max(high_, value)


def floor_verdict(ratio: tuple[float, float, float], floor: float) -> str:
    """Whether a perplexity ratio with its interval is under the floor, over it, or cannot be told."""
    _, low, high = ratio
    return "passes" if high <= floor else "fails" if low > floor else "undecided"


def why_stopped(
    *, sure: float, confidence: float, undecided: Sequence[str], chunks: int, most: int, exhausted: bool
) -> str | None:
    """The reason to stop now, None to go on. `undecided` families straddle the quality floor."""
    stable = sure >= confidence
    share = f"{sure:.0%} of resamples give a plan of the same loss"
    if stable and not undecided:
        return f"decided: {share}, and every uniform format is clear of the quality floor"
    if chunks < most and not exhausted:
        return None
    limit = "the task's search text is used up" if exhausted else "the limit of samples is reached"
    left = [] if stable else [f"the plan is not settled ({share})"]
    left += [f"{family} cannot be told from the quality floor" for family in undecided]
    return f"{limit}; {'; '.join(left)}" + ("" if left and not stable else f"; {share}")


def half_correlation(samples: Samples, tokens: Sequence[int], fmt_of: Mapping[str, str]) -> float:
    """Rank correlation of the units' losses between even and odd sequences, stepped up to full length.

    `fmt_of` names the format of each unit that is compared. Spearman-Brown: 2 r / (1 + r).
    """
    if len(tokens) < 2:
        return 0.0
    rows = np.arange(len(tokens))
    even, odd = table(samples, tokens, rows[::2]), table(samples, tokens, rows[1::2])
    r = rank_correlation([even[u][f] for u, f in fmt_of.items()], [odd[u][f] for u, f in fmt_of.items()])
    return max(0.0, 2 * r / (1 + r)) if r > -1 else 0.0


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; 0 when one side does not vary."""
    from scipy.stats import spearmanr

    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0
    return float(spearmanr(a, b).statistic)

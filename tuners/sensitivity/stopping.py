"""When to stop measuring: resample what is there and see whether the decision would come out alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tuners.plan import Unit
from tuners.solver import predicted_loss, solve

Cell = tuple[str, str]
Samples = Mapping[Cell, Sequence[float]]
"""(unit, format) to one value for each sequence, all of the same length."""


def table(
    samples: Samples, rows: Sequence[int] | npt.NDArray[np.int64] | None = None
) -> dict[str, dict[str, float]]:
    """Mean of the sequences (or of `rows` of them) as unit -> format -> score, never below 1e-12."""
    out: dict[str, dict[str, float]] = {}
    for (unit, fmt), values in samples.items():
        chosen = np.asarray(values, dtype=float)
        mean = float((chosen if rows is None else chosen[np.asarray(rows)]).mean())
        out.setdefault(unit, {})[fmt] = max(mean, 1e-12)
    return out


def plan_certainty(
    units: Sequence[Unit],
    samples: Samples,
    budget_bytes: int,
    *,
    tolerance: float,
    bootstraps: int,
    seed: int,
) -> tuple[dict[str, str], float]:
    """The plan of all sequences, and the share of resamples whose plan loses at most `tolerance` more.

    Plans that differ only between units of nearly equal price decide nothing, so plans are compared by
    what they lose (under the scores of all sequences), not unit by unit.
    """
    full = table(samples)
    plan = solve(units, full, budget_bytes)
    best = predicted_loss(plan, full)
    count = len(next(iter(samples.values())))
    rng = np.random.default_rng(seed)
    alike = 0
    for _ in range(bootstraps):
        rows = rng.integers(0, count, count)
        other = solve(units, table(samples, rows), budget_bytes)
        alike += predicted_loss(other, full) <= best * (1 + tolerance)
    return plan, alike / bootstraps


def interval(
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 2000,
    of: Callable[[float], float] | None = None,
) -> tuple[float, float, float]:
    """Mean with a 95 % bootstrap interval (percentiles), passed through `of` when given."""
    known = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = known[rng.integers(0, len(known), (resamples, len(known)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    three = (float(known.mean()), float(low), float(high))
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


def half_correlation(samples: Samples, fmt_of: Mapping[str, str]) -> float:
    """Rank correlation of the units' losses between even and odd sequences, stepped up to full length.

    `fmt_of` names the format of each unit that is compared. Spearman-Brown: 2 r / (1 + r).
    """
    count = len(next(iter(samples.values())))
    if count < 2:
        return 0.0
    rows = np.arange(count)
    even, odd = table(samples, rows[::2]), table(samples, rows[1::2])
    r = rank_correlation([even[u][f] for u, f in fmt_of.items()], [odd[u][f] for u, f in fmt_of.items()])
    return max(0.0, 2 * r / (1 + r)) if r > -1 else 0.0


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; 0 when one side does not vary."""
    from scipy.stats import spearmanr

    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0
    return float(spearmanr(a, b).statistic)

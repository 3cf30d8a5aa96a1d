"""Shares with intervals, and paired differences of scores from 0 to 1 with intervals and exact tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

RESAMPLES = 4000
"""Of a bootstrap interval: its ends are then good to about a tenth of its width."""


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share out of `count` (Wilson 1927). For scores between 0 and 1 it is on the safe
    side: none varies more than a coin of the same mean."""
    if not count:
        return 0.0, 1.0
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    half = (Z95 / (1 + Z95**2 / count)) * math.sqrt(
        share * (1 - share) / count + Z95**2 / (4 * count * count)
    )
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def mcnemar(lost: int, gained: int) -> float:
    """Chance of at least `lost` losses among the items that changed, were gains as likely (McNemar's test in
    its exact form: a one-sided binomial test of the discordant pairs)."""
    changed = lost + gained
    ways = sum(math.comb(changed, k) for k in range(lost, changed + 1))
    return float(Fraction(ways, 2**changed))


def paired_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of `after` - `before`, pair by pair.

    Right or wrong: Newcombe's hybrid score interval for paired shares (Statistics in Medicine 17, 1998,
    method 10). Scores in between: percentile bootstrap over the items, never narrower than what as many
    items without any change would leave open (three in n, the rule of three).
    """
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if set(np.unique(first)) | set(np.unique(second)) <= {0.0, 1.0}:
        return _newcombe(first, second)
    changes = second - first
    rng = np.random.default_rng(0)
    means = changes[rng.integers(0, len(changes), (RESAMPLES, len(changes)))].mean(axis=1)
    low, high = (float(x) for x in np.quantile(means, (0.025, 0.975)))
    if not changes.any():
        least = (1 - 0.05 ** (1 / len(changes))) * float(first.mean())
        return min(low, -least), max(high, least)
    return low, high


def _newcombe(before: Floats, after: Floats) -> tuple[float, float]:
    n = len(before)
    one, two = float(after.mean()), float(before.mean())
    (low1, high1), (low2, high2) = wilson(one, n), wilson(two, n)
    both = float((before * after).sum())
    neither = float(((1 - before) * (1 - after)).sum())
    gained, lost = float((after > before).sum()), float((before > after).sum())
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    phi = 0.0
    if margins > 0:
        core = both * neither - gained * lost
        phi = (max(core - n / 2, 0.0) if core > 0 else core) / math.sqrt(margins)
    difference = one - two
    below = (one - low1) ** 2 - 2 * phi * (one - low1) * (high2 - two) + (high2 - two) ** 2
    above = (two - low2) ** 2 - 2 * phi * (two - low2) * (high1 - one) + (high1 - one) ** 2
    return difference - math.sqrt(max(0.0, below)), difference + math.sqrt(max(0.0, above))


def items_needed(before: Sequence[float], after: Sequence[float], loss: float) -> int | None:
    """Items that would tell a difference of `loss` (power 80 %, two-sided 5 %), from how much these items
    differ: ((1.96 + 0.84) / loss)^2 times the variance of the differences; None when nothing differs."""
    spread = float(np.var(np.asarray(after, dtype=float) - np.asarray(before, dtype=float)))
    if spread <= 0 or loss <= 0:
        return None
    return math.ceil(((Z95 + 0.8416) / loss) ** 2 * spread)

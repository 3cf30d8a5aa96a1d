"""What measured plans say about the scores: a factor by role, depth and format, by ridge regression.

Scores are measured one unit at a time; a plan changes all at once. For a plan p with additive prediction
sum_u s(u, p_u), the model is

    measured(p) = a * sum_u s(u, p_u) + sum_b beta_b * x(p, b),   x(p, b) = sum of the scores in bucket b

over buckets (role, third of the depth, format). `a` moves no decision. The betas are shrunk towards zero by
a penalty that generalized cross-validation chooses (Golub, Heath, Wahba 1979), so that few trials change
little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tuners.plan import Unit
from tuners.search.prices import depths

PENALTIES = np.logspace(-4, 2, 25)
FACTOR_RANGE = (0.5, 2.0)
"""A bucket's scores are at most halved or doubled: trials near one another cannot prove more."""

MIN_PLANS = 6

Observation = tuple[Mapping[str, str], float]
"""A plan's formats and its measured KL."""


def correction(
    units: Sequence[Unit], scores: Mapping[str, Mapping[str, float]], observed: Sequence[Observation]
) -> dict[str, dict[str, float]] | None:
    """unit -> format -> factor on its score; None with fewer than `MIN_PLANS` distinct plans."""
    distinct = {tuple(sorted(formats.items())): (formats, kl) for formats, kl in observed}
    if len(distinct) < MIN_PLANS:
        return None
    places, _ = depths(units)
    bucket_of = {
        (u.name, f): (u.role, int(2.999 * places[u.name]), f)
        for u in units
        for f in u.options
        if f in scores.get(u.name, {})
    }
    buckets = {b: i for i, b in enumerate(sorted(set(bucket_of.values())))}
    x = np.zeros((len(distinct), len(buckets)))
    y = np.zeros(len(distinct))
    for row, (formats, kl) in enumerate(distinct.values()):
        y[row] = kl
        for unit, fmt in formats.items():
            bucket = bucket_of.get((unit, fmt))
            if bucket is not None:
                x[row, buckets[bucket]] += scores[unit][fmt]
    additive = x.sum(1)
    below = float(additive @ additive)
    if below <= 0:
        return None
    a = float(additive @ y) / below
    size = float(np.mean(y)) or 1.0
    betas = _ridge(x / size, (y - a * additive) / size)
    low, high = FACTOR_RANGE
    factor = np.clip((a + betas) / a, low, high) if a > 0 else np.ones(len(buckets))
    out: dict[str, dict[str, float]] = {}
    for (unit, fmt), bucket in bucket_of.items():
        out.setdefault(unit, {})[fmt] = float(factor[buckets[bucket]])
    return out


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Ridge coefficients with the penalty of least generalized cross-validation error."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ y
    outside = float(y @ y - projected @ projected)
    best: tuple[float, np.ndarray] | None = None
    for penalty in PENALTIES * max(float(s[0]) ** 2, 1e-300):
        kept = s**2 / (s**2 + penalty)
        error = outside + float(np.square((1 - kept) * projected).sum())
        free = len(y) - float(kept.sum())
        value = error / max(free, 1e-9) ** 2
        if best is None or value < best[0]:
            best = (value, vt.T @ (s / (s**2 + penalty) * projected))
    assert best is not None
    return best[1]

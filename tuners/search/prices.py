"""A trial's parameters set prices; the exact solver decodes prices into a plan.

Every trial is therefore feasible, uses the whole budget, and is optimal for some prices: the search
moves in some twelve dimensions that mean something instead of a hundred raw categoricals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from tuners.plan import Unit
from tuners.sensitivity.table import GDY2, KL, MSE, SensitivityTable, blend
from tuners.solver import solve

SIGNALS = (KL, GDY2, MSE)


@dataclass(frozen=True)
class Prices:
    """A trial's parameters: signal weights, exponent, multipliers by role and depth, boosts at the ends,
    a multiplier for eight-bit formats by family, and the seed that resamples the measured scores."""

    weights: dict[str, float]
    exponent: float
    roles: dict[str, float]
    depth: tuple[float, float, float]
    first: float
    last: float
    families: dict[str, float]
    bootstrap: int


def suggest(trial: optuna.trial.BaseTrial, roles: Sequence[str], families: Sequence[str]) -> Prices:
    """Ask the sampler for a trial's prices."""

    def factor(name: str, most: float = 2.0) -> float:
        return trial.suggest_float(name, 1 / most, most, log=True)

    return Prices(
        weights={s: trial.suggest_float(f"weight_{s}", 0.0, 1.0) for s in SIGNALS},
        exponent=trial.suggest_float("exponent", 0.5, 1.5),
        roles={r: factor(f"role_{r}") for r in roles},
        depth=(factor("depth_early"), factor("depth_middle"), factor("depth_late")),
        first=factor("boost_first", 4.0),
        last=factor("boost_last", 4.0),
        families={f: factor(f"family_{f}") for f in families},
        bootstrap=trial.suggest_int("bootstrap", 0, 15),
    )


def neutral(roles: Sequence[str], families: Sequence[str], signal: str) -> dict[str, float | int]:
    """Parameters whose plan is the exact solution of one signal alone: what the study starts from."""
    return {
        **{f"weight_{s}": float(s == signal) for s in SIGNALS},
        "exponent": 1.0,
        **{f"role_{r}": 1.0 for r in roles},
        "depth_early": 1.0,
        "depth_middle": 1.0,
        "depth_late": 1.0,
        "boost_first": 1.0,
        "boost_last": 1.0,
        **{f"family_{f}": 1.0 for f in families},
        "bootstrap": 0,
    }


def scores_of(prices: Prices, units: Sequence[Unit], table: SensitivityTable) -> dict[str, dict[str, float]]:
    """Prices turned into a score per unit and format."""
    rows = None
    if prices.bootstrap:
        rng = np.random.default_rng(prices.bootstrap)
        rows = [int(r) for r in rng.integers(0, table.sequences, table.sequences)]
    signals: dict[str, Mapping[str, Mapping[str, float]]] = {
        s: table.scores(s, rows if s == KL else None) for s in SIGNALS
    }
    weights = {s: w for s, w in prices.weights.items() if w > 0 and signals[s]}
    if not weights:
        weights = {KL: 1.0}
    base = blend(signals, weights, prices.exponent)
    last = max((u.block or 0) for u in units)
    for unit in units:
        place = (unit.block or 0) / max(last, 1)
        factor = prices.roles.get(unit.role, 1.0) * float(
            np.exp(np.interp(place, (0, 0.5, 1), np.log(prices.depth)))
        )
        if unit.block == 0:
            factor *= prices.first
        if unit.block == last:
            factor *= prices.last
        for fmt in base[unit.name]:
            base[unit.name][fmt] *= factor * prices.families.get(family_of(fmt), 1.0)
    return base


def decode(
    prices: Prices, units: Sequence[Unit], table: SensitivityTable, budget_bytes: int
) -> dict[str, str]:
    """The plan that is optimal for these prices within the budget."""
    return solve(units, scores_of(prices, units, table), budget_bytes)


def family_of(fmt: str) -> str:
    """Family of a format name."""
    from profiles.formats import get_format

    return get_format(fmt).family

"""A trial's parameters set prices; the exact solver decodes prices into a plan.

Every trial is therefore feasible, uses the whole budget, and is optimal for some prices: the search
moves in some fifteen dimensions that mean something instead of a hundred raw categoricals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from profiles.formats import get_format
from tuners.plan import Unit
from tuners.sensitivity.table import KL, SensitivityTable, blend

Correction = Mapping[str, Mapping[str, float]]
"""unit -> format -> factor on its score, learned from measured trials (`residuals.py`)."""


@dataclass(frozen=True)
class Prices:
    """A trial's parameters: signal weights, exponent, multipliers by role and depth, boosts at the ends,
    a multiplier by format family, the seed that resamples the measured scores, and how far the correction
    learned from measured trials is trusted."""

    weights: dict[str, float]
    exponent: float
    roles: dict[str, float]
    depth: tuple[float, float, float]
    first: float
    last: float
    families: dict[str, float]
    bootstrap: int
    residual: float


@dataclass(frozen=True)
class PriceSpace:
    """What there is to price: the signals of the table, the roles and the format families of the units."""

    signals: tuple[str, ...]
    roles: tuple[str, ...]
    families: tuple[str, ...]

    @classmethod
    def of(cls, units: Sequence[Unit], table: SensitivityTable) -> PriceSpace:
        """The space of these units under this table."""
        return cls(
            signals=table.signals(),
            roles=tuple(sorted({u.role for u in units})),
            families=tuple(sorted({family_of(f) for u in units for f in u.options} - {"16-bit"})),
        )

    def suggest(self, trial: optuna.trial.BaseTrial) -> Prices:
        """Ask the sampler for a trial's prices."""

        def factor(name: str, most: float = 2.0) -> float:
            return trial.suggest_float(name, 1 / most, most, log=True)

        return Prices(
            weights={s: trial.suggest_float(f"weight_{s}", 0.0, 1.0) for s in self.signals},
            exponent=trial.suggest_float("exponent", 0.5, 1.5),
            roles={r: factor(f"role_{r}") for r in self.roles},
            depth=(factor("depth_early"), factor("depth_middle"), factor("depth_late")),
            first=factor("boost_first", 4.0),
            last=factor("boost_last", 4.0),
            families={f: factor(f"family_{f}") for f in self.families},
            bootstrap=trial.suggest_int("bootstrap", 0, 15),
            residual=trial.suggest_float("residual", 0.0, 1.0),
        )

    def neutral(self, signal: str, *, residual: float = 0.0) -> dict[str, float | int]:
        """Parameters whose plan is the exact solution of one signal alone: what a study starts from."""
        return {
            **{f"weight_{s}": float(s == signal) for s in self.signals},
            "exponent": 1.0,
            **{f"role_{r}": 1.0 for r in self.roles},
            "depth_early": 1.0,
            "depth_middle": 1.0,
            "depth_late": 1.0,
            "boost_first": 1.0,
            "boost_last": 1.0,
            **{f"family_{f}": 1.0 for f in self.families},
            "bootstrap": 0,
            "residual": residual,
        }


def scores_of(
    prices: Prices, units: Sequence[Unit], table: SensitivityTable, correction: Correction | None = None
) -> dict[str, dict[str, float]]:
    """Prices turned into a score per unit and format."""
    rows = None
    if prices.bootstrap and table.sequences:
        rng = np.random.default_rng(prices.bootstrap)
        rows = [int(r) for r in rng.integers(0, table.sequences, table.sequences)]
    signals: dict[str, Mapping[str, Mapping[str, float]]] = {
        s: table.scores(s, rows if s == KL else None) for s in prices.weights
    }
    weights = {s: w for s, w in prices.weights.items() if w > 0 and signals[s]}
    if not weights:
        weights = {next(iter(prices.weights)): 1.0}
    base = blend(signals, weights, prices.exponent)
    places, last = depths(units)
    for unit in units:
        place = places[unit.name]
        factor = prices.roles.get(unit.role, 1.0) * float(
            np.exp(np.interp(place, (0, 0.5, 1), np.log(prices.depth)))
        )
        if unit.block == 0:
            factor *= prices.first
        if unit.block == last:
            factor *= prices.last
        learned = (correction or {}).get(unit.name, {})
        for fmt in base[unit.name]:
            base[unit.name][fmt] *= (
                factor * prices.families.get(family_of(fmt), 1.0) * learned.get(fmt, 1.0) ** prices.residual
            )
    return base


def depths(units: Sequence[Unit]) -> tuple[dict[str, float], int]:
    """Place of each unit from the first block (0) to the last (1), and the last block; units outside the
    blocks (the head) come after the last one."""
    last = max((u.block for u in units if u.block is not None), default=0)
    return {u.name: 1.0 if u.block is None else u.block / max(last, 1) for u in units}, last


def family_of(fmt: str) -> str:
    """Family of a format name."""
    return get_format(fmt).family

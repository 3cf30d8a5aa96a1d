"""The sensitivity table: what each (unit, format) costs, by several signals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from profiles.provenance import Contract
from tuners.evaluate_schema import token_mean

KL = "kl"  # measured: KL of the whole model with one unit changed
FISHER = "fisher"  # half the mean square of logit-space probes . change: the KL to second order
GDY2 = "gdy2"  # half the mean square of gradient . output difference: a second-order estimate of the KL
G2DY2 = "g2dy2"  # the same without the products of different channels, which are noise for the most part
MSE = "mse"  # squared weight error, relative to the weight's own energy
SIGNALS = (KL, FISHER, GDY2, G2DY2, MSE)


class Cell(Contract):
    """One (unit, format): per-sequence measured KL, and the cheap signals."""

    unit: str
    format: str
    sequence_kl: tuple[float, ...] = ()
    fisher: float | None = None
    gdy2: float | None = None
    g2dy2: float | None = None
    mse: float | None = None


class SensitivityTable(Contract):
    """All cells measured, with how they were measured.

    `sequence_tokens`: tokens that count in each sequence of the KL signal; none: all weigh the same.
    """

    cells: tuple[Cell, ...]
    sequence_tokens: tuple[int, ...] = ()
    tokens: int
    seconds: float
    naive_forwards: int
    suffix_forwards: float
    exact_cells: int | None = None  # cells whose KL was measured; None: all of them

    def scores(self, signal: str, rows: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """unit -> format -> score by that signal; `rows` resamples the sequences of the KL signal."""
        out: dict[str, dict[str, float]] = {}
        for cell in self.cells:
            value = self._value(cell, signal, rows)
            if value is not None:
                out.setdefault(cell.unit, {})[cell.format] = max(value, 1e-12)
        return out

    def signals(self) -> tuple[str, ...]:
        """The signals that every cell has: those that a plan can be solved from."""
        return tuple(s for s in SIGNALS if all(self._value(c, s) is not None for c in self.cells))

    def ratio_of_sums(self, signal: str) -> float | None:
        """The signal's sum over the KL's sum, over the cells that have both: 1 is no bias."""
        pairs = [(self._value(c, signal), self._value(c, KL)) for c in self.cells]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        below = sum(y for _, y in known)
        return sum(x for x, _ in known) / below if below > 0 else None

    def median_error(self, signal: str) -> float | None:
        """Median over the cells that have both of |signal / KL - 1|: how far a single cell is off."""
        pairs = [(self._value(c, signal), self._value(c, KL)) for c in self.cells]
        off = [abs(x / y - 1) for x, y in pairs if x is not None and y is not None and y > 0]
        return float(np.median(off)) if off else None

    @property
    def sequences(self) -> int:
        """Sequences that the KL signal was measured on (the largest number of any cell)."""
        return max((len(c.sequence_kl) for c in self.cells), default=0)

    def rank_correlation(self, a: str, b: str) -> float | None:
        """Spearman correlation of two signals over the cells that have both."""
        from scipy.stats import spearmanr

        pairs = [(self._value(c, a), self._value(c, b)) for c in self.cells]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if len(known) < 3:
            return None
        return float(spearmanr([x for x, _ in known], [y for _, y in known]).statistic)

    def _value(self, cell: Cell, signal: str, rows: Sequence[int] | None = None) -> float | None:
        if signal != KL:
            return {FISHER: cell.fisher, GDY2: cell.gdy2, G2DY2: cell.g2dy2, MSE: cell.mse}[signal]
        values, tokens = cell.sequence_kl, self.sequence_tokens
        if not values:
            return None
        if rows is not None:
            drawn = [r % len(values) for r in rows]
            values = tuple(values[r] for r in drawn)
            tokens = tuple(tokens[r] for r in drawn) if tokens else ()
        return token_mean(values, tokens)


class CellLog:
    """Cells appended to a JSON-lines file as they are measured, so that a stopped run resumes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[tuple[str, str], Cell] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    cell = Cell.model_validate_json(line)
                except ValueError:
                    continue  # the last line of a killed run
                self.cells[cell.unit, cell.format] = cell

    def add(self, cells: Sequence[Cell]) -> None:
        """Append and flush."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            for cell in cells:
                file.write(json.dumps(cell.model_dump(mode="json")) + "\n")
                self.cells[cell.unit, cell.format] = cell


def blend(
    signals: Mapping[str, Mapping[str, Mapping[str, float]]], weights: Mapping[str, float], exponent: float
) -> dict[str, dict[str, float]]:
    """Weighted geometric mean of signals, each first scaled to a median of one, to the `exponent`."""
    scale = {
        name: float(np.median([v for row in table.values() for v in row.values()]))
        for name, table in signals.items()
        if weights.get(name, 0) > 0
    }
    total = sum(weights[n] for n in scale) or 1.0
    first = next(iter(scale))
    out: dict[str, dict[str, float]] = {}
    for unit, row in signals[first].items():
        for fmt in row:
            log = sum(
                weights[n] / total * np.log(max(signals[n][unit][fmt], 1e-12) / max(scale[n], 1e-12))
                for n in scale
            )
            out.setdefault(unit, {})[fmt] = float(np.exp(exponent * log))
    return out

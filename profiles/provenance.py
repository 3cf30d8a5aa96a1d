"""A number and how it is known: every figure shown to a user is one of these."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class Contract(BaseModel):
    """Base of every object that is written to disk, printed as JSON or passed between layers."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Provenance(StrEnum):
    """How a figure is known, from strongest to weakest."""

    EXACT = "exact"  # arithmetic on facts: shapes, dtypes, a driver's answer
    MEASURED = "measured"  # timed or read on this machine, in this run
    CALIBRATED = "calibrated"  # a law fitted to real runs of the version named in `source`
    ESTIMATED = "estimated"  # nobody measured it: read it as the interval


class Figure(Contract):
    """A value with its interval, unit, provenance, source, and the formula with its numbers in it."""

    value: float
    low: float
    high: float
    unit: str
    provenance: Provenance
    source: str
    formula: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        numbers = (self.value, self.low, self.high)
        if any(math.isnan(n) for n in numbers):
            raise ValueError(f"a figure cannot be NaN, got {self.low=}, {self.value=}, {self.high=}")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low <= value <= high must hold, got {self.low=}, {self.value=}, {self.high=}")
        return self

    @classmethod
    def exact(cls, value: float, unit: str, source: str, formula: str | None = None) -> Figure:
        """A figure known exactly: its interval is a point."""
        return cls(
            value=value,
            low=value,
            high=value,
            unit=unit,
            provenance=Provenance.EXACT,
            source=source,
            formula=formula,
        )

    @classmethod
    def measured(cls, value: float, unit: str, source: str, spread: float = 0.0) -> Figure:
        """A figure measured here; `spread` is the relative half-width of its interval (0.05 = ±5 %)."""
        return cls(
            value=value,
            low=value * (1 - spread),
            high=value * (1 + spread),
            unit=unit,
            provenance=Provenance.MEASURED,
            source=source,
        )

    @classmethod
    def estimated(
        cls, value: float, low: float, high: float, unit: str, source: str, formula: str | None = None
    ) -> Figure:
        """A figure that nobody measured, with the range that it is likely to lie in."""
        return cls(
            value=value,
            low=low,
            high=high,
            unit=unit,
            provenance=Provenance.ESTIMATED,
            source=source,
            formula=formula,
        )

"""Published scores of quantized models, as the task catalogue stores them, and the loss they mean."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from profiles.provenance import Contract, Figure
from profiles.tasks.schema import PriorLoss

BENCHMARK_NOISE = 2.0
"""Half-width put on a published score whose source gives none (such sets differ by 2-5 points between
runs; the low end, because most of these are averages of several sets)."""


class PublishedScore(Contract):
    """One published comparison, in one of three ways that sources use.

    `kept_percent`: per cent of the 16-bit score; `points`: change of the score itself; `score` and
    `baseline`: both scores. `half_width` is in the same unit (of the kept per cent for score/baseline).
    """

    family: Literal["int8", "fp8", "int4", "fp4"]
    method: str
    benchmark: str
    model: str
    source: str
    kept_percent: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    points: float | None = Field(default=None, allow_inf_nan=False)
    score: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    baseline: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    half_width: float = Field(default=BENCHMARK_NOISE, ge=0, allow_inf_nan=False)
    worst_percent: float | None = None  # lowest kept_percent reported, where a source gives a range

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        pair = (self.score is None) + (self.baseline is None)
        ways = (self.kept_percent is not None) + (self.points is not None) + (pair == 0)
        if ways != 1 or pair == 1:
            raise ValueError("give kept_percent, or points, or score with baseline")
        return self

    def as_loss(self) -> PriorLoss:
        """What was lost, with its interval: 100 - kept, 100 x (1 - score / baseline), or -points."""
        if self.points is not None:
            value, unit, formula = -self.points, "points", None
        elif self.kept_percent is not None:
            value, unit = 100 - self.kept_percent, "% of the 16-bit score"
            formula = f"100 - {self.kept_percent:g}"
        else:
            assert self.score is not None
            assert self.baseline is not None
            value, unit = 100 * (1 - self.score / self.baseline), "% of the 16-bit score"
            formula = f"100 x (1 - {self.score:g} / {self.baseline:g})"
        high = value + self.half_width
        if self.worst_percent is not None:
            high = max(high, 100 - self.worst_percent)
        return PriorLoss(
            family=self.family,
            method=self.method,
            benchmark=self.benchmark,
            model=self.model,
            loss=Figure.estimated(
                round(value, 2), round(value - self.half_width, 2), round(high, 2), unit, self.source, formula
            ),
        )

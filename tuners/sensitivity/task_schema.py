"""What a task's profile is asked and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from profiles.provenance import Contract, Figure
from profiles.tasks.schema import TaskProfile
from tuners.plan import Unit

FamilyName = Literal["int4", "int8", "fp8"]
FAMILIES: tuple[FamilyName, ...] = ("int4", "int8", "fp8")


class ProfileSettings(Contract):
    """How far a profile may go; it stops earlier when the decision is made (stopping.py)."""

    chunk_tokens: int = Field(default=512, ge=32)
    least_chunks: int = Field(default=2, ge=1)
    most_chunks: int = Field(default=6, ge=1)
    bootstraps: int = Field(default=40, ge=10)
    tolerance: float = Field(default=0.03, gt=0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    score_chunk: int = Field(default=16, ge=2)
    most_scored: int = Field(default=48, ge=0)
    score_width: float = Field(default=0.1, gt=0)
    exact_cells: int = Field(default=12, ge=0)
    exact: bool = False
    cross_sequences: int = Field(default=12, ge=2)
    calibration_sequences: int = Field(default=32, ge=1)
    calibration_len: int = Field(default=128, ge=16)
    seed: int = 0


class TasksSpec(BaseModel):
    """One profiling run of several tasks: everything that the child needs."""

    model_config = ConfigDict(extra="forbid")

    model_path: Path
    model_id: str = ""
    units: tuple[Unit, ...]
    budget_bytes: int
    tasks: tuple[TaskProfile, ...]
    calibration: TaskProfile
    cache_dir: Path
    settings: ProfileSettings = ProfileSettings()
    trust_remote_code: bool = False


class UniformLoss(Contract):
    """A uniform format on the task's own tokens. Intervals are 95 % bootstraps over sequences or items."""

    family: FamilyName
    kl: Figure
    top1: Figure
    perplexity_ratio: Figure
    score: Figure | None = None  # mean over the held-out items that were scored
    score_change: Figure | None = None  # score with the format minus the original's, paired by item
    verdict: Literal["passes", "fails", "undecided"]


class UnitLoss(Contract):
    """One (unit, format): KL in nats per counted token, its standard error, and how it is known."""

    unit: str
    role: str
    block: int | None
    format: str
    kl: float
    error: float
    how: Literal["measured", "apportioned"]


class Stopped(Contract):
    """How much was measured and why no more: `sure` is the share of resamples that decide alike."""

    sequences: int
    tokens: int
    items: int
    skipped: int
    sure: float
    why: str


class TaskSensitivity(Contract):
    """The profile of one task on one model."""

    task: str
    title: str
    model_id: str
    original_score: Figure | None
    scorer: str
    uniform: tuple[UniformLoss, ...]
    units: tuple[UnitLoss, ...]
    stopped: Stopped
    check: float | None  # rank correlation of apportioned with measured KL on the cells that have both
    reliability: float  # rank correlation of the units' losses between two halves of the sequences
    plan: dict[str, str]  # the exact solution at the budget
    seconds: float
    notes: tuple[str, ...] = ()

    def losses(self, family_format: str | None = None) -> dict[tuple[str, str], float]:
        """(unit, format) to KL."""
        return {(u.unit, u.format): u.kl for u in self.units if family_format in (None, u.format)}


class Crossing(Contract):
    """A plan made for one task, measured on another task's selection text at equal bytes."""

    plan_for: str
    measured_on: str
    kl: float
    own_kl: float  # the task's own plan on the same text
    difference: float
    low: float
    high: float
    verdict: Literal["own plan", "costs more", "costs less", "no measurable difference", "too little text"]


class Correlation(Contract):
    """Rank correlation of two tasks' unit losses in their lowest format, and its ceiling by noise alone."""

    a: str
    b: str
    rank: float
    ceiling: float


class TasksResult(Contract):
    """Everything that `advisor sensitivity` shows."""

    model_id: str
    budget_bits: float
    tasks: tuple[TaskSensitivity, ...]
    correlations: tuple[Correlation, ...]
    crossings: tuple[Crossing, ...]
    conclusion: str
    seconds: float

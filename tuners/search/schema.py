"""What a search is asked and what it answers."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from profiles.provenance import Contract
from profiles.tasks.schema import TaskProfile
from tuners.evaluate_schema import Quality
from tuners.plan import PrecisionPlan, Unit


class SearchSettings(Contract):
    """How much work the search does. Sequences are `seq_len` tokens long.

    Splits: `search` (A) calibrates, scores and drives the trials; `select` (B) chooses among finalists
    and draws the front; `evaluate` (C) is touched once, for the report.
    """

    trials: int = Field(default=32, ge=0)
    seed: int = 0
    seq_len: int = Field(default=128, ge=16)
    calibration_sequences: int = Field(default=32, ge=1)
    sensitivity_sequences: int = Field(default=4, ge=2)
    search_sequences: int = Field(default=16, ge=4)
    select_sequences: int = Field(default=16, ge=4)
    evaluate_sequences: int = Field(default=16, ge=4)
    batch_size: int = Field(default=4, ge=1)
    finalists: int = Field(default=4, ge=1)
    front_bits: tuple[float, ...] = (4.5, 5.0, 6.0, 7.0)
    gptq_damping: float = 0.01
    prune_p: float = Field(default=0.1, gt=0, lt=1)
    variant_memory_bytes: int = 4 * 2**30


class SearchSpec(BaseModel):
    """One search: everything the child process needs. Results go under `run_dir`."""

    model_config = ConfigDict(extra="forbid")

    run_dir: Path
    model_path: Path
    model_id: str = ""
    units: tuple[Unit, ...]
    fixed_bytes: int
    budget_bytes: int
    task: TaskProfile
    settings: SearchSettings = SearchSettings()
    cache_dir: Path | None = None
    trust_remote_code: bool = False


class MeasuredPlan(Contract):
    """A plan with its bytes and its quality on one split, always measured."""

    label: str
    plan: PrecisionPlan
    unit_bytes: int
    bits_per_weight: float
    quality: Quality


class Comparison(Contract):
    """Paired difference of KL on held-out text: best minus other, 95 % bootstrap interval."""

    other: str
    difference: float
    low: float
    high: float
    verdict: str


class SearchResult(Contract):
    """What the search found. `held_out` is the evaluate split (C); nothing was chosen by it."""

    best: MeasuredPlan
    held_out: tuple[MeasuredPlan, ...]
    front: tuple[MeasuredPlan, ...]
    comparisons: tuple[Comparison, ...]
    perplexity_original: float
    budget_bytes: int
    fixed_bytes: int
    trials: int
    trials_pruned: int
    trials_measured: int
    sensitivity_seconds: float
    search_seconds: float
    signal_correlations: dict[str, float]
    peak_rss_bytes: int
    notes: tuple[str, ...] = ()

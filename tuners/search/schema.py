"""What a search is asked and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from profiles.formats import Activations
from profiles.provenance import Contract
from profiles.tasks.schema import TaskProfile
from tuners.evaluate_schema import Quality
from tuners.latency.schema import Latency, PlanSpeed
from tuners.plan import PrecisionPlan, Unit

Sensitivity = Literal["auto", "exact", "fast", "quick"]
Memory = Literal["auto", "resident", "streamed"]
MemoryMode = Literal["resident", "streamed"]


class SearchSettings(Contract):
    """How much work the search does. Sequences are `seq_len` tokens long.

    Splits: `search` (A) calibrates, scores and drives the trials; `select` (B) chooses among finalists
    and draws the front; `evaluate` (C) is touched once, for the report. The quantizer calibrates on text of A
    that neither scores nor trials use, as long as there is enough of it. With `written`, half of A and B is
    what the model itself writes when their texts stand for any (`TaskProfile.general`) and are foreign to it.

    `sensitivity` exact measures the KL of every cell; fast takes it from backward passes and measures a
    sample of cells to say how well they agree; auto is exact unless that would take longer than
    `exact_seconds`; quick quantizes nothing: it foresees every cell from one backward pass for the first
    `quick_tokens` of each of `quick_sequences`, and measures the plan alone, rounded to nearest. A trial sees
    the share `rungs` of the search sequences before each test whether to go on; `prune_p` is the level of the
    paired test. `contested_share` of the trials are the second stage's. Workers are processes on one study;
    `storage` is Optuna's (default: study.db of the run).
    `memory` resident holds the whole model, streamed one decoder block at a time, auto streams when the whole
    does not fit into `memory_bytes` (default: 90 % of what is available).
    """

    trials: int = Field(default=32, ge=0)
    seed: int = 0
    seq_len: int = Field(default=128, ge=16)
    calibration_sequences: int = Field(default=32, ge=1)
    sensitivity_sequences: int = Field(default=4, ge=2)
    sensitivity: Sensitivity = "auto"
    exact_seconds: float = Field(default=1200.0, gt=0)
    quick_sequences: int = Field(default=8, ge=1)
    quick_tokens: int = Field(default=48, ge=16)
    probe_sequences: int = Field(default=12, ge=1)
    probes: int = Field(default=2, ge=1)
    search_sequences: int = Field(default=16, ge=4)
    select_sequences: int = Field(default=16, ge=4)
    evaluate_sequences: int = Field(default=16, ge=4)
    written: bool = True
    batch_size: int = Field(default=4, ge=1)
    finalists: int = Field(default=4, ge=1)
    front_points: int = Field(default=5, ge=2)
    front_trials: int = Field(default=2, ge=0)
    gptq_damping: float = 0.01
    prune_p: float = Field(default=0.2, gt=0, lt=1)
    rungs: tuple[float, ...] = (0.25, 0.5)
    contested_share: float = Field(default=0.35, ge=0, lt=1)
    contested_max: int = Field(default=16, ge=1)
    correct_every: int = Field(default=8, ge=2)
    variant_memory_bytes: int = 4 * 2**30
    memory: Memory = "auto"
    memory_bytes: int | None = Field(default=None, gt=0)
    workers: int = Field(default=1, ge=1)
    storage: str | None = None

    @property
    def is_quick(self) -> bool:
        """Whether weights are rounded to nearest in memory instead of quantized as the checkpoint's."""
        return self.sensitivity == "quick"


class Goal(Contract):
    """What is asked of a plan beside its bytes. `quality`: least KL, at most `max_ms` per token when given.
    `fastest`: least milliseconds per token, KL at most `max_kl`. Times are of a decoding step with `batch`
    requests (what each of them waits for its next token), predicted from the latency column."""

    objective: Literal["quality", "fastest"] = "quality"
    max_kl: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    batch: int = Field(default=1, ge=1)

    @property
    def is_timed(self) -> bool:
        """Whether predicted times decide anything."""
        return self.objective == "fastest" or self.max_ms is not None


class StageMemory(Contract):
    """The bound of one stage: its parts in bytes."""

    stage: str
    parts: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())


class SearchMemory(Contract):
    """How the model is held, why, and the bound of its memory (estimated; the measured peak is reported)."""

    mode: MemoryMode
    compute: Literal["float32", "bfloat16"] = "float32"
    reason: str
    bound_bytes: int
    resident_bytes: int
    streamed_bytes: int
    available_bytes: int
    limit_bytes: int
    variants_disk_bytes: int
    scratch_disk_bytes: int
    stages: tuple[StageMemory, ...]


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
    goal: Goal = Goal()
    latency: Latency | None = None
    experts_per_token: int = 0
    cache_dir: Path | None = None
    trust_remote_code: bool = False
    kv_cache_dtype: str = "auto"
    rounds: dict[str, Activations] = {}  # format: what the target's kernel rounds inputs to, where it differs
    study_name: str | None = None  # set for a worker: the study to help with


class MeasuredPlan(Contract):
    """A plan with its bytes and its quality on one split, always measured; `speed` is predicted."""

    label: str
    plan: PrecisionPlan
    unit_bytes: int
    bits_per_weight: float
    quality: Quality
    speed: PlanSpeed | None = None


class Front(Contract):
    """Measured plans by rising bytes, all on the selection split; none is beaten in bytes, KL and, where it
    is known, predicted time per token by another."""

    points: tuple[MeasuredPlan, ...]
    fixed_bytes: int
    weights: int
    smallest_bytes: int
    largest_bytes: int


class Comparison(Contract):
    """Paired difference of KL on held-out text: best minus other, 95 % bootstrap interval."""

    other: str
    difference: float
    low: float
    high: float
    verdict: str


class KvCost(Contract):
    """What a rounded KV cache costs the chosen plan: imitated in torch on the held-out split, KL to the
    original with and without it, and the paired difference with its 95 % interval."""

    dtype: str
    kl_without: float
    kl_with: float
    difference: float
    low: float
    high: float
    perplexity_with: float
    top1_with: float | None = None
    tokens: int


class SearchResult(Contract):
    """What the search found. `held_out` is the evaluate split (C); nothing was chosen by it. For a quick plan
    without trials it is the selection split (B): there was nothing to choose."""

    best: MeasuredPlan
    held_out: tuple[MeasuredPlan, ...]
    front: tuple[MeasuredPlan, ...]
    comparisons: tuple[Comparison, ...]
    perplexity_original: float
    original_sequence_nll: tuple[float, ...] = ()  # on the held-out sequences, nats per counted token
    budget_bytes: int
    fixed_bytes: int
    trials: int
    trials_pruned: int
    trials_measured: int
    sensitivity_seconds: float
    search_seconds: float
    signal_correlations: dict[str, float]
    signal_sums: dict[str, float] = {}  # sum of a signal over the sum of measured KL: 1 is no bias
    signal_errors: dict[str, float] = {}  # median over cells of |signal / measured KL - 1|
    sensitivity_mode: str = "exact"
    cells_measured: int | None = (
        None  # of `cells` (unit, format) pairs; the others have the fast signals alone
    )
    cells: int | None = None
    peak_rss_bytes: int
    memory: SearchMemory | None = None
    notes: tuple[str, ...] = ()
    goal: Goal = Goal()
    kv: KvCost | None = None

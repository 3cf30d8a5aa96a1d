"""What a report says, as data: the HTML, the Markdown and `--json` are three views of this object."""

from __future__ import annotations

from typing import Literal

from profiles.provenance import Contract, Provenance
from tuners.validate.schema import Gate, Line

Outcome = Literal["passed", "failed", "not validated"]


class Known(Contract):
    """One figure with how it is known: `value` is ready to read, `source` names the file or the law."""

    name: str
    value: str
    provenance: Provenance
    source: str


class PlanCell(Contract):
    """One decision unit of the plan, and what its choice costs."""

    unit: str
    role: str
    block: int | None
    format: str
    bytes: int
    kl: float | None  # measured with this unit alone in its format; None where it was not measured


class HeatCell(Contract):
    """One measured cell of the sensitivity table: nats per token with one unit changed."""

    unit: str
    role: str
    block: int | None
    format: str
    kl: float


class Point(Contract):
    """A measured plan on the plane of size and loss. `split`: the text that it was measured on."""

    label: str
    bits_per_weight: float
    checkpoint_bytes: int
    kl: float
    perplexity: float
    top1: float
    split: str
    chosen: bool = False


class Reason(Contract):
    """Why the decision is what it is, and where that is known from."""

    text: str
    provenance: Provenance
    source: str


class StageTime(Contract):
    """A finished stage: seconds and peak memory as measured."""

    name: str
    seconds: float
    peak_rss_bytes: int | None
    summary: str


class Answer(Contract):
    """One prompt, answered greedily by both checkpoints in the engine."""

    prompt: str
    original: str
    quantized: str


class RunReport(Contract):
    """Everything that a run found, with no path of this machine in it."""

    title: str
    model: str
    device: str
    task: str
    outcome: Outcome
    verdict: str  # one sentence
    question: dict[str, str]  # option -> value as asked
    figures: tuple[Known, ...]
    reasons: tuple[Reason, ...]
    plan_label: str
    counts: dict[str, int]  # format -> units
    plan: tuple[PlanCell, ...]
    sensitivity: tuple[HeatCell, ...]
    points: tuple[Point, ...]
    lines: tuple[Line, ...]
    gates: tuple[Gate, ...]
    answers: tuple[Answer, ...]
    stages: tuple[StageTime, ...]
    notes: tuple[str, ...]

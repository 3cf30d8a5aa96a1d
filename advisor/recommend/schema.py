"""Contracts of the decision framework: what is asked, which rules fired, what is recommended and why."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from advisor.recommend.posterior import Belief
from profiles.provenance import Contract, Figure
from profiles.tasks import Sensitivity


class Use(StrEnum):
    """What the deployment is for (the framework's words)."""

    QUALITY_CRITICAL = "quality-critical"
    PRODUCTION = "production"
    COST_OPTIMIZED = "cost-optimized"
    PERSONAL = "personal"
    EDGE = "edge"


class HardwareClass(StrEnum):
    """The framework's words for hardware; one machine may be several of them."""

    MULTI_GPU = "multi-gpu"
    SINGLE_DATACENTRE = "single-datacentre"
    HOPPER_BLACKWELL = "hopper-blackwell"
    A100 = "a100"
    CONSUMER_RTX = "consumer-rtx"
    CONSUMER_24GB = "consumer-24gb"
    CONSUMER_12GB = "consumer-12gb"
    CPU = "cpu"
    APPLE = "apple"


Family = Literal["16-bit", "fp8", "int8", "int4", "fp4"]
EngineName = Literal["vllm", "llama.cpp"]
TierName = Literal["measured", "task", "kernel", "use", "hardware"]


class Option(Contract):
    """One thing that can be recommended. `also` names other engines that serve the same format."""

    id: str
    title: str
    family: Family
    engine: EngineName
    format: str  # name in the menu, W4A16 (group size by the model's shapes), or a GGUF type
    method: str
    calibration: bool = False
    bits: float | None = None  # per weight, for formats outside the menu
    bits_source: str = ""
    also: tuple[str, ...] = ()


class Condition(Contract):
    """When a rule fires: every part that is given must hold."""

    sensitivity: tuple[Sensitivity, ...] | None = None
    use: tuple[Use, ...] | None = None
    hardware: tuple[HardwareClass, ...] | None = None
    large_model: bool | None = None  # 16-bit weights do not fit; True also when the size is unknown
    engine: tuple[EngineName, ...] | None = None
    fp8_kv: bool | None = None


class Rule(Contract):
    """One rule of the framework, see rules.yaml."""

    id: str
    tier: TierName
    specificity: int = 0
    when: Condition = Condition()
    prefer: tuple[tuple[str, ...], ...] = ()
    avoid: tuple[str, ...] = ()
    says: str
    advice: str = ""
    source: str


class KvRule(Contract):
    """One row of the choice of the KV cache dtype."""

    dtype: Literal["auto", "fp8"]
    when: Condition
    says: str
    source: str


class ModelFacts(Contract):
    """What the framework needs of a model: its size, and how much of it can be quantized."""

    name: str
    parameters: int = Field(gt=0)
    quantizable: int = Field(ge=0)  # weights of linears; embeddings, head and norms stay 16-bit
    notes: tuple[str, ...] = ()


class Reason(Contract):
    """Why an option stands where it does; `basis` separates what was measured from what is prior."""

    rule: str
    stance: Literal["for", "against", "neutral"]
    text: str
    source: str
    basis: Literal["prior", "measured", "kernel"]


class Conflict(Contract):
    """Two rules, or a rule and a fact, that do not agree, and which one won."""

    winner: str
    loser: str
    text: str


class Dropped(Contract):
    """An option that cannot be used here, and why."""

    option: Option
    reason: str
    source: str


class Choice(Contract):
    """One recommendation, `rank` 1 is the best."""

    rank: int
    option: Option
    format: str  # the menu's name with its group size, or the GGUF type
    kernel: str | None
    kv_cache_dtype: Literal["auto", "fp8"]
    kv_reason: str
    weights_bytes: Figure | None
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()


class Decision(Contract):
    """What put the first choice before the best one of another precision (`over`): the strongest rule that
    tells them apart. `basis` says whether that rule is a measurement or a prior; `order`: no rule does."""

    first: str
    over: str
    rule: str
    basis: Literal["prior", "measured", "kernel", "order"]
    sentence: str


class Recommendation(Contract):
    """The framework's answer: ordered choices, what was dropped, which rules fired and clashed."""

    task: str
    sensitivity: Sensitivity
    sensitivity_source: str
    use: Use | None
    hardware: tuple[HardwareClass, ...]
    device: str | None
    model: ModelFacts | None
    measured: dict[Family, Figure]  # perplexity ratios, where given
    choices: tuple[Choice, ...]
    dropped: tuple[Dropped, ...]
    fired: tuple[Rule, ...]  # strongest first
    conflicts: tuple[Conflict, ...]
    notes: tuple[str, ...]
    decisions: tuple[Decision, ...] = ()  # one for each other precision, best first
    beliefs: tuple[Belief, ...] = ()  # loss of each uniform format: prior, measured, combined

    @property
    def best(self) -> Choice:
        """The first choice."""
        return self.choices[0]


class ReferenceRow(Contract):
    """One row of the reference table, with its source in each figure."""

    option: str
    name: str
    model: str
    perplexity: Figure
    relative_latency: Figure
    weights_gb: Figure
    condition: str = ""


class Method(Contract):
    """One method or format that the framework covers."""

    name: str
    kind: Literal["post-training", "training", "format", "kv-cache"]
    calibration: bool
    summary: str

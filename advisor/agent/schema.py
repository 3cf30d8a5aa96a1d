"""What the agent may do, what it decided, what came of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from profiles.provenance import Contract
from tuners.plan import PrecisionPlan
from tuners.quantize.methods import Method
from tuners.validate.blame import UnitBlame
from tuners.validate.schema import Gate


class Action(StrEnum):
    """The one thing that an attempt changes."""

    START = "start"
    PROMOTE = "promote"  # the exact plan of the measured scores, within the same budget
    REFORMAT = "reformat"  # other formats for the units whose kernel was another than planned
    MEASURE = "measure"  # search anew by measured sensitivities instead of estimated ones
    TRIALS = "trials"  # go on with the search
    CALIBRATION = "calibration"  # the same plan, quantized with more calibration text
    RECOVER = "recover"  # the same plan, trained for some steps against the original
    METHOD = "method"  # the same plan, its INT4 units rounded in another way
    GROUP = "group"  # smaller groups for the INT4 units that need them, within the same budget
    BUDGET = "budget"  # a larger budget, within what the user allowed
    KV_DTYPE = "kv_dtype"
    CONTEXT = "context"
    STOP = "stop"


class Limits(Contract):
    """What the user allows; the agent never leaves it. Bytes are over the units (without `fixed_bytes`)."""

    floor: float = Field(gt=0, allow_inf_nan=False)
    budget_bytes: int
    max_budget_bytes: int
    fixed_bytes: int
    attempts: int = Field(default=6, ge=1)
    max_trials: int = Field(default=64, ge=0)
    max_calibration_samples: int = Field(default=64, ge=1)
    kv_dtypes: tuple[str, ...] = ()  # other cache dtypes that the device runs
    min_context: int | None = None
    methods: tuple[Method, ...] = ()  # other ways to round INT4 units, in the order in which they are tried
    recover_steps: int = Field(default=0, ge=0)  # of training, where it may be tried


class Settings(Contract):
    """Everything that an attempt may vary besides the plan."""

    budget_bytes: int
    trials: int
    calibration_samples: int
    kv_cache_dtype: str = "auto"
    context: int | None = None
    methods: dict[str, Method] = {}
    recover_steps: int = 0
    sensitivity: Literal["auto", "exact", "fast", "quick"] = "auto"


class Outcome(Contract):
    """What an attempt measured. `ratio`: perplexity over the original's, in the engine; None: not reached.

    `error` holds the parts of the error that ended the attempt; `repeated`: the plan was measured before;
    `blamed`: what each unit cost, by its outputs in the engine against the original's in torch.
    """

    plan: PrecisionPlan | None
    unit_bytes: int = 0
    bits_per_weight: float = 0.0
    ratio: float | None = None
    kl: float | None = None
    passed: bool = False
    gates: tuple[Gate, ...] = ()
    mismatched: tuple[str, ...] = ()  # units on another kernel than planned
    error: dict[str, str | int | None] | None = None
    repeated: bool = False
    blamed: tuple[UnitBlame, ...] = ()


Status = Literal["accepted", "impossible", "not reached", "unrepairable"]


class Decision(Contract):
    """What to do next and why; every figure in `reason` and `evidence` was measured unless it says estimated.

    `plan` None: the search decides it. `status` is set with STOP alone.
    """

    number: int
    action: Action
    reason: str
    evidence: tuple[str, ...] = ()
    settings: Settings
    plan: PrecisionPlan | None = None
    status: Status | None = None
    next_step: str = ""


class Attempt(Contract):
    """A decision and what came of it."""

    decision: Decision
    outcome: Outcome


class AgentVerdict(Contract):
    """The end: accepted only when every gate of the last attempt passed in the engine."""

    status: Status
    passed: bool
    reason: str
    next_step: str
    floor: float
    best: int | None  # number of the attempt with the lowest measured ratio, or the accepted one
    attempts: tuple[Attempt, ...]
    run: str = ""
    bundle: str | None = None

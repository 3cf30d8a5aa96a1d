"""What the tools answer; the JSON Schemas that clients see are generated from these."""

from __future__ import annotations

from typing import Literal

from advisor.agent.schema import AgentVerdict
from advisor.workspace import StageRecord
from profiles.footprint.schema import Footprint
from profiles.provenance import Contract
from tuners.validate.schema import Gate

State = Literal["running", "stopped", "finished", "failed"]


class FitAnswer(Contract):
    """The predicted boot log of every uniform plan."""

    model: str
    device: str
    plans: dict[str, Footprint]


class Started(Contract):
    """A run that works on its own now; `status` with `run` says how far it is."""

    run: str
    pid: int
    command: tuple[str, ...]
    log: str
    budget_bytes: int  # of the whole checkpoint
    budget_origin: str


class RunStatus(Contract):
    """How far a run is. `state`: finished only when its last stage or verdict is there."""

    run: str
    state: State
    stages: tuple[StageRecord, ...]
    messages: tuple[str, ...]  # the latest, oldest first
    plan_summary: str | None = None
    passed: bool | None = None  # None: not validated yet
    gates: tuple[Gate, ...] = ()
    verdict: AgentVerdict | None = None
    next_step: str


class Exported(Contract):
    """The bundle; `targets` maps each platform to why it was refused, or to nothing when it was written."""

    bundle: str
    passed: bool
    files: tuple[str, ...]
    targets: dict[str, str]

"""What a run was asked for: written once as inputs.yaml, refused when it changes under a run."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from advisor.workspace import Workspace, default_run_dir, write_text
from profiles.errors import UsageError
from profiles.footprint.schema import ServingSpec
from profiles.provenance import Contract
from tuners.quantize.methods import Method
from tuners.quantize.schema import MAX_RECOVER_STEPS, ROUNDING_STEPS

EFFORT = frozenset(
    {
        "trials",
        "calibration_samples",
        "calibration_tokens",
        "eval_tokens",
        "yes",
        "offline",
        "workers",
        "storage",
        "sensitivity",
        "memory",
        "floor",
        "methods",
        "rounding_steps",
        "recover_steps",
        "latency",
    }
)
"""Fields that say how hard to try or how to judge, not what is asked: they may change between calls of one
run."""


GOALS = ("objective", "max_kl", "max_ms_per_token")
"""Fields that say what is wanted beside a size."""


TRIALS = 32
"""Optuna trials of a search when no number is given."""


def default_trials(sensitivity: str = "auto", objective: str = "quality") -> int:
    """How many trials a search makes when no number is given: a quick plan is the exact solution of its
    scores; the fastest plan is only found by trials."""
    return 0 if sensitivity == "quick" and objective == "quality" else TRIALS


class RunInputs(Contract):
    """One question: this model, under this budget, on this hardware, for this task.

    `budget` is what the user typed; None means: derived from the device, the context and the concurrency.
    `objective` fastest is the fastest plan whose KL is at most `max_kl`; `max_ms_per_token` bounds a decoding
    step at `serving.concurrency` requests. `latency` auto times layers where the device and vLLM are here.
    """

    model: str
    revision: str | None = None
    budget: str | None = None
    task: str
    gpu: str | None = None
    count: int = Field(default=1, ge=1)
    formats: tuple[str, ...] | None = None
    serving: ServingSpec = ServingSpec()
    seed: int = Field(default=0, ge=0)
    trials: int = Field(default=TRIALS, ge=0)
    workers: int = Field(default=1, ge=1)
    storage: str | None = None
    sensitivity: Literal["auto", "exact", "fast", "quick"] = "auto"
    memory: str = "auto"  # or resident, streamed, or a size that the search may take
    calibration_samples: int = Field(default=16, ge=1)
    calibration_tokens: int = Field(default=256, ge=8)
    methods: dict[str, Method] = {}  # format, beginning of formats' names, family or * -> method
    rounding_steps: int = Field(default=ROUNDING_STEPS, ge=1, le=2000)  # of AutoRound, per block
    recover_steps: int = Field(default=0, ge=0, le=MAX_RECOVER_STEPS)  # of training after quantization
    eval_tokens: int | None = Field(default=None, ge=64)
    trust_remote_code: bool = False
    offline: bool = False
    yes: bool = False
    floor: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # None: the task's own
    objective: Literal["quality", "fastest"] = "quality"
    max_kl: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_ms_per_token: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    latency: Literal["auto", "estimated"] = "auto"

    def identity(self) -> dict[str, Any]:
        """The part that names the run: the question without the effort, and without goals not asked for."""
        found = self.model_dump(mode="json", exclude=set(EFFORT))
        for name in GOALS:
            if found[name] == type(self).model_fields[name].default:
                del found[name]
        return found

    @property
    def is_timed(self) -> bool:
        """Whether the question is about speed too."""
        return self.objective == "fastest" or self.max_ms_per_token is not None

    def run_dir(self) -> Path:
        """The default directory of this question."""
        return default_run_dir(self.model, self.identity())


def check_goal(objective: str, max_kl: float | None, max_ms: float | None, trials: int = TRIALS) -> None:
    """Refuse goals that contradict each other.

    Raises:
        UsageError: fastest without a limit on the KL or without trials, or a limit that the objective does
            not use.
    """
    if objective == "fastest" and max_kl is None:
        raise UsageError(
            "the fastest plan needs a limit on what it may lose",
            got="--objective fastest without --max-kl",
            next_step="--objective fastest --max-kl 0.05 (nats per token; INT4 alone often loses 0.1)",
        )
    if objective == "fastest" and trials == 0:
        raise UsageError(
            "the fastest plan is found by trials: the KL of each is measured against the limit",
            got="--objective fastest --trials 0",
            allowed="at least 1",
            next_step="--trials 8, or leave it out",
        )
    if objective == "quality" and max_kl is not None:
        raise UsageError(
            "--max-kl is for the fastest plan: the best one has the least KL anyway",
            got=f"--max-kl {max_kl:g}",
            next_step="add --objective fastest, or leave --max-kl out",
        )
    if objective == "fastest" and max_ms is not None:
        raise UsageError(
            "the fastest plan needs no limit on its time",
            got=f"--max-ms-per-token {max_ms:g}",
            next_step="leave --max-ms-per-token out, or leave --objective out: the best plan that is so fast",
        )


def save_inputs(workspace: Workspace, inputs: RunInputs) -> None:
    """Write inputs.yaml, or check it against an earlier one.

    Raises:
        UsageError: the directory belongs to another question; the message says what differs.
    """
    path = workspace.path("inputs.yaml")
    if path.exists():
        earlier = load_inputs(workspace).identity()
        now = inputs.identity()
        names = dict.fromkeys([*earlier, *now])
        changed = [
            f"{k}: {_brief(earlier.get(k))} -> {_brief(now.get(k))}"
            for k in names
            if earlier.get(k) != now.get(k)
        ]
        if changed:
            raise UsageError(
                "this run directory belongs to another question",
                where=str(workspace.root),
                got="; ".join(changed),
                allowed="the same inputs (effort such as --trials may change)",
                next_step="leave --run out (a directory per question is made), or give a new one",
            )
    out = StringIO()
    yaml = YAML()
    yaml.dump(inputs.model_dump(mode="json"), out)
    write_text(path, "# What this run was asked. `advisor runs` lists runs.\n" + out.getvalue())


def load_inputs(workspace: Workspace) -> RunInputs:
    """Read inputs.yaml back.

    Raises:
        UsageError: it is missing or damaged.
    """
    path = workspace.path("inputs.yaml")
    try:
        return RunInputs.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, YAMLError, ValidationError) as exc:
        raise UsageError(
            "cannot read the inputs of this run",
            where=str(path),
            got=str(exc).splitlines()[0],
            next_step="give the directory of a run (advisor runs lists them), or a new --run directory",
        ) from exc


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."

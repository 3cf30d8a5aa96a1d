"""What the screens read of a run directory besides its events; nothing is computed here."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from advisor.tui.process import owner
from advisor.tui.widgets.front_plot import Sizes
from advisor.tui.widgets.layer_grid import Place

if TYPE_CHECKING:
    from advisor.pipeline.inputs import RunInputs
    from advisor.tui.session import Session
    from tuners.plan import PrecisionPlan
    from tuners.validate.schema import ValidationReport


def unit_places(root: Path) -> dict[str, Place]:
    """Role and block of every unit, from units.json; empty before the profile stage wrote it."""
    try:
        rows = json.loads((root / "units.json").read_text(encoding="utf-8"))
        return {row["name"]: Place(row["role"], row["block"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def budget(root: Path) -> tuple[float, Sizes] | None:
    """The budget as bits per quantizable weight, and what turns bits into checkpoint bytes (budget.json)."""
    path = root / "budget.json"
    try:
        return _budget(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


@functools.lru_cache(maxsize=8)
def _budget(path: Path, _changed: int) -> tuple[float, Sizes]:
    data = json.loads(path.read_text(encoding="utf-8"))
    weights = int(data["weights"])
    return float(data["unit_bytes"]) * 8 / weights, Sizes(weights, int(data["fixed_bytes"]))


def plan(root: Path) -> PrecisionPlan | None:
    """plan.yaml, once the search (or the user) wrote it."""
    path = root / "plan.yaml"
    try:
        return _plan(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=8)
def _plan(path: Path, _changed: int) -> PrecisionPlan | None:
    """Read once for each version of the file: YAML takes longer than a repaint may."""
    from profiles.errors import AdvisorError
    from tuners.plan import PrecisionPlan

    try:
        return PrecisionPlan.from_yaml(path)
    except AdvisorError:
        return None


class Outcome(NamedTuple):
    """What a run came to, as far as it came. KL and perplexity ratio are of held-out text."""

    bits: float | None = None
    kl: float | None = None
    perplexity_ratio: float | None = None
    passed: bool | None = None


def outcome(root: Path) -> Outcome:
    """From search.json and validation.json; what is missing or damaged is None."""
    found: dict[str, float | bool | None] = {}
    try:
        search = json.loads((root / "search.json").read_text(encoding="utf-8"))
        best = search["held_out"][0]
        found["bits"], found["kl"] = best["bits_per_weight"], best["quality"]["kl"]
        found["perplexity_ratio"] = best["quality"]["perplexity"] / search["perplexity_original"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
        pass
    report = validation(root)
    return Outcome(**found, passed=None if report is None else report.passed)


def validation(root: Path) -> ValidationReport | None:
    """validation.json, once it is there and whole."""
    from tuners.validate.schema import ValidationReport

    try:
        return ValidationReport.model_validate_json((root / "validation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def inputs(root: Path) -> RunInputs | None:
    """inputs.yaml, unless it is missing or damaged."""
    from advisor.pipeline.inputs import load_inputs
    from advisor.workspace import Workspace
    from profiles.errors import AdvisorError

    try:
        return load_inputs(Workspace.read_only(root))
    except AdvisorError:
        return None


SHOWN = {
    "model", "task", "budget", "gpu", "count", "trials", "serving", "methods", "recover_steps",
    "max_ms_per_token", "objective", "max_kl", "memory", "sensitivity", "latency",
}  # fmt: skip
SHOWN_SERVING = {"max_model_len", "concurrency", "kv_cache_dtype", "tensor_parallel_size"}
"""What the forms ask; the rest of a run's inputs is kept as it is."""


def adopt(session: Session, root: Path) -> None:
    """Choose what a run was asked for, so that the screens show its question."""
    if session.run != root:
        session.run, session.opened = root, None
    asked = inputs(root)
    if asked is None:
        return
    session.model, session.task, session.budget = asked.model, asked.task, asked.budget or ""
    session.gpu, session.count, session.trials = asked.gpu, asked.count, asked.trials
    session.context, session.concurrency = asked.serving.max_model_len, asked.serving.concurrency
    session.kv_cache_dtype = asked.serving.kv_cache_dtype
    session.tp = asked.serving.tensor_parallel_size
    session.max_ms_per_token = asked.max_ms_per_token
    session.objective, session.max_kl = asked.objective, asked.max_kl
    session.memory, session.sensitivity, session.latency = asked.memory, asked.sensitivity, asked.latency
    session.methods, session.recover_steps = {**asked.methods}, asked.recover_steps
    session.more = asked.model_dump(exclude=SHOWN, exclude_defaults=True)
    session.more_serving = asked.serving.model_dump(exclude=SHOWN_SERVING, exclude_defaults=True)
    session.opened = session.question


def live_runs() -> list[Path]:
    """Runs here that a process works on, the one that began last first."""
    from advisor.workspace import RUNS_DIR

    locks = [p for p in Path(RUNS_DIR).glob("*/lock") if owner(p.parent) is not None]
    return [p.parent for p in sorted(locks, key=lambda p: -p.stat().st_mtime)]


def run_for(session: Session) -> Path:
    """The directory of the session's question: the open run if it asks the same, else the command's default.

    Raises:
        UsageError: a value that no run takes.
    """
    from advisor.cli.tune import make_inputs

    if session.run is not None and session.opened == session.question:
        return session.run
    asked = make_inputs(
        model=session.model or "",
        budget=session.budget or None,
        task=session.task,
        gpu=session.gpu,
        count=session.count,
        serving=session.spec(),
        trials=session.trials,
        max_ms_per_token=session.max_ms_per_token,
        objective=session.objective,
        max_kl=session.max_kl,
        memory=session.memory,
        sensitivity=session.sensitivity,
        latency=session.latency,
        methods=session.methods,
        recover_steps=session.recover_steps,
        **session.more,
    )
    return asked.run_dir()

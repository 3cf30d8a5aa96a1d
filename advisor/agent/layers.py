"""Which units cost the quality: layer outputs of the engine against the original's in torch."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence

from advisor.agent.diagnose import Cause
from advisor.pipeline.facts import Facts
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.stage import StageContext
from advisor.workspace import Workspace, write_json
from profiles.errors import AdvisorError, Interrupted
from profiles.tasks.schema import TaskProfile
from tuners.events import Message
from tuners.plan import PrecisionPlan
from tuners.solver import Scores
from tuners.validate.blame import Blame, UnitBlame

COMPARED = frozenset({Cause.FLOOR, Cause.ACCURACY, Cause.GENERATIONS, Cause.AGREEMENT})
"""Causes that a layer can be blamed for."""

FILE = "blame.json"
SHOWN = 4

OUTLIER = 4.0
"""A unit that costs this many times more in the engine than the sensitivity table lets expect, against the
median unit of its format, is not rounding alone: over 120 healthy units of the demo model the ratio's spread
was below it."""

LEAST_SHARE = 0.01
"""And it must carry this share of the whole loss: ratios of next to nothing mean nothing."""


def compare_layers(
    context: StageContext, inputs: RunInputs, facts: Facts, plan: PrecisionPlan
) -> tuple[UnitBlame, ...]:
    """Run the checkpoint in the engine and the original in torch, one after the other; blame.json.

    A comparison that fails is a warning: the agent then goes by the measured sensitivities alone.
    """
    from advisor.pipeline.validate import measuring_spec
    from tuners.child import run_child
    from tuners.validate.blame import BlameSpec
    from tuners.validate.capture import Captured, CaptureSpec

    workspace = context.workspace
    if inputs.serving.tensor_parallel_size > 1:
        _warn(context, "layer outputs are compared on one rank only: not done with tensor parallelism")
        return ()
    folder = workspace.path("validation", "layers")
    names = tuple(u.name for u in facts.units if all(m.copies == 1 for m in u.linears))
    texts, answers = _texts(facts.task)
    spec = CaptureSpec(
        checkpoint=str(workspace.path("checkpoint").resolve()), serving=measuring_spec(inputs, facts),
        unit_names=names, texts=texts, answers=answers, folder=str(folder.resolve()),
    )  # fmt: skip
    try:
        shutil.rmtree(folder, ignore_errors=True)
        log = workspace.log_path("diagnose")
        answer = run_child(
            "tuners.validate.capture", spec, emit=context.emit, log_path=log, stage="diagnose",
            cancelled=context.cancelled,
        )  # fmt: skip
        captured = Captured.model_validate(answer)
        asked = BlameSpec(
            model_path=facts.model_path, units=facts.units, plan=plan, folder=captured.folder,
            watched=tuple(captured.watched), powers_of_two="awq" not in _methods(workspace),
            trust_remote_code=inputs.trust_remote_code, seed=inputs.seed,
        )  # fmt: skip
        answer = run_child(
            "tuners.validate.blame", asked, emit=context.emit, log_path=log, stage="diagnose",
            cancelled=context.cancelled,
        )  # fmt: skip
    except Interrupted:
        raise
    except AdvisorError as exc:
        _warn(context, f"layer outputs were not compared: {exc}")
        return ()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = Blame.model_validate(answer)
    write_json(workspace.path(FILE), found)
    return found.units


def _texts(task: TaskProfile) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Of the split that was searched on: what decides the next plan may not be what is reported."""
    parts = [p.splits for p in task.parts] or [task.splits]
    texts = tuple(t for s in parts for t in s.search)
    if not all(s.answers.get("search") for s in parts):
        return texts, ()
    return texts, tuple(a for s in parts for a in s.answers["search"])


def _methods(workspace: Workspace) -> set[str]:
    path = workspace.path("quantize.json")
    return set(json.loads(path.read_text(encoding="utf-8"))["methods"].values()) if path.exists() else set()


def _warn(context: StageContext, text: str) -> None:
    context.emit(Message(stage="auto", level="warning", text=text))


def outliers(scores: Scores, blamed: Sequence[UnitBlame]) -> dict[str, float]:
    """Unit -> how many times more it costs in the engine than the table lets expect, if that is too much."""
    total = sum(b.kl for b in blamed)
    ratios = {
        b.unit: (b.format, b.kl / scores[b.unit][b.format])
        for b in blamed
        if scores.get(b.unit, {}).get(b.format, 0.0) > 0
    }
    shares = {b.unit: b.kl / total for b in blamed} if total > 0 else {}
    usual = {
        fmt: statistics.median(r for f, r in ratios.values() if f == fmt)
        for fmt in {f for f, _ in ratios.values()}
    }
    return {
        unit: ratio / usual[fmt]
        for unit, (fmt, ratio) in ratios.items()
        if usual[fmt] > 0 and ratio > OUTLIER * usual[fmt] and shares[unit] >= LEAST_SHARE
    }


def corrected(scores: Scores, blamed: Sequence[UnitBlame]) -> Scores:
    """The measured sensitivities, raised where the engine computes a unit worse than torch did."""
    raised = outliers(scores, blamed)
    formats = {b.unit: b.format for b in blamed}
    return {
        unit: {
            fmt: value * raised[unit] if unit in raised and fmt == formats[unit] else value
            for fmt, value in row.items()
        }
        for unit, row in scores.items()
    }


def worst_in_words(scores: Scores, blamed: Sequence[UnitBlame]) -> tuple[str, ...]:
    """The costliest units, a line each."""
    total = sum(b.kl for b in blamed)
    if total <= 0:
        return ()
    raised = outliers(scores, blamed)
    lines = [f"layer outputs, engine against torch: {total:.4f} nats per token over {len(blamed)} units"]
    for b in sorted(blamed, key=lambda b: (b.unit not in raised, -b.kl))[:SHOWN]:
        odd = f", {raised[b.unit]:.0f} times what torch lets expect" if b.unit in raised else ""
        lines.append(
            f"{b.unit} in {b.format}: {b.kl / total:.0%} of it (its own error {b.error:.1%}, with all before "
            f"it {b.drift:.1%}){odd}"
        )
    return tuple(lines)

"""Read a run directory into a report. Every part is optional: a run that stopped early has a shorter one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.report import figures, reasons
from advisor.report.schema import Answer, HeatCell, Outcome, PlanCell, Point, RunReport, StageTime
from profiles.errors import UsageError

if TYPE_CHECKING:
    from advisor.pipeline.facts import Facts
    from advisor.pipeline.inputs import RunInputs
    from tuners.plan import PrecisionPlan
    from tuners.search.schema import SearchResult
    from tuners.sensitivity.table import SensitivityTable
    from tuners.validate.schema import ValidationReport


def collect(root: Path) -> RunReport:
    """The report of the run in `root`.

    Raises:
        UsageError: not a run directory, or one whose profile was never read.
    """
    from advisor.pipeline.facts import load_facts
    from advisor.pipeline.inputs import load_inputs
    from advisor.workspace import Workspace
    from tuners.plan import PrecisionPlan

    workspace = Workspace.read_only(root)
    inputs, facts = load_inputs(workspace), load_facts(workspace)
    found = _search(root)
    plan_path = root / "plan.yaml"
    plan = PrecisionPlan.from_yaml(plan_path) if plan_path.exists() else None
    checked = _validation(root, plan)
    table = _sensitivity(root)
    outcome: Outcome = "not validated" if checked is None else "passed" if checked.passed else "failed"
    name = model_name(facts.model.model_id)
    return RunReport(
        title=f"{name} on {facts.hardware.device.name}",
        model=name,
        device=facts.hardware.device.name,
        task=facts.task.name,
        outcome=outcome,
        verdict=_verdict(checked),
        question=_question(inputs),
        figures=tuple(figures.figures(facts, inputs, plan, found, checked)),
        reasons=tuple(reasons.reasons(root, facts, inputs, plan, found, table)),
        plan_label=(plan.label or plan.key) if plan else "",
        counts=dict(plan.counts().most_common()) if plan else {},
        plan=_plan(facts, plan, table),
        sensitivity=_heat(facts, table),
        points=_points(found),
        lines=checked.lines if checked else (),
        gates=checked.gates if checked else (),
        answers=_answers(checked),
        stages=tuple(
            StageTime(
                name=r.name,
                seconds=r.seconds,
                peak_rss_bytes=r.peak_rss_bytes,
                summary=_no_path(r.summary, root),
            )
            for r in workspace.records().values()
        ),
        notes=(*(found.notes if found else ()), *(checked.notes if checked else ())),
    )


def model_name(model_id: str) -> str:
    """The model as others may know it: never a path of this machine."""
    name = model_id.rstrip("/")
    return Path(name).name if Path(name).is_absolute() or name.startswith((".", "~")) else name


def _no_path(text: str, root: Path) -> str:
    """The text with the run's own directory cut out of it."""
    for path in (str(root.resolve()), str(root)):
        text = text.replace(path + "/", "").replace(path, root.name)
    return text


def _verdict(checked: ValidationReport | None) -> str:
    if checked is None:
        return "Not validated yet: nothing here was measured in the engine."
    failed = [g.name for g in checked.gates if not g.passed]
    if failed:
        return f"FAILED in vLLM {checked.quantized.engine_version}: {', '.join(failed)}."
    unsure = [g.name for g in checked.gates if not g.conclusive]
    words = f" What was measured is too little to tell: {', '.join(unsure)}." if unsure else ""
    passed = f"All {len(checked.gates)} gates passed" if not unsure else "No gate failed"
    return f"{passed} in vLLM {checked.quantized.engine_version}.{words}"


def _question(inputs: RunInputs) -> dict[str, str]:
    """What was asked, without what was left at its default."""
    asked = inputs.model_dump(mode="json", exclude_defaults=True, exclude={"serving", "yes", "offline"})
    asked = {k: v for k, v in asked.items() if k not in {"model", "task"}}
    asked |= inputs.serving.model_dump(mode="json", exclude_defaults=True)
    return {name: str(value) for name, value in asked.items()}


def _search(root: Path) -> SearchResult | None:
    from advisor.pipeline.search import load_search
    from advisor.workspace import Workspace

    return load_search(Workspace.read_only(root)) if (root / "search.json").exists() else None


def _validation(root: Path, plan: PrecisionPlan | None) -> ValidationReport | None:
    """validation.json, when it speaks of the plan that the run holds now."""
    from advisor.pipeline.validate import load_validation
    from advisor.workspace import Workspace

    if not (root / "validation.json").exists():
        return None
    found = load_validation(Workspace.read_only(root))
    return found if plan is None or found.plan_key == plan.key else None


def _sensitivity(root: Path) -> SensitivityTable | None:
    from tuners.sensitivity.table import SensitivityTable

    path = root / "sensitivity.json"
    if not path.exists():
        return None
    try:
        return SensitivityTable.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as exc:
        raise UsageError(
            "the sensitivity table is damaged",
            where=str(path),
            got=str(exc).splitlines()[0],
            next_step="advisor tune MODEL --run DIR writes it again",
        ) from exc


def _plan(facts: Facts, plan: PrecisionPlan | None, table: SensitivityTable | None) -> tuple[PlanCell, ...]:
    if plan is None:
        return ()
    scores = table.scores("kl") if table else {}
    return tuple(
        PlanCell(
            unit=u.name, role=u.role, block=u.block, format=plan.formats[u.name],
            bytes=u.bytes_as(plan.formats[u.name]), kl=scores.get(u.name, {}).get(plan.formats[u.name]),
        )
        for u in facts.units
        if u.name in plan.formats
    )  # fmt: skip


def _heat(facts: Facts, table: SensitivityTable | None) -> tuple[HeatCell, ...]:
    if table is None:
        return ()
    units = {u.name: u for u in facts.units}
    return tuple(
        HeatCell(unit=name, role=units[name].role, block=units[name].block, format=fmt, kl=kl)
        for name, row in table.scores("kl").items()
        if name in units
        for fmt, kl in row.items()
    )


def _points(found: SearchResult | None) -> tuple[Point, ...]:
    if found is None:
        return ()
    best = found.best.plan.key
    return tuple(
        Point(
            label=p.label, bits_per_weight=p.bits_per_weight,
            checkpoint_bytes=p.unit_bytes + found.fixed_bytes, kl=p.quality.kl,
            perplexity=p.quality.perplexity, top1=p.quality.top1, split=p.quality.split,
            chosen=p.plan.key == best,
        )
        for p in (*found.held_out, *found.front)
    )  # fmt: skip


def _answers(checked: ValidationReport | None) -> tuple[Answer, ...]:
    if checked is None:
        return ()
    rows = zip(
        checked.quantized.prompts, checked.original.generations, checked.quantized.generations, strict=False
    )
    return tuple(Answer(prompt=p, original=o, quantized=q) for p, o, q in rows)

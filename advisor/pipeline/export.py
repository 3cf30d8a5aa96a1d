"""Stage `export`: the directory to deploy, with the proof beside it."""

from __future__ import annotations

import json
from pathlib import Path

from advisor.pipeline.facts import Facts
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.search import measured_scores
from advisor.pipeline.stage import StageContext, run_stage, versions
from advisor.pipeline.validate import load_validation, measuring_spec
from profiles.errors import EnvironmentProblem
from tuners.events import Message
from tuners.plan import PrecisionPlan


def export(
    context: StageContext, inputs: RunInputs, facts: Facts, plan: PrecisionPlan, *, resume: bool = True
) -> Path:
    """Write bundle/. One whose validation failed is for inspection: its run.sh refuses to serve."""
    workspace = context.workspace
    report = load_validation(workspace)
    serving = measuring_spec(inputs, facts)
    stamp = {
        "plan": plan.key,
        "validation": report.model_dump(mode="json"),
        "serving": serving.model_dump(mode="json"),
        "asked": asked(inputs),
        "versions": versions(("precision-advisor",)),
    }

    def work(stage: StageContext) -> str:
        from advisor.bundle import write_bundle

        files = write_bundle(
            stage.workspace.path("bundle"),
            checkpoint=stage.workspace.path("checkpoint"),
            model=facts.model,
            hardware=facts.hardware,
            plan=plan,
            units=facts.units,
            report=report,
            serving=serving,
            task_name=facts.task.name,
            inputs=asked(inputs),
            documents=reported(stage),
            scores=measured_scores(stage.workspace),
            force=True,
        )
        verdict = "" if report.passed else " (for inspection: the validation FAILED)"
        return f"{len(files)} files in {stage.workspace.path('bundle')}{verdict}"

    # the report is written with the bundle; `advisor report` writes it again at any time
    run_stage(context, "export", "Writing the bundle", stamp, ("bundle/run.sh",), work, resume=resume)
    return workspace.path("bundle")


def asked(inputs: RunInputs) -> dict[str, str]:
    """The question with its seeds, for provenance.json: no path of this machine in it."""
    from advisor.report.collect import model_name

    fields = inputs.model_dump(mode="json", exclude={"yes", "offline"})
    fields |= {"model": model_name(inputs.model), "task": model_name(inputs.task)}
    return {name: json.dumps(value) for name, value in fields.items()}


def reported(stage: StageContext) -> list[Path]:
    """report.html and report.md of the run; a warning instead where the libraries that draw are missing."""
    from advisor.report import write_report
    from advisor.report.write import HTML, MARKDOWN

    root = stage.workspace.root
    try:
        write_report(root)
    except EnvironmentProblem as exc:
        stage.emit(Message(stage="export", level="warning", text=f"no report in the bundle: {exc.what}"))
        return []
    return [root / HTML, root / MARKDOWN]

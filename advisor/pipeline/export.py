"""Stage `export`: the directory to deploy, with the proof beside it."""

from __future__ import annotations

from pathlib import Path

from advisor.pipeline.facts import Facts
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.stage import StageContext, run_stage, versions
from advisor.pipeline.validate import load_validation, measuring_spec
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
            force=True,
        )
        verdict = "" if report.passed else " (for inspection: the validation FAILED)"
        return f"{len(files)} files in {stage.workspace.path('bundle')}{verdict}"

    run_stage(context, "export", "Writing the bundle", stamp, ("bundle/run.sh",), work, resume=resume)
    return workspace.path("bundle")

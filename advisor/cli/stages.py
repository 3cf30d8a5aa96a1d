"""`advisor quantize`, `validate` and `export`: the later stages of a run directory, or of a plan file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from advisor.cli.options import Conduct, ResumeStage, Run, Weights

if TYPE_CHECKING:
    from tuners.plan import PrecisionPlan


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """Where the plan comes from: a run, or a file with the model that it is for."""

    run: Run = None
    plan: Annotated[
        Path | None, Parameter(name="--plan", help="A plan file to use instead of searching one.")
    ] = None
    model: Annotated[
        str | None,
        Parameter(name="--model", help="The model of --plan, when there is no run directory yet."),
    ] = None
    task: Annotated[str, Parameter(name="--task", help="With --model: the task whose texts are used.")] = (
        "generic"
    )


def quantize(
    *,
    source: Source = Source(),
    weights: Weights = Weights(),
    resume: ResumeStage = True,
    conduct: Conduct = Conduct(),
) -> int:
    """Write the plan as one compressed-tensors checkpoint: checkpoint/ in the run directory."""
    return _stage("quantize", source, conduct, weights.changes(), resume=resume)


def recover(
    run: Annotated[Path, Parameter(help="A run directory with a plan.")],
    /,
    *,
    steps: Annotated[
        int, Parameter(name="--steps", help="Steps of 512 tokens; 0 goes back to the plain checkpoint.")
    ] = 200,
    conduct: Conduct = Conduct(),
) -> int:
    """Train the checkpoint of a run towards the original: scales, norms and 4-bit codes; the bytes stay.

    Uses calibration text alone, and keeps the result only where text that it did not train on agrees better
    with the original. Validate again afterwards: advisor validate --run DIR.
    """
    return _stage("quantize", Source(run=run), conduct, {"recover_steps": steps})


def validate(
    *,
    source: Source = Source(),
    resume: ResumeStage = True,
    conduct: Conduct = Conduct(),
) -> int:
    """Load the original and the checkpoint in vLLM: kernels, memory, quality and speed against the promise.

    Exit code 4 when a gate fails; validation.json says which and why.
    """
    return _stage("validate", source, conduct, resume=resume)


def export(
    *,
    source: Source = Source(),
    resume: ResumeStage = True,
    conduct: Conduct = Conduct(),
) -> int:
    """Write bundle/: serve.yaml, env.sh, compose.yaml, run.sh, model card, and the proof beside them."""
    return _stage("export", source, conduct, resume=resume)


def _stage(
    last: Literal["quantize", "validate", "export"],
    source: Source,
    conduct: Conduct,
    changes: Mapping[str, object] | None = None,
    *,
    resume: bool = True,
) -> int:
    from advisor.cli.progress import renderer
    from advisor.cli.report import answer
    from advisor.cli.tune import make_inputs
    from advisor.pipeline.inputs import load_inputs
    from advisor.pipeline.run import opened, run_through
    from advisor.workspace import Workspace
    from profiles.errors import UsageError
    from tuners.plan import PrecisionPlan

    run, model = source.run, source.model
    given: PrecisionPlan | None = PrecisionPlan.from_yaml(source.plan) if source.plan else None
    asked = {"offline": conduct.offline, "yes": conduct.yes, **(changes or {})}
    if run is not None and (run / "inputs.yaml").exists():
        inputs = load_inputs(Workspace.read_only(run))
        inputs = make_inputs(**{**dict(inputs), **asked})
        root = run
    elif given is not None and model is not None:
        inputs = make_inputs(
            model=model,
            task=source.task,
            budget=f"plan {given.key}",
            serving={"kv_cache_dtype": given.kv_cache_dtype},
            **asked,
        )
        root = run or inputs.run_dir()
    else:
        raise UsageError(
            "which run?" if run is None else "not a run directory",
            where=str(run) if run else None,
            allowed="--run DIR of an earlier advisor tune, or --model with --plan",
            next_step="advisor runs lists the runs here",
        )
    if conduct.dry_run:
        print(f"would run the stages up to {last} in {root}; finished ones are skipped")
        return 0
    shown = renderer(quiet=conduct.quiet)
    try:
        with opened(root, shown) as context:
            if given is None and last != "quantize" and not context.workspace.path("plan.yaml").exists():
                raise UsageError(
                    "this run has no plan yet",
                    where=str(root),
                    next_step=f"advisor tune {inputs.model} --run {root} ... searches one",
                )
            run_through(context, inputs, last, plan=given, resume=resume, first=last)
    finally:
        shown.close()
    return answer(root, json=conduct.json)

"""`advisor demo`: a real small model, prepared once, then the way of any other model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from advisor.cli.options import Json, Quiet, Resume, Run, Sensitivity
from advisor.cli.tune import Through


def demo(
    *,
    budget: Annotated[str, Parameter(name="--budget", help="As for tune.")] = "6bits",
    trials: Annotated[int | None, Parameter(name="--trials", help="As for tune.")] = None,
    sensitivity: Sensitivity = "auto",
    seed: Annotated[int, Parameter(name="--seed", help="As for tune.")] = 0,
    through: Annotated[Through, Parameter(name="--through", help="The last stage to run.")] = "export",
    run: Run = None,
    resume: Resume = True,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """SmolLM2-135M-Instruct through every stage: search, quantize, validate in vLLM, bundle.

    The model's weights come from a 4-bit file (see the README): its quality after asymmetric INT4 would
    say nothing, and no such format is in the menu. Run it again and finished stages are skipped.
    """
    from advisor.cli.progress import renderer
    from advisor.cli.report import answer
    from advisor.cli.tune import execute, make_inputs
    from advisor.demo_model import cached_model, prepare

    shown = renderer(quiet=quiet)
    try:
        folder = prepare(shown, cached_model().parent / "prepare.log")
    finally:
        shown.close()
    inputs = make_inputs(
        model=str(folder),
        task="generic",
        budget=budget,
        trials=trials,
        sensitivity=sensitivity,
        seed=seed,
        offline=True,
    )
    root = run or inputs.run_dir()
    execute(inputs, root, through, resume=resume, quiet=quiet)
    return answer(root, json=json)

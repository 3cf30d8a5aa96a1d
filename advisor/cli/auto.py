"""`advisor auto`: the whole job unattended; every decision with its reason, a verdict at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.options import (
    CalibrationSamples,
    Conduct,
    Count,
    Formats,
    Gpu,
    ModelPath,
    Resume,
    Revision,
    Run,
    Seed,
    Sensitivity,
    Serving,
    TrustToRun,
    Weights,
)

if TYPE_CHECKING:
    from advisor.agent.schema import AgentVerdict, Limits


def auto(
    model: ModelPath,
    /,
    *,
    budget: Annotated[
        str | None, Parameter(name="--budget", help="As for tune; none: what task, use and device suggest.")
    ] = None,
    max_budget: Annotated[
        str | None,
        Parameter(name="--max-budget", help="How far the budget may grow; none: not beyond --budget."),
    ] = None,
    task: Annotated[
        str, Parameter(name="--task", help="A bundled task, or a folder or file with your own text.")
    ] = "generic",
    use: Annotated[str | None, Parameter(name="--use", help="As for recommend.")] = None,
    floor: Annotated[
        float | None,
        Parameter(
            name="--floor", help="Largest perplexity accepted, times the original's; none: the task's."
        ),
    ] = None,
    gpu: Gpu = None,
    count: Count = 1,
    serving: Serving = Serving(),
    min_context: Annotated[
        int | None, Parameter(name="--min-context", help="How far --context may shrink; none: not at all.")
    ] = None,
    formats: Formats = None,
    sensitivity: Sensitivity = "auto",
    trials: Annotated[
        int | None,
        Parameter(
            name="--trials",
            help="Optuna trials of the first search. None: 32, with --sensitivity quick 0.",
        ),
    ] = None,
    memory: Annotated[str, Parameter(name="--memory", help="As for tune.")] = "auto",
    max_trials: Annotated[
        int | None, Parameter(name="--max-trials", help="How many it may become; none: twice as many.")
    ] = None,
    attempts: Annotated[int, Parameter(name="--attempts", help="Checkpoints that may be tried.")] = 6,
    seed: Seed = 0,
    calibration_samples: CalibrationSamples = 16,
    weights: Weights = Weights(),
    revision: Revision = None,
    trust_remote_code: TrustToRun = False,
    run: Run = None,
    resume: Resume = True,
    conduct: Conduct = Conduct(),
) -> int:
    """Search, quantize and validate; on a failed gate find the cause, change one thing, try again.

    Ends with a verdict and decisions.jsonl; exit code 0 only when every gate passed in the engine, 1 when
    the floor cannot be reached within what is allowed, 4 when no other plan would repair it. The same
    command goes on where it stopped.
    """
    from advisor.agent import run_agent
    from advisor.agent.question import limits_of, with_budget
    from advisor.cli.output import print_json
    from advisor.cli.progress import renderer
    from advisor.cli.serving import serving_spec
    from advisor.cli.tune import make_inputs
    from advisor.pipeline.facts import gather
    from advisor.pipeline.footprint import resolve_budget
    from advisor.pipeline.run import opened
    from advisor.pipeline.validate import check_machine
    from advisor.recommend import parse_use
    from profiles.errors import UsageError
    from tuners.search.memory import check_memory

    if attempts < 1 or (max_trials is not None and max_trials < 0):
        raise UsageError("options out of range", got=f"--attempts {attempts}", allowed="at least 1")
    check_memory(memory, sensitivity)
    known_use = parse_use(use)
    inputs = make_inputs(
        model=model,
        revision=revision,
        budget=budget,
        task=task,
        floor=floor,
        gpu=gpu,
        count=count,
        formats=tuple(formats) if formats else None,
        serving=serving_spec(serving),
        seed=seed,
        trials=trials,
        sensitivity=sensitivity,
        memory=memory,
        calibration_samples=calibration_samples,
        **weights.changes(),
        trust_remote_code=trust_remote_code,
        offline=conduct.offline,
        yes=conduct.yes,
    )
    facts = gather(inputs)
    inputs, origin = with_budget(inputs, facts, known_use)
    found, words = resolve_budget(facts, inputs)
    limits = limits_of(
        inputs,
        facts,
        budget_bytes=found.unit_bytes,
        max_budget=max_budget,
        grow_freely=budget is None and serving.context is None,
        attempts=attempts,
        max_trials=max_trials,
        min_context=min_context,
    )
    root = run or inputs.run_dir()
    if conduct.dry_run:
        return _dry_run(root, limits, origin if budget is None else words, json=conduct.json)
    check_machine(facts)
    shown = renderer(quiet=conduct.quiet)
    try:
        with opened(root, shown) as context:
            verdict = run_agent(context, inputs, limits, resume=resume)
    finally:
        shown.close()
    _report(root)
    if conduct.json:
        print_json(verdict)
    else:
        show(verdict, limits)
    return exit_code(verdict)


def exit_code(verdict: AgentVerdict) -> int:
    """0 when it was accepted, 1 when nothing allowed satisfies the floor, 4 when something is broken."""
    from profiles.errors import ExitCode

    if verdict.passed:
        return int(ExitCode.OK)
    return int(ExitCode.RUN_FAILED if verdict.status == "unrepairable" else ExitCode.INFEASIBLE)


def _report(root: Path) -> None:
    """report.md and report.html beside the verdict; without jinja2 or plotly there is only a warning."""
    import sys

    from advisor.report import write_report
    from profiles.errors import AdvisorError

    try:
        write_report(root)
    except AdvisorError as exc:
        print(f"warning: no report: {exc}", file=sys.stderr)


def show(verdict: AgentVerdict, limits: Limits) -> None:
    """The attempts as a table, and the verdict."""
    from advisor.cli.output import console, table
    from profiles.sizes import size

    out = console()
    rows = table(
        "attempts (measured in the engine)",
        ["", "changed", "checkpoint", "bits", "perplexity ratio", "gates"],
        right=(0, 2, 3, 4),
    )
    for attempt in verdict.attempts:
        found = attempt.outcome
        failed = [g.name for g in found.gates if not g.passed]
        words = "all passed" if found.passed else "failed: " + ", ".join(failed)
        if found.error is not None:
            words = f"ended: {found.error.get('what')}"
        rows.add_row(
            f"{attempt.decision.number}{'*' if attempt.decision.number == verdict.best else ''}",
            attempt.decision.action.value,
            size(found.unit_bytes + limits.fixed_bytes) if found.unit_bytes else "-",
            f"{found.bits_per_weight:.3f}" if found.unit_bytes else "-",
            "-" if found.ratio is None else f"{found.ratio:.4f}",
            words,
        )
    out.print(rows)
    best = "" if verdict.best is None else f" (the best is attempt {verdict.best})"
    out.print(f"\nverdict: {verdict.status}{best}: {verdict.reason}", markup=False, soft_wrap=True)
    if verdict.bundle:
        use = "" if verdict.passed else " (for inspection: its run.sh refuses to serve)"
        out.print(f"bundle: {verdict.bundle}{use}", markup=False, soft_wrap=True)
    out.print(f"journal: {verdict.run}/decisions.jsonl, report: {verdict.run}/report.html", markup=False,
              soft_wrap=True)  # fmt: skip
    if verdict.next_step:
        out.print(f"next: {verdict.next_step}", markup=False, soft_wrap=True)


def _dry_run(root: Path, limits: Limits, origin: str, *, json: bool) -> int:
    """The limits of the loop; nothing is written."""
    from advisor.cli.output import print_json
    from profiles.sizes import size

    if json:
        print_json({"run": str(root), "budget_origin": origin, "limits": limits})
        return 0
    print(f"would work in {root} (nothing was written)")
    print(f"  budget: {size(limits.budget_bytes + limits.fixed_bytes)} ({origin})")
    print(f"  may grow to: {size(limits.max_budget_bytes + limits.fixed_bytes)}")
    print(f"  floor: {limits.floor:g} times the original's perplexity; at most {limits.attempts} attempts")
    return 0

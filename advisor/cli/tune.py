"""`advisor tune`: from a model and a budget to a measured plan, and on to the deployment if asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    from advisor.pipeline.inputs import RunInputs

Through = Literal["profile", "footprint", "search", "quantize", "validate", "export"]


def tune(
    model: ModelPath,
    /,
    *,
    budget: Annotated[
        str | None,
        Parameter(
            name="--budget",
            help="Size of the checkpoint (96MiB, 1.2GB), average bits per quantizable weight (5.5bits) or "
            "share of the original (40%). Left out: what the device has left at --context and --concurrency.",
        ),
    ] = None,
    task: Annotated[
        str,
        Parameter(
            name="--task", help="A task (advisor tasks), a file of your own, or a mixture: code:0.7,chat:0.3."
        ),
    ] = "generic",
    gpu: Gpu = None,
    count: Count = 1,
    serving: Serving = Serving(),
    formats: Formats = None,
    trials: Annotated[
        int | None,
        Parameter(
            name="--trials",
            help="Optuna trials; more may be added later. None: 32, with --sensitivity quick 0.",
        ),
    ] = None,
    seed: Seed = 0,
    workers: Annotated[
        int, Parameter(name="--workers", help="Processes on one study; more than one loses the seed's order.")
    ] = 1,
    storage: Annotated[
        str | None,
        Parameter(name="--storage", help="Where Optuna keeps the study: a database URL or journal:FILE."),
    ] = None,
    sensitivity: Sensitivity = "auto",
    objective: Annotated[
        Literal["quality", "fastest"],
        Parameter(
            name="--objective",
            help="quality: the least KL; fastest: the fastest plan by prediction with KL at most --max-kl.",
        ),
    ] = "quality",
    max_kl: Annotated[
        float | None,
        Parameter(name="--max-kl", help="Nats per token that the fastest plan may lose, measured."),
    ] = None,
    max_ms_per_token: Annotated[
        float | None,
        Parameter(
            name=["--max-ms-per-token", "--target-itl"],
            help="Milliseconds between tokens at --concurrency, predicted from timed layers: the best plan "
            "that is so fast.",
        ),
    ] = None,
    latency: Annotated[
        Literal["auto", "estimated"],
        Parameter(
            name="--latency",
            help="Time layers with vLLM's kernels here (auto), or estimate; --sensitivity quick estimates "
            "unless times decide.",
        ),
    ] = "auto",
    memory: Annotated[
        str,
        Parameter(
            name="--memory",
            help="How the search holds the model: resident, streamed block by block, auto, or a size that it "
            "may take (4GiB).",
        ),
    ] = "auto",
    through: Annotated[Through, Parameter(name="--through", help="The last stage to run.")] = "search",
    calibration_samples: CalibrationSamples = 16,
    weights: Weights = Weights(),
    revision: Revision = None,
    trust_remote_code: TrustToRun = False,
    run: Run = None,
    resume: Resume = True,
    conduct: Conduct = Conduct(),
) -> int:
    """Profile, price, measure sensitivity, solve exactly, search with Optuna; every result is measured.

    Finished stages are kept: the same command goes on where it stopped, more --trials continue the study.
    """
    from advisor.cli.report import answer
    from advisor.cli.serving import serving_spec
    from advisor.pipeline.inputs import check_goal
    from tuners.search.memory import check_memory

    check_memory(memory, sensitivity)
    inputs = make_inputs(
        model=model,
        revision=revision,
        budget=budget,
        task=task,
        gpu=gpu,
        count=count,
        formats=tuple(formats) if formats else None,
        serving=serving_spec(serving),
        seed=seed,
        trials=trials,
        workers=workers,
        storage=storage,
        sensitivity=sensitivity,
        objective=objective,
        max_kl=max_kl,
        max_ms_per_token=max_ms_per_token,
        latency=latency,
        memory=memory,
        calibration_samples=calibration_samples,
        **weights.changes(),
        trust_remote_code=trust_remote_code,
        offline=conduct.offline,
        yes=conduct.yes,
    )
    check_goal(objective, max_kl, max_ms_per_token, inputs.trials)
    root = run or inputs.run_dir()
    if conduct.dry_run:
        return _dry_run(inputs, root, json=conduct.json)
    execute(inputs, root, through, resume=resume, quiet=conduct.quiet)
    return answer(root, json=conduct.json)


def make_inputs(**fields: object) -> RunInputs:
    """The question of a run. A folder is written as its absolute path: the run may move, it does not.
    `trials` None are as many as the sensitivity and the objective want.

    Raises:
        UsageError: a value out of range; the message names the options.
    """
    from pydantic import ValidationError

    from advisor.pipeline.inputs import RunInputs, default_trials
    from profiles.errors import UsageError

    if fields.get("trials", 0) is None:
        wanted = {name: str(fields[name]) for name in ("sensitivity", "objective") if name in fields}
        fields["trials"] = default_trials(**wanted)
    for name in ("model", "task"):
        path = Path(str(fields[name])).expanduser()
        if path.exists() and (name == "model" or path.is_file() or "/" in str(fields[name])):
            fields[name] = str(path.resolve())
    try:
        return RunInputs.model_validate(fields)
    except ValidationError as exc:
        found = exc.errors()
        raise UsageError(
            "options out of range",
            got="; ".join(f"{_option(str(e['loc'][0]))} {e['input']}" for e in found),
            allowed="; ".join(e["msg"] for e in found),
            next_step="the same command with --help says what each option takes",
        ) from exc


def _option(field: str) -> str:
    """The option that sets a field of the inputs."""
    return {"recover_steps": "--recover", "methods": "--method"}.get(field, f"--{field.replace('_', '-')}")


def execute(inputs: RunInputs, root: Path, through: Through, *, resume: bool, quiet: bool) -> None:
    """Run the stages with progress on stderr. A question without an answer leaves no directory behind."""
    from advisor.cli.progress import renderer
    from advisor.pipeline.facts import gather
    from advisor.pipeline.footprint import resolve_budget
    from advisor.pipeline.run import opened, run_through

    if not root.exists() and through != "profile":
        resolve_budget(gather(inputs), inputs)
    shown = renderer(quiet=quiet)
    try:
        with opened(root, shown) as context:
            run_through(context, inputs, through, resume=resume)
    finally:
        shown.close()


def _dry_run(inputs: RunInputs, root: Path, *, json: bool) -> int:
    """What would be searched, in numbers; nothing is written."""
    from advisor.cli.output import print_json
    from advisor.pipeline.facts import gather
    from advisor.pipeline.footprint import resolve_budget
    from advisor.pipeline.search import search_memory_of
    from profiles.sizes import size
    from tuners.search.memory import memory_text, quantize_memory, require

    facts = gather(inputs)
    budget, origin = resolve_budget(facts, inputs)
    options = sum(len(u.options) - 1 for u in facts.units)
    original = sum(t.nbytes for t in facts.model.tensors)
    memory = search_memory_of(inputs, facts)
    require(memory)
    quantizing = quantize_memory(
        facts.model.tensors, facts.units, inputs.calibration_samples, inputs.calibration_tokens
    )
    plan = {
        "run": str(root),
        "model": facts.model.model_id,
        "device": facts.hardware.device.name,
        "units": len(facts.units),
        "sensitivity_cells": options,
        "trials": inputs.trials,
        "original_bytes": original,
        "budget_bytes": budget.total_bytes,
        "bits_per_weight": budget.bits_per_weight,
        "budget_origin": origin,
        "memory": memory.model_dump(mode="json"),
        "quantize_memory": quantizing.model_dump(mode="json") if memory.mode == "streamed" else None,
        "download_bytes": original if facts.model.path is None else 0,
    }
    if json:
        print_json(plan)
        return 0
    print(f"would run in {root} (nothing was written)")
    print(f"  model: {plan['model']}, {size(original)}, on {plan['device']}")
    print(f"  budget: {size(budget.total_bytes)}, {budget.bits_per_weight:.3f} bits per weight ({origin})")
    print(f"  {len(facts.units)} units, {options} sensitivity cells, {inputs.trials} trials")
    print(f"  memory: {memory_text(memory)}")
    if memory.mode == "streamed":
        print(f"  memory of quantizing, block by block: at most {size(quantizing.total_bytes)} (estimated)")
    print(
        f"  disk: {size(memory.variants_disk_bytes)} for quantized variants in the cache"
        + (f", {size(memory.scratch_disk_bytes)} for hidden states" if memory.scratch_disk_bytes else "")
    )
    if facts.model.path is None:
        print(f"  would download {size(original)}")
    return 0

"""`advisor fit`: what fits, what the engine will say at boot, and what would make it fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.options import Count, Formats, Gpu, Json, Offline, Serving
from advisor.cli.rank import Filters

if TYPE_CHECKING:
    from advisor.pipeline.facts import Facts
    from profiles.footprint.schema import Footprint, ServingSpec

LINES = (
    ("weights", "weights, per rank"),
    ("activation", "activation peak"),
    ("non_torch", "non-torch"),
    ("cuda_graph", "CUDA graphs"),
    ("kv_bytes", "KV cache"),
    ("kv_bytes_per_token", "KV bytes per token"),
    ("kv_tokens", "KV tokens"),
    ("max_concurrency", "concurrency at that context"),
    ("longest_context", "longest context at that concurrency"),
    ("budget", "what the engine may use"),
    ("free_after", "left for others"),
    ("checkpoint", "checkpoint on disk"),
    ("prefill_tokens_s", "prefill"),
    ("decode_tokens_s", "decode, per request"),
    ("ttft_ms", "time to first token"),
    ("itl_ms", "between tokens"),
    ("throughput_tokens_s", "all requests together"),
)
"""Figures of a footprint in the order of the engine's boot log, with their words."""


def fit(
    model: Annotated[
        str | None,
        Parameter(help="A folder with config.json and safetensors, or a Hub id; none: rank the catalogue."),
    ] = None,
    /,
    *,
    gpu: Gpu = None,
    count: Count = 1,
    gpus: Annotated[
        str | None, Parameter(name="--gpus", help="Rank devices for MODEL: all, or a comma list.")
    ] = None,
    serving: Serving = Serving(),
    formats: Formats = None,
    filters: Filters = Filters(),
    explain: Annotated[
        bool, Parameter(name="--explain", negative="", help="The formula behind every figure, with numbers.")
    ] = False,
    trust_remote_code: Annotated[
        bool,
        Parameter(name="--trust-remote-code", negative="", help="Read models that bring their own code."),
    ] = False,
    offline: Offline = False,
    json: Json = False,
) -> int:
    """Every uniform format: does it start and hold what was asked; the predicted boot log; the levers.

    Without MODEL: what of the catalogue fits --gpu. With --gpus: which devices hold MODEL.
    Exit code 0 when something fits, 1 when nothing does."""
    from advisor.cli.output import print_json
    from advisor.cli.serving import serving_spec
    from profiles.errors import ExitCode
    from profiles.footprint.schema import Verdict

    spec = serving_spec(serving)
    _check(model, gpu, count, gpus, filters, explain=explain)
    if model is None:
        return _rank_models(gpu, count, spec, filters, formats, json=json)
    if gpus is not None:
        from advisor.cli.rank import fit_devices
        from profiles.models import read_model

        known = read_model(model, offline=offline, trust_remote_code=trust_remote_code)
        return fit_devices(known, gpus, spec, filters, formats, json=json)
    facts = _facts(model, gpu, count, formats, spec.tensor_parallel_size, offline, trust_remote_code)
    found = _predicted(facts, spec)
    if json:
        print_json({"model": facts.model.model_id, "device": facts.hardware.device.name, "plans": found})
    else:
        _show(facts, found, explain=explain)
    fits = any(answer.verdict is not Verdict.DOES_NOT_FIT for answer in found.values())
    return int(ExitCode.OK if fits else ExitCode.INFEASIBLE)


def _check(
    model: str | None, gpu: str | None, count: int, gpus: str | None, filters: Filters, *, explain: bool
) -> None:
    """Refuse options that would be ignored.

    Raises:
        UsageError: no model and no device, or options of another kind of question.
    """
    from profiles.errors import UsageError

    if model is None and (gpu is None or gpus is not None):
        raise UsageError(
            "no model given",
            got="--gpus without MODEL" if gpus is not None else None,
            allowed="a folder or Hub id; or --gpu alone, to rank the catalogue on that device",
            next_step="advisor fit MODEL, advisor fit MODEL --gpus all, or advisor fit --gpu rtx-4090",
        )
    if gpus is not None and (gpu is not None or count != 1):
        raise UsageError(
            "--gpus ranks devices and finds their number itself",
            got="--gpus with --gpu or --count",
            next_step="leave one out",
        )
    ranking = filters.given()
    if model is not None and ranking:
        raise UsageError(
            "options that only rank the catalogue",
            got=", ".join(ranking) + " with MODEL",
            next_step="leave MODEL or them out",
        )
    if model is not None and gpus is None and (filters.top is not None or filters.fits_only):
        raise UsageError(
            "--top and --fits-only are for rankings", next_step="advisor fit MODEL --gpus all --top 10"
        )
    if explain and (model is None or gpus is not None):
        raise UsageError("--explain needs one model on one device", next_step="advisor fit MODEL --gpu G")
    if filters.top is not None and filters.top < 1:
        raise UsageError("not a number of rows", where="--top", got=str(filters.top), allowed="1 or more")


def _rank_models(
    gpu: str | None,
    count: int,
    spec: ServingSpec,
    filters: Filters,
    formats: list[str] | None,
    *,
    json: bool,
) -> int:
    from advisor.cli.rank import fit_models
    from advisor.pipeline.facts import read_hardware

    if spec.tensor_parallel_size * spec.pipeline_parallel_size == 1 and count > 1:
        spec = spec.model_copy(update={"tensor_parallel_size": count})  # all of them, as asked
    return fit_models(read_hardware(gpu, count), spec, filters, formats, json=json)


def _predicted(facts: Facts, spec: ServingSpec) -> dict[str, Footprint]:
    """Every uniform plan, corrected by the boot logs ingested on this machine for this engine and device."""
    from advisor.pipeline.footprint import serving_dtype, uniform_plans
    from profiles.footprint import Residuals, estimate

    residuals = Residuals.load()
    served = spec.model_copy(update={"dtype": serving_dtype(facts, spec)})
    return {
        label: estimate(
            facts.model, facts.hardware, served, plan.by_linear(facts.units), plan.label, residuals
        )
        for label, plan in uniform_plans(facts).items()
    }


def _facts(
    model: str,
    gpu: str | None,
    count: int,
    formats: list[str] | None,
    tp: int,
    offline: bool,
    trust_remote_code: bool,
) -> Facts:
    from advisor.pipeline.facts import gather
    from advisor.pipeline.inputs import RunInputs
    from profiles.footprint.schema import ServingSpec

    return gather(
        RunInputs(
            model=model,
            gpu=gpu,
            count=count,
            task="generic",
            formats=tuple(formats) if formats else None,
            serving=ServingSpec(tensor_parallel_size=tp),
            offline=offline,
            trust_remote_code=trust_remote_code,
        )
    )


def _show(facts: Facts, found: dict[str, Footprint], *, explain: bool) -> None:
    from advisor.cli.output import console, size, table

    out = console()
    first = next(iter(found.values()))
    context = first.spec.max_model_len or facts.model.max_position_embeddings
    out.print(
        f"{facts.model.model_id} on {len(facts.hardware.devices)} x {first.device_name}: "
        f"context {context:,}, concurrency {first.spec.concurrency}, "
        f"16-bit weights served in {first.spec.dtype}, vLLM {first.spec.engine_version}",
        markup=False,
    )
    if "ingested here" in first.activation.source:
        out.print(first.activation.source, markup=False)
    rows = table(
        None, ["plan", "verdict", "weights", "KV cache", "KV tokens", "longest context"], right=(2, 3, 4, 5)
    )
    for label, answer in found.items():
        rows.add_row(
            label,
            answer.verdict.value,
            size(answer.weights.value),
            size(answer.kv_bytes.value),
            f"{answer.kv_tokens.value:,.0f}",
            f"{answer.longest_context.value:,.0f}",
        )
    out.print(rows)
    for label, answer in found.items():
        out.print(f"\n{label}: {answer.reason}", markup=False)
        _boot_log(answer, explain=explain)
        for refusal in answer.refusals:
            out.print(f"  would refuse to start: {refusal}", markup=False)
        for lever in answer.levers:
            enough = ", enough" if lever.enough else ""
            out.print(
                f"  lever: {lever.change} frees {size(lever.frees_bytes.value)}{enough} ({lever.cost})",
                markup=False,
            )
        for note in answer.notes:
            out.print(f"  note: {note}", markup=False)


def _boot_log(answer: Footprint, *, explain: bool) -> None:
    from advisor.cli.output import console, provenance, shown, table

    rows = table(None, ["  line", "predicted", "known from"])
    for field, words in LINES:
        figure = getattr(answer, field)
        if figure is None:
            continue
        rows.add_row(f"  {words}", shown(figure), provenance(figure))
        if explain and figure.formula:
            rows.add_row("", f"= {figure.formula}", "")
    console().print(rows)

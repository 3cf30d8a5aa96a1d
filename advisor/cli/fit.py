"""`advisor fit`: what fits, what the engine will say at boot, and what would make it fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.deployment import Deployment
from advisor.cli.options import Count, Formats, Gpu, Json, Offline, Serving, TrustToRead
from advisor.cli.rank import Filters

if TYPE_CHECKING:
    from profiles.footprint import QuantizeCost
    from profiles.footprint.plans import Refused, UniformPlan
    from profiles.footprint.schema import Footprint, ServingSpec
    from profiles.hardware.schema import HardwareProfile
    from profiles.models.schema import ModelProfile

    Answers = dict[str, tuple[UniformPlan, Footprint, QuantizeCost | None]]

METHODS = {"fp8": "rtn", "int8": "smoothquant", "int4": "gptq", "fp4": "awq"}
"""Family of formats to the method whose cost is told; NVFP4's calibration costs less than AWQ's search."""


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
    deployment: Deployment = Deployment(),
    formats: Formats = None,
    filters: Filters = Filters(),
    full: Annotated[
        bool, Parameter(name="--full", negative="", help="The boot log of every plan, not of one alone.")
    ] = False,
    explain: Annotated[
        bool, Parameter(name="--explain", negative="", help="The formula behind every figure, with numbers.")
    ] = False,
    trust_remote_code: TrustToRead = False,
    offline: Offline = False,
    json: Json = False,
) -> int:
    """Every uniform format: does it start and hold what was asked; the levers where it does not; and the
    predicted boot log of the first that fits (--full: of all).

    Without MODEL: what of the catalogue fits --gpu. With --gpus: which devices hold MODEL.
    Exit code 0 when something fits, 1 when nothing does."""
    from advisor.cli.output import print_json
    from advisor.cli.serving import serving_spec
    from profiles.errors import ExitCode
    from profiles.footprint.schema import Verdict

    spec = serving_spec(serving, deployment)
    _check(model, gpu, count, gpus, filters, explain=explain or full)
    if model is None:
        return _rank_models(gpu, count, spec, filters, formats, json=json)
    from profiles.models import read_model

    known = read_model(model, offline=offline, trust_remote_code=trust_remote_code)
    if gpus is not None:
        from advisor.cli.rank import fit_devices

        return fit_devices(known, gpus, spec, filters, formats, json=json)
    from advisor.machine import read_hardware

    hardware = read_hardware(gpu, count)
    found, refused = answers(known, hardware, all_devices_used(spec, count), formats)
    if json:
        print_json(
            {
                "model": known.model_id,
                "device": hardware.device.name,
                "assumptions": known.assumptions,
                "plans": {label: answer for label, (_, answer, _) in found.items()},
                "runs": {
                    label: {"how": plan.runs, "cost": plan.cost} for label, (plan, _, _) in found.items()
                },
                "quantize": {label: cost for label, (_, _, cost) in found.items() if cost is not None},
                "refused": {r.family: r.reason for r in refused},
            }
        )
    else:
        from advisor.cli.fit_text import show

        show(known, hardware, found, refused, full=full, explain=explain)
    fits = any(answer.verdict is not Verdict.DOES_NOT_FIT for _, answer, _ in found.values())
    return int(ExitCode.OK if fits else ExitCode.INFEASIBLE)


def answers(
    model: ModelProfile, hardware: HardwareProfile, spec: ServingSpec, formats: list[str] | None
) -> tuple[Answers, list[Refused]]:
    """Every uniform plan with its predicted boot log, corrected by the logs ingested on this machine, and
    what quantizing it here costs.

    Raises:
        UsageError: a format that does not exist, a model without tensors, an engine version without a law.
    """
    from advisor.pipeline.footprint import served_dtype
    from profiles.footprint import Residuals, estimate, quantize_cost
    from profiles.footprint.plans import FAMILIES, uniform_plans

    residuals = Residuals.load()
    served = spec.model_copy(update={"dtype": served_dtype(model, hardware.device, spec)})
    plans, refused = uniform_plans(
        model, hardware.device, formats or FAMILIES, tensor_parallel_size=spec.tensor_parallel_size
    )
    found: Answers = {}
    for plan in plans:
        answer = estimate(model, hardware, served, plan.formats, plan.label, residuals)
        method = METHODS.get(plan.family, "rtn") if plan.formats else None
        cost = quantize_cost(model, hardware, method) if method else None
        found[plan.label] = (plan, answer, cost)
    return found, refused


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
        raise UsageError(
            "--explain and --full need one model on one device", next_step="advisor fit MODEL --gpu G"
        )
    if filters.min_speed is not None and not 0 < filters.min_speed < float("inf"):
        raise UsageError(
            "not a speed", where="--min-speed", got=str(filters.min_speed), allowed="tokens per second"
        )
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
    from advisor.machine import read_hardware

    return fit_models(read_hardware(gpu, count), all_devices_used(spec, count), filters, formats, json=json)


def all_devices_used(spec: ServingSpec, count: int) -> ServingSpec:
    """Tensor parallelism over `--count` devices when no parallel size was given: none is left idle."""
    if spec.tensor_parallel_size * spec.pipeline_parallel_size * spec.data_parallel_size > 1 or count < 2:
        return spec
    return spec.model_copy(update={"tensor_parallel_size": count})

"""Stage `footprint`: what every uniform scheme costs here, and the budget that the search gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from advisor.pipeline.facts import Facts
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.stage import StageContext, run_stage, versions
from advisor.workspace import write_json, write_text
from profiles.errors import InfeasibleError, UsageError
from profiles.footprint.schema import Footprint, ServingSpec
from profiles.hardware.schema import Device, DeviceKind
from profiles.models.schema import ModelProfile
from tuners.events import Message
from tuners.plan import PrecisionPlan, uniform

if TYPE_CHECKING:
    from tuners.budget import Budget

FAMILIES = ("16-bit", "fp8", "int8", "int4")
_FOOTPRINTS: TypeAdapter[dict[str, Footprint]] = TypeAdapter(dict[str, Footprint])


def uniform_plans(facts: Facts) -> dict[str, PrecisionPlan]:
    """A plan per family of formats that the device runs for at least one unit."""
    plans: dict[str, PrecisionPlan] = {}
    for family in FAMILIES:
        plan = uniform(facts.units, family)
        if family == "16-bit" or any(f != "BF16" for f in plan.formats.values()):
            plans[plan.label] = plan
    return plans


def serving_dtype(facts: Facts, spec: ServingSpec) -> str:
    """The dtype of 16-bit weights: asked for, the best of this CPU, or the model's own on a GPU."""
    return served_dtype(facts.model, facts.hardware.device, spec)


def served_dtype(model: ModelProfile, device: Device, spec: ServingSpec) -> str:
    """The same for a model and a device: float16 where a GPU has no bfloat16 arithmetic."""
    from tuners.engine.dtype import recommended_dtype

    if spec.dtype != "auto":
        return spec.dtype
    if device.kind is DeviceKind.CPU:
        return recommended_dtype(device)[0]
    if device.sm is not None and device.sm < 80:
        return "float16"
    return model.torch_dtype if model.torch_dtype in {"bfloat16", "float16"} else "bfloat16"


def footprint_of(facts: Facts, plan: PrecisionPlan, spec: ServingSpec) -> Footprint:
    """The predicted boot log of one plan, in the dtype that it will be served in."""
    from profiles.footprint import estimate

    served = spec.model_copy(update={"dtype": serving_dtype(facts, spec)})
    return estimate(facts.model, facts.hardware, served, plan.by_linear(facts.units), plan.label)


def footprints(
    facts: Facts, spec: ServingSpec, plans: Mapping[str, PrecisionPlan] | None = None
) -> dict[str, Footprint]:
    """The predicted boot log of every plan, the uniform ones unless others are given."""
    return {label: footprint_of(facts, plan, spec) for label, plan in (plans or uniform_plans(facts)).items()}


def derived_budget_bytes(facts: Facts, spec: ServingSpec) -> tuple[int, str]:
    """Checkpoint bytes left on the devices after KV cache, activations and overheads, and the sum in words.

    The overheads are taken at the upper end of their intervals: a derived budget must start.

    Raises:
        InfeasibleError: the KV cache and the overheads alone fill the device.
    """
    smallest = min(uniform_plans(facts).values(), key=lambda p: p.bytes_of(facts.units))
    found = footprint_of(facts, smallest, spec)
    context = found.spec.max_model_len or facts.model.max_position_embeddings
    if found.kv_bytes.value > 0 and found.max_concurrency.value > 0:
        per_request = found.kv_bytes.value / found.max_concurrency.value
    else:
        per_request = found.kv_bytes_per_token.value * context
    kv = per_request * spec.concurrency
    overhead = found.activation.high + found.non_torch.high + found.cuda_graph.high
    per_rank = found.budget.value - kv - overhead
    ranks = spec.tensor_parallel_size * spec.pipeline_parallel_size
    words = (
        f"{found.budget.value / 2**30:.2f} GiB for the engine - {kv / 2**30:.2f} GiB KV cache for "
        f"{spec.concurrency} x {context:,} tokens - {overhead / 2**30:.2f} GiB activations and overheads"
        + (f", times {ranks} ranks" if ranks > 1 else "")
    )
    if per_rank <= 0:
        raise InfeasibleError(
            "the KV cache and the overheads alone fill the device: nothing is left for weights",
            got=words,
            next_step="lower --context or --concurrency, use --kv-cache-dtype fp8, or a larger device",
        )
    return int(per_rank * ranks), words


def resolve_budget(facts: Facts, inputs: RunInputs) -> tuple[Budget, str]:
    """The budget over the units, and where it comes from.

    Raises:
        UsageError: neither a budget nor a context was given, or the original fits as it is.
        InfeasibleError: no plan is that small.
    """
    from tuners.budget import no_limit, parse_budget

    if inputs.budget is not None:
        return parse_budget(inputs.budget, facts.units, facts.fixed_bytes), f"asked: {inputs.budget}"
    if inputs.is_timed and inputs.serving.max_model_len is None:
        return no_limit(facts.units, facts.fixed_bytes), "no limit on the size: speed and quality decide"
    if inputs.serving.max_model_len is None:
        raise UsageError(
            "no memory budget given",
            allowed="--budget (96MiB, 5.5bits, 40%), or --context with --concurrency and perhaps --gpu: "
            "then the budget is what the device has left",
            next_step=f"advisor tune {inputs.model} --budget 5.5bits",
        )
    nbytes, words = derived_budget_bytes(facts, inputs.serving)
    return parse_budget(f"{nbytes}B", facts.units, facts.fixed_bytes), f"derived: {words}"


def footprint(context: StageContext, inputs: RunInputs, facts: Facts, *, resume: bool = True) -> Budget:
    """Price the uniform schemes, resolve the budget; footprint.json and budget.json."""
    budget, origin = resolve_budget(facts, inputs)
    stamp = {
        "profile": context.workspace.path("units.json").read_text(encoding="utf-8"),
        "serving": inputs.serving.model_dump(mode="json"),
        "budget": budget.model_dump(mode="json"),
        "versions": versions(("precision-advisor",)),
    }

    def work(stage: StageContext) -> str:
        found = footprints(facts, inputs.serving)
        write_text(
            stage.workspace.path("footprint.json"), _FOOTPRINTS.dump_json(found, indent=1).decode() + "\n"
        )
        write_json(stage.workspace.path("budget.json"), {**budget.model_dump(mode="json"), "origin": origin})
        for label, answer in found.items():
            verdict = answer.verdict.value
            said = answer.reason if answer.reason.startswith(verdict) else f"{verdict}: {answer.reason}"
            stage.emit(Message(stage="footprint", text=f"{label}: {said}"))
        return (
            f"budget {budget.total_bytes / 2**20:,.1f} MiB for the checkpoint, "
            f"{budget.bits_per_weight:.3f} bits per quantizable weight ({origin})"
        )

    run_stage(
        context,
        "footprint",
        "Predicting memory and resolving the budget",
        stamp,
        ("footprint.json", "budget.json"),
        work,
        resume=resume,
    )
    return budget

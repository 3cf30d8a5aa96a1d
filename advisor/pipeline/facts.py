"""The three profiles and what follows from them: read once, written into the run directory, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from advisor.machine import read_hardware
from advisor.pipeline.inputs import RunInputs
from advisor.workspace import Workspace, fingerprint, write_json, write_text
from profiles.errors import UsageError
from profiles.hardware.schema import HardwareProfile
from profiles.models.schema import ModelProfile
from profiles.provenance import Contract
from profiles.tasks.schema import TaskProfile
from tuners.plan import Unit

_UNITS: TypeAdapter[tuple[Unit, ...]] = TypeAdapter(tuple[Unit, ...])


class Facts(Contract):
    """What a run knows before anything heavy starts."""

    hardware: HardwareProfile
    model: ModelProfile
    task: TaskProfile
    units: tuple[Unit, ...]
    fixed_bytes: int

    @property
    def model_path(self) -> str:
        """The folder with the weights.

        Raises:
            UsageError: only the model's facts are here, not its weights.
        """
        if self.model.path is None:
            raise UsageError(
                "the model's weights are not on this machine",
                got=f"{self.model.model_id} ({self.model.source})",
                next_step="advisor tune downloads them when --offline is not given",
            )
        return self.model.path


def gather(inputs: RunInputs) -> Facts:
    """Read hardware, model and task, and derive the decision units."""
    from profiles.formats.kv_cache import kv_dtypes, kv_problem
    from profiles.models import read_model
    from profiles.tasks import load_task
    from tuners.units import build_units, fixed_bytes

    hardware = read_hardware(inputs.gpu, inputs.count)
    model = read_model(
        inputs.model,
        revision=inputs.revision,
        offline=inputs.offline,
        trust_remote_code=inputs.trust_remote_code,
    )
    if model.quantization is not None and model.quantization.method == "gguf":
        raise UsageError(
            "a GGUF file is already quantized: there is nothing to search in it",
            where=inputs.model,
            next_step="give the model that it was made from (safetensors); advisor fit takes GGUF files",
        )
    problem = kv_problem(inputs.serving.kv_cache_dtype, hardware.device)
    if problem is not None:
        raise UsageError(
            problem,
            where="--kv-cache-dtype",
            got=inputs.serving.kv_cache_dtype,
            allowed=", ".join(kv_dtypes(hardware.device)),
        )
    units = tuple(
        build_units(model, hardware.device, formats=inputs.formats, tp=inputs.serving.tensor_parallel_size)
    )
    task = load_task(inputs.task)
    if inputs.floor is not None:
        task = task.model_copy(
            update={"quality_floor_ppl_ratio": inputs.floor, "quality_floor_source": "asked: --floor"}
        )
    return Facts(
        hardware=hardware,
        model=model,
        task=task,
        units=units,
        fixed_bytes=fixed_bytes(model, units),
    )


def checkpoint_stamp(model: ModelProfile) -> dict[str, Any]:
    """What tells one checkpoint from another without reading its weights: names, sizes, times."""
    if model.path is None:
        return {"id": model.model_id, "revision": model.revision}
    files = sorted(p for p in Path(model.path).iterdir() if p.suffix in {".safetensors", ".json"})
    return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


FLOOR_FIELDS = {"quality_floor_ppl_ratio", "quality_floor_source"}
"""Parts of a task that judge a result and decide no measurement."""


def task_stamp(task: TaskProfile) -> str:
    """Fingerprint of the task's texts and prior: another floor needs no new measurement."""
    return fingerprint(task.model_dump(mode="json", exclude=FLOOR_FIELDS))


def device_stamp(hardware: HardwareProfile) -> list[dict[str, Any]]:
    """What decides formats and kernels on the devices; free memory is left out, it always changes."""
    return [
        {"name": d.name, "kind": d.kind.value, "sm": d.sm, "isa": sorted(d.isa), "bytes": d.total_bytes.value}
        for d in hardware.devices
    ]


def save_facts(workspace: Workspace, facts: Facts) -> None:
    """hardware.json, model.json, task.json and units.json."""
    write_json(workspace.path("hardware.json"), facts.hardware)
    write_json(workspace.path("model.json"), facts.model)
    write_json(workspace.path("task.json"), facts.task)
    write_text(workspace.path("units.json"), _UNITS.dump_json(facts.units, indent=1).decode() + "\n")


FACT_FILES = ("hardware.json", "model.json", "task.json", "units.json")


def load_facts(workspace: Workspace) -> Facts:
    """Read the facts of a run back.

    Raises:
        UsageError: the run has not come that far, or a file is damaged.
    """
    from tuners.units import fixed_bytes

    try:
        texts = {name: workspace.path(name).read_text(encoding="utf-8") for name in FACT_FILES}
        model = ModelProfile.model_validate_json(texts["model.json"])
        units = _UNITS.validate_json(texts["units.json"])
        return Facts(
            hardware=HardwareProfile.model_validate_json(texts["hardware.json"]),
            model=model,
            task=TaskProfile.model_validate_json(texts["task.json"]),
            units=units,
            fixed_bytes=fixed_bytes(model, units),
        )
    except (OSError, ValidationError) as exc:
        raise UsageError(
            "this run has no readable profile",
            where=str(workspace.root),
            got=str(exc).splitlines()[0],
            next_step="advisor tune MODEL --run DIR --budget ... makes it",
        ) from exc

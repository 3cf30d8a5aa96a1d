"""`advisor ingest`: a real boot log against the prediction, line by line; the difference can be kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from advisor.cli.options import Gpu, Json, Offline, TrustToRead
from profiles.errors import UsageError

if TYPE_CHECKING:
    from profiles.footprint import BootLog, Comparison, Footprint, ServingSpec
    from profiles.hardware.schema import HardwareProfile
    from profiles.models.schema import ModelProfile

FIELDS = (
    "max_model_len", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "dtype",
    "kv_cache_dtype", "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enforce_eager",
    "enable_prefix_caching", "engine_version",
)  # fmt: skip
"""What a log says about how the engine was started."""


DOUBT = 0.03
"""Share of the budget beyond which an unexplained difference is not learned while the utilization is unknown:
steps of it are 0.05 as people type them."""


def ingest(
    log: Annotated[Path, Parameter(help="The engine's output, from its start; vLLM 0.8 to 0.33.")],
    /,
    *,
    model: Annotated[
        str | None, Parameter(name="--model", help="The model that was served; none: the log's own.")
    ] = None,
    gpu: Gpu = None,
    format: Annotated[
        str | None, Parameter(name="--format", help="Uniform format that was served; none: as stored.")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, Parameter(name="--gpu-memory-utilization", help="When the log does not say it.")
    ] = None,
    kv_cache_memory: Annotated[
        str | None, Parameter(name="--kv-cache-memory", help="Fixed KV cache size that was asked, 1GiB, say.")
    ] = None,
    save: Annotated[
        bool,
        Parameter(
            name="--save",
            negative="--no-save",
            help="Keep the difference for later predictions.",
        ),
    ] = True,
    trust_remote_code: TrustToRead = False,
    offline: Offline = False,
    json: Json = False,
) -> int:
    """Predicted against measured for every line that the log has, at the arguments that the log names.

    Without --gpu: the device of the log, or this machine when the log names none."""
    from advisor.cli.output import print_json
    from profiles.footprint import compare, estimate, read_boot_log, uniform_formats
    from profiles.models import read_model

    read = read_boot_log(log)
    name = model or read.model
    if name is None:
        raise UsageError(
            "the log does not name its model",
            where=str(log),
            next_step=f"advisor ingest {log} --model MODEL [--gpu G]",
        )
    spec = spec_of(read, gpu_memory_utilization, kv_cache_memory)
    known = read_model(name, offline=offline, trust_remote_code=trust_remote_code)
    hardware = _hardware(gpu or read.gpu, spec)
    formats = None
    if format is not None:
        formats = uniform_formats(
            known, hardware.device, format, tensor_parallel_size=spec.tensor_parallel_size
        )
    # The residual is kept against the bare law: correcting a corrected prediction would undo it.
    predicted = estimate(known, hardware, spec, formats, f"uniform {format}" if format else "as stored")
    compared = compare(read, predicted)
    kept, why_not = None, "--no-save was given"
    if save:
        stated = gpu_memory_utilization is not None or read.gpu_memory_utilization is not None
        kept, why_not = _save(read, predicted, known, stated=stated or read.arguments_listed)
    if json:
        print_json(
            {"log": read, "model": known.model_id, "device": predicted.device_name, "spec": predicted.spec,
             "lines": compared, "saved": kept, "not_saved": None if kept else why_not}
        )  # fmt: skip
    else:
        _show(read, predicted, known, compared, kept, why_not)
    return 0


def spec_of(log: BootLog, utilization: float | None, kv_cache_memory: str | None) -> ServingSpec:
    """The serving arguments that the log names, completed by what was typed.

    Raises:
        UsageError: arguments that no engine takes.
    """
    from pydantic import ValidationError

    from advisor.cli.serving import parse_size
    from profiles.footprint import ServingSpec

    fields: dict[str, Any] = {f: getattr(log, f) for f in FIELDS if getattr(log, f) is not None}
    if utilization is not None:
        fields["gpu_memory_utilization"] = utilization
    if log.kv_given is not None:
        fields["kv_cache_memory_bytes"] = int(log.kv_given)
    if kv_cache_memory is not None:
        fields["kv_cache_memory_bytes"] = parse_size(kv_cache_memory)
    try:
        return ServingSpec.model_validate(fields)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise UsageError(
            "the log names serving arguments that are not known here",
            got=f"{first['loc'][0]} {str(first['input'])[:60]}",
            allowed=first["msg"],
        ) from exc


def _hardware(name: str | None, spec: ServingSpec) -> HardwareProfile:
    from advisor.machine import read_hardware

    ranks = spec.tensor_parallel_size * spec.pipeline_parallel_size * spec.data_parallel_size
    return read_hardware(name, ranks)


def _save(
    log: BootLog, predicted: Footprint, model: ModelProfile, *, stated: bool
) -> tuple[dict[str, Any] | None, str]:
    """What was kept and where; else the reason: a log that does not belong to the model teaches nothing, nor
    does a difference that another gpu_memory_utilization than the default would explain."""
    from profiles.footprint import Residuals
    from profiles.footprint.residuals import key_of, residual_of

    old = Residuals.load()
    try:
        beside = residual_of(log, predicted).activation
        if not stated and abs(beside) > DOUBT * predicted.budget.value:
            return None, (
                f"memory differs by {abs(beside) / 2**30:.2f} GiB, as another gpu_memory_utilization than "
                f"{predicted.spec.gpu_memory_utilization} would, and the log does not say it: give "
                "--gpu-memory-utilization"
            )
        learned = old.learned(log, predicted, model.architecture)
    except UsageError as problem:
        if problem.got is not None:
            raise  # another model's log, or another machine's
        return None, problem.what
    key = key_of(log.engine_version or predicted.spec.engine_version, predicted.device_name,
                 model.architecture)  # fmt: skip
    return {"file": str(learned.save()), "key": key, "residual": learned.buckets[key]}, ""


def _show(
    log: BootLog,
    predicted: Footprint,
    model: ModelProfile,
    compared: tuple[Comparison, ...],
    kept: dict[str, Any] | None,
    why_not: str,
) -> None:
    from advisor.cli.boot_table import LINES, interval
    from advisor.cli.output import console, number, provenance, table
    from profiles.provenance import Figure

    out = console()
    out.print(
        f"{model.model_id} ({predicted.plan_label}) on {predicted.device_name}, "
        f"vLLM {predicted.spec.engine_version}{'' if log.engine_version else ' (assumed)'}, "
        f"context {predicted.spec.max_model_len:,}",
        markup=False,
    )
    if log.failure is not None:
        out.print(f"the engine did not start: {log.failure}", markup=False)
        out.print(f"predicted: {predicted.verdict.value} - {predicted.reason}", markup=False)
    rows = table(None, ["line", "predicted", "interval", "measured", "off by", "within"], right=(1, 3, 4))
    for line in compared:
        rows.add_row(
            dict(LINES)[line.line],
            number(line.predicted),
            interval(line.predicted),
            number(Figure.measured(line.measured, line.predicted.unit, "the log")),
            "-" if line.relative is None else f"{line.relative:+.1%}",
            "yes" if line.within else "no",
        )
    if compared:
        out.print(rows)
        sources = dict.fromkeys(provenance(line.predicted) for line in compared)
        out.print(f"predicted from: {'; '.join(sources)}", markup=False)
    if kept is not None:
        logs = kept["residual"].count
        out.print(
            f"kept in {kept['file']} ({kept['key']}, {logs} log{'' if logs == 1 else 's'}): "
            "advisor fit corrects by it for that engine version, device and architecture",
            markup=False,
        )
    else:
        out.print(f"nothing was kept: {why_not}", markup=False)

"""`advisor compare`: two models, two formats, two plans or two devices, line by line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from advisor.cli.deployment import Deployment
from advisor.cli.options import Count, Json, Offline, Serving, TrustToRead
from profiles.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from profiles.footprint.schema import Footprint, ServingSpec
    from profiles.hardware.schema import HardwareProfile
    from profiles.models.schema import ModelProfile

MAX_SIDES = 6
"""Columns that a screen holds."""


class Side(NamedTuple):
    """One column: what is served, on what, and the predicted boot log."""

    name: str
    model: ModelProfile
    hardware: HardwareProfile
    plan_label: str
    footprint: Footprint


class Subject(NamedTuple):
    """A model with the formats of its linears; None as stored."""

    model: ModelProfile
    label: str
    formats: dict[str, str] | None
    family: str | None  # a uniform family, resolved per device


def compare(
    *sides: Annotated[
        str, Parameter(help="Models (folder or id), plan files (.yaml, with --model) or run directories.")
    ],
    gpu: Annotated[
        list[str] | None, Parameter(name="--gpu", negative="", help="A device; give it again for another.")
    ] = None,
    count: Count = 1,
    format: Annotated[
        list[str] | None,
        Parameter(name="--format", negative="", help="A uniform format; give it again for another."),
    ] = None,
    model: Annotated[str | None, Parameter(name="--model", help="The model of plan files.")] = None,
    serving: Serving = Serving(),
    deployment: Deployment = Deployment(),
    trust_remote_code: TrustToRead = False,
    offline: Offline = False,
    json: Json = False,
) -> int:
    """Predicted boot logs and speeds side by side, and which side is better by how much.

    Every combination of sides, --format and --gpu is a column, 2 to 6 of them.
    Exit code 0 when some side fits, 1 when none does."""
    from advisor.cli.compare_text import differences, record, show
    from advisor.cli.fit import all_devices_used
    from advisor.cli.output import print_json
    from advisor.cli.serving import serving_spec

    spec = serving_spec(serving, deployment)
    subjects = [s for name in sides for s in subjects_of(name, format, model, offline, trust_remote_code)]
    found = columns(subjects, gpu or [None], count, all_devices_used(spec, count))
    if json:
        print_json({"sides": [record(s) for s in found], "differences": differences(found)})
    else:
        show(found)
    fits = any(s.footprint.verdict.value != "does not fit" for s in found)
    return int(ExitCode.OK if fits else ExitCode.INFEASIBLE)


def subjects_of(
    name: str, formats: list[str] | None, model: str | None, offline: bool, trust_remote_code: bool
) -> list[Subject]:
    """What one word of the command line stands for.

    Raises:
        UsageError: a plan without its model, a model that cannot be read.
    """
    from profiles.models import read_model

    path = Path(name)
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        if model is None:
            raise UsageError(
                "a plan file needs its model",
                got=name[:120],
                next_step=f"advisor compare {name} ... --model M",
            )
        return [_planned(read_model(model, offline=offline, trust_remote_code=trust_remote_code), path)]
    if (path / "plan.yaml").is_file() and (path / "model.json").is_file():
        from advisor.pipeline.facts import load_facts
        from advisor.workspace import Workspace

        return [_planned(load_facts(Workspace.read_only(path)).model, path / "plan.yaml")]
    known = read_model(name, offline=offline, trust_remote_code=trust_remote_code)
    if not formats:
        label = f"as stored: {known.quantization.label}" if known.quantization else "16-bit"
        return [Subject(known, label, None, None)]
    return [Subject(known, family, None, family) for family in dict.fromkeys(formats)]


def _planned(model: ModelProfile, path: Path) -> Subject:
    """A plan file on a model; unit names are fused modules, the footprint wants their linears."""
    from profiles.footprint.ledger import QUANTIZABLE_ROLES
    from tuners.plan import PrecisionPlan

    plan = PrecisionPlan.from_yaml(path)
    units = {i.fused for i in model.linears if i.block is not None and i.role in QUANTIZABLE_ROLES}
    linears = {item.name: plan.formats[item.fused] for item in model.linears if item.fused in plan.formats}
    if wrong := sorted(units ^ plan.formats.keys()):
        has = "has no module" if wrong[0] in plan.formats else "has a module that the plan leaves out:"
        raise UsageError(
            "the plan is of another model",
            where=str(path),
            got=f"{model.model_id[:80]} {has} {wrong[0][:120]}",
            next_step="give the plan's own model with --model",
        )
    return Subject(model, plan.label or path.stem, linears, None)


def columns(
    subjects: list[Subject], gpus: list[str] | list[None], count: int, spec: ServingSpec
) -> list[Side]:
    """Every subject on every device, predicted.

    Raises:
        UsageError: fewer than two columns, or more than a screen holds.
    """
    from advisor.machine import read_hardware
    from advisor.pipeline.footprint import served_dtype
    from profiles.footprint import Residuals, estimate, uniform_formats

    number = len(subjects) * len(gpus)
    if not 2 <= number <= MAX_SIDES:
        raise UsageError(
            "a comparison needs two sides" if number < 2 else "too many sides",
            got=f"{number}",
            allowed=f"2 to {MAX_SIDES}: models or plans x --format x --gpu",
            next_step="advisor compare A B, or advisor compare A --gpu rtx-4090 --gpu h100",
        )
    residuals = Residuals.load()
    ranks = spec.tensor_parallel_size * spec.pipeline_parallel_size * spec.data_parallel_size
    out: list[Side] = []
    for gpu in gpus:
        hardware = read_hardware(gpu, max(count, ranks) if gpu else count)
        for subject in subjects:
            formats = subject.formats
            if subject.family is not None:
                formats = uniform_formats(
                    subject.model,
                    hardware.device,
                    subject.family,
                    tensor_parallel_size=spec.tensor_parallel_size,
                )
            dtype = served_dtype(subject.model, hardware.device, spec)
            served = spec.model_copy(update={"dtype": dtype})
            answer = estimate(subject.model, hardware, served, formats, subject.label, residuals)
            out.append(Side("", subject.model, hardware, subject.label, answer))
    return _named(out)


def _named(sides: list[Side]) -> list[Side]:
    """Each side called by what tells it from the others."""
    from advisor.cli.compare_text import device_words

    parts: list[tuple[Any, ...]] = [
        (s.model.model_id.rsplit("/", 1)[-1], s.plan_label, device_words(s.hardware.device.name))
        for s in sides
    ]
    varying = [i for i in range(3) if len({p[i] for p in parts}) > 1] or [0]
    return [
        side._replace(name=", ".join(str(p[i]) for i in varying))
        for side, p in zip(sides, parts, strict=True)
    ]

"""`advisor fit` without a model, or over devices: one row per model or device, the best format in it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from profiles.errors import ExitCode, UsageError, nearest

if TYPE_CHECKING:
    from profiles.footprint import Ranked, ServingSpec
    from profiles.hardware.schema import Device, HardwareProfile
    from profiles.models.schema import ModelProfile

_PARAMS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
NARROW = 100
"""Columns below which a ranking leaves out what would fold: the organisation, tokens and requests."""
DEFAULT_TOP = 20
"""Rows that a screen holds."""


@Parameter(name="*")
@dataclass(frozen=True)
class Filters:
    """Which models of the catalogue to rank, and how many rows to show."""

    task: Annotated[
        str | None, Parameter(name="--task", help="Catalogue models with this tag: chat, code, vision ...")
    ] = None
    min_context: Annotated[
        int | None, Parameter(name="--min-context", help="Models that hold so many tokens here.")
    ] = None
    min_params: Annotated[
        str | None, Parameter(name="--min-params", help="Models of at least this size: 7B, 700M.")
    ] = None
    max_params: Annotated[str | None, Parameter(name="--max-params", help="Models of at most this size.")] = (
        None
    )
    license: Annotated[str | None, Parameter(name="--license", help="Models under this licence.")] = None
    min_speed: Annotated[
        float | None, Parameter(name="--min-speed", help="Models that decode so many tokens/s here, likely.")
    ] = None
    fits_only: Annotated[
        bool, Parameter(name="--fits-only", negative="", help="Leave out what does not fit.")
    ] = False
    top: Annotated[int | None, Parameter(name="--top", help="Rows of a ranking; 20 unless given.")] = None

    def given(self) -> list[str]:
        """The options that only a ranking of models has and that were given."""
        words = ("task", "min_context", "min_params", "max_params", "license", "min_speed")
        return [f"--{w.replace('_', '-')}" for w in words if getattr(self, w) is not None]


def parse_params(text: str) -> int:
    """`8B`, `700M`, `1.5e9` as a number of parameters.

    Raises:
        UsageError: not a number of parameters.
    """
    match = re.fullmatch(r"\s*([0-9]{0,15}\.?[0-9]{1,15}(?:e[0-9]{1,2})?)\s*([kmbt]?)\s*", text.lower())
    if match is None:
        raise UsageError("not a number of parameters", got=text[:40], allowed="8B, 700M, 1.5e9")
    return int(float(match[1]) * _PARAMS[match[2]])


def fit_models(
    hardware: HardwareProfile,
    spec: ServingSpec,
    filters: Filters,
    formats: Sequence[str] | None,
    *,
    json: bool,
) -> int:
    """Rank the catalogue on one machine and print it."""
    from profiles.footprint import Residuals, rank_models
    from profiles.footprint.compiled import compiled_catalogue

    gc.disable()  # hundreds of thousands of tuples and no cycles: collecting costs a tenth of the answer
    try:
        known = compiled_catalogue()
        found = rank_models(
            hardware, with_dtype(spec, hardware.device), _families(formats), known, Residuals.load()
        )
    finally:
        gc.enable()
    padded = {m.facts.model_id for m in known if m.facts.stored_method == "mxfp4"}
    groups = _filtered(_grouped(found, lambda r: r.model_id), filters)
    title = (
        f"{len(groups)} of {len(known)} models on {len(hardware.devices)} x {hardware.device.name}, "
        f"TP {spec.tensor_parallel_size}, concurrency {spec.concurrency}, context "
        + (f"{spec.max_model_len:,}" if spec.max_model_len else "each model's own")
    )
    head = {"device": hardware.device.name, "count": len(hardware.devices), "spec": spec}
    return _answer(title, "model", groups, filters, padded, _unchecked(hardware.devices), head, json=json)


def with_dtype(spec: ServingSpec, device: Device) -> ServingSpec:
    """The dtype that a CPU serves 16-bit weights in (`advisor fit MODEL` takes the same); GPUs serve in 16
    bits whatever the model."""
    from profiles.hardware.schema import DeviceKind
    from tuners.engine.dtype import recommended_dtype

    if spec.dtype != "auto" or device.kind is not DeviceKind.CPU:
        return spec
    return spec.model_copy(update={"dtype": recommended_dtype(device)[0]})


def fit_devices(
    model: ModelProfile,
    names: str,
    spec: ServingSpec,
    filters: Filters,
    formats: Sequence[str] | None,
    *,
    json: bool,
) -> int:
    """Rank devices for one model, the smallest that holds it first, and print it."""
    from profiles.footprint import Residuals, rank_devices

    devices = devices_of(names)
    found = rank_devices(model, devices, spec, _families(formats), Residuals.load())
    padded = {model.model_id} if (model.quantization and model.quantization.method == "mxfp4") else set()
    groups = _grouped(found, lambda r: r.device)
    if filters.fits_only:
        groups = [g for g in groups if _fits(g[0])]
    title = (
        f"{model.model_id} on {len(groups)} devices, least memory first (no prices): "
        f"concurrency {spec.concurrency}, context "
        + (f"{spec.max_model_len:,}" if spec.max_model_len else f"{model.max_position_embeddings:,}")
    )
    head = {"model": model.model_id, "spec": spec}
    return _answer(title, "device", groups, filters, padded, _unchecked(devices), head, json=json)


def devices_of(names: str) -> list[Device]:
    """`all`, or a comma list of catalogue names.

    Raises:
        UsageError: a name that no device has, or none at all.
    """
    from profiles.hardware import all_devices, find_device

    if names.strip().lower() == "all":
        return all_devices()
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError("no devices named", got=names, allowed="all, or a comma list: rtx-4090,h100")
    return list({device.name: device for device in map(find_device, wanted)}.values())


def _families(formats: Sequence[str] | None) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(formats)) if formats else None


def _unchecked(devices: Iterable[Device]) -> set[str]:
    """Devices of kinds whose kernels are not known: every format is taken to run there."""
    from profiles.hardware.schema import DeviceKind

    return {d.name for d in devices if d.kind not in (DeviceKind.CUDA, DeviceKind.CPU)}


def _fits(ranked: Ranked) -> bool:
    return ranked.verdict.value == "fits"


def _grouped(found: Iterable[Ranked], key: Callable[[Ranked], str]) -> list[list[Ranked]]:
    """Answers per model or device in the ranking's order, the one to show first in each."""
    groups: dict[str, list[Ranked]] = {}
    for ranked in found:
        groups.setdefault(key(ranked), []).append(ranked)
    for group in groups.values():
        if not _fits(group[0]):
            # Nothing fits: show what comes closest, not the largest format.
            group.sort(key=lambda r: (r.verdict.value != "fits if", -r.longest_context, r.weights))
    return list(groups.values())


def _filtered(groups: list[list[Ranked]], filters: Filters) -> list[list[Ranked]]:
    tags = {tag for g in groups for tag in g[0].tags}
    licences = {g[0].license.lower() for g in groups if g[0].license}
    if filters.task is not None and filters.task not in tags:
        raise UsageError(f"no model of the catalogue has the tag {filters.task!r}", where="--task",
                         allowed=nearest(filters.task, tags))  # fmt: skip
    if filters.license is not None and filters.license.lower() not in licences:
        raise UsageError(f"no model of the catalogue has the licence {filters.license!r}", where="--license",
                         allowed=nearest(filters.license, licences))  # fmt: skip
    low = parse_params(filters.min_params) if filters.min_params else 0
    high = parse_params(filters.max_params) if filters.max_params else None
    out = []
    for group in groups:
        best = group[0]
        if filters.min_context is not None:
            group = [r for r in group if r.longest_context >= filters.min_context]
        if filters.min_speed is not None:
            group = [r for r in group if (r.decode_tokens_s or 0.0) >= filters.min_speed]
        if (
            not group
            or (filters.task is not None and filters.task not in best.tags)
            or (filters.license is not None and best.license.lower() != filters.license.lower())
            or best.params < low
            or (high is not None and best.params > high)
            or (filters.fits_only and not _fits(group[0]))
        ):
            continue
        out.append(group)
    return out


def _answer(
    title: str,
    first: str,
    groups: list[list[Ranked]],
    filters: Filters,
    padded: set[str],
    unchecked: set[str],
    head: dict[str, Any],
    *,
    json: bool,
) -> int:
    """Print rows or data. 0 when something fits, 1 when nothing does."""
    from advisor.cli.output import console, print_json

    shown = groups[: filters.top or DEFAULT_TOP]
    if json:
        rows = [
            {
                **record(g[0], padded),
                "kernels_checked": g[0].device not in unchecked,
                "other_formats": {r.family: r.verdict.value for r in g[1:]},
            }
            for g in shown
        ]
        print_json({**head, "found": len(groups), "shown": len(shown), f"{first}s": rows})
    else:
        _show(title, first, shown, len(groups), padded)
        unknown = [name for name in dict.fromkeys(g[0].device for g in shown) if name in unchecked]
        if unknown:
            console().print(
                f"memory alone was checked, there is no kernel table, for: {', '.join(unknown)}", markup=False
            )
    return int(ExitCode.OK if any(_fits(g[0]) for g in groups) else ExitCode.INFEASIBLE)


def record(ranked: Ranked, padded: set[str]) -> dict[str, Any]:
    """One answer as data: every figure says how it is known.

    The ranking works with the expected overheads alone, so those figures carry no interval."""
    from profiles.provenance import Figure

    def expected(value: float, unit: str) -> dict[str, Any]:
        return {"value": value, "unit": unit, "provenance": "estimated",
                "source": "expected overheads; advisor fit MODEL --gpu G gives the interval"}  # fmt: skip

    weights: Any = expected(ranked.weights, "B")
    if ranked.model_id not in padded:
        weights = Figure.exact(ranked.weights, "B", "tensor shapes and formats, per rank")
    decode = None
    if ranked.decode_tokens_s and ranked.decode_low and ranked.decode_high:
        decode = Figure.estimated(
            ranked.decode_tokens_s, ranked.decode_low, ranked.decode_high, "tokens/s",
            "bytes read per token over memory bandwidth, one request at a quarter of the context",
        )  # fmt: skip
    return {
        "model": ranked.model_id,
        "device": ranked.device,
        "devices": ranked.devices,
        "format": format_of(ranked),
        "verdict": ranked.verdict.value,
        "reason": ranked.reason,
        "parameters": ranked.params,
        "license": ranked.license,
        "tags": ranked.tags,
        "context": ranked.context,
        "weights": weights,
        "kv_bytes": expected(ranked.kv_bytes, "B"),
        "kv_tokens": expected(ranked.kv_tokens, "tokens"),
        "max_concurrency": expected(ranked.concurrency, "requests"),
        "longest_context": expected(ranked.longest_context, "tokens"),
        "decode_tokens_s": decode,
    }


def format_of(ranked: Ranked) -> str:
    """The family, or how the checkpoint is stored already."""
    if not ranked.stored or ranked.family != "16-bit":
        return ranked.family
    return ranked.stored.removesuffix(" 128x128").removesuffix(" experts")


def _show(title: str, first: str, groups: list[list[Ranked]], total: int, padded: set[str]) -> None:
    from advisor.cli.output import console, table
    from profiles.sizes import size

    out = console()
    out.print(title, markup=False)
    narrow = out.width < NARROW
    lead = ["model", "params"] if first == "model" else ["device", "count"]
    held = ["context"] if narrow else ["KV tokens", "requests"]
    columns = [*lead, "format", "weights", *held, "tok/s" if narrow else "decode tok/s", "verdict"]
    rows = table(None, columns, right=[1, *range(3, len(columns) - 1)])
    for group in groups:
        r = group[0]
        mark = "~" if r.model_id in padded else ""
        name = r.model_id if first == "model" else r.device
        if narrow:
            name = name.rsplit("/", 1)[-1].removeprefix("NVIDIA ").removeprefix("GeForce ")
        cache = (
            [f"{r.context:,}"] if narrow else [f"~{r.kv_tokens:,}", f"~{r.concurrency:,.1f} x {r.context:,}"]
        )
        rows.add_row(
            name,
            f"{r.params / 1e9:,.2f}B" if first == "model" else str(r.devices),
            format_of(r),
            mark + size(r.weights),
            *cache,
            f"~{r.decode_tokens_s:,.0f}" if r.decode_tokens_s else "-",
            r.verdict.value + (f": {r.reason}" if not narrow and not _fits(r) and len(r.reason) < 40 else ""),
        )
    out.print(rows)
    if total > len(groups):
        out.print(f"{total - len(groups)} more: --top {total}", markup=False)
    if not groups:
        out.print("nothing is left: widen the filters", markup=False)
    else:
        out.print("~ estimated; weights per rank. advisor fit MODEL --gpu G gives intervals and formulas.",
                  markup=False)  # fmt: skip

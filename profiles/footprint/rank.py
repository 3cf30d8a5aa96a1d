"""What fits a GPU: every catalogue model in every uniform format, and every device for one model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from profiles.footprint.compiled import Compiled, compiled_catalogue
from profiles.footprint.core import Prediction, predict, reweighted
from profiles.footprint.extras import extras
from profiles.footprint.facts import ModelFacts, facts_of
from profiles.footprint.ledger import Group, Ledger, Line, ledger_of
from profiles.footprint.schema import ServingSpec, Verdict
from profiles.footprint.serving import filled, view_of, with_cpu_space
from profiles.footprint.speed import (
    CPU_EFFICIENCY,
    DECODE_EFFICIENCY,
    HOST_LINK_BYTES_S,
    STEP_OVERHEAD_MS,
    active_parameters,
    read_from_host,
    weights_read,
)
from profiles.footprint.uniform import family_formats, fused_shape, line_format
from profiles.footprint.verdict import OTHER_FORMATS, Judge
from profiles.footprint.version import parse_version
from profiles.footprint.weights import (
    FormatChoice,
    RankBytes,
    Sharding,
    UniformChoice,
    group_bytes,
    mxfp4_by_triton,
)
from profiles.formats import Format
from profiles.formats.kernels import kernel_support
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.models.schema import ModelProfile

if TYPE_CHECKING:
    from profiles.footprint.residuals import Residuals

FAMILIES = ("16-bit", "fp8", "int8", "int4", "fp4", "w8a16")
"""Uniform families that are ranked; one that a device runs by a slow kernel alone (FP8 on most CPUs) must be
asked for by name there, as in the search."""

MAX_TENSOR_PARALLEL = 8


class Ranked(NamedTuple):
    """One (model, family, device) answer; bytes per rank, speed per request at that context."""

    model_id: str
    family: str
    device: str
    devices: int
    verdict: Verdict
    reason: str
    weights: int
    kv_bytes: float
    kv_tokens: int
    concurrency: float
    longest_context: int
    context: int
    decode_tokens_s: float | None
    decode_low: float | None
    decode_high: float | None
    params: int
    license: str
    tags: tuple[str, ...]
    stored: str = ""  # how the checkpoint is already quantized: then "16-bit" means as it is


def rank_models(
    hardware: HardwareProfile,
    spec: ServingSpec = ServingSpec(),
    families: Sequence[str] | None = None,
    models: Iterable[Compiled] | None = None,
    residuals: Residuals | None = None,
) -> list[Ranked]:
    """Every model of the catalogue in every family on one machine: what fits first, then the largest, the
    best precision, the fastest. A model shorter than the context asked for is ranked at its own length."""
    out: list[Ranked] = []
    families = offered(hardware.device) if families is None else families
    for model in compiled_catalogue() if models is None else models:
        out += _answers(model, hardware, spec, families, residuals=residuals)
    order = {Verdict.FITS: 0, Verdict.FITS_IF: 1, Verdict.DOES_NOT_FIT: 2}
    precision = {family: i for i, family in enumerate(families)}
    out.sort(key=lambda r: (order[r.verdict], -r.params, precision[r.family], r.model_id))
    return out


def rank_devices(
    model: ModelProfile,
    devices: Iterable[Device],
    spec: ServingSpec = ServingSpec(),
    families: Sequence[str] | None = None,
    residuals: Residuals | None = None,
) -> list[Ranked]:
    """Every device for one model: for each family the smallest number of that device that holds it (up to
    8 by tensor parallelism), ordered by devices needed, then by total memory; misses last."""
    compiled = Compiled(
        facts_of(model), ledger_of(model), model.num_parameters, model.license or "", model.tags
    )
    out: list[tuple[float, Ranked]] = []
    shared: dict[tuple[object, ...], _Pricer] = {}
    for device in devices:
        best: dict[str, Ranked] = {}
        wanted = offered(device) if families is None else families
        for count in _counts(compiled.facts, device, spec):
            open_families = [f for f in wanted if f not in best or best[f].verdict is not Verdict.FITS]
            if not open_families:
                break
            machine = HardwareProfile.model_construct(
                devices=(device,) * count, origin="catalogue", notes=(), interconnect=None
            )
            changed = spec.model_copy(update={"tensor_parallel_size": count})
            for found in _answers(compiled, machine, changed, open_families, shared, residuals):
                best[found.family] = found
        out += [(device.total_bytes.value * found.devices, found) for found in best.values()]
    order = list(FAMILIES if families is None else families)
    out.sort(key=lambda e: (e[1].verdict is not Verdict.FITS, e[0], e[1].device, order.index(e[1].family)))
    return [ranked for _, ranked in out]


def offered(device: Device, families: Sequence[str] = FAMILIES) -> tuple[str, ...]:
    """The families but those that only a slow kernel runs on the device."""
    return tuple(f for f in families if not _slow(family_formats(f), device))


def _slow(formats: Sequence[Format], device: Device) -> bool:
    running = [s for s in (kernel_support(f, device) for f in formats) if s.runs]
    return bool(running) and all(s.slow for s in running)


def _counts(facts: ModelFacts, device: Device, spec: ServingSpec) -> list[int]:
    if device.kind in (DeviceKind.CPU, DeviceKind.METAL):
        return [1]
    sizes = [n for n in (1, 2, 4, 8) if spec.tensor_parallel_size <= n <= MAX_TENSOR_PARALLEL]
    return [n for n in sizes if facts.heads % n == 0] or sizes[:1]


def _answers(
    model: Compiled,
    hardware: HardwareProfile,
    spec: ServingSpec,
    families: Sequence[str],
    shared: dict[tuple[object, ...], _Pricer] | None = None,
    residuals: Residuals | None = None,
) -> list[Ranked]:
    facts, ledger, device = model.facts, model.ledger, hardware.device
    version = parse_version(spec.engine_version)
    view = view_of(device)
    context = min(spec.max_model_len or facts.max_positions or 4096, facts.max_positions or 1 << 30)
    if view.cpu and hardware.origin == "probe":
        spec = with_cpu_space(spec, os.environ)
    full = filled(spec.model_copy(update={"max_model_len": context}), facts, view, version)
    sharding = Sharding(
        facts,
        full.tensor_parallel_size,
        full.data_parallel_size,
        full.enable_expert_parallel,
        triton=mxfp4_by_triton(view.sm, version),
    )
    extra, _ = extras(facts, ledger, full, cuda=not view.cpu)
    if residuals is not None:
        extra, _ = residuals.applied(extra, spec.engine_version, view.name, facts.architecture)
    stored = predict(facts, ledger, view, full, version, extra=extra)
    ops = active_parameters(facts, ledger)
    key = (device.kind, device.sm, device.isa, full.tensor_parallel_size, stored.served_bytes)
    pricer = shared.get(key) if shared is not None else None
    if pricer is None:
        pricer = _Pricer(ledger, sharding, stored.served_bytes, device)
        if shared is not None:
            shared[key] = pricer
    plain = (
        full.pipeline_parallel_size == 1
        and not full.cpu_offload_gb
        and full.kv_cache_memory_bytes is None
        and not extra.residual_weights
        and not extra.bytes_per_rank
    )

    weights: dict[FormatChoice | None, list[RankBytes]] = {None: [rank.read for rank in stored.ranks]}

    def predicted(changed: ServingSpec, choice: FormatChoice | None) -> Prediction:
        same = changed.tensor_parallel_size == full.tensor_parallel_size  # else no lever moves weights
        known = weights.get(choice) if same else None
        return predict(facts, ledger, view, changed, version, choice, extra, known)

    def choice_of(found: tuple[RankBytes, dict[Line, Format]]) -> FormatChoice:
        choice = UniformChoice(found[1].get)
        if full.pipeline_parallel_size == 1:
            weights[choice] = [found[0]]
        return choice

    out = []
    for family in families:
        formats = family_formats(family)
        if facts.stored_method and formats:
            continue  # quantizing it again would start from rounded weights
        found = pricer.price(formats) if formats else None
        p = stored
        if found is None:
            if family != "16-bit":
                continue  # no kernel, no layer that could have it, or already quantized
        elif plain:
            p = reweighted(stored, [found[0]], context, version)
        else:
            p = predict(facts, ledger, view, full, version, UniformChoice(found[1].get), extra)
        choice = choice_of(found) if found else None
        used = {fmt.name for fmt in found[1].values()} if found else ()
        judge, _ = Judge.of(facts, hardware, view, version, predicted, full, used)
        smaller = OTHER_FORMATS if found is None and not facts.stored_method else ()
        priced = (pricer.price(family_formats(other)) for other in smaller)
        others = (choice_of(other) for other in priced if other is not None)
        verdict = judge.verdict(full, p, choice, others)
        refusals = judge.refusals(full, p) if verdict is not Verdict.FITS else []
        reason = refusals[0] if refusals else "fewer requests than asked for"
        low, value, high = _decode(facts, ops, device, full, p)
        longest = p.cache.longest(p.blocks_low, spec.concurrency, facts.max_positions or context)
        rank = p.ranks[p.tight]
        out.append(
            Ranked(
                facts.model_id,
                family,
                device.name,
                full.tensor_parallel_size * full.pipeline_parallel_size * full.data_parallel_size,
                verdict,
                "" if verdict is Verdict.FITS else reason,
                rank.weights,
                max(0.0, rank.available.value),
                p.capacity.tokens,
                p.capacity.concurrency,
                longest,
                context,
                value,
                low,
                high,
                model.params,
                model.license,
                model.tags,
                facts.stored_label,
            )
        )
    return out


_PRICED: dict[tuple[object, ...], tuple[tuple[Format | None, ...], int]] = {}
"""Formats and bytes per block of a kind of layer: models of one family share most of theirs."""


class _Pricer:
    """Weights of one model in family after family: only quantizable groups are priced again."""

    def __init__(self, ledger: Ledger, sharding: Sharding, served_bytes: int, device: Device) -> None:
        self._sharding, self._width, self._device = sharding, served_bytes, device
        self._known: dict[tuple[str, int], tuple[RankBytes, dict[Line, Format]] | None] = {}
        self._cuda = device.kind is not DeviceKind.CPU
        self._tied = sharding.facts.tied
        facts = sharding.facts
        self._signature = (
            served_bytes, sharding.tp, sharding.ep, sharding.triton, device.kind, device.sm, device.isa,
            facts.heads, facts.kv_heads, facts.expert_width, facts.stored_method, facts.latent,
        )  # fmt: skip
        self._rest = RankBytes()
        self._rest.total = sharding.facts.rope_elements * self._width
        self._groups: list[tuple[Group, tuple[tuple[int, int] | None, ...]]] = []
        for group in ledger.groups:
            shapes = tuple(fused_shape(group, line, sharding) for line in group.lines)
            if any(shapes):
                self._groups.append((group, shapes))
            else:
                nothing = (None,) * len(group.lines)
                held = group_bytes(group, nothing, sharding, self._width, cuda=self._cuda)
                self._rest.add(group, held, self._tied)

    def price(self, formats: tuple[Format, ...]) -> tuple[RankBytes, dict[Line, Format]] | None:
        """The rank's bytes and the format of each kind of layer; None when no layer takes any format."""
        key = (formats[0].name, len(formats))
        if key not in self._known:
            self._known[key] = self._price(formats)
        return self._known[key]

    def _price(self, formats: tuple[Format, ...]) -> tuple[RankBytes, dict[Line, Format]] | None:
        total = RankBytes()
        total.total, total.experts, total.unread = (
            self._rest.total,
            self._rest.experts,
            self._rest.unread,
        )
        table: dict[Line, Format] = {}
        mark = (formats[0].name, len(formats), self._signature)
        for group, shapes in self._groups:
            key = (group.fused, group.lines, shapes, mark)
            if key not in _PRICED:
                chosen = [line_format(group, s, formats, self._device) if s else None for s in shapes]
                held = group_bytes(group, chosen, self._sharding, self._width, cuda=self._cuda)
                _PRICED[key] = (tuple(chosen), held // max(1, len(group.blocks)))
            found, each = _PRICED[key]
            table.update({line: fmt for line, fmt in zip(group.lines, found, strict=True) if fmt is not None})
            total.add(group, each * len(group.blocks), self._tied)
        return (total, table) if table else None


def _decode(
    facts: ModelFacts, parameters: float, device: Device, spec: ServingSpec, p: Prediction
) -> tuple[float | None, float | None, float | None]:
    """Tokens per second of one request alone, at a quarter of the context: bytes read over bandwidth."""
    if device.bandwidth_bytes_s is None or device.bandwidth_bytes_s.value <= 0:
        return None, None, None
    assert spec.max_model_len is not None
    cpu = device.kind is DeviceKind.CPU
    away = 0.0 if cpu else sum(read_from_host(facts, r.read, 1, spec) for r in p.ranks)
    moved = sum(weights_read(facts, r.read, 1) for r in p.ranks) - away
    moved += p.cache.request_blocks(max(1, spec.max_model_len // 4)) * sum(p.cache.block_bytes)
    peak = next((device.peak_ops[k].value for k in ("bf16", "fp16", "fp32") if k in device.peak_ops), 0.0)
    ops = 2 * parameters / spec.tensor_parallel_size
    ends = CPU_EFFICIENCY if cpu else DECODE_EFFICIENCY
    rates = []
    for efficiency, overhead, link in zip(ends, reversed(STEP_OVERHEAD_MS), HOST_LINK_BYTES_S, strict=True):
        seconds = moved / (device.bandwidth_bytes_s.value * efficiency) + away / link
        if peak:
            seconds = max(seconds, ops / (peak * efficiency))
        rates.append(1 / (seconds + overhead / 1e3))
    low, value, high = rates
    return low, value, high

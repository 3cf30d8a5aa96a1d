"""`estimate`: the engine's boot log of one model under one plan, predicted line by line."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from profiles.errors import UsageError
from profiles.footprint import figures, laws
from profiles.footprint.core import Prediction, predict
from profiles.footprint.extras import extras
from profiles.footprint.facts import ModelFacts, facts_of
from profiles.footprint.ledger import Ledger, ledger_of
from profiles.footprint.levers import Trial, levers, slack
from profiles.footprint.schema import Footprint, Lever, ServingSpec, Verdict
from profiles.footprint.serving import DeviceView, filled, view_of, with_cpu_space
from profiles.footprint.speed import compute_type, speed
from profiles.footprint.startup import gib, stored_format
from profiles.footprint.uniform import uniform_formats
from profiles.footprint.verdict import OTHER_FORMATS, Judge
from profiles.footprint.version import NEWEST, Version, parse_version
from profiles.footprint.weights import FormatChoice, checkpoint_bytes, plan_choice
from profiles.hardware.schema import HardwareProfile
from profiles.models.schema import ModelProfile
from profiles.provenance import Figure

if TYPE_CHECKING:
    from profiles.footprint.residuals import Residuals

MAX_PARALLEL = 4096
"""Ranks beyond it are typing errors."""


def estimate(
    model: ModelProfile,
    hardware: HardwareProfile,
    spec: ServingSpec,
    formats_by_linear: Mapping[str, str] | None = None,
    plan_label: str = "as stored",
    residuals: Residuals | None = None,
) -> Footprint:
    """What the engine will answer at boot, for the tightest rank, with refusals, levers and speed.

    `formats_by_linear` maps checkpoint module names to formats; absent modules stay as stored.

    Raises:
        UsageError: a format that does not exist, an engine version without a law, a model without tensors.
    """
    version = parse_version(spec.engine_version)
    facts, ledger = facts_of(model), ledger_of(model)
    _check(model, ledger, spec)
    view = view_of(hardware.device)
    if view.cpu and hardware.origin == "probe":
        spec = with_cpu_space(spec, os.environ)
    full = filled(spec, facts, view, version)
    choice = plan_choice(formats_by_linear)
    extra, notes = extras(facts, ledger, full, cuda=not view.cpu)
    corrected = ""
    if residuals is not None:
        extra, corrected = residuals.applied(extra, spec.engine_version, view.name, facts.architecture)
    p = predict(facts, ledger, view, full, version, choice, extra)

    def predicted(changed: ServingSpec, other: FormatChoice | None) -> Prediction:
        return predict(facts, ledger, view, changed, version, other, extra)

    used = set((formats_by_linear or {}).values())
    judge, more = Judge.of(facts, hardware, view, version, predicted, full, used)
    notes += more + _notes(facts, hardware, view, full, p, version)
    refusals = judge.refusals(full, p)
    others = {}
    if not formats_by_linear and model.quantization is None:
        others = _other_formats(model, hardware, full)
    verdict = judge.verdict(full, p, choice, others.values())
    found_levers: tuple[Lever, ...] = ()
    known, source = laws.provenance_of(_batch_stub(full, version, view), view.name)
    if corrected:
        source = corrected
    if verdict is not Verdict.FITS:
        before = slack(p, full)
        found_levers = levers(before, judge.trials(full), lambda c: judge.attempt(c, choice), source)
        for family, other_choice in others.items():
            trial = Trial(f"weights in {family.upper()}", full, OTHER_FORMATS[family])
            found_levers += levers(before, [trial], functools.partial(_with, judge, other_choice), source)
    rank = p.ranks[p.tight]
    other, graph = figures.overhead_figures(p, facts, full, known, source)
    tokens, concurrency, longest = figures.capacity_figures(p, facts, full, version, known, source)
    dtype = "float32" if p.served_bytes == 4 else "auto"
    rates = speed(facts, ledger, hardware.device, full, p, compute_type(used, stored_format(facts), dtype))
    return Footprint(
        weights=figures.weights_figure(
            p, facts, full, plan_label, corrected if extra.residual_weights else ""
        ),
        activation=figures.activation_figure(p, facts, view, full, version, known, source),
        non_torch=other,
        cuda_graph=graph,
        kv_bytes=figures.kv_figure(p, view, full, known, source),
        kv_bytes_per_token=figures.per_token_figure(p, full),
        kv_tokens=tokens,
        max_concurrency=concurrency,
        longest_context=longest,
        budget=_budget(p, view, full),
        checkpoint=_checkpoint(ledger, choice, plan_label),
        free_after=_free_after(p, view, full, source),
        verdict=verdict,
        reason=_reason(verdict, p, full, refusals, concurrency, rank.available.value),
        refusals=tuple(refusals),
        levers=found_levers,
        spec=full,
        device_name=view.name,
        plan_label=plan_label,
        prefill_tokens_s=rates.prefill_tokens_s,
        decode_tokens_s=rates.decode_tokens_s,
        ttft_ms=rates.ttft_ms,
        itl_ms=rates.itl_ms,
        throughput_tokens_s=rates.throughput_tokens_s,
        notes=tuple(dict.fromkeys([*notes, *rates.notes])),
    )


def _other_formats(
    model: ModelProfile, hardware: HardwareProfile, full: ServingSpec
) -> dict[str, FormatChoice]:
    """The last levers: smaller formats for the weights, each as its uniform plan."""
    out: dict[str, FormatChoice] = {}
    for family in OTHER_FORMATS:
        formats = uniform_formats(
            model, hardware.device, family, tensor_parallel_size=full.tensor_parallel_size
        )
        choice = plan_choice(formats) if formats else None
        if choice is not None:
            out[family] = choice
    return out


def _with(judge: Judge, choice: FormatChoice, spec: ServingSpec) -> tuple[float, bool]:
    return judge.attempt(spec, choice)


def predict_stages(
    model: ModelProfile,
    hardware: HardwareProfile,
    spec: ServingSpec,
    formats_by_linear: Mapping[str, str] | None = None,
) -> Prediction:
    """The plain numbers behind `estimate` for every pipeline stage, without residuals."""
    version = parse_version(spec.engine_version)
    facts, ledger, view = facts_of(model), ledger_of(model), view_of(hardware.device)
    _check(model, ledger, spec)
    full = filled(spec, facts, view, version)
    extra, _ = extras(facts, ledger, full, cuda=not view.cpu)
    return predict(facts, ledger, view, full, version, plan_choice(formats_by_linear), extra)


def _check(model: ModelProfile, ledger: Ledger, spec: ServingSpec) -> None:
    if not ledger.stored_bytes:
        raise UsageError("the model's profile lists no tensors", got=model.model_id[:120])
    ranks = spec.tensor_parallel_size * spec.pipeline_parallel_size * spec.data_parallel_size
    if ranks > MAX_PARALLEL or spec.pipeline_parallel_size > model.num_layers:
        raise UsageError(
            "not a parallel layout",
            got=f"TP {spec.tensor_parallel_size} x PP {spec.pipeline_parallel_size} "
            f"x DP {spec.data_parallel_size}",
            allowed=f"at most {MAX_PARALLEL} ranks, and PP up to {model.num_layers} layers",
        )


def _batch_stub(spec: ServingSpec, version: Version, view: DeviceView) -> laws.Batch:
    assert spec.max_num_batched_tokens is not None
    assert spec.max_num_seqs is not None
    return laws.Batch(
        spec.max_num_batched_tokens, spec.max_num_seqs, 2, 1, 1, 1, False, version, not view.cpu
    )


def _notes(
    facts: ModelFacts,
    hardware: HardwareProfile,
    view: DeviceView,
    spec: ServingSpec,
    p: Prediction,
    version: Version,
) -> list[str]:
    notes = []
    if version > NEWEST:
        notes.append(f"vLLM {version[0]}.{version[1]} is newer than the laws: intervals widened")
    if len({d.name for d in hardware.devices}) > 1:
        notes.append("devices differ: the first one's memory is taken for every rank")
    if spec.concurrency > (spec.max_num_seqs or 0):
        notes.append(
            f"concurrency {spec.concurrency} exceeds max_num_seqs {spec.max_num_seqs}: requests queue"
        )
    if p.cache.padding_layers:
        notes.append(f"the cache's groups are padded by {p.cache.padding_layers} layers")
    if len(p.ranks) > 1:
        first = p.ranks[0]
        notes.append(
            f"figures are of stage {p.tight}; stage 0: weights {gib(first.weights)}, activation "
            f"{gib(first.activation.value)}, KV cache {gib(max(0.0, first.available.value))}"
        )
    if facts.dtype == "float32" and spec.dtype == "auto":
        notes.append("a float32 checkpoint is served in 16 bits unless --dtype float32 is given")
    return notes


def _budget(p: Prediction, view: DeviceView, spec: ServingSpec) -> Figure:
    formula = f"{view.total / laws.GIB:,.2f} GiB x {spec.gpu_memory_utilization}"
    if view.cpu and spec.kv_cache_memory_bytes is not None:
        rank = p.ranks[p.tight]
        total = rank.weights + rank.activation.value + rank.non_torch.value + spec.kv_cache_memory_bytes
        words = "weights + activation + process + KV cache asked for"
        high = rank.weights + rank.activation.high + rank.non_torch.high + spec.kv_cache_memory_bytes
        low = rank.weights + rank.activation.low + rank.non_torch.low + spec.kv_cache_memory_bytes
        return Figure.estimated(total, low, high, "B", "CPU engine with an explicit cache", words)
    return Figure.exact(p.budget, "B", "device memory x gpu_memory_utilization", formula)


def _checkpoint(ledger: Ledger, choice: FormatChoice | None, label: str) -> Figure:
    total = checkpoint_bytes(ledger, choice)
    words = "tensor bytes as stored" if choice is None else f"tensor bytes with {label}, file header aside"
    return Figure.exact(total, "B", "shapes and formats", f"{words} = {total:,} B")


def _free_after(p: Prediction, view: DeviceView, spec: ServingSpec, source: str) -> Figure:
    rank = p.ranks[p.tight]
    if spec.kv_cache_memory_bytes is not None:
        fixed = rank.weights + spec.kv_cache_memory_bytes
        taken = [
            fixed + a + n + g for a, n, g in zip(rank.activation, rank.non_torch, rank.graph, strict=True)
        ]
    else:
        outside = (0.0, 0.0, 0.0) if p.graphs_inside else rank.graph
        taken = [p.budget + g for g in outside]
    value, high, low = (max(0.0, view.total - t) for t in taken)
    words = f"{gib(view.total)} of device memory - {gib(taken[0])} that the engine takes"
    return Figure.estimated(value, min(low, value), max(high, value), "B", source, words)


def _reason(
    verdict: Verdict,
    p: Prediction,
    spec: ServingSpec,
    refusals: list[str],
    concurrency: Figure,
    room: float,
) -> str:
    held = f"{spec.concurrency} x {spec.max_model_len:,} tokens"
    if verdict is Verdict.FITS:
        if not p.cache.groups:
            return f"fits: {gib(room)} left, nothing is kept per request"
        return (
            f"fits: the KV cache of {gib(room)} holds {concurrency.value:,.2f} requests "
            f"of {spec.max_model_len:,} tokens"
        )
    if refusals:
        return refusals[0]
    if concurrency.value >= spec.concurrency:
        return (
            f"too close to call: {held} fit at the expected overheads, not at their upper end "
            f"(KV cache {gib(room)})"
        )
    return (
        f"the KV cache of {gib(max(0.0, room))} holds {concurrency.value:,.2f} requests, "
        f"{held} were asked for"
    )

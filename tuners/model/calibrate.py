"""Fill the variant store: Hessians from calibration text, then every (unit, format) once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from profiles.formats import CALIBRATED, get_format
from tuners.events import Emit, StageFinished, StageStarted, Ticker
from tuners.model import inputs, smoothing
from tuners.model.host import BlockRun, Feed, ModelHost, model_feed
from tuners.model.limits import HESSIAN_BYTES
from tuners.model.variants import LinearVariant, VariantStore, gptq, rtn, rtn_all
from tuners.plan import Unit

ROWS_BYTES = 2**30
"""Inputs of units held at once while their scales are sought, likewise."""


def build_variants(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    *,
    emit: Emit,
    damping: float = 0.01,
    batch_size: int = 4,
    hessian_bytes: int = HESSIAN_BYTES,
) -> int:
    """Quantize every missing (unit, format) and return how many were made.

    `ids` (sequences, tokens) calibrates GPTQ; Hessians are those of the original model's activations.
    Finished variants are on disk at once, so an interrupted run goes on where it stopped.
    """
    start = time.monotonic()
    missing = [
        (u, f) for u in host.units.values() for f in u.options if f != "BF16" and not store.has(u.name, f)
    ]
    emit(
        StageStarted(
            stage="cache", title="quantize every unit in every format", total=len(missing), unit="variants"
        )
    )
    ticker, done = Ticker(emit, "cache", len(missing)), 0
    for part, feed, probe in _parts(host, missing, ids, batch_size):
        for what in _build(host, store, part, feed, probe, damping=damping, hessian_bytes=hessian_bytes):
            done += 1
            ticker(done, what)
    emit(
        StageFinished(stage="cache", title="variants", seconds=time.monotonic() - start, skipped=not missing)
    )
    return len(missing)


def _parts(
    host: ModelHost, missing: Sequence[tuple[Unit, str]], ids: Tensor, batch_size: int
) -> Iterator[tuple[list[tuple[Unit, str]], Feed, smoothing.Probe | None]]:
    """What is built together, how its calibration text is run, and what a correct fold leaves unchanged:
    all at once in memory; block by block from a stream, each block run on the output of the one before."""
    head = [(u, f) for u, f in missing if u.block is None]
    if host.stream is None:
        yield list(missing), model_feed(host, ids, batch_size, head=bool(head)), None
        return
    if not missing:
        return
    few = ids[:1, : smoothing.PROBE_TOKENS]
    short = host.block_calls(few, 1)
    for run in host.blocks_in_turn(ids, batch_size):
        part = [(u, f) for u, f in missing if u.block == run.index]
        if part:
            alone = BlockRun(run.index, run.block, few, short, [run.inputs[0][:1, : few.shape[1]]])
            yield part, run.feed(), alone.first
    if head:
        yield head, model_feed(host, ids, batch_size, head=True), None


def _build(
    host: ModelHost,
    store: VariantStore,
    missing: Sequence[tuple[Unit, str]],
    feed: Feed,
    probe: smoothing.Probe | None,
    *,
    damping: float,
    hessian_bytes: int,
) -> Iterator[str]:
    """Make the variants and say of each what was made."""
    calibrated = dict.fromkeys(u.name for u, f in missing if store.activations(f) in CALIBRATED)
    spans = input_spans(host, [host.units[n] for n in calibrated], feed)
    for unit, fmt, scale in _input_scales(host, store, missing, feed, probe):
        by = 1.0 if scale is None else scale
        rounded = rtn_all([host.original[m.name] * by for m in unit.linears], get_format(fmt))
        names = [m.name for m in unit.linears]
        store.put(unit.name, fmt, dict(zip(names, rounded, strict=True)), scale, spans.get(unit.name))
        yield f"{unit.name} {fmt} ({'RTN' if scale is None else 'input scale, RTN'})"
    int4 = [(u, f) for u, f in missing if get_format(f).family == "int4"]
    for chunk in _chunks(int4, hessian_bytes, lambda u: 4 * u.linears[0].in_features ** 2):
        hessians = collect_hessians(host, [u for u, _ in chunk], feed)
        for batch in _same_shape(chunk):
            _gptq_batch(host, store, batch, hessians, damping)
            for unit, fmt in batch:
                yield f"{unit.name} {fmt} (GPTQ)"


def _input_scales(
    host: ModelHost,
    store: VariantStore,
    missing: Sequence[tuple[Unit, str]],
    feed: Feed,
    probe: smoothing.Probe | None,
) -> Iterator[tuple[Unit, str, Tensor | None]]:
    """Every missing variant but INT4 with the input scale that it gets, if any."""
    rounding = [(u, f) for u, f in missing if store.takes_input_scale(f)]
    for unit, fmt in missing:
        if get_format(fmt).family != "int4" and (unit, fmt) not in rounding:
            yield unit, fmt, None
    if rounding:
        found = smoothing.absorbers(host, list({u.name: u for u, _ in rounding}.values()), probe)
        yield from input_scales(host, rounding, found, feed)


def input_scales(
    host: ModelHost,
    todo: Sequence[tuple[Unit, str]],
    producers: Mapping[str, smoothing.Absorber],
    feed: Feed,
) -> Iterator[tuple[Unit, str, Tensor | None]]:
    """The input scale (in,) of each (unit, format that rounds activations); None where none helps.

    Calibration rows of many units come from one pass over the text, bounded by `ROWS_BYTES`.
    """
    for chunk in _chunks(todo, ROWS_BYTES, lambda u: 4 * smoothing.ROWS * u.linears[0].in_features):
        names = [n for n in dict.fromkeys(u.name for u, _ in chunk) if n in producers]
        rows = smoothing.collect_rows(host, [host.units[n] for n in names], feed) if names else {}
        for unit, fmt in chunk:
            if unit.name not in producers:
                yield unit, fmt, None
                continue
            form = get_format(fmt)
            round_input = inputs.rounding(form.activations)
            assert round_input is not None
            weights = [host.original[m.name] for m in unit.linears]
            yield (
                unit,
                fmt,
                smoothing.best_scale(
                    rows[unit.name],
                    weights,
                    producers[unit.name],
                    lambda w, form=form: rtn(w, form).dequantize(torch.float32),
                    round_input,
                ),
            )


def _chunks(
    todo: Sequence[tuple[Unit, str]], limit: int, bytes_of: Callable[[Unit], int]
) -> Iterator[list[tuple[Unit, str]]]:
    chunk: list[tuple[Unit, str]] = []
    used = 0
    for unit, fmt in todo:
        need = bytes_of(unit)
        if chunk and used + need > limit:
            yield chunk
            chunk, used = [], 0
        chunk.append((unit, fmt))
        used += need
    if chunk:
        yield chunk


def _same_shape(chunk: Sequence[tuple[Unit, str]], most: int = 8) -> Iterator[list[tuple[Unit, str]]]:
    """Batches of units with equal linear shapes and format: GPTQ's column loop then runs once for all."""
    buckets: dict[tuple[object, ...], list[tuple[Unit, str]]] = {}
    for unit, fmt in chunk:
        key = (fmt, *((m.out_features, m.in_features) for m in unit.linears))
        buckets.setdefault(key, []).append((unit, fmt))
    for bucket in buckets.values():
        for i in range(0, len(bucket), most):
            yield bucket[i : i + most]


def _gptq_batch(
    host: ModelHost,
    store: VariantStore,
    batch: Sequence[tuple[Unit, str]],
    hessians: dict[str, Tensor],
    damping: float,
) -> None:
    made: dict[str, dict[str, LinearVariant]] = {u.name: {} for u, _ in batch}
    fmt = get_format(batch[0][1])
    for position in range(len(batch[0][0].linears)):
        names = [u.linears[position].name for u, _ in batch]
        results = gptq(
            [host.original[n].clone() for n in names],
            [hessians[u.name].clone() for u, _ in batch],
            fmt,
            damping,
        )
        for (unit, _), name, variant in zip(batch, names, results, strict=True):
            made[unit.name][name] = variant
    for unit, name in batch:
        store.put(unit.name, name, made[unit.name])


@torch.no_grad()
def input_spans(host: ModelHost, units: Sequence[Unit], feed: Feed) -> dict[str, Tensor]:
    """Smallest and largest input (2,) of each unit over the text: llm-compressor's `static_minmax`."""
    found: dict[str, Tensor] = {}

    def widen(name: str, x: Tensor) -> None:
        here = torch.stack(x.aminmax()).float().cpu()
        old = found.get(name, here)
        found[name] = torch.stack([torch.minimum(old[0], here[0]), torch.maximum(old[1], here[1])])

    handles = [
        host.linear(u.linears[0].name).register_forward_pre_hook(
            lambda _m, args, name=u.name: widen(name, args[0])
        )
        for u in units
    ]
    try:
        if units:
            feed(lambda _place, _tokens: None)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def collect_hessians(host: ModelHost, units: Sequence[Unit], feed: Feed) -> dict[str, Tensor]:
    """2/n sum of x x^T over the tokens for the input of each unit (GPTQ, arXiv 2210.17323, eq. 3).

    A unit's linears share their input, so one (in, in) float32 matrix serves them all.
    """
    sums = {
        u.name: torch.zeros(u.linears[0].in_features, u.linears[0].in_features, device=host.device)
        for u in units
    }
    tokens = 0

    def count(_place: int, batch_tokens: int) -> None:
        nonlocal tokens
        tokens += batch_tokens

    def accumulate(name: str, x: Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1]).float()
        sums[name].addmm_(flat.t(), flat)

    handles = [
        host.linear(u.linears[0].name).register_forward_pre_hook(
            lambda _m, args, name=u.name: accumulate(name, args[0])
        )
        for u in units
    ]
    try:
        feed(count)
    finally:
        for handle in handles:
            handle.remove()
    return {name: h.mul_(2.0 / max(tokens, 1)) for name, h in sums.items()}

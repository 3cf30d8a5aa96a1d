"""The sensitivity stage: exact where the time allows, fast where it does not, both with their agreement."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from tuners.evaluate import counted_tokens
from tuners.events import Emit, Message, Progress
from tuners.model.limits import SAMPLE_CELLS
from tuners.search.schema import SearchSettings
from tuners.search.setup import Setup
from tuners.sensitivity.fast import FastSignals, measure_fast
from tuners.sensitivity.measure import measure_kl, relative_error
from tuners.sensitivity.quick import RoundedStore, quick_scores
from tuners.sensitivity.streamed import measure_fast_streamed, measure_kl_streamed, rows_by_format
from tuners.sensitivity.table import Cell, CellLog, SensitivityTable

TIMED_SEQUENCES = 2


def score(setup: Setup, emit: Emit) -> SensitivityTable:
    """Measure the table; a stopped run goes on at the next cell. The finished table is on disk."""
    table = _quick(setup, emit) if setup.settings.is_quick else _measured(setup, emit)
    setup.table_path.write_text(table.model_dump_json())
    return table


def quick_note(settings: SearchSettings) -> str:
    """What a quick plan rests on, and how to have a better one."""
    return (
        "a quick plan: its bits were placed by what quantizing each unit is expected to cost, worked out "
        f"from one backward pass over {settings.quick_sequences} sequences; its KL is measured with weights "
        "rounded to nearest. --sensitivity exact refines it"
    )


def _quick(setup: Setup, emit: Emit) -> SensitivityTable:
    """Every cell estimated, none measured."""
    settings, few, start = setup.settings, setup.quick_sequences, time.monotonic()
    assert isinstance(setup.store, RoundedStore)
    emit(Message(stage="sensitivity", text=quick_note(settings)))
    found = quick_scores(
        setup.host,
        setup.store,
        few.ids,
        weights=few.weights,
        seed=settings.seed,
        progress=_ticks(emit, "sequences, then units"),
    )
    return SensitivityTable(
        cells=tuple(Cell(unit=unit, format=fmt, g2dy2=value) for (unit, fmt), value in found.items()),
        tokens=int(few.ids.numel()),
        seconds=time.monotonic() - start,
        naive_forwards=0,
        suffix_forwards=0,
        exact_cells=0,
    )


def _measured(setup: Setup, emit: Emit) -> SensitivityTable:
    """Cells measured, all or a sample, and the fast signals of all."""
    host, store, settings = setup.host, setup.store, setup.settings
    ids, weights = setup.cell_sequences.ids, setup.cell_sequences.weights
    wanted = [(u.name, f) for u in setup.spec.units for f in u.options if f != "BF16"]
    log = CellLog(setup.cache / f"cells-{setup.text_kind}{len(ids)}.jsonl")
    start = time.monotonic()
    missing = [key for key in wanted if key not in log.cells]
    only = set(wanted)
    if settings.sensitivity != "exact" and missing:
        estimate = exact_seconds(setup, len(missing))
        if settings.sensitivity == "fast" or setup.streamed or estimate > settings.exact_seconds:
            only = set(wanted[:: max(1, len(wanted) // SAMPLE_CELLS)])
            emit(
                Message(
                    stage="sensitivity",
                    text=f"fast sensitivity: {len(missing)} exact cells would take about {estimate:.0f} s; "
                    f"backward passes score all of them, {len(only)} are measured to check",
                )
            )
    _measure(setup, log, only, emit)
    fast = _fast(setup, emit)
    cells = []
    for unit, fmt in wanted:
        cell = log.cells.get((unit, fmt))
        if cell is None:
            cell = Cell(unit=unit, format=fmt, mse=relative_error(host, store, host.units[unit], fmt))
        key = unit, fmt
        signals = {"fisher": fast.fisher[key], "gdy2": fast.gdy2[key], "g2dy2": fast.g2dy2[key]}
        cells.append(cell.model_copy(update=signals))
    blocks = len(host.blocks)
    return SensitivityTable(
        cells=tuple(cells),
        sequence_tokens=counted_tokens(ids, weights),
        tokens=int(ids.numel()),
        seconds=time.monotonic() - start,
        naive_forwards=len(wanted),
        suffix_forwards=sum(1 - host.block_of(u) / blocks for u, _ in wanted),
        exact_cells=sum(bool(c.sequence_kl) for c in cells),
    )


def _measure(setup: Setup, log: CellLog, only: Collection[tuple[str, str]], emit: Emit) -> None:
    """Measured KL of the cells of `only`, one after another, or many to a pass over streamed blocks."""
    host, store, scored = setup.host, setup.store, setup.cell_sequences
    if not setup.streamed:
        measure_kl(host, store, scored.ids, log, emit=emit, only=only, weights=scored.weights)
        return
    measure_kl_streamed(
        host,
        store,
        scored.ids,
        log,
        emit=emit,
        rows_of=rows_by_format(only, len(scored)),
        cells=only,
        weights=scored.weights,
        batch_size=setup.settings.batch_size,
    )


def _fast(setup: Setup, emit: Emit) -> FastSignals:
    """Signals of every cell from backward passes."""
    settings, probed = setup.settings, setup.scored.spread(setup.settings.probe_sequences)
    progress = _ticks(emit, "blocks" if setup.streamed else "sequences")
    if not setup.streamed:
        return measure_fast(
            setup.host, setup.store, probed.ids, weights=probed.weights, probes=settings.probes,
            seed=settings.seed, progress=progress,
        )  # fmt: skip
    return measure_fast_streamed(
        setup.host, setup.store, probed.ids, setup.cache / "scratch", weights=probed.weights,
        probes=settings.probes, seed=settings.seed, progress=progress,
    )  # fmt: skip


def _ticks(emit: Emit, what: str = "sequences") -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        emit(Progress(stage="sensitivity", done=done, total=total, text=f"backward passes, {what}"))

    return progress


def exact_seconds(setup: Setup, cells: int) -> float:
    """Estimated time of measuring that many cells: half a forward pass each (suffixes), timed here."""
    ids = setup.cell_sequences.ids
    few = ids[: min(TIMED_SEQUENCES, len(ids))]
    start = time.monotonic()
    setup.host.logits(few)
    once = (time.monotonic() - start) * len(ids) / len(few)
    return 0.5 * once * cells

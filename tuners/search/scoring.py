"""The sensitivity stage: exact where the time allows, fast where it does not, both with their agreement."""

from __future__ import annotations

import time

from tuners.evaluate import counted_tokens
from tuners.events import Emit, Message, Progress
from tuners.search.setup import Setup
from tuners.sensitivity.fast import measure_fast
from tuners.sensitivity.measure import measure_kl, relative_error
from tuners.sensitivity.table import Cell, CellLog, SensitivityTable

SAMPLE_CELLS = 24
"""Cells measured exactly in the fast mode: enough to tell a rank correlation of 0.97 from 0.8."""
TIMED_SEQUENCES = 2


def score(setup: Setup, emit: Emit) -> SensitivityTable:
    """Measure the table; a stopped run goes on at the next cell. The finished table is on disk."""
    host, store, settings = setup.host, setup.store, setup.settings
    ids, weights = setup.cell_sequences.ids, setup.cell_sequences.weights
    wanted = [(u.name, f) for u in setup.spec.units for f in u.options if f != "BF16"]
    log = CellLog(setup.cache / f"cells-{'' if weights is None else 'answers-'}{len(ids)}.jsonl")
    start = time.monotonic()
    missing = [key for key in wanted if key not in log.cells]
    only = set(wanted)
    if settings.sensitivity != "exact" and missing:
        estimate = exact_seconds(setup, len(missing))
        if settings.sensitivity == "fast" or estimate > settings.exact_seconds:
            only = set(wanted[:: max(1, len(wanted) // SAMPLE_CELLS)])
            emit(
                Message(
                    stage="sensitivity",
                    text=f"fast sensitivity: {len(missing)} exact cells would take about {estimate:.0f} s; "
                    f"backward passes score all of them, {len(only)} are measured to check",
                )
            )
    measure_kl(host, store, ids, log, emit=emit, only=only, weights=weights)
    probed = setup.scored.spread(settings.probe_sequences)
    fast = measure_fast(
        host,
        store,
        probed.ids,
        weights=probed.weights,
        probes=settings.probes,
        seed=settings.seed,
        progress=lambda n, t: emit(
            Progress(stage="sensitivity", done=n, total=t, text="backward passes, sequences")
        ),
    )
    cells = []
    for unit, fmt in wanted:
        cell = log.cells.get((unit, fmt))
        if cell is None:
            cell = Cell(unit=unit, format=fmt, mse=relative_error(host, store, host.units[unit], fmt))
        cells.append(cell.model_copy(update={"fisher": fast.fisher[unit, fmt], "gdy2": fast.gdy2[unit, fmt]}))
    blocks = len(host.blocks)
    table = SensitivityTable(
        cells=tuple(cells),
        sequence_tokens=counted_tokens(ids, weights),
        tokens=int(ids.numel()),
        seconds=time.monotonic() - start,
        naive_forwards=len(wanted),
        suffix_forwards=sum(1 - host.block_of(u) / blocks for u, _ in wanted),
        exact_cells=sum(bool(c.sequence_kl) for c in cells),
    )
    setup.table_path.write_text(table.model_dump_json())
    return table


def exact_seconds(setup: Setup, cells: int) -> float:
    """Estimated time of measuring that many cells: half a forward pass each (suffixes), timed here."""
    ids = setup.cell_sequences.ids
    few = ids[: min(TIMED_SEQUENCES, len(ids))]
    start = time.monotonic()
    setup.host.logits(few)
    once = (time.monotonic() - start) * len(ids) / len(few)
    return 0.5 * once * cells

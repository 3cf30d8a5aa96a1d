"""The exact half of the sensitivity table: KL with one unit changed, by suffix evaluation."""

from __future__ import annotations

import time
from collections.abc import Collection

import torch
from torch import Tensor

from profiles.formats import get_format
from tuners.evaluate import compare
from tuners.events import Emit, SensitivityMeasured, Ticker
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore
from tuners.plan import Unit
from tuners.sensitivity.table import Cell, CellLog

EIGHT_BIT_SHARE = 0.5
"""Sequences that formats of eight bits are measured on: they move the output so little that half of them
tell the cells apart well enough."""


def measure_kl(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    log: CellLog,
    *,
    emit: Emit,
    eight_bit_share: float = EIGHT_BIT_SHARE,
    only: Collection[tuple[str, str]] | None = None,
    weights: Tensor | None = None,
) -> float:
    """KL of the model with one unit changed, for every (unit, format) of `only` (all) not in `log` yet.

    Block inputs of the original are captured once; a change in block b then runs blocks b...L only.
    Formats of eight bits move the output so little that the first `eight_bit_share` of the sequences
    tells them apart well enough. Returns the seconds spent.
    """
    start = time.monotonic()
    wanted = {u.name: _formats(u, only) for u in host.units.values()}
    todo = [u for u in host.units.values() if any((u.name, f) not in log.cells for f in wanted[u.name])]
    total = sum(len(formats) for formats in wanted.values())
    done = total - sum(1 for u in todo for f in wanted[u.name] if (u.name, f) not in log.cells)
    if not todo:
        return 0.0
    inputs, logits = host.capture(ids)
    reference = torch.log_softmax(logits, -1)
    del logits
    few = max(1, round(len(ids) * eight_bit_share))
    few_inputs = type(inputs)(hidden=tuple(h[:few] for h in inputs.hidden))
    ticker = Ticker(emit, "sensitivity", total)
    for unit in todo:
        block = host.block_of(unit.name)
        cells = []
        for fmt in wanted[unit.name]:
            if (unit.name, fmt) in log.cells:
                continue
            eight = get_format(fmt).weight_bits >= 8
            with store.installed({unit.name: fmt}):
                out = host.logits_from(block, ids[:few] if eight else ids, few_inputs if eight else inputs)
            counted = None if weights is None else weights[: len(out)]
            losses = compare(out, reference, ids[: len(out)], counted)
            cells.append(
                Cell(
                    unit=unit.name,
                    format=fmt,
                    sequence_kl=tuple(x.kl for x in losses),
                    mse=relative_error(host, store, unit, fmt),
                )
            )
            done += 1
            emit(
                SensitivityMeasured(
                    stage="sensitivity",
                    unit=unit.name,
                    format=fmt,
                    signal="kl",
                    value=sum(x.kl for x in losses) / len(losses),
                    done=done,
                    total=total,
                )
            )
        log.add(cells)
        ticker(done, unit.name)
    return time.monotonic() - start


def sequences_for(fmt: str, sequences: int, eight_bit_share: float = EIGHT_BIT_SHARE) -> int:
    """Of so many sequences, how many measure a cell of this format."""
    return max(1, round(sequences * eight_bit_share)) if get_format(fmt).weight_bits >= 8 else sequences


def relative_error(host: ModelHost, store: VariantStore, unit: Unit, fmt: str) -> float:
    """Squared weight error of the unit in that format over the weight's own squared norm."""
    error = energy = 0.0
    for name, weight in store.dense(unit.name, fmt).items():
        original = host.original[name].float()
        error += float((weight.float() - original).square().sum())
        energy += float(original.square().sum())
    return error / max(energy, 1e-30)


def _formats(unit: Unit, only: Collection[tuple[str, str]] | None) -> list[str]:
    return [f for f in unit.options if f != "BF16" and (only is None or (unit.name, f) in only)]

"""The sensitivity table of a model whose weights are in memory one decoder block at a time.

Both halves give the numbers of the resident ones. The cheap signals take two passes over the blocks: forward,
keeping the hidden states between blocks on disk, then backward, where each block is run once more on its
stored input and hands its input's gradient to the block before. Measured cells share a forward pass: the
hidden states of many changed models walk through the same blocks, each from the block where it changes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tuners.evaluate import compare
from tuners.events import Emit, SensitivityMeasured, Ticker
from tuners.model.host import BlockCall, ModelHost, batches
from tuners.model.limits import ROWS_BYTES, STATES_BYTES
from tuners.model.variants import VariantStore
from tuners.plan import Unit
from tuners.sensitivity.fast import FastSignals, Seen, SignalSums, probe_directions, projections
from tuners.sensitivity.measure import relative_error, sequences_for
from tuners.sensitivity.table import Cell, CellLog


def measure_fast_streamed(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    scratch: Path,
    *,
    probes: int = 2,
    seed: int = 0,
    weights: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FastSignals:
    """The signals of `tuners.sensitivity.fast`, block by block; hidden states lie in `scratch` meanwhile.

    Memory: one block, `ROWS_BYTES` of inputs and gradients (one sequence at least), and the gradients between
    blocks, probes x tokens x hidden floats.
    """
    calls = host.block_calls(ids, 1)
    totals = SignalSums()
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="hidden-") as folder:
        final: Sequence[Tensor] = ()
        for run in host.blocks_in_turn(ids, 1, calls):
            np.save(Path(folder, f"{run.index}.npy"), torch.cat(list(run.inputs)).float().cpu().numpy())
            final = run.outputs()
        grads = _head_gradients(host, ids, final, probes, seed, weights)
        del final
        for index in reversed(range(len(host.blocks))):
            inputs = torch.from_numpy(np.load(Path(folder, f"{index}.npy"))).to(host.device, host.dtype)
            with host.entered(index):
                _block_signals(host, store, index, calls, inputs, grads, totals)
            if progress is not None:
                progress(len(host.blocks) - index, len(host.blocks))
    return totals.signals(float(ids.numel() if weights is None else weights.sum()), probes, len(ids))


def _head_gradients(
    host: ModelHost, ids: Tensor, final: Sequence[Tensor], probes: int, seed: int, weights: Tensor | None
) -> list[Tensor]:
    """Of every sequence, d(probe)/d(last hidden state), (probes, 1, tokens, hidden)."""
    rng = torch.Generator(device="cpu").manual_seed(seed)
    out = []
    with host.head_entered():
        for row, hidden in enumerate(final):
            entering = hidden.detach().requires_grad_(True)
            with torch.enable_grad(), host.skipping(len(host.blocks), entering):
                logits = host.model(input_ids=ids[row : row + 1].to(host.device), use_cache=False).logits
                wide = logits[0].float()
                found = [
                    torch.autograd.grad((wide * v).sum(), entering, retain_graph=True)[0]
                    for v in probe_directions(wide, rng, probes, None if weights is None else weights[row])
                ]
            out.append(torch.stack(found))
    return out


def _block_signals(
    host: ModelHost,
    store: VariantStore,
    index: int,
    calls: Sequence[BlockCall],
    inputs: Tensor,
    grads: list[Tensor],
    totals: SignalSums,
) -> None:
    """Add the block's cells to `totals` and replace `grads` by the gradients of its inputs."""
    units = [u for u in host.units.values() if u.block == index]
    row_bytes = seen_bytes(units, inputs.shape[1], len(grads[0]))
    for rows in batches(len(inputs), max(1, ROWS_BYTES // row_bytes)):
        seen: list[dict[str, Seen]] = []
        for row in range(rows.start, rows.stop):
            found, grads[row] = _block_backward(host, index, calls[row], inputs[row : row + 1], grads[row])
            seen.append(found)
        for unit in units:
            for fmt, found_of in projections(host, store, unit, seen):
                totals.add((unit.name, fmt), found_of)


def seen_bytes(units: Sequence[Unit], tokens: int, probes: int) -> int:
    """Bytes of inputs and gradients of the linears of these units for one sequence, in float32."""
    width = sum(
        u.linears[0].in_features + sum(probes * m.out_features * m.copies for m in u.linears) for u in units
    )
    return 4 * tokens * width


def _block_backward(
    host: ModelHost, index: int, call: BlockCall, entering: Tensor, grads: Tensor
) -> tuple[dict[str, Seen], Tensor]:
    """Inputs and gradients of the block's linears for one sequence, and the gradients of its input."""
    names = [m.name for u in host.units.values() if u.block == index for m in u.linears]
    with _watching(host, names) as (xs, ys), torch.enable_grad():
        x = entering.detach().requires_grad_(True)
        out = call.run(index, host.blocks[index], x)
        out = out[0] if isinstance(out, tuple) else out
    parts = [
        torch.autograd.grad(
            out, [x, *(ys[n] for n in names)], g.to(out), retain_graph=number + 1 < len(grads)
        )
        for number, g in enumerate(grads)
    ]
    seen = {
        name: Seen(xs[name], torch.stack([p[1 + place][0] for p in parts]))
        for place, name in enumerate(names)
    }
    return seen, torch.stack([p[0] for p in parts])


@contextmanager
def _watching(host: ModelHost, names: Sequence[str]) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Inputs (tokens, in) and outputs of linears as they are called."""
    xs: dict[str, Tensor] = {}
    ys: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_m: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            xs[name], ys[name] = args[0].detach()[0], out

        return hook

    handles = [host.linear(n).register_forward_hook(watch(n)) for n in names]
    try:
        yield xs, ys
    finally:
        for handle in handles:
            handle.remove()


def measure_kl_streamed(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    log: CellLog,
    *,
    emit: Emit,
    rows_of: Mapping[str, int],
    cells: Collection[tuple[str, str]],
    weights: Tensor | None = None,
    batch_size: int = 1,
) -> float:
    """KL of the model with one unit changed, for every (unit, format) of `cells` not in `log` yet.

    `rows_of` says on how many of the sequences a format is measured. One forward pass over the blocks serves
    as many cells as `STATES_BYTES` of hidden states allow. Returns the seconds spent.
    """
    start = time.monotonic()
    todo = sorted((c for c in cells if c not in log.cells), key=lambda c: host.block_of(c[0]))
    width = int(host.model.config.hidden_size)
    most = max(1, STATES_BYTES // (ids.numel() * width * host.dtype.itemsize))
    ticker, done = Ticker(emit, "sensitivity", len(cells)), len(cells) - len(todo)
    for group in batches(len(todo), most):
        found = _group_kl(host, store, ids, todo[group], rows_of, weights, batch_size)
        for (unit, fmt), losses in found.items():
            mse = relative_error(host, store, host.units[unit], fmt)
            log.add([Cell(unit=unit, format=fmt, sequence_kl=tuple(losses), mse=mse)])
            done += 1
            ticker(done, unit)
            emit(
                SensitivityMeasured(
                    stage="sensitivity", unit=unit, format=fmt, signal="kl",
                    value=sum(losses) / len(losses), done=done, total=len(cells),
                )
            )  # fmt: skip
    return time.monotonic() - start


@torch.no_grad()
def _group_kl(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    cells: Sequence[tuple[str, str]],
    rows_of: Mapping[str, int],
    weights: Tensor | None,
    batch_size: int,
) -> dict[tuple[str, str], list[float]]:
    """Per-sequence KL of each cell from one pass."""
    states: dict[tuple[str, str], list[Tensor]] = {}
    rows = list(batches(len(ids), batch_size))
    used = {
        c: [slice(r.start, min(r.stop, rows_of[c[1]])) for r in rows if r.start < rows_of[c[1]]]
        for c in cells
    }
    final: Sequence[Tensor] = ()
    for run in host.blocks_in_turn(ids, batch_size):
        run.outputs()
        for cell, hidden in states.items():
            states[cell] = [run.call(batch, h) for batch, h in enumerate(hidden)]
        for cell in cells:
            if host.block_of(cell[0]) == run.index:
                with store.installed(dict([cell])):
                    states[cell] = [run.call(batch, run.inputs[batch]) for batch in range(len(used[cell]))]
        final = run.outputs()
    out: dict[tuple[str, str], list[float]] = {c: [] for c in cells}
    with host.head_entered():
        for batch, at in enumerate(rows):
            reference = torch.log_softmax(host.logits_after(ids[at], final[batch]), -1)
            for cell in cells:
                if batch >= len(used[cell]):
                    continue
                logits = host.logits_after(ids[at], states[cell][batch])
                count = used[cell][batch].stop - at.start
                counted = None if weights is None else weights[used[cell][batch]]
                losses = compare(logits[:count], reference[:count], ids[used[cell][batch]], counted)
                out[cell] += [x.kl for x in losses]
    return out


def rows_by_format(cells: Collection[tuple[str, str]], sequences: int) -> dict[str, int]:
    """Sequences that each format's cells are measured on: fewer at eight bits, which differ less."""
    return {f: sequences_for(f, sequences) for _, f in cells}

"""Fill the sensitivity table: exact KL by suffix evaluation, and the cheap signals in a few passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from profiles.formats import get_format
from tuners.evaluate import compare
from tuners.events import Emit, SensitivityMeasured, Ticker
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore
from tuners.plan import Unit
from tuners.sensitivity.table import Cell, CellLog


def measure_kl(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    log: CellLog,
    *,
    emit: Emit,
    eight_bit_share: float = 0.5,
    weights: Tensor | None = None,
) -> float:
    """KL of the model with one unit changed, for every (unit, format) not in `log` yet.

    Block inputs of the original are captured once; a change in block b then runs blocks b...L only.
    Formats of eight bits move the output so little that the first `eight_bit_share` of the sequences
    tells them apart well enough. Returns the seconds spent.
    """
    start = time.monotonic()
    todo = [
        u for u in host.units.values() if any((u.name, f) not in log.cells for f in u.options if f != "BF16")
    ]
    total = sum(len(u.options) - 1 for u in host.units.values())
    done = total - sum(1 for u in todo for f in u.options if f != "BF16" and (u.name, f) not in log.cells)
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
        for fmt in unit.options:
            if fmt == "BF16" or (unit.name, fmt) in log.cells:
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


def relative_error(host: ModelHost, store: VariantStore, unit: Unit, fmt: str) -> float:
    """Squared weight error of the unit in that format over the weight's own squared norm."""
    error = energy = 0.0
    for name, weight in store.dense(unit.name, fmt).items():
        original = host.original[name].float()
        error += float((weight.float() - original).square().sum())
        energy += float(original.square().sum())
    return error / max(energy, 1e-30)


def measure_gdy2(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    weights: Tensor | None = None,
) -> dict[tuple[str, str], float]:
    """Half the mean over tokens of (g . dy)^2 for every (unit, format), from one backward pass a sequence.

    g is the gradient of the log-likelihood of labels drawn from the model itself, dy the change of the
    unit's output: with such labels E[(g . dy)^2] is the Fisher quadratic form, whose half is the KL to
    second order (Amari). Positions are taken as independent. (KL, nats per token.)
    """
    rng = torch.Generator(device="cpu").manual_seed(seed)
    sums: dict[tuple[str, str], float] = {}
    units = list(host.units.values())
    for row in range(len(ids)):
        counted = None if weights is None else weights[row]
        seen = _backward(host, ids[row : row + 1], units, rng, counted)
        for unit in units:
            for fmt in unit.options:
                if fmt != "BF16":
                    value = _projection(host, store, unit, fmt, seen)
                    sums[unit.name, fmt] = sums.get((unit.name, fmt), 0.0) + value
        if progress is not None:
            progress(row + 1, len(ids))
    tokens = float(ids.numel() if weights is None else weights.sum())
    return {key: 0.5 * value / tokens for key, value in sums.items()}


def _backward(
    host: ModelHost,
    ids: Tensor,
    units: Sequence[Unit],
    rng: torch.Generator,
    weights: Tensor | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Linear name to (input, gradient of its output), both (tokens, features), for one sequence."""
    inputs: dict[str, Tensor] = {}
    grads: dict[str, Tensor] = {}
    handles = []

    def watch(name: str, module: torch.nn.Linear) -> None:
        def hook(_m: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            inputs[name] = args[0].detach()[0]
            out.register_hook(lambda g: grads.__setitem__(name, g.detach()[0]))

        handles.append(module.register_forward_hook(hook))

    for unit in units:
        for linear in unit.linears:
            watch(linear.name, host.linear(linear.name))
    embedding = host.model.get_input_embeddings()
    handles.append(embedding.register_forward_hook(lambda _m, _a, out: out.requires_grad_(True)))
    try:
        with torch.enable_grad():
            logits = host.model(input_ids=ids.to(host.device), use_cache=False).logits[0].float()
            with torch.no_grad():
                labels = torch.multinomial(torch.softmax(logits, -1).cpu(), 1, generator=rng).to(
                    logits.device
                )
            loss = -torch.log_softmax(logits, -1).gather(-1, labels).squeeze(-1)
            (loss if weights is None else loss * weights.to(loss.device).sqrt()).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: (inputs[name], grads[name]) for name in grads}


@torch.no_grad()
def _projection(
    host: ModelHost, store: VariantStore, unit: Unit, fmt: str, seen: dict[str, tuple[Tensor, Tensor]]
) -> float:
    """Sum over tokens of (g . dy)^2 for the unit's linears together."""
    dot: Tensor | None = None
    with store.installed({unit.name: fmt}):
        for linear in unit.linears:
            x, g = seen[linear.name]
            module = host.linear(linear.name)
            changed = module(x)
            original = torch.nn.functional.linear(x, host.original[linear.name], module.bias)
            part = (g.float() * (changed - original).float()).sum(-1)
            dot = part if dot is None else dot + part
    assert dot is not None
    return float(dot.square().sum())

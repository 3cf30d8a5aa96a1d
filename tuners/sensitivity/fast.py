"""The cheap half of the sensitivity table: every (unit, format) at once, from a few backward passes.

The KL of a small change is half its Fisher quadratic form (Amari). Its square root at the logits is known in
closed form: S = diag(sqrt p) - p sqrt(p)^T has S S^T = diag(p) - p p^T. So with v standard normal and
g = d(logits . S v)/dy, E[(sum over positions of g . dy)^2] is the form of the whole change dy of a layer's
output: positions, heads and the activation's rounding included. Three signals come out of the same passes:

* `fisher`: half the mean of (sum over positions of g . dy)^2, unbiased, relative spread sqrt(2 / probes);
* `gdy2`: half the mean over positions of (g . dy)^2: positions taken as independent, less noise, biased;
* `g2dy2`: half the mean over positions of the sum over channels of (g dy)^2. The errors that rounding makes
  in a weight's rows know nothing of each other, so the products of different channels add up to nothing:
  leaving them out takes most of the noise away, and a few sequences are enough. What rounding the inputs
  does to several channels together is left out as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore
from tuners.plan import Unit


@dataclass(frozen=True)
class FastSignals:
    """The signals of every (unit, format), in nats per token."""

    fisher: dict[tuple[str, str], float]
    gdy2: dict[tuple[str, str], float]
    g2dy2: dict[tuple[str, str], float]
    passes: int


class Projected(NamedTuple):
    """Of one sequence, (probes, tokens) each: g . dy, and the sum over channels of (g dy)^2."""

    together: Tensor
    by_channel: Tensor


class SignalSums:
    """The signals while sequences are added up, cell by cell."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], tuple[float, float, float]] = {}

    def add(self, cell: tuple[str, str], sequences: Sequence[Projected]) -> None:
        """What `projections` found of that cell."""
        fisher, gdy2, g2dy2 = self._sums.get(cell, (0.0, 0.0, 0.0))
        for found in sequences:
            fisher += float(found.together.sum(-1).square().sum())
            gdy2 += float(found.together.square().sum())
            g2dy2 += float(found.by_channel.sum())
        self._sums[cell] = fisher, gdy2, g2dy2

    def signals(self, tokens: float, probes: int, sequences: int) -> FastSignals:
        """Half the means; `tokens` are those that count."""
        scale = 0.5 / (tokens * probes)
        fisher, gdy2, g2dy2 = ({k: v[i] * scale for k, v in self._sums.items()} for i in range(3))
        return FastSignals(fisher, gdy2, g2dy2, passes=sequences * probes)


def measure_fast(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    *,
    probes: int = 2,
    seed: int = 0,
    weights: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FastSignals:
    """The signals from `probes` backward passes for each of the sequences `ids` (sequences, tokens).

    `weights` (sequences, tokens) count the loss where the next token matters (None: everywhere). Memory:
    inputs, outputs and gradients of one sequence, (2 + probes) x tokens x features floats.
    """
    rng = torch.Generator(device="cpu").manual_seed(seed)
    sums = SignalSums()
    for row in range(len(ids)):
        part = slice(row, row + 1)
        seen = backward(host, ids[part], rng, probes, None if weights is None else weights[part])
        for unit in host.units.values():
            for fmt, found in projections(host, store, unit, seen):
                sums.add((unit.name, fmt), found)
        if progress is not None:
            progress(row + 1, len(ids))
    return sums.signals(float(ids.numel() if weights is None else weights.sum()), probes, len(ids))


@dataclass(frozen=True)
class Seen:
    """Of one linear and one sequence: its input (tokens, in), gradients (probes, tokens, out), and its output
    (tokens, out) where that was kept."""

    x: Tensor
    grads: Tensor
    y: Tensor | None = None


def backward(
    host: ModelHost,
    ids: Tensor,
    rng: torch.Generator,
    probes: int,
    weights: Tensor | None = None,
) -> list[dict[str, Seen]]:
    """What every linear sees of each sequence and its probe gradients: one forward, `probes` backwards for
    all of them side by side."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    grads: dict[str, list[Tensor]] = {}
    handles = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def hook(_m: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            inputs[name], outputs[name] = args[0].detach(), out.detach()
            out.register_hook(lambda g: grads.setdefault(name, []).append(g.detach().clone()))

        handles.append(module.register_forward_hook(hook))

    for unit in host.units.values():
        for linear in unit.linears:
            watch(linear.name, host.linear(linear.name))
    embedding = host.model.get_input_embeddings()
    handles.append(embedding.register_forward_hook(lambda _m, _a, out: out.requires_grad_(True)))
    try:
        with torch.enable_grad():
            logits = host.model(input_ids=ids.to(host.device), use_cache=False).logits.float().flatten(0, 1)
            counted = None if weights is None else weights.flatten()
            for number, direction in enumerate(probe_directions(logits, rng, probes, counted)):
                logits.backward(direction, retain_graph=number + 1 < probes)
    finally:
        for handle in handles:
            handle.remove()
    return [
        {
            name: Seen(inputs[name][row], torch.stack([g[row] for g in found]), outputs[name][row])
            for name, found in grads.items()
        }
        for row in range(len(ids))
    ]


def probe_directions(
    logits: Tensor, rng: torch.Generator, probes: int, weights: Tensor | None = None
) -> Iterator[Tensor]:
    """`probes` random vectors S v (tokens, vocabulary) for logits of that shape; see the module's text."""
    chances = torch.softmax(logits.detach(), -1)
    root = chances.sqrt()
    for _ in range(probes):
        v = torch.randn(logits.shape, generator=rng).to(logits.device)
        v.mul_(root)
        direction = v.addcmul_(chances, v.sum(-1, keepdim=True), value=-1.0)
        if weights is not None:  # the form of a weighted sum of KLs
            direction.mul_(weights.to(logits.device).sqrt().unsqueeze(-1))
        yield direction


MULTIPLIED_TOGETHER = 4
"""Sequences whose inputs go through a layer in one product (measured on one core, 576 x 3072: 51 GFLOP/s with
64 rows, 73 with 128, 76 with 256; other shapes gain less)."""


@torch.no_grad()
def projections(
    host: ModelHost, store: VariantStore, unit: Unit, seen: Sequence[Mapping[str, Seen]]
) -> list[tuple[str, list[Projected]]]:
    """Format to what its change does, the unit's linears together, for each sequence of `seen`."""
    groups = [seen[i : i + MULTIPLIED_TOGETHER] for i in range(0, len(seen), MULTIPLIED_TOGETHER)]
    before = [{m.name: _outputs(host, m.name, rows) for m in unit.linears} for rows in groups]
    out: list[tuple[str, list[Projected]]] = []
    for fmt in unit.options:
        if fmt == "BF16":
            continue
        found: list[Projected] = []
        with store.installed({unit.name: fmt}):
            for rows, original in zip(groups, before, strict=True):
                found += _changes(host, unit, rows, original)
        out.append((fmt, found))
    return out


def _outputs(host: ModelHost, name: str, rows: Sequence[Mapping[str, Seen]]) -> Tensor:
    """What the original layer put out for these sequences, one after another (tokens, out)."""
    kept = [row[name].y for row in rows]
    if all(y is not None for y in kept):
        return torch.cat([y for y in kept if y is not None])
    x = torch.cat([row[name].x for row in rows])
    return torch.nn.functional.linear(x, host.original[name], host.linear(name).bias)


def _changes(
    host: ModelHost, unit: Unit, rows: Sequence[Mapping[str, Seen]], original: Mapping[str, Tensor]
) -> list[Projected]:
    """What the weights that are installed now change, sequence by sequence."""
    together: list[list[Tensor]] = [[] for _ in rows]
    by_channel: list[list[Tensor]] = [[] for _ in rows]
    for m in unit.linears:
        x = torch.cat([row[m.name].x for row in rows])
        changed = host.linear(m.name)(x).float().sub_(original[m.name].float())
        for place, dy in enumerate(changed.split([len(row[m.name].x) for row in rows])):
            products = rows[place][m.name].grads.float() * dy
            together[place].append(products.sum(-1))
            by_channel[place].append(products.square_().sum(-1))
    return [
        Projected(torch.stack(a).sum(0), torch.stack(b).sum(0))
        for a, b in zip(together, by_channel, strict=True)
    ]

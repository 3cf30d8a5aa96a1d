"""The cheap half of the sensitivity table: every (unit, format) at once, from a few backward passes.

The KL of a small change is half its Fisher quadratic form (Amari). Its square root at the logits is known in
closed form: S = diag(sqrt p) - p sqrt(p)^T has S S^T = diag(p) - p p^T. So with v standard normal and
g = d(logits . S v)/dy, E[(sum over positions of g . dy)^2] is the form of the whole change dy of a layer's
output: positions, heads and the activation's rounding included. Two signals come out of the same passes:

* `fisher`: half the mean of (sum over positions of g . dy)^2, unbiased, relative spread sqrt(2 / probes);
* `gdy2`: half the mean over positions of (g . dy)^2: positions taken as independent, less noise, biased.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore
from tuners.plan import Unit


@dataclass(frozen=True)
class FastSignals:
    """Both signals of every (unit, format), in nats per token."""

    fisher: dict[tuple[str, str], float]
    gdy2: dict[tuple[str, str], float]
    passes: int


def measure_fast(
    host: ModelHost,
    store: VariantStore,
    ids: Tensor,
    *,
    probes: int = 2,
    seed: int = 0,
    weights: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
    stride: int = 1,
    together: int = 1,
) -> FastSignals:
    """Both signals from `probes` backward passes for each of the sequences `ids` (sequences, tokens).

    `weights` (sequences, tokens) count the loss where the next token matters (None: everywhere). The
    outputs' changes are taken at every `stride`-th position alone: of more than 1 `gdy2` stays unbiased,
    `fisher` is the sum of those positions. Memory: inputs, outputs and gradients of `together` sequences at
    a time, (2 + probes) x tokens / stride x features floats each; weights are rounded once for all of them.
    """
    rng = torch.Generator(device="cpu").manual_seed(seed)
    fisher: dict[tuple[str, str], float] = {}
    gdy2: dict[tuple[str, str], float] = {}
    units = list(host.units.values())
    for start in range(0, len(ids), together):
        rows = range(start, min(start + together, len(ids)))
        seen = []
        for row in rows:
            counted = None if weights is None else weights[row]
            found = _backward(host, ids[row : row + 1], units, rng, probes, counted)
            seen.append({name: one.every(stride, row % stride) for name, one in found.items()})
        for unit in units:
            for fmt, of_rows in projections(host, store, unit, seen):
                key = unit.name, fmt
                for dots in of_rows:
                    fisher[key] = fisher.get(key, 0.0) + float(dots.sum(-1).square().sum())
                    gdy2[key] = gdy2.get(key, 0.0) + stride * float(dots.square().sum())
        if progress is not None:
            progress(rows.stop, len(ids))
    tokens = float(ids.numel() if weights is None else weights.sum())
    scale = 0.5 / (tokens * probes)
    return FastSignals(
        fisher={k: v * scale for k, v in fisher.items()},
        gdy2={k: v * scale for k, v in gdy2.items()},
        passes=len(ids) * probes,
    )


@dataclass(frozen=True)
class Seen:
    """Of one linear and one sequence: its input (tokens, in), gradients (probes, tokens, out), and its output
    (tokens, out) where that was kept."""

    x: Tensor
    grads: Tensor
    y: Tensor | None = None

    def every(self, stride: int, first: int) -> Seen:
        """The same at every `stride`-th position from `first` on."""
        if stride == 1:
            return self
        part = slice(first, None, stride)
        y = None if self.y is None else self.y[part].clone()
        return Seen(self.x[part].clone(), self.grads[:, part].clone(), y)


def _backward(
    host: ModelHost,
    ids: Tensor,
    units: Sequence[Unit],
    rng: torch.Generator,
    probes: int,
    weights: Tensor | None = None,
) -> dict[str, Seen]:
    """What every linear sees of one sequence and its probe gradients: one forward, `probes` backwards."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    grads: dict[str, list[Tensor]] = {}
    handles = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def hook(_m: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            inputs[name], outputs[name] = args[0].detach()[0], out.detach()[0]
            out.register_hook(lambda g: grads.setdefault(name, []).append(g.detach()[0].clone()))

        handles.append(module.register_forward_hook(hook))

    for unit in units:
        for linear in unit.linears:
            watch(linear.name, host.linear(linear.name))
    embedding = host.model.get_input_embeddings()
    handles.append(embedding.register_forward_hook(lambda _m, _a, out: out.requires_grad_(True)))
    try:
        with torch.enable_grad():
            logits = host.model(input_ids=ids.to(host.device), use_cache=False).logits[0].float()
            for number, direction in enumerate(probe_directions(logits, rng, probes, weights)):
                (logits * direction).sum().backward(retain_graph=number + 1 < probes)
    finally:
        for handle in handles:
            handle.remove()
    return {name: Seen(inputs[name], torch.stack(grads[name]), outputs[name]) for name in grads}


def probe_directions(
    logits: Tensor, rng: torch.Generator, probes: int, weights: Tensor | None = None
) -> Iterator[Tensor]:
    """`probes` random vectors S v (tokens, vocabulary) for logits of that shape; see the module's text."""
    root = torch.softmax(logits.detach(), -1).sqrt()
    for _ in range(probes):
        v = torch.randn(logits.shape, generator=rng).to(logits.device)
        direction = root * v - root.square() * (root * v).sum(-1, keepdim=True)
        if weights is not None:  # the form of a weighted sum of KLs
            direction = direction * weights.to(logits.device).sqrt().unsqueeze(-1)
        yield direction


@torch.no_grad()
def projections(
    host: ModelHost, store: VariantStore, unit: Unit, seen: Sequence[Mapping[str, Seen]]
) -> list[tuple[str, list[Tensor]]]:
    """Format to g . dy of the unit's linears together, (probes, tokens) for each sequence of `seen`."""
    linear = torch.nn.functional.linear
    before = [
        {
            m.name: linear(row[m.name].x, host.original[m.name], host.linear(m.name).bias)
            if (y := row[m.name].y) is None
            else y
            for m in unit.linears
        }
        for row in seen
    ]
    out: list[tuple[str, list[Tensor]]] = []
    for fmt in unit.options:
        if fmt == "BF16":
            continue
        with store.installed({unit.name: fmt}):
            totals = []
            for row, original in zip(seen, before, strict=True):
                parts = []
                for m in unit.linears:
                    dy = host.linear(m.name)(row[m.name].x).float() - original[m.name].float()
                    parts.append(torch.einsum("pto,to->pt", row[m.name].grads.float(), dy))
                totals.append(torch.stack(parts).sum(0))
        out.append((fmt, totals))
    return out

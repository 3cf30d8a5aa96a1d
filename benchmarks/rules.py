"""Allocation rules of other tools that are not on this machine, on Advisor's quantized weights, formats and
text.

Re-implementations from the tools' sources, not their code (AutoScheme and ModelOpt run themselves:
others.py):

* `mlx`: mlx-lm `quant/dynamic_quant.py`: gradient of the KL at the low-bit point times (low - high), per
  weight; the most sensitive layers get the high format while the budget lasts (their threshold search).
* `first_last`: as many blocks as fit from both ends in the high format.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore
from tuners.plan import Unit, uniform


class Watch:
    """Inputs, and gradients of outputs, of every linear in one forward and backward pass."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.inputs: dict[str, Tensor] = {}
        self.output_grads: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Watch:
        def hook_of(name: str):
            def hook(_m: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
                self.inputs[name] = args[0].detach()
                out.register_hook(lambda g: self.output_grads.__setitem__(name, g.detach()))

            return hook

        for unit in self.host.units.values():
            for linear in unit.linears:
                module = self.host.linear(linear.name)
                self._handles.append(module.register_forward_hook(hook_of(linear.name)))
        embedding = self.host.model.get_input_embeddings()
        self._handles.append(embedding.register_forward_hook(lambda _m, _a, out: out.requires_grad_(True)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def weights_only(host: ModelHost, store: VariantStore, formats: dict[str, str]) -> None:
    """Quantized weights without activation rounding, so that gradients flow."""
    store.install(formats)
    for unit in host.units.values():
        for linear in unit.linears:
            host.linear(linear.name).__dict__.pop("forward", None)


def mlx_order(
    host: ModelHost, store: VariantStore, ids: Tensor, reference: Tensor, low: str, high: str
) -> list[str]:
    """Units by falling sensitivity: gradient of the KL at the low point times (low - high), per weight."""
    units = list(host.units.values())
    cheap, dear = uniform(units, low).formats, uniform(units, high).formats
    totals = dict.fromkeys(host.units, 0.0)
    weights_only(host, store, cheap)
    try:
        for row in range(len(ids)):
            with Watch(host) as seen, torch.enable_grad():
                logits = (
                    host.model(input_ids=ids[row : row + 1].to(host.device), use_cache=False)
                    .logits[0]
                    .float()
                )
                ref = reference[row][:, : logits.shape[-1]]
                (ref.exp() * (ref - torch.log_softmax(logits, -1))).sum(-1).mean().backward()
            for unit in units:
                above = store.dense(unit.name, dear[unit.name])
                for m in unit.linears:
                    grad = seen.output_grads[m.name][0].t() @ seen.inputs[m.name][0]
                    change = host.linear(m.name).weight.data - above[m.name]
                    totals[unit.name] += float((grad * change).sum())
    finally:
        store.install(dict.fromkeys(cheap, "BF16"))
    return sorted(totals, key=lambda u: -totals[u] / host.units[u].numel)


def upgrade_in_order(
    units: Sequence[Unit], order: Sequence[str], low: str, high: str, budget_bytes: int
) -> dict[str, str]:
    """The high format for the first units of `order` while the budget lasts."""
    by_name = {u.name: u for u in units}
    plan, dear = dict(uniform(units, low).formats), uniform(units, high).formats
    used = sum(u.bytes_as(plan[u.name]) for u in units)
    for name in order:
        step = by_name[name].bytes_as(dear[name]) - by_name[name].bytes_as(plan[name])
        if used + step > budget_bytes:
            break
        plan[name] = dear[name]
        used += step
    return plan


def first_last(units: Sequence[Unit], low: str, high: str, budget_bytes: int) -> dict[str, str]:
    """Blocks from both ends, in turn, in the high format while the budget lasts."""
    last = max(u.block or 0 for u in units)
    blocks = sorted(range(last + 1), key=lambda b: (min(b, last - b), b))
    order = [u.name for b in blocks for u in units if u.block == b]
    return upgrade_in_order(units, order, low, high, budget_bytes)

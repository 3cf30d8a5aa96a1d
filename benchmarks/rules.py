"""Allocation rules of other tools, on the same quantized weights, formats and text as Advisor's.

Re-implementations from the tools' sources, not their code:

* `autoscheme`: AutoRound 0.15 `auto_scheme/delta_loss.py`: sum |gradient x weight difference| with the model
  quantized uniformly in the format, plus the same for rounded activations; their DP is an exact knapsack.
* `modelopt`: nvidia-modelopt 0.47 `quantization/algorithms.py: _get_auto_quantize_score`: sum of
  (gradient x output difference)^2, elementwise, at the original model; their ILP is the same knapsack.
* `mlx`: mlx-lm `quant/dynamic_quant.py`: gradient of the KL at the low-bit point times (low - high), per
weight; the most sensitive layers get the high format while the budget lasts (their threshold search). *
`first_last`: as many blocks as fit from both ends in the high format.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from profiles.formats import get_format
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore, _activation_rounding
from tuners.plan import Unit, uniform

Scores = dict[str, dict[str, float]]


class Watch:
    """Inputs, and gradients of inputs and outputs, of every linear in one forward and backward pass."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.inputs: dict[str, Tensor] = {}
        self.input_grads: dict[str, Tensor] = {}
        self.output_grads: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Watch:
        def hook_of(name: str):
            def hook(_m: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
                self.inputs[name] = args[0].detach()
                args[0].register_hook(lambda g: self.input_grads.__setitem__(name, g.detach()))
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


def autoscheme(host: ModelHost, store: VariantStore, ids: Tensor) -> Scores:
    """|g . dW| at the quantized point, one pass per format family."""
    units = list(host.units.values())
    families = sorted({get_format(f).family for u in units for f in u.options if f != "BF16"})
    out: Scores = {u.name: {} for u in units}
    for family in families:
        plan = uniform(units, family).formats
        weights_only(host, store, plan)
        try:
            for row in range(len(ids)):
                batch = ids[row : row + 1]
                with Watch(host) as seen, torch.enable_grad():
                    host.model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
                for unit in units:
                    fmt = plan[unit.name]
                    if fmt == "BF16":
                        continue
                    out[unit.name][fmt] = out[unit.name].get(fmt, 0.0) + sum(
                        _weight_and_input_score(host, seen, m.name, fmt) for m in unit.linears
                    )
        finally:
            store.install(dict.fromkeys(plan, "BF16"))
    return out


def _weight_and_input_score(host: ModelHost, seen: Watch, name: str, fmt: str) -> float:
    x, grad = seen.inputs[name][0], seen.output_grads[name][0]
    difference = host.original[name] - host.linear(name).weight.data
    score = float((grad.t() @ x).mul_(difference).abs_().sum())
    rounding = _activation_rounding(get_format(fmt))
    if rounding is not None:
        score += float((seen.input_grads[name][0] * (x - rounding(x))).abs().sum())
    return score


def modelopt(host: ModelHost, store: VariantStore, ids: Tensor) -> Scores:
    """Sum of (g x dy)^2, elementwise, with the gradient of the language model's loss."""
    units = list(host.units.values())
    out: Scores = {u.name: {} for u in units}
    for row in range(len(ids)):
        batch = ids[row : row + 1]
        with Watch(host) as seen, torch.enable_grad():
            host.model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        with torch.no_grad():
            for unit in units:
                for fmt in unit.options:
                    if fmt == "BF16":
                        continue
                    with store.installed({unit.name: fmt}):
                        score = 0.0
                        for m in unit.linears:
                            module, x = host.linear(m.name), seen.inputs[m.name]
                            before = torch.nn.functional.linear(x, host.original[m.name], module.bias)
                            dy = module(x) - before
                            score += float((seen.output_grads[m.name] * dy).square().sum())
                    out[unit.name][fmt] = out[unit.name].get(fmt, 0.0) + score
    return out


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
                logits = host.model(input_ids=ids[row : row + 1], use_cache=False).logits[0].float()
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

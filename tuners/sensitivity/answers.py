"""Second-order KL of every (unit, format) on the counted tokens of one sequence, from one backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tuners.evaluate import counted_tokens
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore

Seen = dict[str, tuple[Tensor, Tensor, Tensor]]
"""Linear to its input, its output and the gradient of its output, each (tokens, features)."""


def fisher_row(
    host: ModelHost, store: VariantStore, ids: Tensor, weights: Tensor | None, rng: torch.Generator
) -> dict[tuple[str, str], float]:
    """Half the sum over tokens of (g . dy)^2 for one sequence `ids` (tokens,), per counted token.

    g is the gradient of a random projection of the logits whose covariance is diag(p) - p p^T at every
    counted position (p: the original's probabilities), dy the change of the unit's output. Then E[(g . dy)^2]
    is the quadratic form of the Fisher information, whose half is the KL to second order (Amari);
    positions are taken as independent.
    """
    seen = backward(host, ids, weights, rng)
    tokens = float(counted_tokens(ids[None], None if weights is None else weights[None])[0])
    out: dict[tuple[str, str], float] = {}
    for unit in host.units.values():
        for fmt in unit.options:
            if fmt == "BF16":
                continue
            dot: Tensor | None = None
            with store.installed({unit.name: fmt}), torch.no_grad():
                for linear in unit.linears:
                    x, y, g = seen[linear.name]
                    part = (g * (host.linear(linear.name)(x) - y)).float().sum(-1)
                    dot = part if dot is None else dot + part
            assert dot is not None
            out[unit.name, fmt] = 0.5 * float(dot.square().sum()) / max(tokens, 1.0)
    return out


def backward(host: ModelHost, ids: Tensor, weights: Tensor | None, rng: torch.Generator) -> Seen:
    """One pass forward and backward over `ids` (tokens,) with a random projection of the counted logits."""
    forward: dict[str, tuple[Tensor, Tensor]] = {}
    grads: dict[str, Tensor] = {}
    handles = []

    def watch(name: str, module: nn.Linear) -> None:
        def hook(_m: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            forward[name] = (args[0].detach()[0], out.detach()[0])
            out.register_hook(lambda g: grads.__setitem__(name, g.detach()[0]))

        handles.append(module.register_forward_hook(hook))

    for unit in host.units.values():
        for linear in unit.linears:
            watch(linear.name, host.linear(linear.name))
    embedding = host.model.get_input_embeddings()
    handles.append(embedding.register_forward_hook(lambda _m, _a, out: out.requires_grad_(True)))
    try:
        with torch.enable_grad():
            logits = host.model(input_ids=ids[None].to(host.device), use_cache=False).logits[0].float()
            marks = torch.ones_like(ids, dtype=torch.bool) if weights is None else weights > 0
            counted = logits[:-1][marks[:-1].to(logits.device)]
            with torch.no_grad():
                root = torch.softmax(counted, -1).sqrt()
                sign = torch.randint(0, 2, root.shape, generator=rng).to(root.device) * 2.0 - 1.0
                probe = root * sign - root.square() * (root * sign).sum(-1, keepdim=True)
            (counted * probe).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: (*forward[name], grads[name]) for name in grads}

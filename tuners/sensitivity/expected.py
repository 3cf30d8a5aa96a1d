"""What quantizing a layer is expected to cost, from its inputs and gradients alone: nothing is quantized.

The cost is the second-order one of `fast.py`, half the mean over tokens of the sum over channels of (g dy)^2,
with the expectation taken over the rounding errors instead of one draw of them:

* A rounded weight is off by an error of variance step^2 / 12 that knows nothing of the others' (Widrow). So
  dy needs no product with changed weights: with a step for every row and group of inputs, all that is left of
  the inputs is their power in each group.
* GPTQ (arXiv 2210.17323) pushes what it rounds off a column onto the columns after it. The output then errs
  as if weights were rounded alone and each input were what the later columns do not predict of it
  (`innovations`), as the factorisation of its Hessian says. On an 8 M model that is 2 to 16 % of rounding to
  nearest, role by role (benchmarks/results/allocators.md).
* Where a few massive inputs (arXiv 2402.17762) carry a group, which weight meets them decides: the errors of
  those columns are computed, not expected, with the range clipped as it will be.
* Rounding the inputs, by e, moves all channels together: g . W e is (g W) . e, so that each e is counted with
  the gradient of its own input. Formats that get an input scale are judged with the one they will get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from profiles.formats import Format, get_format
from tuners.model import inputs, smoothing
from tuners.model.clipping import clipped
from tuners.model.host import ModelHost
from tuners.model.variants import LinearVariant, VariantStore, encode, minmax, round_scale
from tuners.plan import Unit
from tuners.sensitivity.fast import Seen

DAMPING = 0.6
"""Of the predictions, as a share of the inputs' mean power: GPTQ's own 0.01 is for many times more tokens.
Measured with 192 of them, KL over AutoScheme's at 5, 6 and 7 bits, means of two or three draws: 0.3 makes
0.85, 0.69, 0.62 (8 M model) and 0.97, 0.97, 1.04 (SmolLM2), 0.6 about 0.85, 0.69, 0.65 and 0.93, 0.93, 1.02,
1 makes 0.99, 0.79, 0.66 and 0.92, 0.93, 1.01."""

BLOCK = 576
"""Inputs predicted in one step, which factorises a matrix of theirs and one of the tokens."""

LEAST_KEPT = 0.02
"""Floor of 1 - leverage, the share of a token's own value that is not its own prediction: a token that is
alone in some direction would be divided by nothing."""

MASSIVE_SHARE = 0.5
"""One input that carries more than this of its group's power decides where the group's range is clipped."""

EXACT_COLUMNS = 16
"""Columns, those of the largest inputs, whose rounding errors are computed (64 gave the same plans)."""

EVERY_POSITION, EVERY_ROW = 2, 4
"""Positions that predict each other and at which rounded inputs are looked at: all of them cost a second of
nine more on SmolLM2. Rows of a weight that choose the input scale, those of the largest steps: they have
nearly all of the error."""


@torch.no_grad()
def innovations(x: Tensor, damping: float = DAMPING) -> Tensor:
    """What the columns that GPTQ rounds later do not predict of each input, x (tokens, in) to (in, tokens).

    Later are those of less power (`actorder`). Predictions are ridge regressions over the tokens, each token
    predicted by the others (leave one out: residual / (1 - leverage)), since what is predicted by itself is
    predicted too well. They are solved among tokens, not among inputs: in x tokens^2 operations.
    """
    tokens = len(x)
    power = x.square().mean(0)
    order = power.argsort()
    ridge = float(tokens * damping * power.mean().clamp_min(torch.finfo(torch.float32).tiny))
    rows = x.t().contiguous()
    out = torch.empty_like(rows)
    known = torch.zeros(tokens, tokens, device=x.device)  # inner products over the inputs so far
    for start in range(0, len(order), BLOCK):
        chosen = order[start : start + BLOCK]
        block = residual = rows[chosen]
        kept = torch.ones(tokens, device=x.device)  # 1 - leverage
        if start:
            known.diagonal().add_(ridge)
            precision = torch.cholesky_inverse(torch.linalg.cholesky(known))
            known.diagonal().sub_(ridge)
            residual, kept = ridge * (block @ precision), ridge * precision.diagonal()
        spread = residual @ block.t()
        spread.diagonal().add_(ridge)
        factor = torch.linalg.cholesky(spread)
        z = torch.linalg.solve_triangular(factor, residual, upper=False)
        own = z.square()
        kept = kept - own.cumsum(0).sub_(own)
        out[chosen] = z.mul_(factor.diagonal()[:, None]).div_(kept.clamp_min_(LEAST_KEPT))
        if start + BLOCK < len(order):
            known.addmm_(block.t(), block)
    return out


@dataclass(frozen=True)
class Layer:
    """Linears that read one input: weights (out, in), x (tokens, in), gradients (tokens, probes, out)."""

    weights: Sequence[Tensor]
    x: Tensor
    grads: Sequence[Tensor]

    @property
    def influence(self) -> list[Tensor]:
        """Squared gradients of each linear, all probes together (tokens, out)."""
        return [g.square().sum(1) for g in self.grads]


class Expected:
    """Costs of a model's units; `producers` are the modules that can absorb an input scale, by unit."""

    def __init__(
        self, host: ModelHost, store: VariantStore, producers: Mapping[str, smoothing.Absorber]
    ) -> None:
        self.host, self.store, self.producers = host, store, producers

    @torch.no_grad()
    def costs(self, unit: Unit, seen: Sequence[Mapping[str, Seen]]) -> dict[str, float]:
        """Format to half the sum of (g dy)^2 over the tokens of `seen`, averaged over the probes."""
        options = [name for name in unit.options if name != "BF16"]
        out = dict.fromkeys(options, 0.0)
        for layer in self._layers(unit, seen):
            influence = layer.influence
            pushed = None
            for name in options:
                fmt = get_format(name)
                if fmt.family == "int4" and pushed is None:
                    pushed = innovations(layer.x[::EVERY_POSITION])
                probes = layer.grads[0].shape[1]
                out[name] += 0.5 / probes * self._cost(unit, name, layer, influence, pushed)
        return out

    def _layers(self, unit: Unit, seen: Sequence[Mapping[str, Seen]]) -> list[Layer]:
        """The unit's linears by the input that they read."""
        by_input: dict[int, list[str]] = {}
        for m in unit.linears:
            by_input.setdefault(seen[0][m.name].x.data_ptr(), []).append(m.name)
        return [
            Layer(
                [self.host.original[n].float() for n in names],
                torch.cat([row[names[0]].x for row in seen]).float(),
                [torch.cat([row[n].grads.transpose(0, 1) for row in seen]).float() for n in names],
            )
            for names in by_input.values()
        ]

    def _cost(
        self, unit: Unit, name: str, layer: Layer, influence: Sequence[Tensor], pushed: Tensor | None
    ) -> float:
        fmt = get_format(name)
        step = EVERY_POSITION
        rounded = inputs.rounding(self.store.activations(name), None, self.store.input_span(unit.name, name))
        scale = None
        if rounded is not None and unit.name in self.producers and self.store.takes_input_scale(name):
            scale = likely_scale(layer, self.producers[unit.name], fmt, rounded)
        x = layer.x if scale is None else layer.x / scale
        weights = layer.weights if scale is None else [w * scale for w in layer.weights]
        moments = x.square().mean(0)
        power, share = x.t().square(), 1.0
        if fmt.family == "int4" and pushed is not None:
            power, share = pushed.square(), len(x) / pushed.shape[1]
            influence = [g2[::step] for g2 in influence]
        cost = share * sum(
            weight_cost(w, fmt, power, g2, moments) for w, g2 in zip(weights, influence, strict=True)
        )
        if rounded is not None:
            some = x[::step]
            error = (rounded(some) - some).unsqueeze(1)
            back = torch.zeros_like(error)
            for grad, weight in zip(layer.grads, weights, strict=True):
                back = back + (grad[::step].flatten(0, 1) @ weight).unflatten(0, (len(some), -1))
            cost += len(x) / len(some) * float((error * back).square().sum())
        return cost


def weight_cost(weight: Tensor, fmt: Format, power: Tensor, influence: Tensor, moments: Tensor) -> float:
    """Expected sum over tokens and channels of g^2 (dW x)^2 for a weight (out, in).

    `power` (in, tokens) are the squares of what multiplies the errors, `influence` (tokens, out) those of the
    gradients, `moments` (in,) the inputs' mean squares.
    """
    scale, zero = minmax(weight, fmt)
    groups = scale.shape[1]
    size = weight.shape[1] // groups
    if fmt.group_size and fmt.weight_type == "int":
        scale, zero = _clip_massive(weight, fmt, scale, zero, moments)
    columns = moments.topk(min(EXACT_COLUMNS, len(moments))).indices
    few, at = weight[:, columns], columns // size
    shift = None if zero is None else zero[:, at]
    made = LinearVariant(encode(few, scale[:, at], fmt, shift), scale[:, at], shift).dequantize(torch.float32)
    exact = float((influence.t() @ power[columns].t() * (made - few).square()).sum())
    rest = power.index_fill(0, columns, 0.0).reshape(groups, size, -1).sum(1)
    return exact + float((influence.t() @ rest.t() * _variance(weight, fmt, scale, zero)).sum())


def _variance(weight: Tensor, fmt: Format, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Mean squared error of a weight by row and group: uniform over a step of integer codes; measured for
    floating ones, whose steps grow with the value."""
    if fmt.weight_type == "int":
        return scale.float().square() / 12
    made = LinearVariant(encode(weight, scale, fmt, zero), scale, zero).dequantize(torch.float32)
    return made.sub_(weight).square_().view(len(weight), scale.shape[1], -1).mean(-1)


def _clip_massive(
    weight: Tensor, fmt: Format, scale: Tensor, zero: Tensor | None, moments: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Scales and zero points with those groups clipped that one input decides (tuners/model/clipping.py)."""
    grouped = moments.view(scale.shape[1], -1)
    massive = (grouped.amax(1) > MASSIVE_SHARE * grouped.sum(1)).nonzero().flatten()
    if not len(massive):
        return scale, zero
    parts = weight.view(len(weight), *grouped.shape)[:, massive].flatten(1)
    found, shift = clipped(
        parts,
        grouped[massive].flatten(),
        bits=fmt.weight_bits,
        group=grouped.shape[1],
        symmetric=fmt.symmetric,
        round_scale=round_scale,
    )
    scale = scale.index_copy(1, massive, found.to(scale.dtype))
    return scale, None if zero is None else zero.index_copy(1, massive, shift.to(zero.dtype))


def likely_scale(
    layer: Layer, producer: smoothing.Absorber, fmt: Format, rounded: inputs.Rounding
) -> Tensor | None:
    """The input scale (in,) that `smoothing.best_scale` is likely to choose, by expected errors, or None."""
    x = layer.x[::EVERY_POSITION]
    largest_input = x.abs().amax(0).clamp_min(1e-5)
    largest_weight = torch.stack([w.abs().amax(0) for w in layer.weights]).amax(0).clamp_min(1e-5)
    whole = torch.cat(list(layer.weights))
    energy = whole.square().sum(0)
    widest = whole[whole.abs().amax(1).topk(max(1, len(whole) // EVERY_ROW)).indices]

    def error(scale: Tensor | None) -> float:
        by = torch.ones_like(largest_input) if scale is None else scale
        y = x / by
        from_inputs = ((rounded(y) - y).square().mean(0) * energy * by.square()).sum()
        if fmt.weight_type != "int":  # steps that grow with the value: their error stays whatever the scale
            return float(from_inputs)
        step = (widest * by).abs().amax(1) / (2 ** (fmt.weight_bits - 1) - 0.5)
        return float(from_inputs + step.square().sum() / 12 * y.square().sum(1).mean())

    best, least = None, error(None) * (1 - smoothing.MIN_GAIN)
    for alpha in smoothing.ALPHAS:
        scale = smoothing.power_of_two(largest_input**alpha / largest_weight ** (1 - alpha), producer)
        found = error(scale)
        if found < least:
            best, least = scale, found
    return best

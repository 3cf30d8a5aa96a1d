"""Input scales for formats that round activations: outlier channels are moved from the input into the weight.

SmoothQuant (arXiv 2211.10438): y = (x / s) (W s)^T for any positive s per input channel. Rounding x / s and
W s instead of x and W spreads the error between the two. What differs from the paper:

- The exponent alpha of s_j = max|x_j|^alpha / max|W_j|^(1 - alpha) is chosen per unit and format by the error
  of the unit's output on calibration rows, "no scale" being one of the candidates (as AWQ searches its own).
- Scales are powers of two. Folding them into the layer that produces x then changes exponents alone: bfloat16
  weights lose no bit (float16 ones can where they become subnormal), and a producer that is itself quantized
  keeps its codes.

Who absorbs 1/s: the norm before `qkv` and `gate_up`, the rows of `v_proj` before `o` (heads that share a KV
head share their scales), the rows of `up_proj` before `down`. Each role is tried on the model itself before
it is used: when logits change under such a fold (a norm with an offset, a parallel block, a router that reads
the same input), the role keeps its inputs as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from profiles.formats import Activations, Format
from tuners.model.host import Feed, ModelHost
from tuners.plan import Unit

ALPHAS = (0.3, 0.5, 0.65, 0.8, 0.9)
"""Candidates beside no scale; 0.5 is the paper's default, its models with strong outliers use up to 0.9."""

ROWS = 512
"""Calibration rows per unit that decide: the error is a mean over rows x outputs."""

MAX_EXPONENT = 12
"""Scales between 2^-12 and 2^12: beyond, float16 activations of a channel could leave their range."""

MIN_GAIN = 0.02
"""A scale must lower the squared error of the output by this share: less is within what rows differ by."""

PROBE_TOKENS, PROBE_UNITS = 24, 4
"""Tokens and, spread over the depth, units of a role that the fold is tried on."""

UNCHANGED = 1e-3
"""Largest relative change of logits that a correct fold may show: powers of two are exact, only the order of
additions inside a norm differs."""

Probe = Callable[[], Tensor]
"""Runs a little text and gives what a correct fold leaves unchanged."""

NORM_BEFORE = {
    "qkv": ("input_layernorm",),
    "gate_up": ("pre_feedforward_layernorm", "post_attention_layernorm"),
}
"""Attribute of the decoder block, the first that exists (Gemma names the second norm differently)."""


@dataclass(frozen=True)
class Absorber:
    """The module whose output channels are a unit's input, and how its channels share scales.

    `shared` is (KV heads, query heads per KV head, head_dim) when several inputs come from one row.
    """

    module: str
    shared: tuple[int, int, int] | None = None

    def tie(self, scale: Tensor) -> Tensor:
        """The same scale (geometric mean) for all inputs that one row of the producer feeds."""
        if self.shared is None:
            return scale
        logs = scale.log2().view(self.shared).mean(1, keepdim=True)
        return logs.expand(self.shared).reshape(-1).exp2()

    def rows(self, scale: Tensor) -> Tensor:
        """The scale per output row of the producer."""
        if self.shared is None:
            return scale
        kv_heads, _, head_dim = self.shared
        return scale.view(self.shared)[:, 0].reshape(kv_heads * head_dim)


def rounds_inputs(fmt: Format) -> bool:
    """Whether 8-bit weights meet activations of 8 bits per token, so that a scale can help."""
    eight = (Activations.INT8_TOKEN, Activations.INT8_TOKEN_ASYM, Activations.FP8_TOKEN)
    return fmt.weight_bits == 8 and fmt.activations in eight


def absorber(host: ModelHost, unit: Unit) -> Absorber | None:
    """Who can take the unit's input scale; None when nobody can."""
    if unit.block is None or any(m.copies > 1 for m in unit.linears):
        return None
    if unit.role in NORM_BEFORE:
        block = host.blocks[unit.block]
        found = next((n for n in NORM_BEFORE[unit.role] if hasattr(block, n)), None)
        return None if found is None else Absorber(_name_of(host, getattr(block, found)))
    if unit.role == "down":
        producer = _sibling(host, unit, "gate_up", "up_proj")
        same = producer is not None and host.linear(producer).out_features == unit.linears[0].in_features
        return Absorber(producer) if producer is not None and same else None
    if unit.role == "o":
        return _attention(host, unit)
    return None


def _attention(host: ModelHost, unit: Unit) -> Absorber | None:
    producer = _sibling(host, unit, "qkv", "v_proj")
    config = host.model.config
    heads, kv_heads = (getattr(config, n, None) for n in ("num_attention_heads", "num_key_value_heads"))
    if producer is None or not heads or not kv_heads or heads % kv_heads:
        return None
    head_dim, rest = divmod(host.linear(producer).out_features, kv_heads)
    if rest or heads * head_dim != unit.linears[0].in_features:
        return None
    return Absorber(producer, (kv_heads, heads // kv_heads, head_dim))


def _sibling(host: ModelHost, unit: Unit, role: str, ending: str) -> str | None:
    """Name of a linear of the same block, by its unit's role and its own last name."""
    names = (
        m.name for u in host.units.values() if (u.block, u.role) == (unit.block, role) for m in u.linears
    )
    return next((n for n in names if n.rpartition(".")[2] == ending), None)


def _name_of(host: ModelHost, module: nn.Module) -> str:
    return next(str(name) for name, found in host.model.named_modules() if found is module)


def fold(host: ModelHost, unit: Unit, producer: Absorber, scale: Tensor) -> None:
    """Divide the producer's output by `scale` (in,) and multiply the unit's weights by it, in place."""
    module = host.model.get_submodule(producer.module)
    rows = producer.rows(scale)
    for parameter in (module.weight, getattr(module, "bias", None)):
        if isinstance(parameter, Tensor):
            per_row = rows.view(-1, *(1,) * (parameter.dim() - 1))
            parameter.data = parameter.data / per_row.to(parameter)
    for linear in unit.linears:
        weight = host.linear(linear.name).weight
        weight.data = weight.data * scale.to(weight)


@torch.no_grad()
def absorbers(host: ModelHost, units: Sequence[Unit], probe: Probe | None = None) -> dict[str, Absorber]:
    """Unit name to its absorber, for the roles whose fold leaves the model's logits as they are, or what
    `probe` gives where the whole model is not in memory."""
    found = {u.name: a for u in units if (a := absorber(host, u)) is not None}
    ids = (torch.arange(PROBE_TOKENS) * 7919 % int(host.model.config.vocab_size))[None]
    output = probe or (lambda: host.logits(ids))
    before = output()
    for role in sorted({u.role for u in units if u.name in found}):
        members = [u for u in units if u.role == role and u.name in found]
        probed = members[:: max(1, (len(members) - 1) // (PROBE_UNITS - 1))]
        with _folded(host, probed, found):
            after = output()
        if float((after - before).abs().max()) > UNCHANGED * float(before.abs().max()):
            for unit in members:
                del found[unit.name]
    return found


@contextmanager
def _folded(host: ModelHost, units: Sequence[Unit], producers: Mapping[str, Absorber]) -> Iterator[None]:
    """Irregular scales folded into `units` for the block; the very tensors from before are put back."""
    touched = [host.model.get_submodule(producers[u.name].module) for u in units]
    touched += [host.linear(m.name) for u in units for m in u.linears]
    kept = [(p, p.data) for module in touched for p in module.parameters(recurse=False)]
    for unit in units:
        producer = producers[unit.name]
        fold(host, unit, producer, producer.tie(_probe_scale(unit.linears[0].in_features)))
    try:
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def _probe_scale(width: int) -> Tensor:
    """Powers of two from 1/4 to 4 in a fixed irregular order."""
    return torch.exp2((torch.arange(width) * 31 % 5 - 2).float())


def power_of_two(scale: Tensor, producer: Absorber) -> Tensor:
    """Tied, centred on 1 (geometric mean) and rounded to powers of two within the allowed range."""
    tied = producer.tie(scale).log2()
    return (tied - tied.mean()).round().clamp(-MAX_EXPONENT, MAX_EXPONENT).exp2()


@torch.no_grad()
def best_scale(
    x: Tensor,
    weights: Sequence[Tensor],
    producer: Absorber,
    round_weight: Callable[[Tensor], Tensor],
    round_input: Callable[[Tensor], Tensor],
) -> Tensor | None:
    """The scale (in,) with the least squared error of the output on rows `x` (rows, in), None for no scale.

    `round_weight` gives the dequantized weight, `round_input` the rounded activations of the format.
    """
    stacked = torch.cat(list(weights)).float()
    exact = x @ stacked.t()
    from_input = x.abs().amax(0).clamp_min(1e-5)
    from_weight = stacked.abs().amax(0).clamp_min(1e-5)

    def error(scale: Tensor | None) -> float:
        s = torch.ones_like(from_input) if scale is None else scale
        rounded = torch.cat([round_weight(w.float() * s) for w in weights])
        return float((round_input(x / s) @ rounded.t() - exact).square().mean())

    best, least = None, error(None) * (1 - MIN_GAIN)
    for alpha in ALPHAS:
        scale = power_of_two(from_input**alpha / from_weight ** (1 - alpha), producer)
        found = error(scale)
        if found < least:
            best, least = scale, found
    return best


@torch.no_grad()
def collect_rows(host: ModelHost, units: Sequence[Unit], feed: Feed) -> dict[str, Tensor]:
    """Inputs (rows, in) of each unit, `ROWS` of them spread evenly over the tokens that `feed` runs."""
    total = feed.tokens
    keep = torch.linspace(0, total - 1, min(ROWS, total)).round().long()
    rows: dict[str, list[Tensor]] = {u.name: [] for u in units}
    chosen = keep[:0]

    def choose(start: int, tokens: int) -> None:
        nonlocal chosen
        chosen = keep[(keep >= start) & (keep < start + tokens)] - start

    def take(name: str, x: Tensor) -> None:
        rows[name].append(x.reshape(-1, x.shape[-1])[chosen.to(x.device)].float().clone())

    handles = [
        host.linear(u.linears[0].name).register_forward_pre_hook(
            lambda _m, args, name=u.name: take(name, args[0])
        )
        for u in units
    ]
    try:
        feed(choose)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in rows.items()}


def exponents(scale: Tensor) -> Tensor:
    """A scale as int8 exponents, for storage."""
    return scale.log2().round().to(torch.int8)


def from_exponents(stored: Tensor) -> Tensor:
    """The scale (in,) in float32 back from its exponents."""
    return stored.float().exp2()

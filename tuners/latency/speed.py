"""From layers to plans: milliseconds of every (unit, format), of a plan's step, and how they are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from profiles.footprint.speed import EAGER_FACTOR, STEP_OVERHEAD_MS
from profiles.provenance import Figure, Provenance
from tuners.latency.schema import NOTHING, TOKENS, Latency, LayerTime, OriginalSpeed, PlanSpeed, Shape, Spread
from tuners.latency.shapes import shapes_of
from tuners.plan import PrecisionPlan, Unit

PREFILL_TOKENS = 2048
"""Rows of the prefill chunk that the prediction is made for (vLLM's chunks on small devices)."""

DECODING_TOKENS = 16
"""Up to so many rows a step is taken for decoding, above for a prompt."""

CALIBRATION_SPREAD = 0.05
"""Relative: two measurements of one engine on one machine differ by so much (see the benchmark)."""

Times = dict[str, dict[str, Spread]]
"""unit -> format -> milliseconds."""


class Clockwork:
    """A run's latency column with its units: prices plans by adding up."""

    def __init__(self, latency: Latency, units: Sequence[Unit], experts_per_token: int = 0) -> None:
        self.latency = latency
        self.units = units
        self.experts_per_token = experts_per_token
        self._layers = {(t.shape, t.format): t for t in latency.layers}
        self._shapes = {u.name: shapes_of(u, latency.tensor_parallel_size, experts_per_token) for u in units}

    def unit_ms(self, unit: Unit, fmt: str, tokens: float) -> Spread | None:
        """One unit in one format with so many rows; None when a layer of it has no time."""
        return self._ms(self._shapes[unit.name], fmt, rows_of(unit.role, tokens))

    def _ms(self, shapes: tuple[Shape, ...], fmt: str, rows: float) -> Spread | None:
        total = NOTHING
        for shape in shapes if rows else ():
            layer = self._layers.get((shape, fmt))
            if layer is None:
                return None
            total = total.plus(at(layer, rows))
        return total

    def times(self, tokens: float) -> Times | None:
        """Every (unit, format) with so many rows; None when one has no time: no plan can be compared."""
        out: Times = {}
        memory: dict[tuple[tuple[Shape, ...], float, str], Spread | None] = {}
        for unit in self.units:
            row: dict[str, Spread] = {}
            for fmt in unit.options:
                key = (self._shapes[unit.name], rows_of(unit.role, tokens), fmt)
                if key not in memory:
                    memory[key] = self.unit_ms(unit, fmt, tokens)
                found = memory[key]
                if found is None:
                    return None
                row[fmt] = found
            out[unit.name] = row
        return out

    def rest_ms(self, tokens: float) -> Spread:
        """What a step takes beside the units."""
        return _between(self.latency.rest_ms, tokens)

    def step_ms(self, formats: Mapping[str, str], tokens: float) -> Spread | None:
        """One forward pass of the whole model under these formats; None where a layer has no time."""
        layers = self.layers_ms(formats, tokens)
        return None if layers is None else self.rest_ms(tokens).plus(layers)

    def layers_ms(self, formats: Mapping[str, str], tokens: float) -> Spread | None:
        """The units' part of it."""
        counts = Counter((self._shapes[u.name], rows_of(u.role, tokens), formats[u.name]) for u in self.units)
        total = NOTHING
        for (shapes, rows, fmt), count in counts.items():
            each = self._ms(shapes, fmt, rows)
            if each is None:
                return None
            total = total.plus(each, count)
        return total

    def speed(self, plan: PrecisionPlan) -> PlanSpeed | None:
        """The plan's predicted figures with their ranges; None where a layer has no time."""
        one, sixteen, chunk = (self.step_ms(plan.formats, t) for t in (1, 16, PREFILL_TOKENS))
        if one is None or sixteen is None or chunk is None:
            return None
        scale = 1000 / PREFILL_TOKENS
        return PlanSpeed(
            decode_ms=self._figure(one, 1),
            decode_16_ms=self._figure(sixteen, 16),
            prefill_ms_per_1k=self._figure(Spread(*(scale * ms for ms in chunk)), PREFILL_TOKENS),
        )

    def _figure(self, ms: Spread, tokens: int) -> Figure:
        known = self.latency
        provenance = known.provenance
        if provenance is Provenance.MEASURED:  # a sum of measured parts is a law, not a measurement
            provenance = known.rest_provenance
        layers = (
            f"layers timed with the kernels of vLLM {known.engine}"
            if known.provenance is Provenance.MEASURED
            else f"roofline of {known.device}"
        )
        rest = self.rest_ms(tokens)
        return Figure(
            value=ms.value,
            low=ms.low,
            high=ms.high,
            unit="ms",
            provenance=provenance,
            source=f"{layers}; the rest {known.rest_source}",
            formula=f"sum over {len(self.units)} units at {tokens} tokens + {rest.value:.3g} ms beside them"
            + (f", times 1000 / {tokens}" if tokens == PREFILL_TOKENS else ""),
        )


def rows_of(role: str, tokens: float) -> float:
    """Rows that a unit multiplies in a step of so many tokens: embeddings are looked up, the output layer has
    the last row of each request (up to 16 tokens a step is one token of each, beyond it a prompt)."""
    if role == "embed":
        return 0
    return 1 if role == "lm_head" and tokens > DECODING_TOKENS else tokens


def at(layer: LayerTime, tokens: float) -> Spread:
    """The layer's time at a number of rows: straight lines on logarithmic scales between timed ones."""
    return _between(layer.ms, tokens)


def _between(points: Sequence[Spread], tokens: float) -> Spread:
    if tokens <= TOKENS[0]:
        return points[0]
    for i in range(1, len(TOKENS)):
        if tokens <= TOKENS[i] or i == len(TOKENS) - 1:
            share = math.log(tokens / TOKENS[i - 1]) / math.log(TOKENS[i] / TOKENS[i - 1])
            return Spread(*(_power(a, b, share) for a, b in zip(points[i - 1], points[i], strict=True)))
    raise AssertionError("unreachable")


def _power(a: float, b: float, share: float) -> float:
    if a <= 0 or b <= 0:
        return a + (b - a) * min(1.0, share)
    return a * math.exp(share * math.log(b / a))


def estimated_rest(lm_head: LayerTime | None, *, eager: bool) -> tuple[Spread, ...]:
    """What a step takes beside the units where nobody measured it: the output layer, which multiplies the
    last row of every request alone, and the step's overhead (`profiles.footprint.speed`)."""
    factor = EAGER_FACTOR if eager else 1.0
    low, value, high = (factor * ms for ms in STEP_OVERHEAD_MS)
    out = []
    for tokens in TOKENS:
        head = at(lm_head, rows_of("lm_head", tokens)) if lm_head is not None else NOTHING
        # attention and norms grow with the rows: a share of the overhead for every 256 of them
        grown = 1 + tokens / 256
        out.append(Spread(value, low, high * grown).plus(head))
    return tuple(out)


def calibrated(clock: Clockwork, measured: OriginalSpeed) -> Latency:
    """The column with the rest taken from the original's measured speed: measured step - its layers.

    Where the layers alone exceed a measured step (the caches hold more than assumed), they are scaled to it:
    then only the ratios between formats are used.
    """
    original = {u.name: "BF16" for u in clock.units}
    steps = {1: measured.itl_ms, 16: measured.itl_16_ms, measured.prompt_tokens: measured.prefill_ms}
    found: dict[int, tuple[float, Spread]] = {}
    for tokens, ms in steps.items():
        layers = clock.layers_ms(original, tokens)
        if ms is not None and ms > 0 and layers is not None and layers.value > 0:
            beside, wide = max(0.0, ms - layers.value), CALIBRATION_SPREAD * ms
            spread = Spread(beside, max(0.0, beside - wide), beside + wide)
            found[tokens] = min(1.0, ms / layers.value), spread
    if 1 not in found:
        return clock.latency
    prefill = found.get(measured.prompt_tokens)
    scales: list[float] = []
    rest: list[Spread] = []
    for tokens, before in zip(TOKENS, clock.latency.rest_ms, strict=True):
        scale, left = found[1]
        if tokens <= DECODING_TOKENS:
            scale, left = found.get(tokens, found[1])
        elif prefill is not None:  # attention and norms: in proportion to the tokens
            share = tokens / measured.prompt_tokens
            scale, left = prefill[0], Spread(*(share * ms for ms in prefill[1]))
        else:
            left = before
        scales.append(scale)
        rest.append(left)
    words = f"calibrated by the original's own speed in vLLM {measured.engine}"
    if min(scales) < 1:
        words += f" (layers scaled by {min(scales):.2f} to it)"
    return clock.latency.model_copy(
        update={
            "rest_ms": tuple(rest),
            "rest_provenance": Provenance.CALIBRATED,
            "rest_source": words,
            "layers": tuple(_scaled(layer, scales) for layer in clock.latency.layers),
        }
    )


def _scaled(layer: LayerTime, scales: Sequence[float]) -> LayerTime:
    ms = tuple(Spread(*(s * x for x in spread)) for s, spread in zip(scales, layer.ms, strict=True))
    return layer.model_copy(update={"ms": ms})

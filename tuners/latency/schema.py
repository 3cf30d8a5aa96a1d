"""Times of layers: what is asked, what was timed, what a run keeps."""

from __future__ import annotations

from typing import NamedTuple

from profiles.provenance import Contract, Figure, Provenance

TOKENS = (1, 16, 256, 2048)
"""Rows of the layer's input that are timed: one request decoding, sixteen, and prefill chunks."""


class Shape(NamedTuple):
    """A layer as one rank of the engine runs it. `experts` of a MoE layer share the format; 0: dense."""

    in_features: int
    out_features: int
    experts: int = 0
    experts_per_token: int = 0


class Spread(NamedTuple):
    """Milliseconds with their range."""

    value: float
    low: float
    high: float

    def plus(self, other: Spread, times: int = 1) -> Spread:
        """The sum; ranges add up, since errors of one machine go the same way."""
        return Spread(
            self.value + times * other.value, self.low + times * other.low, self.high + times * other.high
        )


NOTHING = Spread(0.0, 0.0, 0.0)


class LayerTime(Contract):
    """One (shape, format): milliseconds of one forward pass with `TOKENS` rows each."""

    shape: Shape
    format: str
    ms: tuple[Spread, ...]
    kernel: str
    provenance: Provenance


class KernelTimesSpec(Contract):
    """What the timing child is asked: `wanted` are (shape, format), `swept_bytes` go through the caches
    between two calls, as the rest of the model does between two uses of a layer."""

    wanted: tuple[tuple[Shape, str], ...]
    dtype: str
    swept_bytes: int
    seconds: float


class KernelTimes(Contract):
    """What was timed on one device with one engine version. `failed` says why a pair has no time."""

    version: int
    device: str
    engine: str
    dtype: str
    threads: int
    swept_bytes: int
    taken_at: float
    times: tuple[LayerTime, ...]
    failed: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class Latency(Contract):
    """The column of one run: layers in every format, and `rest_ms` of a step that no plan changes.

    `rest_ms` has one spread per `TOKENS` (attention, lm_head, norms, scheduling); `rest_source` says how it
    is known. `dtype` is that of 16-bit layers.
    """

    device: str
    engine: str
    dtype: str
    layers: tuple[LayerTime, ...]
    rest_ms: tuple[Spread, ...]
    rest_provenance: Provenance
    rest_source: str
    tensor_parallel_size: int = 1
    notes: tuple[str, ...] = ()

    @property
    def provenance(self) -> Provenance:
        """The weakest of what the layers are known by."""
        weak = any(t.provenance is Provenance.ESTIMATED for t in self.layers)
        return Provenance.ESTIMATED if weak or not self.layers else Provenance.MEASURED


class PlanSpeed(Contract):
    """What a plan is predicted to take: decoding one and sixteen requests at once (ms per step: what each
    request waits for a token), and prefill (ms per 1,000 prompt tokens)."""

    decode_ms: Figure
    decode_16_ms: Figure
    prefill_ms_per_1k: Figure


class OriginalSpeed(Contract):
    """What the engine really did with the original: one request alone, sixteen at once (None when so many do
    not fit), and a prompt alone. Milliseconds."""

    engine: str
    itl_ms: float
    itl_16_ms: float | None
    prompt_tokens: int
    prefill_ms: float

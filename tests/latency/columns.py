"""Latency columns and units for tests: a step of known milliseconds."""

from __future__ import annotations

from collections.abc import Iterable

from profiles.provenance import Provenance
from tuners.latency.schema import TOKENS, Latency, LayerTime, Spread
from tuners.latency.shapes import distinct
from tuners.plan import Unit

FACTORS = {
    "BF16": 1.0,
    "W8A8": 0.5,
    "FP8_DYNAMIC": 2.0,
    "W4A16_G32": 0.7,
    "W4A16_G64": 0.7,
    "W4A16_G128": 0.7,
}
"""Milliseconds of a layer relative to 16-bit: INT8 is fastest, FP8 slowest, as on a CPU."""


def column(units: Iterable[Unit], rest_ms: float = 1.0, ms_per_megaweight: float = 1.0) -> Latency:
    """Every layer in proportion to its weights and `FACTORS`; decoding 16 costs twice, 256 rows ten times."""
    layers = []
    for shape, fmt in distinct(units):
        base = shape.in_features * shape.out_features / 1e6 * ms_per_megaweight * FACTORS[fmt]
        ms = tuple(Spread(base * f, base * f * 0.9, base * f * 1.1) for f in (1, 2, 10, 80))
        layers.append(
            LayerTime(shape=shape, format=fmt, ms=ms, kernel="Kernel", provenance=Provenance.MEASURED)
        )
    return Latency(
        device="Test CPU",
        engine="0.32.0",
        dtype="bfloat16",
        layers=tuple(layers),
        rest_ms=(Spread(rest_ms, rest_ms / 2, rest_ms * 2),) * len(TOKENS),
        rest_provenance=Provenance.ESTIMATED,
        rest_source="estimated for a test",
    )

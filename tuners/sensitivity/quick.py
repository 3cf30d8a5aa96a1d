"""A first plan in seconds: weights rounded to nearest in memory, one backward pass on a few sequences.

What the full table does in minutes (GPTQ of every unit in every format, KL of every cell) is here replaced
by its cheapest stand-in: the second-order estimate (g . dy)^2 of `fast.py` with weights rounded to nearest.
Which unit is sensitive is mostly a matter of the model, not of how its weights were rounded.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from profiles.formats import get_format
from tuners.model.host import ModelHost
from tuners.model.variants import LinearVariant, VariantStore, rtn
from tuners.sensitivity.fast import measure_fast

MEMORY_BYTES = 2 * 2**30
"""Rounded weights kept between sequences."""


class RoundedStore(VariantStore):
    """Variants rounded to nearest when they are asked for; nothing is written."""

    def __init__(self, host: ModelHost, memory_bytes: int = MEMORY_BYTES) -> None:
        super().__init__(host, Path(), memory_bytes)

    def has(self, unit: str, fmt: str) -> bool:
        """Always."""
        return True

    def codes(self, unit: str, fmt: str) -> dict[str, LinearVariant]:
        """The unit's weights rounded now."""
        linears = self.host.units[unit].linears
        return {m.name: rtn(self.host.original[m.name], get_format(fmt)) for m in linears}

    def input_scale(self, unit: str, fmt: str) -> Tensor | None:
        """None: inputs are rounded as they are."""
        return None


def quick_scores(host: ModelHost, ids: Tensor, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """unit -> format -> (g . dy)^2 in nats per token, from one probe for each sequence of `ids`."""
    fast = measure_fast(host, RoundedStore(host), ids, probes=1, seed=seed)
    out: dict[str, dict[str, float]] = {}
    for (unit, fmt), value in fast.gdy2.items():
        out.setdefault(unit, {})[fmt] = value
    return out

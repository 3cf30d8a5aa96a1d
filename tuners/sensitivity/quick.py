"""A first plan in seconds: nothing is quantized, one backward pass on a few sequences.

What the full table does in minutes (GPTQ of every unit in every format, KL of every cell) is here replaced
by what quantizing so is expected to cost (`expected.py`). The plan that comes of it is measured with weights
rounded to nearest in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from profiles.formats import CALIBRATED, Activations, get_format
from tuners.model import smoothing
from tuners.model.calibrate import input_spans
from tuners.model.host import ModelHost, batches, model_feed
from tuners.model.variants import LinearVariant, VariantStore, rtn_all
from tuners.sensitivity.expected import Expected
from tuners.sensitivity.fast import Seen, backward

PASS_TOKENS = 256
"""Short sequences go through the model side by side, up to so many tokens: fewer rows multiply slower
(`MULTIPLIED_TOGETHER` in fast.py has figures)."""


class RoundedStore(VariantStore):
    """Variants rounded to nearest when they are asked for; nothing is written.

    `ids` (sequences, tokens) calibrates the activation scales of the formats that store one.
    """

    def __init__(
        self,
        host: ModelHost,
        ids: Tensor,
        memory_bytes: int,
        rounds: Mapping[str, Activations] | None = None,
    ) -> None:
        super().__init__(host, Path(), memory_bytes, rounds)
        units = [u for u in host.units.values() if any(self._is_calibrated(f) for f in u.options)]
        head = any(u.block is None for u in units)
        self._spans = input_spans(host, units, model_feed(host, ids, 1, head=head))

    def _is_calibrated(self, fmt: str) -> bool:
        return fmt != "BF16" and self.activations(fmt) in CALIBRATED

    def has(self, unit: str, fmt: str) -> bool:
        """Always."""
        return True

    def codes(self, unit: str, fmt: str) -> dict[str, LinearVariant]:
        """The unit's weights rounded now."""
        names = [m.name for m in self.host.units[unit].linears]
        rounded = rtn_all([self.host.original[n] for n in names], get_format(fmt))
        return dict(zip(names, rounded, strict=True))

    def input_scale(self, unit: str, fmt: str) -> Tensor | None:
        """None: inputs are rounded as they are."""
        return None

    def input_span(self, unit: str, fmt: str) -> Tensor | None:
        """The range (2,) of the unit's inputs on the few sequences, where the format needs one."""
        return self._spans[unit] if self._is_calibrated(fmt) else None


def quick_scores(
    host: ModelHost,
    store: RoundedStore,
    ids: Tensor,
    *,
    weights: Tensor | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[str, str], float]:
    """(unit, format) to what it is expected to cost in nats per token (`expected.py`), from one probe for
    each of the sequences `ids` (sequences, tokens).

    `weights` (sequences, tokens) count the loss where the next token matters (None: everywhere). Memory: what
    all linears see of all sequences, tokens x (inputs + outputs) floats.
    """
    rng = torch.Generator(device="cpu").manual_seed(seed)
    units = list(host.units.values())
    steps = len(ids) + len(units)
    seen: list[dict[str, Seen]] = []
    for rows in batches(len(ids), max(1, PASS_TOKENS // ids.shape[1])):
        found = backward(host, ids[rows], rng, 1, None if weights is None else weights[rows])
        seen += [{name: replace(one, y=None) for name, one in row.items()} for row in found]
        if progress is not None:
            progress(len(seen), steps)
    scaled = [u for u in units if any(store.takes_input_scale(fmt) for fmt in u.options)]
    expected = Expected(host, store, smoothing.absorbers(host, scaled) if scaled else {})
    tokens = float(ids.numel() if weights is None else weights.sum())
    out = {}
    for place, unit in enumerate(units):
        for fmt, cost in expected.costs(unit, seen).items():
            out[unit.name, fmt] = cost / tokens
        if progress is not None:
            progress(len(seen) + place + 1, steps)
    return out

"""A first plan in seconds: weights rounded to nearest in memory, one backward pass on a few sequences.

What the full table does in minutes (GPTQ of every unit in every format, KL of every cell) is here replaced
by its cheapest stand-in: the second-order estimate (g . dy)^2 of `fast.py` with weights rounded to nearest.
Which unit is sensitive is mostly a matter of the model, not of how its weights were rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from profiles.formats import CALIBRATED, Activations, get_format
from tuners.model.calibrate import input_spans
from tuners.model.host import ModelHost, model_feed
from tuners.model.variants import LinearVariant, VariantStore, rtn_all
from tuners.plan import Unit
from tuners.sensitivity.fast import FastSignals, measure_fast

POSITIONS = 64
"""Of longer sequences output changes are taken at every second position, or third: at about so many."""

PASS_TOKENS = 128
"""Short sequences go through the model side by side, up to so many tokens: fewer rows multiply slower
(`MULTIPLIED_TOGETHER` in fast.py has figures)."""

TOGETHER = 4
"""Sequences for which weights are rounded once: their inputs, outputs and gradients are held at a time."""


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
    """(unit, format) to levelled `g2dy2` in nats per token, from one probe for each sequence of `ids`."""
    length = ids.shape[1]
    found = measure_fast(
        host,
        store,
        ids,
        probes=1,
        seed=seed,
        weights=weights,
        progress=progress,
        stride=max(1, length // POSITIONS),
        together=TOGETHER,
        abreast=max(1, PASS_TOKENS // length),
    )
    return levelled(host.units.values(), found)


def levelled(units: Iterable[Unit], found: FastSignals) -> dict[tuple[str, str], float]:
    """(unit, format) to `g2dy2` in nats per token, at the level of `gdy2` where the format rounds its inputs.

    Rounded inputs move several channels together, which `g2dy2` leaves out: its scores of such a format are
    too low against those of weights alone. What is missing is read off the sums over the units of a role,
    which have little noise; the order of the units stays that of `g2dy2`.
    """
    roles = {u.name: u.role for u in units}
    together: dict[tuple[str, str], float] = {}
    apart: dict[tuple[str, str], float] = {}
    for (unit, fmt), value in found.g2dy2.items():
        key = roles[unit], fmt
        together[key] = together.get(key, 0.0) + found.gdy2[unit, fmt]
        apart[key] = apart.get(key, 0.0) + value
    out = {}
    for (unit, fmt), value in found.g2dy2.items():
        key = roles[unit], fmt
        rounds = get_format(fmt).activations is not Activations.A16
        out[unit, fmt] = value * together[key] / apart[key] if rounds and apart[key] > 0 else value
    return out

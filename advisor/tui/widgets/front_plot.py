"""Quality loss against size: uniform schemes, exact solutions, trials, the best, and the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from textual_plot import PlotWidget

MARKS = {
    "pruned": ("x", "bright_black"),
    "trial": ("o", "blue"),
    "uniform": ("U", "magenta"),
    "exact": ("E", "cyan"),
    "best": ("*", "green"),
}
"""A character and a colour for each kind, drawn in this order; the character alone is enough."""


class FrontItem(NamedTuple):
    """One measured plan."""

    kind: str
    bits: float
    kl: float
    label: str
    formats: dict[str, str]


class FrontPlot(PlotWidget, can_focus=False, inherit_bindings=False):  # type: ignore[misc,call-arg]
    """Bits per weight to the right, KL upwards; the wheel zooms, dragging moves."""

    def draw(self, items: Sequence[FrontItem], budget_bits: float | None) -> None:
        """Draw all items and the line of the budget."""
        self.clear()
        known = [i for i in items if math.isfinite(i.kl)]
        if not known:
            return
        if budget_bits is not None:
            self.add_v_line(budget_bits, line_style="yellow")
        for kind, (mark, style) in MARKS.items():
            xs = [i.bits for i in known if i.kind == kind]
            if xs:
                ys = [i.kl for i in known if i.kind == kind]
                self.scatter(xs, ys, marker=mark, marker_style=style)
        bits = [i.bits for i in known] + ([] if budget_bits is None else [budget_bits])
        pad = max(0.2, (max(bits) - min(bits)) * 0.06)
        self.set_xlimits(min(bits) - pad, max(bits) + pad)
        self.set_ylimits(0.0, max(i.kl for i in known) * 1.1 or 1.0)
        self.set_xlabel("bits per weight, scales included")
        self.set_ylabel("KL")

"""Quality loss against size: uniform schemes, exact solutions, trials, the best, and the budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widget import Widget

from advisor.tui.words import size

MARKS = {
    "pruned": ("x", "dim"),
    "trial": ("o", "blue"),
    "uniform": ("U", "bold magenta"),
    "exact": ("E", "bold cyan"),
    "best": ("*", "bold green"),
}
"""A character and a colour for each kind, later ones drawn over earlier; the character alone is enough."""
LEFT = 8
"""Columns of the labels on the left: 1.2e-05 and a space."""


class FrontItem(NamedTuple):
    """One measured plan; `split` names the text it was measured on."""

    kind: str
    bits: float
    kl: float
    label: str
    formats: dict[str, str]
    split: str


class Sizes(NamedTuple):
    """What turns bits per weight into the size of the checkpoint."""

    weights: int
    fixed_bytes: int

    def at(self, bits: float) -> float:
        """Checkpoint bytes."""
        return bits * self.weights / 8 + self.fixed_bytes


class FrontPlot(Widget):
    """Bits per weight to the right (and the checkpoint's size), KL upwards on a logarithmic scale."""

    class LineMoved(Message):
        """The budget line was dragged or clicked to another place."""

        def __init__(self, bits: float) -> None:
            super().__init__()
            self.bits = bits

    def __init__(self, id: str, classes: str) -> None:
        super().__init__(id=id, classes=classes)
        self._items: list[FrontItem] = []
        self._line: float | None = None
        self._sizes: Sizes | None = None
        self._x = (4.0, 8.0)

    def draw(self, items: Sequence[FrontItem], line: float | None, sizes: Sizes | None) -> None:
        """Show these items and the line of the budget, in bits per weight."""
        self._items = [i for i in items if math.isfinite(i.kl) and i.kl > 0]
        self._line, self._sizes = line, sizes
        bits = [i.bits for i in self._items] + ([] if line is None else [line])
        if bits:
            pad = max(0.2, (max(bits) - min(bits)) * 0.04)
            self._x = (min(bits) - pad, max(bits) + pad)
        self.refresh()

    def render(self) -> Text:
        """The plot as characters."""
        width, height = self.content_size.width - LEFT, self.content_size.height - 2
        if not self._items:
            return Text("nothing measured yet", style="dim")
        if width < 10 or height < 3:
            return Text("")
        logs = [math.log10(i.kl) for i in self._items]
        low, high = min(logs), max(logs)
        pad = max(0.02, (high - low) * 0.06)
        low, high = low - pad, high + pad
        cells = [[(" ", "")] * width for _ in range(height)]

        def column(bits: float) -> int:
            return min(
                width - 1, max(0, round((bits - self._x[0]) / (self._x[1] - self._x[0]) * (width - 1)))
            )

        def row(kl: float) -> int:
            return min(height - 1, max(0, round((high - math.log10(kl)) / (high - low) * (height - 1))))

        if self._line is not None:
            for y in range(height):
                cells[y][column(self._line)] = ("│", "yellow")
        exact = sorted((column(i.bits), row(i.kl)) for i in self._items if i.kind == "exact")
        for (x0, y0), (x1, y1) in itertools.pairwise(exact):
            for x in range(x0 + 1, x1):
                cells[round(y0 + (y1 - y0) * (x - x0) / (x1 - x0))][x] = ("·", "cyan")
        for kind, mark in MARKS.items():
            for item in self._items:
                if item.kind == kind:
                    cells[row(item.kl)][column(item.bits)] = mark
        out = Text(no_wrap=True)
        labelled = {0, height // 2, height - 1}
        for y in range(height):
            kl = 10 ** (high - (high - low) * y / (height - 1))
            label = f"{kl:.2g}".rjust(LEFT - 2) + " ┤" if y in labelled else " " * (LEFT - 1) + "│"
            out.append(label, "dim")
            for char, style in cells[y]:
                out.append(char, style)
            out.append("\n")
        out.append_text(self._axis(width, column))
        return out

    def _axis(self, width: int, column: Callable[[float], int]) -> Text:
        """Two lines of labels: bits per weight, and the checkpoint's size."""
        span = self._x[1] - self._x[0]
        step = next((s for s in (0.1, 0.25, 0.5, 1, 2, 4) if span / s * 11 <= width), 4)
        bits_row, size_row = [" "] * width, [" "] * width
        tick = math.ceil(self._x[0] / step) * step
        while tick <= self._x[1]:
            at = column(tick)
            for row, text in (
                (bits_row, f"{tick:g}"),
                (size_row, size(self._sizes.at(tick)) if self._sizes else ""),
            ):
                start = min(max(0, at - len(text) // 2), width - len(text))
                row[start : start + len(text)] = text
            tick += step
        lines = (
            f"{name.rjust(LEFT - 1)} {''.join(row)}" for name, row in (("bits", bits_row), ("size", size_row))
        )
        return Text("\n".join(lines), style="dim", no_wrap=True)

    def _moved(self, event: events.MouseEvent) -> None:
        offset = event.get_content_offset(self)
        width = self.content_size.width - LEFT
        if offset is not None and width > 1 and self._items:
            share = min(1.0, max(0.0, (offset.x - LEFT) / (width - 1)))
            self.post_message(self.LineMoved(self._x[0] + share * (self._x[1] - self._x[0])))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """The line goes where the mouse is."""
        self.capture_mouse()
        self._moved(event)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """And follows it while the button is down."""
        if self.app.mouse_captured is self:
            self._moved(event)

    def on_mouse_up(self) -> None:
        """Until it is let go."""
        self.release_mouse()

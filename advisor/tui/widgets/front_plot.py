"""Quality loss against size: uniform schemes, exact solutions, trials, the best, and the budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from advisor.tui.words import size

MARKS = {
    "pruned": ("x", "dim"),
    "trial": ("o", "blue"),
    "front": ("f", "green"),
    "uniform": ("U", "bold magenta"),
    "exact": ("E", "bold cyan"),
    "best": ("*", "bold green"),
}
"""A character and a colour for each kind, later ones drawn over earlier; the character alone is enough."""
STYLES = {" ": Style(), "·": Style(color="cyan"), "│": Style(color="yellow")} | {
    char: Style.parse(style) for char, style in MARKS.values()
}
DIM = Style(dim=True)
LEFT = 9
"""Columns of the labels on the left: 1.2e-05, a space and the axis."""


class FrontItem(NamedTuple):
    """One measured plan; `split` names the text it was measured on, `decode_ms` is predicted."""

    kind: str
    bits: float
    kl: float
    label: str
    formats: dict[str, str]
    split: str
    decode_ms: float | None = None


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
        self._drawn = (0, 0)
        self._cells: list[list[str]] = []
        self._labels: list[str] = []
        self._strips: list[Strip] = []

    def draw(self, items: Sequence[FrontItem], line: float | None, sizes: Sizes | None) -> None:
        """Show these items and the line of the budget, in bits per weight."""
        self._items = [i for i in items if math.isfinite(i.kl) and i.kl > 0]
        self._line, self._sizes = line, sizes
        self._cells, self._strips = [], []
        self.refresh()

    def move_line(self, line: float | None) -> None:
        """Only the line is elsewhere: the points are not placed again, unless it leaves the axis."""
        inside = line is not None and self._x[0] <= line <= self._x[1]
        self._line, self._strips = line, []
        if not inside:
            self._cells = []
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """A line of the plot; all are made anew only when points, line or size have changed."""
        size = (self.content_size.width, self.content_size.height)
        if size != self._drawn:
            self._drawn, self._cells, self._strips = size, [], []
        if not self._strips:
            self._strips = self._make_strips()
        base = self.rich_style
        strip = self._strips[y] if y < len(self._strips) else Strip([])
        return strip.adjust_cell_length(size[0]).apply_style(base)

    def _make_strips(self) -> list[Strip]:
        """The plot as lines of characters."""
        width, height = self._drawn[0] - LEFT, self._drawn[1] - 2
        if not self._items:
            return [Strip([Segment("nothing measured yet", DIM)])]
        if width < 10 or height < 3:
            return []
        if not self._cells:
            self._place(width, height)
        at = None if self._line is None else self._column(self._line, width)
        return [
            Strip([Segment(label, DIM), *_segments(row, at)])
            for label, row in zip(self._labels, self._cells, strict=True)
        ] + [Strip([Segment(text, DIM)]) for text in self._axis(width)]

    def _column(self, bits: float, width: int) -> int:
        low, high = self._x
        return min(width - 1, max(0, round((bits - low) / (high - low) * (width - 1))))

    def _place(self, width: int, height: int) -> None:
        """A character per cell: marks, later kinds over earlier, on dots between the exact ones."""
        bits = [i.bits for i in self._items] + ([] if self._line is None else [self._line])
        pad = max(0.2, (max(bits) - min(bits)) * 0.04)
        self._x = (min(bits) - pad, max(bits) + pad)
        logs = [math.log10(i.kl) for i in self._items]
        low, high = min(logs), max(logs)
        pad = max(0.02, (high - low) * 0.06)
        low, high = low - pad, high + pad
        per_row = (height - 1) / (high - low)
        points: dict[str, set[tuple[int, int]]] = {kind: set() for kind in MARKS}
        for item, log in zip(self._items, logs, strict=True):
            points[item.kind].add((self._column(item.bits, width), round((high - log) * per_row)))
        self._cells = [[" "] * width for _ in range(height)]
        for (x0, y0), (x1, y1) in itertools.pairwise(sorted(points["exact"])):
            for x in range(x0 + 1, x1):
                self._cells[round(y0 + (y1 - y0) * (x - x0) / (x1 - x0))][x] = "·"
        for kind, (char, _) in MARKS.items():
            for x, y in points[kind]:
                self._cells[y][x] = char
        labelled = {0, height // 2, height - 1}
        self._labels = [
            f"{10 ** (high - y / per_row):.2g}".rjust(LEFT - 2) + " ┤"
            if y in labelled
            else " " * (LEFT - 1) + "│"
            for y in range(height)
        ]

    def _axis(self, width: int) -> list[str]:
        """Two lines of labels: bits per weight, and the checkpoint's size."""
        span = self._x[1] - self._x[0]
        step = next((s for s in (0.1, 0.25, 0.5, 1, 2, 4) if span / s * 11 <= width), 4)
        bits_row, size_row = [" "] * width, [" "] * width
        tick = math.ceil(self._x[0] / step) * step
        while tick <= self._x[1]:
            at = self._column(tick, width)
            for row, text in (
                (bits_row, f"{tick:g}"),
                (size_row, size(self._sizes.at(tick)) if self._sizes else ""),
            ):
                start = min(max(0, at - len(text) // 2), width - len(text))
                row[start : start + len(text)] = text
            tick += step
        return [
            f"{name.rjust(LEFT - 1)} {''.join(row)}" for name, row in (("bits", bits_row), ("size", size_row))
        ]

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


def _segments(row: list[str], line: int | None) -> Iterator[Segment]:
    """A row of characters, those of one style together; the line stands where no mark is."""
    for char, run in itertools.groupby("│" if x == line and c == " " else c for x, c in enumerate(row)):
        yield Segment(char * len(list(run)), STYLES[char])

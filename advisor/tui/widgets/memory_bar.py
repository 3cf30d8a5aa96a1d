"""The device's memory as one bar: weights, KV cache, activations and overheads, free."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from advisor.tui.words import size

if TYPE_CHECKING:
    from profiles.footprint.schema import Footprint


class Part(NamedTuple):
    """One part of the bar; the character tells it apart without colour."""

    name: str
    nbytes: float
    char: str
    style: str


def parts_of(found: Footprint) -> tuple[tuple[Part, ...], float]:
    """The parts of a footprint and the bytes that they share: the device's, or the engine's budget."""
    overhead = found.activation.value + found.non_torch.value + found.cuda_graph.value
    kv = max(0.0, found.kv_bytes.value)
    free = max(0.0, found.free_after.value)
    total = max(found.budget.value, 1.0)
    if found.free_after.value >= 0:
        total = max(total, found.weights.value + kv + overhead + free)
    return (
        Part("weights", found.weights.value, "█", "blue"),
        Part("KV", kv, "▓", "green"),
        Part("activation", found.activation.value, "▒", "yellow"),
        Part("overhead", found.non_torch.value + found.cuda_graph.value, "░", "magenta"),
    ), total


class MemoryBar(Widget):
    """A bar of `total` bytes with a legend below; what does not fit is said, not cut off."""

    DEFAULT_CSS = "MemoryBar { height: auto; min-height: 3; }"
    parts: reactive[tuple[Part, ...]] = reactive((), layout=True)
    total: reactive[float] = reactive(0.0)

    def show(self, parts: tuple[Part, ...], total: float) -> None:
        """Draw these parts of `total` bytes."""
        self.total, self.parts = total, parts

    def render(self) -> Text:
        """The bar, then every part with its size."""
        if not self.parts or self.total <= 0:
            return Text("")
        width = max(10, self.content_size.width)
        used = sum(p.nbytes for p in self.parts)
        scale = max(used, self.total)
        out, drawn = Text(), 0
        for part in self.parts:
            cells = round(part.nbytes / scale * width)
            cells = max(cells, 1) if part.nbytes > 0 else 0
            cells = min(cells, width - drawn)
            out.append(part.char * cells, style=part.style)
            drawn += cells
        out.append("·" * (width - drawn), style="dim")
        out.append("\n")
        for part in self.parts:
            out.append(f"{part.char} ", style=part.style)
            out.append(f"{part.name} {size(part.nbytes)}  ")
        left = self.total - used
        if left >= 0:
            out.append(f"· free {size(left)} of {size(self.total)}")
        else:
            out.append(f"over by {size(-left)} of {size(self.total)}", style="bold red")
        return out

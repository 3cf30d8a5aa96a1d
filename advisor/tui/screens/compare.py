"""Two runs beside each other: what they came to, their plans as strips, and the units that differ."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from advisor.tui import run_files
from advisor.tui.widgets.layer_grid import plan_text
from advisor.tui.widgets.lists import Scroll
from tuners.nats import nats


class CompareScreen(ModalScreen[None]):
    """Left and right; the differences below."""

    CSS_PATH = "modal.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,v", "dismiss", "Close", show=False),
    ]

    def __init__(self, left: Path, right: Path) -> None:
        super().__init__()
        self._roots = (left, right)

    def compose(self) -> ComposeResult:
        """Two panels with a strip each, and the list of units."""
        with Vertical(id="wide-dialog") as box:
            box.border_title = "Two plans"
            box.border_subtitle = "escape closes"
            with Horizontal(id="sides"):
                for name, root in zip(("left", "right"), self._roots, strict=True):
                    with VerticalScroll(id=name, classes="panel") as side:
                        side.border_title = str(root)
                        yield Static("", id=f"{name}-text", markup=False)
            with Scroll(id="difference", classes="panel"):
                yield Static("", id="difference-text", markup=False)

    def on_mount(self) -> None:
        """The differences have the focus: they scroll."""
        self.query_one("#difference").focus()
        self.query_one("#difference-text", Static).update(difference(*self._roots))
        self.call_after_refresh(self.on_resize)

    def on_resize(self) -> None:
        """Strips are wrapped to the width."""
        for name, root in zip(("left", "right"), self._roots, strict=True):
            width = self.query_one(f"#{name}").size.width - 2
            self.query_one(f"#{name}-text", Static).update(side_text(root, max(30, width)))


def side_text(root: Path, width: int) -> Text:
    """One run: bits, KL, perplexity, verdict, and its plan as a strip."""
    plan, found = run_files.plan(root), run_files.outcome(root)
    if plan is None:
        return Text("no plan yet: its search has not finished", style="yellow")
    out = Text()
    rows = (
        ("plan", plan.label or plan.key),
        ("bits per weight", None if found.bits is None else f"{found.bits:.3f} (exact)"),
        ("KL", None if found.kl is None else f"{nats(found.kl)} (measured, held-out text)"),
        (
            "perplexity",
            None
            if found.perplexity_ratio is None
            else f"{found.perplexity_ratio:.4f} x the original's (measured)",
        ),
        ("engine", None if found.passed is None else "✓ passed" if found.passed else "✗ failed"),
    )
    for name, words in rows:
        if words:
            out.append(f"{name:16}", style="dim")
            out.append(f"{words}\n")
    out.append("\n")
    out.append_text(plan_text(plan.formats, run_files.unit_places(root), width))
    return out


def difference(left: Path, right: Path) -> Table | Text:
    """Every unit that differs, with its two formats."""
    plans = [run_files.plan(left), run_files.plan(right)]
    if plans[0] is None or plans[1] is None:
        return Text("")
    changed = plans[0].diff(plans[1])
    out = Table.grid(padding=(0, 2))
    out.add_row(Text(f"{len(changed)} units differ" if changed else "the two plans are the same", "bold"))
    for unit, (a, b) in changed.items():
        out.add_row(unit, a, "→", b)
    return out

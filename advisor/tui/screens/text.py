"""A longer text over the screen: a formula, a difference, an error."""

from __future__ import annotations

from typing import ClassVar

from rich.console import RenderableType
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static


class TextScreen(ModalScreen[None]):
    """A titled text that scrolls."""

    CSS_PATH = "modal.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark", "dismiss", "Close", show=False),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, title: str, text: RenderableType) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        """The text in a box."""
        with VerticalScroll(id="dialog") as box:
            box.border_title = self._title
            box.border_subtitle = "escape closes"
            yield Static(self._text, markup=False)

    def action_scroll(self, step: int) -> None:
        """Scroll by a line."""
        self.query_one("#dialog", VerticalScroll).scroll_relative(y=step)

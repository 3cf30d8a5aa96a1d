"""The keys of a screen and of the application."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

EVERYWHERE = """\
 1-7       screens: hardware, models, task, tune, validate, export, runs
 [ ]       the screen before, the screen after
 c         copy the command line that does the same
 t         theme          ctrl+p    every command, every theme
 j k g G   move as the arrows, home and end do; ctrl+d ctrl+u by pages
 tab       the next field or list; escape leaves a field
 ctrl+o    jump: a letter on every field and list goes there
 q         quit; asks while work runs, which may go on without this window
"""


class HelpScreen(ModalScreen[None]):
    """Shown over a screen until any of escape, q, ? is pressed."""

    CSS_PATH = "modal.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss", "Close", show=False),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, name: str, text: str) -> None:
        super().__init__()
        self._title = name
        self._text = text

    def compose(self) -> ComposeResult:
        """The screen's own keys first."""
        with VerticalScroll(id="dialog") as box:
            box.border_title = f"Help: {self._title}"
            yield Static(f"{self._text.strip()}\n\nEverywhere\n{EVERYWHERE}", markup=False)

    def action_scroll(self, step: int) -> None:
        """Scroll by a line."""
        self.query_one("#dialog", VerticalScroll).scroll_relative(y=step)

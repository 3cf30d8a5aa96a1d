"""A question before something that cannot be undone, or before leaving work alone."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static


class Choice(NamedTuple):
    """One answer: what it returns, its words, its key."""

    answer: str
    words: str
    key: str


class ConfirmScreen(ModalScreen[str | None]):
    """A question with a key for each answer; the last one is the harmless one and has the focus."""

    CSS_PATH = "modal.tcss"
    AUTO_FOCUS = "#dialog Button:last-child"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,tab", "app.focus_next", "Next", show=False),
        Binding("left,shift+tab", "app.focus_previous", "Previous", show=False),
    ]

    def __init__(self, question: str, choices: tuple[Choice, ...]) -> None:
        super().__init__()
        self._question = question
        self._choices = choices

    def compose(self) -> ComposeResult:
        """The question and its answers."""
        with Vertical(id="dialog"):
            yield Static(self._question, markup=False)
            with Horizontal():
                for choice in self._choices:
                    yield Button(f"{choice.words} ({choice.key})", id=f"answer-{choice.answer}")

    def on_mount(self) -> None:
        """Enter alone does no harm."""
        self.query_one(f"#answer-{self._choices[-1].answer}", Button).focus()

    def on_key(self, event: events.Key) -> None:
        """A choice by its key."""
        for choice in self._choices:
            if event.key == choice.key:
                event.stop()
                self.dismiss(choice.answer)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss((event.button.id or "").removeprefix("answer-"))

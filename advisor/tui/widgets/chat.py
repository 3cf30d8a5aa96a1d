"""A conversation with the bundle's server: what was said, and a field for the next question."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from advisor.tui.widgets.lists import Scroll


class Chat(Vertical):
    """Shows text; asks for questions; knows no server."""

    DEFAULT_CSS = """
    Chat { height: 1fr; }
    Chat > Scroll { height: 1fr; }
    Chat > Input { height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+l", "clear", "Clear", show=False)]

    class Asked(Message):
        """Something was typed and sent."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, id: str, classes: str) -> None:
        super().__init__(id=id, classes=classes)
        self._said = Text()

    def compose(self) -> Iterable[Widget]:
        """The conversation above, the field below."""
        with Scroll():
            yield Static("", id="said", markup=False)
        yield Input(
            placeholder="ask the quantized model: enter sends, escape leaves", id="question", compact=True
        )

    @on(Input.Submitted)
    def _sent(self, event: Input.Submitted) -> None:
        event.stop()
        text = event.value.strip()
        if text:
            event.input.value = ""
            self.post_message(self.Asked(text))

    def state(self, words: str) -> None:
        """How the server is, in the title."""
        self.border_title = words

    def say(self, text: str, style: str = "") -> None:
        """Add to the conversation and stay at its end."""
        self._said.append(text, style=style)
        self.query_one("#said", Static).update(self._said.copy())
        self.query_one(Scroll).scroll_end(animate=False)

    def clear(self) -> None:
        """An empty page."""
        self._said = Text()
        self.query_one("#said", Static).update("")

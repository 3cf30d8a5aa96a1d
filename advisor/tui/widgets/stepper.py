"""A value that left and right change: ‹ 4,096 ›."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget


class Stepper(Widget, can_focus=True):
    """One of a list of values."""

    DEFAULT_CSS = """
    Stepper { height: 1; width: auto; min-width: 12; }
    Stepper:focus { background: $accent; color: $background; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h,minus", "step(-1)", "Less", show=False),
        Binding("right,l,plus,space", "step(1)", "More", show=False),
    ]
    index: reactive[int] = reactive(0, layout=True)

    class Changed(Message):
        """Another value was chosen."""

        def __init__(self, stepper: Stepper) -> None:
            super().__init__()
            self.stepper = stepper

        @property
        def control(self) -> Stepper:
            """The stepper that changed."""
            return self.stepper

    def __init__(self, name: str, values: Sequence[tuple[object, str]], *, id: str) -> None:
        super().__init__(id=id)
        self._label = name
        self.values = list(values)

    @property
    def value(self) -> object:
        """What is chosen."""
        return self.values[self.index][0]

    def choose(self, value: object) -> None:
        """Show a value without telling anybody."""
        known = [v for v, _ in self.values]
        if value in known:
            self.index = known.index(value)

    def offer(self, values: Sequence[tuple[object, str]]) -> None:
        """Other values to choose among; the choice stays if it is still offered."""
        if list(values) == self.values:
            return
        old = self.value
        self.values = list(values)
        known = [v for v, _ in self.values]
        self.index = known.index(old) if old in known else 0
        self.refresh(layout=True)

    def render(self) -> Text:
        """Name and value between arrows; an arrow is absent at the end of the list."""
        left = "‹" if self.index > 0 else " "
        right = "›" if self.index < len(self.values) - 1 else " "
        return Text(f"{self._label} {left}{self.values[self.index][1]}{right}", no_wrap=True)

    def action_step(self, step: int) -> None:
        """One value further."""
        index = max(0, min(len(self.values) - 1, self.index + step))
        if index != self.index:
            self.index = index
            self.post_message(self.Changed(self))

    def on_click(self, event: events.Click) -> None:
        """Left half less, right half more."""
        self.action_step(-1 if event.x < self.size.width / 2 else 1)

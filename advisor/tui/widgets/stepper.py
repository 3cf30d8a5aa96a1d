"""A value that left and right change: context ‹ 4,096 ›."""

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
    """One of a list of values. Clicks: left half less, right half more; the wheel does the same."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"stepper--value", "stepper--label"}
    DEFAULT_CSS = """
    Stepper { height: 1; width: auto; }
    Stepper > .stepper--label { color: $foreground; }
    Stepper > .stepper--value { background: $panel; color: $foreground; }
    Stepper:focus > .stepper--label { color: $accent; text-style: bold; }
    Stepper:focus > .stepper--value {
        background: $block-cursor-background; color: $block-cursor-foreground; text-style: bold;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h,minus", "step(-1)", "Less", show=False),
        Binding("right,l,plus,space", "step(1)", "More", show=False),
    ]
    index: reactive[int] = reactive(0)

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

    def choose(self, value: object, words: str | None = None) -> None:
        """Show a value without telling anybody; one that is not offered is added at the end."""
        known = [v for v, _ in self.values]
        if value not in known:
            words = words or (f"{value:,}" if isinstance(value, int) else str(value))
            self.values.append((value, words))
            known.append(value)
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
        label, value = (
            self.get_component_rich_style(f"stepper--{part}", partial=True) for part in ("label", "value")
        )
        left = "‹" if self.index > 0 else " "
        right = "›" if self.index < len(self.values) - 1 else " "
        widest = max(len(words) for _, words in self.values)
        words = self.values[self.index][1].center(widest)
        return Text.assemble((f"{self._label} ", label), (f"{left} {words} {right}", value), no_wrap=True)

    def action_step(self, step: int) -> None:
        """One value further."""
        index = max(0, min(len(self.values) - 1, self.index + step))
        if index != self.index:
            self.index = index
            self.post_message(self.Changed(self))

    def on_click(self, event: events.Click) -> None:
        """Left half of the value less, right half more."""
        middle = len(self._label) + 1 + (self.size.width - len(self._label) - 1) / 2
        self.action_step(-1 if event.x < middle else 1)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Less."""
        event.stop()
        self.action_step(-1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """More."""
        event.stop()
        self.action_step(1)

"""Jump: a letter on everything that takes the keyboard; pressing it goes there."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static

from advisor.tui.keymap import SCREENS

LETTERS = "asdfghjklwertuiopzxvbnm"
"""Letters of the home row first; none that has a meaning in the overlay itself."""


def targets(screen: Screen[object]) -> dict[str, Widget]:
    """A letter for every widget in sight that can have the focus, from the top left."""
    found = [w for w in screen.focus_chain if w.size.width and screen.size.region.overlaps(w.region)]
    return dict(zip(LETTERS, sorted(found, key=lambda w: (w.region.y, w.region.x)), strict=False))


class JumpScreen(ModalScreen[Widget | str | None]):
    """The letters over the screen below; the widget that was chosen, the name of a screen, or None."""

    DEFAULT_CSS = """
    JumpScreen { layers: letters; background: $background 40%; }
    JumpScreen > .letter {
        layer: letters; width: auto; height: 1; padding: 0 1; position: absolute;
        background: $warning; color: $background; text-style: bold;
    }
    JumpScreen > .letter:nocolor { text-style: bold reverse; }
    JumpScreen > #hint { dock: bottom; height: 1; padding: 0 1; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+o", "dismiss(None)", "Close", show=False, priority=True)
    ]

    def __init__(self, found: dict[str, Widget]) -> None:
        super().__init__()
        self._targets = found
        self._seen: Size | None = None

    def compose(self) -> ComposeResult:
        """A letter at the corner of each target."""
        for letter, target in self._targets.items():
            label = Static(letter, classes="letter", markup=False)
            label.styles.offset = (target.region.x, target.region.y)
            yield label
        yield Static("a letter goes there, 1-7 open screens, escape stays", id="hint", markup=False)

    def on_key(self, event: events.Key) -> None:
        """A letter, or the key of a screen."""
        if event.key in self._targets:
            event.stop()
            self.dismiss(self._targets[event.key])
        elif event.key.isdigit() and 0 < int(event.key) <= len(SCREENS):
            event.stop()
            self.dismiss(SCREENS[int(event.key) - 1])

    def on_resize(self, event: events.Resize) -> None:
        """What is below stands elsewhere after the terminal changed its size."""
        if self._seen not in (None, event.size):
            self.dismiss(None)
        self._seen = event.size

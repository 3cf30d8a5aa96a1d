"""Choose one of many by typing a part of it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from advisor.tui.words import plain


class PickerScreen(ModalScreen[str | None]):
    """(key, words) pairs, filtered by every word typed; None when nothing was chosen."""

    CSS_PATH = "modal.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close", show=False),
        Binding("down", "move(1)", "Down", show=False, priority=True),
        Binding("up", "move(-1)", "Up", show=False, priority=True),
    ]

    def __init__(self, title: str, options: list[tuple[str, str]]) -> None:
        super().__init__()
        self._title = title
        self._options = options

    def compose(self) -> ComposeResult:
        """A field and the list below it."""
        with Vertical(id="dialog") as box:
            box.border_title = self._title
            box.border_subtitle = "type to filter, enter chooses"
            yield Input(placeholder="filter")
            yield OptionList()

    def on_mount(self) -> None:
        """Everything is listed until something is typed."""
        self._fill("")

    def _fill(self, text: str) -> None:
        words = text.lower().split()
        found = [
            Option(plain(label), id=key)
            for key, label in self._options
            if all(w in f"{key} {label}".lower() for w in words)
        ]
        listing = self.query_one(OptionList)
        listing.clear_options()
        listing.add_options(found)
        if found:
            listing.highlighted = 0

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._fill(event.value)

    @on(Input.Submitted)
    def _entered(self) -> None:
        listing = self.query_one(OptionList)
        if listing.highlighted is not None:
            self.dismiss(listing.get_option_at_index(listing.highlighted).id)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id)

    def action_move(self, step: int) -> None:
        """Move in the list while typing."""
        listing = self.query_one(OptionList)
        listing.action_cursor_down() if step > 0 else listing.action_cursor_up()


class PathSuggester(Suggester):
    """The first path of this machine that begins with what was typed."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        """The rest of a name in the folder that was typed; None when there is none."""
        folder, slash, begin = value.rpartition("/")
        if not slash or not begin:
            return None
        try:
            names = sorted(p.name for p in Path(f"{folder}/").expanduser().iterdir())
        except (OSError, RuntimeError):
            return None
        found = next((n for n in names if n.startswith(begin)), None)
        return None if found is None else f"{folder}/{found}"


class PromptScreen(ModalScreen[str | None]):
    """Ask for one line."""

    CSS_PATH = "modal.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Close", show=False)]

    def __init__(self, title: str, hint: str, value: str = "", *, folders: bool = False) -> None:
        super().__init__()
        self._title, self._hint, self._value = title, hint, value
        self._suggester = PathSuggester() if folders else None

    def compose(self) -> ComposeResult:
        """A field with a hint."""
        with Vertical(id="dialog") as box:
            box.border_title = self._title
            yield Input(value=self._value, placeholder=self._hint, suggester=self._suggester)
            more = "; → takes the path that is suggested" if self._suggester else ""
            yield Static(f"{self._hint}{more}", markup=False)

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or None)

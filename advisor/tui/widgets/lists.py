"""Textual's lists with vim keys beside the arrows."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable

from advisor.tui.keymap import VimKeys


class Table(DataTable[Any]):
    """A table whose cursor is a row."""

    BINDINGS: ClassVar[list[BindingType]] = [*VimKeys.BINDINGS]

    def __init__(self, *columns: str, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes, cursor_type="row", zebra_stripes=False)
        self._names = columns

    def on_mount(self) -> None:
        """Columns never change."""
        for name in self._names:
            self.add_column(name, key=name)

    @property
    def row_key(self) -> str | None:
        """The key of the row under the cursor."""
        if not self.row_count or not self.is_valid_row_index(self.cursor_row):
            return None
        return str(self.ordered_rows[self.cursor_row].key.value)

    def refill(self, rows: list[tuple[str, tuple[Any, ...]]]) -> None:
        """Replace all rows and stay on the row where the cursor was, if it is still there."""
        key, y = self.row_key, self.scroll_y
        self.clear()
        for name, cells in rows:
            self.add_row(*cells, key=name)
        names = [name for name, _ in rows]
        if key in names:
            self.move_cursor(row=names.index(key), animate=False, scroll=False)
            self.scroll_to(y=y, animate=False)


class Scroll(VerticalScroll):
    """A scrolled panel with vim keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("g", "scroll_home", "Top", show=False),
        Binding("G", "scroll_end", "Bottom", show=False),
        Binding("ctrl+d", "page_down", "Page down", show=False),
        Binding("ctrl+u", "page_up", "Page up", show=False),
    ]

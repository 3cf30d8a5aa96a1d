"""Textual's lists with vim keys beside the arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable

from advisor.tui.keymap import VimKeys

Cells = tuple[str, tuple[str | Text, ...]]
"""A row: its key, and a cell for each column."""


class Table(DataTable[Any]):
    """A table whose cursor is a row, and whose columns are as wide as their cells from the first paint.

    Textual measures new cells when the table is idle, but keeps lines that were painted before that: on a
    busy machine they stay cut at the old width. Here the columns are widened before the cells change.
    Cells are str (without markup) or Text, one line each.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*VimKeys.BINDINGS]

    def __init__(self, *columns: str, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes, cursor_type="row", zebra_stripes=False)
        self._names = columns
        self._rows: Sequence[Cells] | None = None

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

    def refill(self, rows: Sequence[Cells]) -> None:
        """Replace all rows and stay on the row where the cursor was, if it is still there."""
        key, y = self.row_key, self.scroll_y
        if rows == self._rows:
            return
        self._rows = rows
        self.clear()
        self._add(rows)
        names = [name for name, _ in rows]
        if key in names:
            self.move_cursor(row=names.index(key), animate=False, scroll=False)
            self.scroll_to(y=y, animate=False)

    def extend(self, rows: Sequence[Cells]) -> None:
        """Add rows at the end; a cursor that was at the end stays there."""
        at_end = self.cursor_row >= self.row_count - 1
        self._rows = None
        self._add(rows)
        if at_end:
            self.move_cursor(row=self.row_count - 1, animate=False)

    def _add(self, rows: Sequence[Cells]) -> None:
        for column, cells in zip(self.ordered_columns, zip(*(c for _, c in rows), strict=True), strict=False):
            column.content_width = max(column.content_width, *map(_width, cells))
        for name, cells in rows:
            self.add_row(*map(_plain, cells), key=name)

    def change(self, row: str, column: str, cell: str | Text) -> None:
        """Replace one cell."""
        found = next(c for c in self.ordered_columns if c.key == column)
        self._rows = None
        found.content_width = max(found.content_width, _width(cell))
        self.update_cell(row, column, _plain(cell))


def _width(cell: str | Text) -> int:
    """Columns of the terminal that a cell needs."""
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


def _plain(cell: str | Text) -> Text:
    """Text, which Textual never reads as markup."""
    return cell if isinstance(cell, Text) else Text(cell)


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

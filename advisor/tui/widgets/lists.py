"""Lists with vim keys beside the arrows, that paint only what is in sight."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from advisor.tui.keymap import VimKeys
from advisor.tui.words import shortened

Cells = tuple[str, tuple[str | Text, ...]]
"""A row: its key, and a cell for each column."""
LEAST = 26
"""Columns of the terminal below which no name is shortened."""
SIDEWAYS = 8
"""Columns of the terminal that left and right move a table that is wider than its place."""


class Table(Widget, can_focus=True):
    """Rows under a header, a cursor on one of them.

    Textual's DataTable lays the whole screen out again for rows that come, measures and paints all of them
    anew, and is late with both on a busy machine. Here nothing changes its place: a thousand rows cost what
    the twenty in sight cost. Cells are str or Text of one style, one line each, never read as markup. Columns
    named with a > before their name are aligned to the right; the one with a ~ is shortened where there is
    little room.
    """

    DEFAULT_CSS = """
    Table { height: 1fr; }
    Table > .table--header { color: $text-muted; text-style: bold; }
    Table > .table--cursor {
        background: $block-cursor-blurred-background; color: $block-cursor-blurred-foreground;
    }
    Table:focus > .table--cursor {
        background: $block-cursor-background; color: $block-cursor-foreground; text-style: bold;
    }
    Table:nocolor > .table--cursor { text-style: reverse; }
    Table > .table--thumb { color: $primary 60%; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--header", "table--cursor", "table--thumb"}
    BINDINGS: ClassVar[list[BindingType]] = [
        *VimKeys.BINDINGS,
        Binding("down", "cursor_down", "Down", show=False),
        Binding("up", "cursor_up", "Up", show=False),
        Binding("right", "sideways(1)", "Columns on the right", show=False),
        Binding("left", "sideways(-1)", "Columns on the left", show=False),
        Binding("home", "scroll_top", "Top", show=False),
        Binding("end", "scroll_bottom", "Bottom", show=False),
        Binding("pagedown", "page_down", "Page down", show=False),
        Binding("pageup", "page_up", "Page up", show=False),
        Binding("enter", "select_cursor", "Select", show=False),
    ]

    class _Told(Message):
        def __init__(self, table: Table) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> Table:
            """The table that tells it."""
            return self.table

    class Highlighted(_Told):
        """The cursor is on another row."""

    class Selected(_Told):
        """Enter or a click on a row."""

    class HeaderClicked(_Told):
        """A click on a column's name."""

        def __init__(self, table: Table, column: str) -> None:
            super().__init__(table)
            self.column = column

    def __init__(self, *columns: str, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._right = [name.startswith(">") for name in columns]
        self._elastic = next((i for i, name in enumerate(columns) if name.startswith("~")), None)
        self._names = tuple(name.lstrip(">~") for name in columns)
        self._widths = [cell_len(name) for name in self._names]
        self._rows: list[Cells] = []
        self.cursor_row = 0
        self._top = 0
        self._left = 0

    # the rows

    @property
    def row_count(self) -> int:
        """Rows listed."""
        return len(self._rows)

    @property
    def keys(self) -> list[str]:
        """Keys of the rows, in order."""
        return [name for name, _ in self._rows]

    @property
    def row_key(self) -> str | None:
        """The key of the row under the cursor."""
        return self._rows[self.cursor_row][0] if self.cursor_row < len(self._rows) else None

    def cells(self, key: str) -> list[str]:
        """A row as words."""
        return [str(c) for c in dict(self._rows)[key]]

    def refill(self, rows: Sequence[Cells]) -> None:
        """Replace all rows and stay on the row where the cursor was, if it is still there."""
        if rows == self._rows:
            return
        key, offset = self.row_key, self.cursor_row - self._top
        self._rows, self._widths = list(rows), [cell_len(name) for name in self._names]
        self._widen(rows)
        keys = self.keys
        self.cursor_row = keys.index(key) if key in keys else 0
        self._top = self.cursor_row - offset if key in keys else 0
        self._show_cursor()
        if self.row_key != key:
            self.post_message(self.Highlighted(self))

    def extend(self, rows: Sequence[Cells]) -> None:
        """Add rows at the end; a cursor that was at the end stays there."""
        at_end = self.cursor_row >= len(self._rows) - 1
        self._rows += rows
        self._widen(rows)
        if at_end:
            self.cursor_row = max(0, len(self._rows) - 1)
            self._show_cursor()
        self.refresh()

    def change(self, row: str, column: str, cell: str | Text) -> None:
        """Replace one cell."""
        at, index = self.keys.index(row), self._names.index(column)
        cells = list(self._rows[at][1])
        cells[index] = cell
        self._rows[at] = (row, tuple(cells))
        self._widen([self._rows[at]])
        self.refresh()

    @property
    def _fitted(self) -> list[int]:
        """The widths of the columns in the room that there is."""
        out = list(self._widths)
        if self._elastic is not None:
            missing = sum(out) + 2 * len(out) + 1 - self.content_size.width
            least = min(LEAST, out[self._elastic])
            out[self._elastic] = max(least, out[self._elastic] - max(0, missing))
        return out

    def _widen(self, rows: Sequence[Cells]) -> None:
        for index, column in enumerate(zip(*(cells for _, cells in rows), strict=True)):
            self._widths[index] = max(self._widths[index], *map(_width, column))

    # the cursor

    @property
    def _page(self) -> int:
        """Rows below the header."""
        return max(1, self.content_size.height - 1)

    def _show_cursor(self) -> None:
        """Scroll as little as shows the cursor."""
        page = self._page
        self._top = max(self.cursor_row - page + 1, min(self._top, self.cursor_row))
        self._top = max(0, min(self._top, len(self._rows) - page))
        self.refresh()

    def move_cursor(self, row: int) -> None:
        """To a row; beyond the ends, to the last or first."""
        row = max(0, min(len(self._rows) - 1, row))
        changed, self.cursor_row = row != self.cursor_row, row
        self._show_cursor()
        if changed:
            self.post_message(self.Highlighted(self))

    def action_cursor_down(self) -> None:
        """One row on."""
        self.move_cursor(self.cursor_row + 1)

    def action_cursor_up(self) -> None:
        """One row back."""
        self.move_cursor(self.cursor_row - 1)

    def action_scroll_top(self) -> None:
        """The first row."""
        self.move_cursor(0)

    def action_scroll_bottom(self) -> None:
        """The last row, and the ones to come."""
        self.move_cursor(len(self._rows) - 1)

    def action_page_down(self) -> None:
        """A page on."""
        self.move_cursor(self.cursor_row + self._page)

    def action_page_up(self) -> None:
        """A page back."""
        self.move_cursor(self.cursor_row - self._page)

    def action_select_cursor(self) -> None:
        """Tell which row is under the cursor."""
        if self.row_key is not None:
            self.post_message(self.Selected(self))

    def action_sideways(self, step: int) -> None:
        """Show the columns that have no room."""
        widths = self._fitted
        most = sum(widths) + 2 * len(widths) - self.content_size.width + 1
        self._left = max(0, min(self._left + step * SIDEWAYS, most))
        self.refresh()

    # the mouse

    def on_click(self, event: events.Click) -> None:
        """The row or the column's name under the mouse."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            end = -self._left
            for name, width in zip(self._names, self._fitted, strict=True):
                end += width + 2
                if offset.x < end:
                    self.post_message(self.HeaderClicked(self, name))
                    return
        elif self._top + offset.y - 1 < len(self._rows):
            self.move_cursor(self._top + offset.y - 1)
            self.action_select_cursor()

    def _on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.move_cursor(self.cursor_row + 3)

    def _on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.move_cursor(self.cursor_row - 3)

    # the paint

    def on_resize(self) -> None:
        """The cursor stays in sight."""
        self._left = 0
        self._show_cursor()

    def on_focus(self) -> None:
        """The cursor has another colour."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor has another colour."""
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """The header, or the row on that line; a thumb on the right says where in the list that is."""
        width, base = self.content_size.width, self.rich_style
        index = self._top + y - 1
        if y == 0:
            strip = self._strip(self._names, base, self._part("header"))
            strip = strip.crop(self._left, self._left + width).adjust_cell_length(width, base)
            if sum(self._fitted) + 2 * len(self._widths) - self._left > width + 1:
                strip = Strip.join([strip.crop(0, width - 1), Strip([Segment("›", base)])])
            return strip
        if index >= len(self._rows):
            return Strip.blank(width, base)
        over = self._part("cursor") if index == self.cursor_row else None
        strip = self._strip(self._rows[index][1], base, over)
        strip = strip.crop(self._left, self._left + width).adjust_cell_length(width, over or base)
        many, page = len(self._rows), self._page
        if many <= page:
            return strip
        thumb = max(1, page * page // many)
        start = round(self._top / (many - page) * (page - thumb))
        mark = Segment("▐" if start <= y - 1 < start + thumb else " ", self._part("thumb"))
        return Strip.join([strip.crop(0, width - 1), Strip([mark])])

    def _strip(self, cells: Iterable[str | Text], base: Style, over: Style | None) -> Strip:
        """Cells beside each other, as wide as their columns; `over` colours all of them."""
        out = []
        for cell, width, right in zip(cells, self._fitted, self._right, strict=True):
            words = shortened(str(cell), width)
            style = base + _style(str(cell.style)) if isinstance(cell, Text) and cell.style else base
            fill = " " * (width - cell_len(words))
            words = f" {fill}{words} " if right else f" {words}{fill} "
            out.append(Segment(words, style if over is None else over))
        return Strip(out)

    def _part(self, name: str) -> Style:
        return self.get_component_rich_style(f"table--{name}")


@functools.lru_cache(maxsize=64)
def _style(words: str) -> Style:
    return Style.parse(words)


def _width(cell: str | Text) -> int:
    """Columns of the terminal that a cell needs."""
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


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

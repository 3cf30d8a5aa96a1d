"""Text that changes often: painted again only when it differs, laid out again only when its height may."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text
from textual.widgets import Static


class Sheet(Static):
    """A Static for live text; never reads markup."""

    def __init__(self, text: str = "", *, id: str, classes: str | None = None) -> None:
        super().__init__(text, id=id, classes=classes, markup=False)
        self._last: object = None
        self._rows: tuple[int, ...] = ()

    def show(self, content: RenderableType) -> None:
        """Replace the text."""
        if content == self._last:
            return
        if isinstance(content, Text | str):
            width = max(1, self.size.width)
            plain = content.plain if isinstance(content, Text) else content
            rows = tuple(-(-len(line) // width) for line in plain.split("\n"))
            layout = rows != self._rows
            self._rows = rows
            self._last = content.copy() if isinstance(content, Text) else content
        else:
            self._last, self._rows, layout = None, (), True
        self.update(content, layout=layout)

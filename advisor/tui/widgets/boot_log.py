"""The boot log that the engine will print, as predicted; a line opens its formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from advisor.tui.widgets.lists import Table
from advisor.tui.words import number, plain

if TYPE_CHECKING:
    from profiles.footprint.schema import Footprint
    from profiles.provenance import Figure

STYLES = {"exact": "green", "measured": "green", "calibrated": "cyan", "estimated": "yellow"}


class BootLog(Table):
    """A row per figure with how it is known; enter or ? shows the formula of a line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "select_cursor", "Formula", show=True, key_display="?")
    ]

    def __init__(self, id: str) -> None:
        super().__init__("line", ">predicted", "known", "range", id=id)
        self._footprint: Footprint | None = None

    def show(self, footprint: Footprint | None) -> None:
        """The figures of a footprint, in the order of the engine's log."""
        from advisor.cli.boot_table import LINES

        self._footprint = footprint
        rows = []
        for field, words in LINES if footprint is not None else ():
            figure: Figure | None = getattr(footprint, field)
            if figure is not None:
                known = figure.provenance.value
                span = ""
                if figure.low != figure.high:
                    span = f"{number(figure.low, figure.unit)} - {number(figure.high, figure.unit)}"
                rows.append(
                    (
                        field,
                        (
                            words.split(" at that")[0],
                            number(figure.value, figure.unit),
                            plain(known, STYLES[known]),
                            span,
                        ),
                    )
                )
        self.refill(rows)

    def formula(self) -> tuple[str, str] | None:
        """Title and text of the line under the cursor: value, formula with its numbers, source."""
        field = self.row_key
        if field is None or self._footprint is None:
            return None
        from advisor.cli.output import shown

        figure = getattr(self._footprint, field)
        return (
            field,
            f"{shown(figure)}\n\n= {figure.formula or 'read, not computed'}\n\n"
            f"{figure.provenance.value}: {figure.source}",
        )

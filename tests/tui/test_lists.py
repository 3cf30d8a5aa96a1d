"""The table as it is painted: whole words whenever the paint comes, and a cursor that stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rich.text import Text
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.pilot import Pilot

from advisor.tui.widgets.lists import Table


class OneTable(App[None]):
    """Nothing but a table."""

    CSS = "Table { height: 1fr; }"

    def compose(self) -> ComposeResult:
        """The table."""
        yield Table("a", "b")

    @property
    def table(self) -> Table:
        """It."""
        return self.query_one(Table)


def painted(app: OneTable) -> str:
    """Paint the table now, whatever it still has to do."""
    strips = app.table.render_lines(Region(0, 0, *app.table.size))
    return "\n".join(strip.text.rstrip() for strip in strips)


def with_table(scenario: Callable[[OneTable, Pilot[None]], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def go() -> None:
        app = OneTable()
        async with app.run_test(size=(60, 12)) as pilot:
            await pilot.pause()
            await scenario(app, pilot)

    asyncio.run(go())


def test_cells_are_whole_even_when_painted_before_the_table_was_idle() -> None:
    async def scenario(app: OneTable, pilot: Pilot[None]) -> None:
        app.table.refill([("x", ("[a long name]", Text("native kernel"))), ("y", ("b", "c"))])
        before = painted(app)  # no await since the cells came: what a busy machine does
        await pilot.pause()

        assert "[a long name]" in before
        assert "native kernel" in before
        assert painted(app) == before

        app.table.change("y", "b", "a cell that is wider than all others")
        assert "a cell that is wider than all others" in painted(app)

    with_table(scenario)


def test_the_cursor_stays_on_its_row() -> None:
    async def scenario(app: OneTable, pilot: Pilot[None]) -> None:
        rows = [(str(n), (f"row {n}", "")) for n in range(20)]
        app.table.refill(rows)
        await pilot.pause()
        app.table.focus()
        await pilot.press("j", "j")
        app.table.refill(rows[1:])
        assert app.table.row_key == "2"
        app.table.refill(rows[5:])
        assert app.table.row_key == "5"
        app.table.refill([])
        assert app.table.row_key is None

    with_table(scenario)

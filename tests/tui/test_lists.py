"""The table as it is painted: whole words at once, a cursor that stays, rows beyond its edges."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.pilot import Pilot

from advisor.tui.widgets.lists import Table


class OneTable(App[None]):
    """Nothing but a table."""

    CSS = "Table { height: 1fr; }"

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def compose(self) -> ComposeResult:
        """The table."""
        yield Table("a", "b")

    @property
    def table(self) -> Table:
        """It."""
        return self.query_one(Table)

    @on(Table.Selected)
    def _selected(self, message: Table.Selected) -> None:
        self.told.append(f"selected {message.table.row_key}")

    @on(Table.Highlighted)
    def _highlighted(self, message: Table.Highlighted) -> None:
        self.told.append(f"on {message.table.row_key}")

    @on(Table.HeaderClicked)
    def _header(self, message: Table.HeaderClicked) -> None:
        self.told.append(f"header {message.column}")


def painted(app: OneTable) -> list[str]:
    """Paint the table now, whatever it still has to do."""
    strips = app.table.render_lines(Region(0, 0, *app.table.size))
    return [strip.text.rstrip() for strip in strips]


def with_table(scenario: Callable[[OneTable, Pilot[None]], Awaitable[None]]) -> None:
    """Run a scenario."""

    async def go() -> None:
        app = OneTable()
        async with app.run_test(size=(60, 12)) as pilot:
            await pilot.pause()
            app.table.focus()
            await scenario(app, pilot)

    asyncio.run(go())


def numbered(first: int, end: int) -> list[tuple[str, tuple[str | Text, ...]]]:
    """Rows that say their number."""
    return [(str(n), (f"row {n}", "")) for n in range(first, end)]


def test_cells_are_whole_as_soon_as_they_are_there() -> None:
    async def scenario(app: OneTable, pilot: Pilot[None]) -> None:
        app.table.refill([("x", ("[a long name]", Text("native kernel"))), ("y", ("b", "c"))])
        before = painted(app)  # no await since the cells came: what a busy machine does
        await pilot.pause()

        assert before[1] == " [a long name]  native kernel"
        assert painted(app) == before

        app.table.change("y", "b", "a cell that is wider than all others")
        assert painted(app)[2].endswith("a cell that is wider than all others")
        assert app.table.cells("y") == ["b", "a cell that is wider than all others"]

    with_table(scenario)


def test_the_cursor_stays_on_its_row() -> None:
    async def scenario(app: OneTable, pilot: Pilot[None]) -> None:
        rows = numbered(0, 40)
        app.table.refill(rows)
        await pilot.press("j", "j")
        app.table.refill(rows[1:])
        assert app.table.row_key == "2"
        await pilot.press(*"jjjjjjjjjjjj")
        assert app.table.row_key == "14"
        line = next(i for i, words in enumerate(painted(app)) if "row 14" in words)
        app.table.refill(rows[3:])
        assert "row 14" in painted(app)[line]
        app.table.refill(rows[20:])
        assert app.table.row_key == "20"
        app.table.refill([])
        left: str | None = app.table.row_key
        assert left is None
        await pilot.press("j", "G", "enter")

    with_table(scenario)


def test_the_end_is_followed_until_the_cursor_leaves_it() -> None:
    async def scenario(app: OneTable, pilot: Pilot[None]) -> None:
        app.table.extend(numbered(0, 30))
        assert "row 29" in painted(app)[-1]
        app.table.extend(numbered(30, 31))
        assert "row 30" in painted(app)[-1]
        await pilot.press("g")
        app.table.extend(numbered(31, 32))
        assert painted(app)[1].split("▐")[0].strip() == "row 0"
        await pilot.press("pagedown", "G")
        assert app.table.row_key == "31"
        assert "▐" in painted(app)[-1]

    with_table(scenario)


def test_clicks_and_keys_are_told() -> None:
    async def scenario(app: OneTable, pilot: Pilot[None]) -> None:
        app.table.refill(numbered(0, 3))
        await pilot.pause()
        app.told.clear()
        await pilot.press("down", "enter")
        await pilot.click(Table, offset=(3, 3))
        await pilot.click(Table, offset=(9, 0))
        await pilot.pause()
        assert app.told == ["on 1", "selected 1", "on 2", "selected 2", "header b"]

    with_table(scenario)


def test_columns_without_room_are_reached() -> None:
    async def scenario(app: OneTable, pilot: Pilot[None]) -> None:
        app.table.refill([("x", ("start " + "." * 70, "the far end"))])
        assert painted(app)[0].endswith("›")
        assert "the far end" not in painted(app)[1]
        await pilot.press(*["right"] * 6)
        assert painted(app)[1].endswith("the far end")
        await pilot.press(*["left"] * 6)
        assert painted(app)[1].startswith(" start")

    with_table(scenario)


class Elastic(OneTable):
    """A table one of whose columns gives way."""

    def compose(self) -> ComposeResult:
        """The table."""
        yield Table("~a", ">b")


def test_a_name_gives_way_to_the_other_columns() -> None:
    async def go() -> None:
        app = Elastic()
        async with app.run_test(size=(60, 12)) as pilot:
            app.table.refill([("x", ("organisation/" + "n" * 60, "12")), ("y", ("short", "1,234"))])
            await pilot.pause()
            header, first, second = painted(app)[:3]
            assert "…" in first
            assert first.endswith("   12")
            assert second.endswith(" 1,234")
            assert header.endswith("    b")
            assert "›" not in header
            await pilot.resize_terminal(100, 12)
            await pilot.pause()
            assert "organisation/" in painted(app)[1]

    asyncio.run(go())

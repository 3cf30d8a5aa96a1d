"""Choosing hardware, model and task: each choice reaches the command line that is shown."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot
from textual.widgets import Static

from advisor.tui.app import AdvisorApp
from advisor.tui.widgets.lists import Table
from advisor.tui.widgets.memory_bar import MemoryBar
from tests.tui.driving import drive, opened, shows, until

MODEL = "Qwen/Qwen3-8B"


def twin(app: AdvisorApp) -> str:
    """The command line that the screen shows."""
    return str(app.screen.query_one("#twin", Static).content)


def test_simulate_a_device_and_come_back() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await shows(app, pilot, "refused")
        await pilot.press("S", *"h100 sxm", "enter")
        await until(pilot, lambda: app.session.gpu is not None and "h100" in app.session.gpu)
        await shows(app, pilot, "(simulated)", "Machete")
        await pilot.press("plus")
        await until(pilot, lambda: app.session.count == 2)
        assert "--count 2" in twin(app)
        await pilot.press("S", "enter")
        await until(pilot, lambda: app.session.gpu is None)
        assert "--gpu" not in twin(app)

    drive(scenario, gpu=None)


def test_filter_choose_and_step() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "2", "models")
        table = app.screen.query_one("#catalogue", Table)
        await until(pilot, lambda: table.row_count > 100)
        everything = table.row_count
        await pilot.press("slash", *"qwen3-8b")
        await until(pilot, lambda: 0 < table.row_count < 10)
        await pilot.press("escape")
        await until(pilot, lambda: table.row_count == everything)
        await pilot.press("slash", *MODEL.lower(), "enter")
        await until(pilot, lambda: table.row_key == MODEL)
        await pilot.press("enter")
        bar = app.screen.query_one(MemoryBar)
        log = app.screen.query_one("#bootlog", Table)
        await until(pilot, lambda: bar.parts and log.row_count > 8)
        assert MODEL in twin(app)
        before = bar.parts[0].nbytes
        app.screen.query_one("#family").focus()
        await pilot.press("right")
        await until(pilot, lambda: bar.parts[0].nbytes < before * 0.8)
        app.screen.query_one("#concurrency").focus()
        await pilot.press("l", "l")
        assert "--concurrency 4" in twin(app)
        log.focus()
        await pilot.press("question_mark")
        await shows(app, pilot, "weights", "escape closes", "= ")

    drive(scenario)


def test_a_folder_that_is_no_model_is_explained_in_place() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "2", "models")
        await pilot.press("o", *"./nothing-here", "enter")
        await shows(app, pilot, "nothing-here", "next:")
        await pilot.press("escape")
        await opened(app, pilot, "3", "task")

    drive(scenario)


def test_only_what_fits() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "2", "models")
        table = app.screen.query_one("#catalogue", Table)
        await until(pilot, lambda: table.row_count > 100)
        await pilot.press("F")
        await until(pilot, lambda: 0 < table.row_count < 200)
        assert all(table.cells(key)[0].startswith("✓") for key in table.keys)

    drive(scenario)


def test_task_and_use_change_recommendation_and_command() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "3", "task")
        table = app.screen.query_one("#tasks", Table)
        await until(pilot, lambda: table.row_count > 5)
        names = table.keys
        table.focus()
        table.move_cursor(row=names.index("code"))
        await pilot.press("enter")
        await until(pilot, lambda: "--task code" in twin(app))
        await shows(app, pilot, "Recommendation for code", "sensitivity high")
        await pilot.press("u")
        await shows(app, pilot, "use: quality-critical")

    drive(scenario, model=MODEL)


def test_vim_keys_move_the_cursor() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        table = app.screen.query_one("#formats", Table)
        await until(pilot, lambda: table.row_count > 5)
        await pilot.press("j", "j", "k")
        assert table.cursor_row == 1
        await pilot.press("G")
        await until(pilot, lambda: table.cursor_row == table.row_count - 1)
        await pilot.press("g", "down")
        await until(pilot, lambda: table.cursor_row == 1)

    drive(scenario)

"""The keyboard alone: forms, jumps, ways out of a field, footers that say them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual import events
from textual.pilot import Pilot
from textual.widgets._footer import FooterKey

from advisor.tui.app import AdvisorApp
from advisor.tui.session import Session
from tests.tui.driving import drive, opened, shows, until
from tests.tui.test_choices import twin


def focused(app: AdvisorApp) -> str | None:
    """The id of what has the keyboard."""
    return None if app.focused is None else app.focused.id


def footer(app: AdvisorApp) -> list[str]:
    """What the footer offers."""
    return [key.description for key in app.screen.query(FooterKey)]


def test_the_form_of_a_run_is_filled_in_without_a_mouse() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await pilot.press("e")
        await until(pilot, lambda: focused(app) == "budget")
        await until(pilot, lambda: footer(app)[:2] == ["Next field", "Done"])
        await pilot.press(*"40%", "enter")
        await until(pilot, lambda: focused(app) == "trials")
        await pilot.press(*"12x7", "down")  # no letters in a number
        await until(pilot, lambda: focused(app) == "through")
        await pilot.press("h", "enter")
        await until(pilot, lambda: focused(app) == "speed")
        await pilot.press(*"12.5", "enter")
        await until(pilot, lambda: focused(app) == "method")
        await pilot.press("right", "enter")
        await until(pilot, lambda: focused(app) == "recover")
        await pilot.press("l", "l", "enter")
        await until(pilot, lambda: focused(app) == "stages-panel")
        assert twin(app) == (
            "$ advisor tune MODEL --budget 40% --trials 127 --max-ms-per-token 12.5 --method rtn "
            "--recover 100 --through validate"
        )
        await pilot.press("e", "down", "up")
        await until(pilot, lambda: focused(app) == "budget")
        await pilot.press("escape")
        await until(pilot, lambda: focused(app) == "stages-panel")
        await until(pilot, lambda: "Start/resume" in footer(app))
        await opened(app, pilot, "7", "runs")

    drive(scenario, gpu=None)


def test_keys_typed_ahead_go_where_they_are_meant() -> None:
    """All at once, as on a machine that is too busy to read them one by one."""

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        keys = [
            "4",
            "e",
            *"6bits",
            "enter",
            *"27",
            "enter",
            "h",
            "enter",
            "enter",
            "right",
            "escape",
            "S",
            "1",
        ]
        for key in keys:
            app.post_message(events.Key(key, key if len(key) == 1 else None))
        await until(pilot, lambda: app.current_mode == "hardware")
        await opened(app, pilot, "4", "tune")
        wanted = "$ advisor tune MODEL --budget 6bits --trials 27 --method rtn --through validate"
        assert twin(app) == wanted

    drive(scenario, gpu=None)


def test_a_letter_jumps_to_a_field_or_a_list(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await pilot.press("e", "ctrl+o")  # out of a field too
        await shows(app, pilot, "a letter goes there", " a ", " s ")
        await pilot.press("s")
        await until(pilot, lambda: focused(app) == "trials")
        await pilot.press("ctrl+o")
        await shows(app, pilot, "a letter goes there")
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        assert focused(app) == "trials"
        await pilot.press("ctrl+o")
        await shows(app, pilot, "a letter goes there")
        await pilot.press("7")
        await until(pilot, lambda: app.current_mode == "runs")
        await pilot.press("ctrl+o")
        await shows(app, pilot, "a letter goes there")
        await pilot.resize_terminal(100, 30)
        await until(pilot, lambda: len(app.screen_stack) == 1)

    drive(scenario, run=recorded)


def test_another_question_does_not_go_into_the_run_that_is_open(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "4", "tune")
        await shows(app, pilot, "--run")
        assert "--yes" in twin(app)  # what it was asked besides
        await pilot.press("e", *"3bits")
        await until(pilot, lambda: "--budget 3bits" in twin(app))
        assert "--run" not in twin(app)
        await pilot.press(*["backspace"] * 5, *"7bits")
        await until(pilot, lambda: "--run" in twin(app))

    drive(scenario, run=recorded)


def test_options_without_a_field_are_kept() -> None:
    session = Session(
        model="m",
        through="search",
        more={"seed": 3, "formats": ("W8A8", "BF16"), "offline": True, "eval_tokens": 64},
        methods={"W4A16": "awq", "W8A8": "smoothquant"},
        more_serving={"pipeline_parallel_size": 2, "enforce_eager": True},
    )
    assert session.tune_command()[4:] == [
        "--pp", "2", "--enforce-eager", "--method", "W4A16=awq,W8A8=smoothquant", "--seed", "3",
        "--formats", "W8A8,BF16", "--offline",
    ]  # fmt: skip
    session.choose_model("other")
    assert session.tune_command()[4:] == ["--method", "W4A16=awq,W8A8=smoothquant"]  # a form shows it

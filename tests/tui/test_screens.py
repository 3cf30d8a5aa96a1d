"""What all screens share: resizing, help, moving between them, themes, the config file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from advisor.tui.app import AdvisorApp
from advisor.tui.keymap import SCREENS
from tests.tui.driving import drive, opened, shows, text, until


def test_resizing_keeps_every_screen(recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        for number, name in enumerate(SCREENS, 1):
            await opened(app, pilot, str(number), name)
            for width, height in ((60, 16), (200, 50), (20, 8), (80, 24)):
                await pilot.resize_terminal(width, height)
                await pilot.pause()
            assert "1 Hardware" in text(app)
            assert app.is_running

    drive(scenario, run=recorded)


def test_help_lists_each_screens_own_keys() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        for number, name in enumerate(SCREENS, 1):
            await opened(app, pilot, str(number), name)
            await pilot.press("question_mark")
            await shows(app, pilot, f"Help: {name}")
            await pilot.press("escape")
            await until(pilot, lambda: len(app.screen_stack) == 1)

    drive(scenario)


def test_brackets_go_round_the_screens() -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: app.current_mode == "runs")
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: app.current_mode == "hardware")

    drive(scenario)


def test_theme_key_and_monochrome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        before = app.theme
        await pilot.press("t")
        assert app.theme != before
        await shows(app, pilot, "fallback", "native")

    app = drive(scenario)

    assert app.no_color


def test_config_file_sets_keys_and_theme(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "advisor"
    folder.mkdir(parents=True)
    (folder / "tui.yaml").write_text("theme: textual-light\nkeys: {copy: f2}\n")

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        assert app.theme == "textual-light"
        await pilot.press("f2")
        assert app.clipboard.startswith("advisor hardware")

    drive(scenario)


@pytest.mark.parametrize("text_of_file", ["[1, 2", "- a list", "theme: no-such\n", "keys: {nothing: f2}\n"])
def test_a_damaged_config_file_is_reported_and_left_out(tmp_path: Path, text_of_file: str) -> None:
    folder = tmp_path / "config" / "advisor"
    folder.mkdir(parents=True)
    (folder / "tui.yaml").write_text(text_of_file)

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await shows(app, pilot, "tui.yaml")
        await opened(app, pilot, "7", "runs")

    drive(scenario)

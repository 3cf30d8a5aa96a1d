"""Every screen at two sizes: its words, its command, its keys; resizing breaks nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets._footer import FooterKey

from advisor.tui.app import AdvisorApp
from advisor.tui.keymap import SCREENS
from tests.tui.driving import SIZES, drive, opened, shows, text, until

WORDS = {
    "hardware": ("Formats", "FP8_DYNAMIC", "native", "advisor hardware --formats --gpu rtx-4090"),
    "models": ("Models:", "What the engine will say", "context", "advisor fit"),
    "task": ("Tasks", "Code generation", "Recommendation", "Measured sensitivity"),
    "tune": ("budget", "trials", "Stages", "Front", "advisor tune"),
    "validate": ("FAILED", "predicted", "advisor validate --run"),
    "export": ("Bundle", "run.sh", "advisor export --run"),
    "runs": ("Runs: 1", "advisor-runs/tiny", "advisor runs"),
}


@pytest.mark.parametrize("size", SIZES, ids=["narrow", "wide"])
@pytest.mark.parametrize("name", SCREENS)
def test_screen(name: str, size: tuple[int, int], recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, str(SCREENS.index(name) + 1), name)
        await shows(app, pilot, *WORDS[name])
        keys = app.screen.query(FooterKey)
        assert 3 <= len(keys) <= 7, [k.description for k in keys]
        await pilot.press("c")
        assert app.clipboard.startswith("advisor ")

    drive(scenario, size=size, gpu=None if name != "hardware" else "rtx-4090", run=_if(name, recorded))


def _if(name: str, run: Path) -> Path | None:
    """The hardware screen shows the planned device, the others the recorded run."""
    return None if name == "hardware" else Path("advisor-runs") / run.name


@pytest.mark.parametrize("name", SCREENS)
def test_resizing_keeps_the_screen(name: str, recorded: Path) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, str(SCREENS.index(name) + 1), name)
        for width, height in ((140, 40), (60, 16), (200, 50), (20, 8), (80, 24)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
        assert "1 Hardware" in text(app)
        assert app.is_running

    drive(scenario, run=recorded)


@pytest.mark.parametrize("name", SCREENS)
def test_help_lists_the_screens_own_keys(name: str) -> None:
    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, str(SCREENS.index(name) + 1), name)
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

"""Every screen as a picture, at two sizes in two themes, from recorded facts and a recorded run.

A change that is meant: `pytest tests/tui/test_snapshots.py --snapshot-update`, and look at the SVGs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.image import SVGImageSnapshotExtension
from textual.pilot import Pilot
from textual.widgets._footer import FooterKey

from advisor.tui.app import AdvisorApp
from advisor.tui.keymap import SCREENS
from tests.tui.driving import SIZES, drive, opened, shows, text, until
from tests.tui.frozen import MODEL, freeze

THEMES: dict[str, tuple[str, ...]] = {
    "textual-dark": SCREENS,
    "textual-light": SCREENS,
    "high-contrast": ("hardware", "models", "tune", "validate"),
    "ansi-dark": ("hardware", "models", "tune", "validate"),
    "no-colour": ("models", "task", "tune"),
}
"""Screens that are drawn in each; the last is NO_COLOR=1."""
ENDLESS = {"follow", "live"}
WORDS = {
    "hardware": ("61 °C", "FP8_DYNAMIC", "native", "advisor hardware --formats"),
    "models": ("Models: 14", "tok/s"),
    "task": ("Code generation", "Recommendation", "nats per token"),
    "tune": ("trials", "Stages", "Front", "bits", "advisor tune"),
    "validate": ("FAILED", "predicted", "advisor validate --run"),
    "export": ("run.sh", "advisor export --run"),
    "runs": ("Runs: 1", "tiny", "advisor runs"),
}


@pytest.fixture
def picture(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Compared as an SVG file of its own."""
    return snapshot.use_extension(SVGImageSnapshotExtension)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x40"])
def test_every_screen(
    size: tuple[int, int],
    theme: str,
    recorded: Path,
    picture: SnapshotAssertion,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    freeze(monkeypatch)
    if theme == "no-colour":
        monkeypatch.setenv("NO_COLOR", "1")
    seen: dict[str, str] = {}

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        app.theme = "ansi-dark" if theme == "no-colour" else theme
        await until(pilot, lambda: app.run_state.words == "finished")
        app.session.model = MODEL
        for name in THEMES[theme]:
            await opened(app, pilot, str(SCREENS.index(name) + 1), name)
            await shows(app, pilot, *WORDS[name])
            await still(app, pilot)
            assert 3 <= len(app.screen.query(FooterKey)) <= 7
            if theme == "no-colour":
                assert not colours(app)
            seen[name] = app.export_screenshot(title=name, simplify=True)
            await pilot.press("c")
            assert app.clipboard.startswith("advisor ")
            app.clear_notifications()

    drive(scenario, size=size, run=Path("advisor-runs") / recorded.name)

    for name in THEMES[theme]:
        assert seen[name] == picture(name=name)


def colours(app: AdvisorApp) -> set[str]:
    """The colours on the screen, but the terminal's own."""
    strips = app.screen._compositor.render_strips(app.screen.size)
    found = {
        c.name for strip in strips for s in strip if s.style for c in (s.style.color, s.style.bgcolor) if c
    }
    return found - {"default"}


async def still(app: AdvisorApp, pilot: Pilot[Any]) -> None:
    """Until nothing is read any more and nothing moves."""
    before = [""]

    def same() -> bool:
        now = text(app)
        done = now == before[0] and not any(w.is_running and w.group not in ENDLESS for w in app.workers)
        before[0] = now
        return done

    await until(pilot, same)

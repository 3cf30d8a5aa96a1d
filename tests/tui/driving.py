"""Driving the application in a test: press keys, wait for a condition, read the screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from advisor.tui.app import AdvisorApp
from advisor.tui.session import Session

DEVICE = "rtx-4090"
SIZES = ((80, 24), (140, 40))
HANG_S = 240
"""A condition that takes this long hangs: machines that run tests can be very slow."""
Scenario = Callable[[AdvisorApp, Pilot[Any]], Awaitable[None]]


def drive(scenario: Scenario, *, size: tuple[int, int] = (140, 40), **session: Any) -> AdvisorApp:
    """Run the application on a planned device through a scenario."""
    app = AdvisorApp(Session(**{"gpu": DEVICE, **session}))

    async def go() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: app.session.hardware is not None)
            await scenario(app, pilot)

    asyncio.run(go())
    return app


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Wait until the condition holds; fail when it never does."""
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        await pilot.pause(0.02)
        if condition():
            return
    raise AssertionError("the condition never held; the screen shows:\n" + text(pilot.app))


async def opened(app: AdvisorApp, pilot: Pilot[Any], key: str, name: str) -> None:
    """Open a screen by its key."""
    await pilot.press(key)
    await until(pilot, lambda: app.current_mode == name and getattr(app.screen, "NAME", "") == name)
    await pilot.pause()


def text(app: Any) -> str:
    """What the screen shows, line by line."""
    strips = app.screen._compositor.render_strips(app.screen.size)
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def shows(app: AdvisorApp, pilot: Pilot[Any], *words: str) -> None:
    """Wait until the screen shows all these words."""
    await until(pilot, lambda: all(w in text(app) for w in words))


def append(path: Path, lines: list[str]) -> None:
    """Add lines to an event stream, as a run does."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))

"""The README's pictures of the terminal interface, drawn from a real run directory.

    python scripts/screenshots.py advisor-runs/SmolLM2-135M-Instruct-8f68e9c5 --out docs/screens

One SVG per screen. `--gpu` plans a device for the hardware and models screens, `--screens` picks some.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from advisor.tui.app import AdvisorApp
from advisor.tui.keymap import SCREENS
from advisor.tui.session import Session

ENDLESS = {"follow", "launched", "live", "server"}
"""Workers that run as long as the application does: not waited for."""


async def settled(app: AdvisorApp, pilot: Pilot[Any]) -> None:
    """Until every read has ended and two paints in a row are the same."""
    before = ""
    while True:
        await pilot.pause(0.3)
        now = app.export_screenshot(simplify=True)
        if now == before and not any(w.is_running and w.group not in ENDLESS for w in app.workers):
            return
        before = now


async def draw(args: argparse.Namespace) -> None:
    """Open each screen and save what it shows."""
    width, _, height = args.size.partition("x")
    args.out.mkdir(parents=True, exist_ok=True)
    app = AdvisorApp(Session(run=args.run, gpu=args.gpu, model=args.model), config=Path(os.devnull))
    async with app.run_test(size=(int(width), int(height))) as pilot:
        app.theme = args.theme
        while app.session.hardware is None:
            await pilot.pause(0.05)
        if args.gpu or args.model:  # opening the run chose what it was asked
            app.session.model = args.model or app.session.model
            app.simulate(args.gpu or app.session.gpu)
        for number, name in enumerate(SCREENS, 1):
            if args.screens and name not in args.screens:
                continue
            await pilot.press(str(number))
            await settled(app, pilot)
            for key in args.press:
                await pilot.press(key)
            await settled(app, pilot)
            path = args.out / f"{name}.svg"
            path.write_text(app.export_screenshot(title=f"advisor: {name}", simplify=True), encoding="utf-8")
            print(path)


def main() -> None:
    """Parse and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--out", type=Path, default=Path("docs/screens"))
    parser.add_argument("--size", default="140x40")
    parser.add_argument("--theme", default="textual-dark")
    parser.add_argument("--gpu", help="plan a device of the catalogue instead of this machine")
    parser.add_argument("--model", help="another model than the run's")
    parser.add_argument("--screens", nargs="*", choices=SCREENS)
    parser.add_argument("--press", nargs="*", default=[], help="keys to press on each screen first")
    asyncio.run(draw(parser.parse_args()))


if __name__ == "__main__":
    main()

"""The first picture needs little: no torch, no optuna, no plots, no models."""

from __future__ import annotations

import subprocess
import sys

CHECK = """
import asyncio, sys
from advisor.tui.app import AdvisorApp

HEAVY = ("torch", "optuna", "vllm", "transformers", "scipy", "numpy", "llmcompressor")
seen = []

class Watched(AdvisorApp):
    def _begin(self):
        seen.append([m for m in HEAVY if m in sys.modules])

async def go():
    app = Watched()
    async with app.run_test(size=(80, 24)) as pilot:
        while not seen:
            await pilot.pause(0.02)
        app.read_hardware()
        while app.session.hardware is None:
            await pilot.pause(0.02)
        for name in ("models", "task", "validate", "export", "runs"):
            app.action_go(name)
            await pilot.pause(0.1)
        seen.append([m for m in HEAVY if m in sys.modules and m not in ("numpy", "scipy")])

asyncio.run(go())
print(seen)
"""


def test_first_picture_and_screens_load_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "[[], []]", done.stdout + done.stderr


def test_the_command_line_does_not_load_the_interface() -> None:
    code = (
        "import sys; from advisor.__main__ import run; run(['hardware', '--gpu', 'rtx-4090', '--json']);"
        "sys.exit('textual' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr

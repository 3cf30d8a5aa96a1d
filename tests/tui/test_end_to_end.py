"""The real application in a pseudo-terminal, attached to the run of the demo that all engine tests share.

From its search to the validated bundle, and out again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
import pytest

from tests.conftest import CACHE, DemoRun

PRIVATE = re.compile(rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p")
HANG_S = 240


class Terminal:
    """`advisor` in a terminal of 140 x 40, whose screen an emulator keeps."""

    def __init__(self, folder: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(
                TERM="xterm-256color", XDG_CACHE_HOME=str(CACHE.parent), PYTHONPATH=os.pathsep.join(sys.path)
            )
            os.execv(sys.executable, [sys.executable, "-m", "advisor", "tui", "--run", "advisor-runs/demo"])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
        self.screen = pyte.Screen(140, 40)
        self.stream = pyte.ByteStream(self.screen)

    @property
    def text(self) -> str:
        """What is on the screen now."""
        return "\n".join(self.screen.display)

    def shows(self, *words: str, within_s: float = 240) -> bool:
        """Read until all words are on the screen at once."""
        end = time.monotonic() + within_s
        while not all(w in self.text for w in words):
            if time.monotonic() > end:
                return False
            if select.select([self.fd], [], [], 0.2)[0]:
                # private sequences that the emulator does not know would be shown as text
                self.stream.feed(PRIVATE.sub(b"", os.read(self.fd, 1 << 16)))
        return True

    def press(self, keys: str, *words: str) -> None:
        """Type, again every few seconds until the screen answers: a field may still hold the keyboard."""
        end = time.monotonic() + HANG_S
        while True:
            os.write(self.fd, keys.encode())
            if self.shows(*words, within_s=8):
                return
            assert time.monotonic() < end, f"{words} never came:\n{self.text}"

    def exit_code(self) -> int:
        """Wait for the end."""
        with contextlib.suppress(OSError):  # the terminal is gone
            while os.read(self.fd, 1 << 16):
                pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(demo_run: DemoRun) -> Iterator[Terminal]:
    """Beside the demo's run; killed when the test fails."""
    found = Terminal(demo_run.root.parent.parent)
    yield found
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGKILL)
    os.close(found.fd)


@pytest.mark.engine
def test_a_finished_run_is_shown_to_its_validated_bundle(terminal: Terminal, demo_run: DemoRun) -> None:
    assert terminal.shows("Formats", "finished"), terminal.text
    terminal.press("4", "Stages", "Front", "trial")
    terminal.press("5", "PASSED", "perplexity")
    terminal.press("6", "validated", "run.sh")
    terminal.press("7", "advisor-runs", "passed")
    os.write(terminal.fd, b"q")

    assert terminal.exit_code() == 0
    assert json.loads((demo_run.root / "validation.json").read_text())["passed"]
    assert (demo_run.root / "bundle" / "run.sh").exists()

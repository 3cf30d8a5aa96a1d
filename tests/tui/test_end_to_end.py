"""The real application in a pseudo-terminal, from its first picture through the demo to a validated bundle.

It goes on in the run of the demo that all engine tests share: every stage is kept, this takes seconds.
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

import pytest

from tests.conftest import CACHE, DemoRun

ESCAPES = re.compile(r"\x1b\[[0-9;?<>]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")
HANG_S = 900
SHIFT_TAB = "\x1b[Z"


class Terminal:
    """`advisor` in a terminal of 140 x 40."""

    def __init__(self, folder: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(
                TERM="xterm-256color", XDG_CACHE_HOME=str(CACHE.parent), PYTHONPATH=os.pathsep.join(sys.path)
            )
            os.execv(sys.executable, [sys.executable, "-m", "advisor"])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
        self.written = b""

    def shows(self, *words: str) -> None:
        """Read until all words were written since the last keys."""
        end = time.monotonic() + HANG_S
        while not all(w in self.text for w in words):
            assert time.monotonic() < end, f"{words} never came:\n{self.text[-4000:]}"
            if select.select([self.fd], [], [], 1.0)[0]:
                self.written += os.read(self.fd, 1 << 16)

    @property
    def text(self) -> str:
        """What was written since the last keys, without colours and moves."""
        return ESCAPES.sub("", self.written.decode("utf-8", "replace"))

    def press(self, keys: str, *words: str) -> None:
        """Type, and wait for the answer."""
        self.written = b""
        os.write(self.fd, keys.encode())
        self.shows(*words)

    def insist(self, keys: str, *words: str) -> None:
        """Type again every few seconds until the answer comes: a field may still hold the keyboard."""
        self.written, end = b"", time.monotonic() + HANG_S
        while not all(w in self.text for w in words):
            assert time.monotonic() < end, f"{words} never came:\n{self.text[-4000:]}"
            os.write(self.fd, keys.encode())
            again = time.monotonic() + 5
            while time.monotonic() < again and not all(w in self.text for w in words):
                if select.select([self.fd], [], [], 0.5)[0]:
                    self.written += os.read(self.fd, 1 << 16)

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
def test_from_the_first_picture_to_a_validated_bundle(terminal: Terminal, demo_run: DemoRun) -> None:
    terminal.shows("Formats", "native")
    terminal.press("4", "Stages", "trials")
    terminal.press(SHIFT_TAB * 2 + "2", "--trials 2")
    terminal.press("\r", "Stages")
    terminal.insist("d", "started: advisor demo")
    terminal.shows("finished: advisor demo")
    terminal.press("5", "PASSED", "perplexity")
    terminal.press("6", "validated", "run.sh")
    terminal.press("7", "advisor-runs", "passed")
    os.write(terminal.fd, b"q")

    assert terminal.exit_code() == 0
    assert json.loads((demo_run.root / "validation.json").read_text())["passed"]
    assert (demo_run.root / "bundle" / "run.sh").exists()

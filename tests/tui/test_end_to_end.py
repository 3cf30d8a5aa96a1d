"""The real application in a pseudo-terminal, by the keyboard alone.

From its first picture through model, task, tune, quantize and validate to a validated bundle; paused, left
alone and attached to again on the way.
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
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]
import pyte
import pytest

from tests.conftest import CACHE, ELSEWHERE

PRIVATE = re.compile(rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p")
HANG_S, RUN_HANG_S = 240, 1500
"""A machine that runs other tests beside this one can be very slow; what takes this long hangs."""
SIZE = (140, 40)


class Terminal:
    """`advisor` in a terminal, whose screen an emulator keeps."""

    def __init__(self, folder: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            env = os.environ | {
                "TERM": "xterm-256color",
                "XDG_CACHE_HOME": str(CACHE.parent),
                "XDG_CONFIG_HOME": ELSEWHERE,
                "XDG_STATE_HOME": str(folder / "state"),
                "XDG_DATA_HOME": ELSEWHERE,
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            # the terminal's own size counts. The whole environment is given: a library (readline, curses) can
            # set COLUMNS behind os.environ, where no pop of ours would find it
            sized = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
            os.execve(sys.executable, [sys.executable, "-m", "advisor"], sized)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", SIZE[1], SIZE[0], 0, 0))
        self.screen = pyte.Screen(*SIZE)
        self.stream = pyte.ByteStream(self.screen)

    @property
    def text(self) -> str:
        """What is on the screen now."""
        return "\n".join(self.screen.display)

    def until(self, condition: Callable[[str], object], within_s: float = HANG_S) -> bool:
        """Read until the screen is as it should be."""
        end = time.monotonic() + within_s
        while not condition(self.text):
            if time.monotonic() > end:
                return False
            if select.select([self.fd], [], [], 0.2)[0]:
                # private sequences that the emulator does not know would be shown as text
                self.stream.feed(PRIVATE.sub(b"", os.read(self.fd, 1 << 16)))
        return True

    def shows(self, *words: str, within_s: float = HANG_S) -> None:
        """All words are on the screen at once, sooner or later."""
        assert self.until(lambda text: all(w in text for w in words), within_s), f"no {words}:\n{self.text}"

    def type(self, keys: str, *words: str, within_s: float = HANG_S) -> None:
        """Type once; the screen answers."""
        os.write(self.fd, keys.encode())
        self.shows(*words, within_s=within_s)

    def exit_code(self) -> int:
        """Wait for the end."""
        with contextlib.suppress(OSError):  # the terminal is gone
            while os.read(self.fd, 1 << 16):
                pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        """However the test ended."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[[], Terminal]]:
    """Opens the application in one directory; what it started ends with the test."""
    opened: list[Terminal] = []

    def start() -> Terminal:
        opened.append(Terminal(tmp_path))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
    for lock in tmp_path.glob("advisor-runs/*/lock"):
        with contextlib.suppress(psutil.Error, ValueError):
            first = psutil.Process(int(lock.read_text().partition(":")[0].removeprefix("pid ")))
            for one_process in [*first.children(recursive=True), first]:
                one_process.kill()


@pytest.mark.engine
def test_from_nothing_to_a_validated_bundle(
    terminal: Callable[[], Terminal], demo_model: Path, tmp_path: Path
) -> None:
    ui = terminal()
    ui.shows("Formats", "native")

    ui.type("2", "Models: ", "tok/s")
    ui.type("o", "Open a model")
    ui.type(f"{demo_model}\r", "KV bytes per token", "checkpoint on disk")

    ui.type("3", "General text and chat", "Recommendation for generic")
    ui.type("k", "prior")
    ui.type("\r", "Recommendation for code", "--task code")
    ui.type("j", "prior")
    ui.type("\r", "Recommendation for generic")

    ui.type("4", "Stages", "budget")
    ui.type("e", "esc Done")
    ui.type("6bits", "--budget 6bits")
    os.write(ui.fd, b"\r")
    ui.type("2", "--trials 2")
    ui.type("\r", "through")
    ui.type("hh", "--through quantize")
    ui.type("ll", "--through export")
    ui.type("\r\r\r\r", "m More")  # past speed, method and recovery, out of the form
    ui.type("m", "sensitivity", "latency")
    ui.type("\r\r\rlll", "--sensitivity quick")
    ui.type("\r\rs", "started: advisor tune")  # past latency, out of the form, start
    ui.shows("│ live │", "x Stop")

    ui.type("p", "│ paused │")
    ui.type("p", "│ live │")
    ui.type("q", "Leave it running")
    os.write(ui.fd, b"l")
    assert ui.exit_code() == 0
    assert len(list(tmp_path.glob("advisor-runs/*"))) == 1

    ui = terminal()
    ui.shows("attached to advisor-runs/")
    ui.shows("│ live │")
    ui.type("4", "Stages", "--trials 2")
    ui.shows("Front: KL against size, line at 6.00 bits", "trial 2/2", within_s=RUN_HANG_S)
    ui.type("5", "Predicted and measured")
    ui.shows("PASSED", "perplexity", within_s=RUN_HANG_S)
    ui.shows("│ finished │", within_s=RUN_HANG_S)
    ui.type("6", "validated", "run.sh", "serve.yaml")
    ui.type("7", "Runs: 1", "passed")
    os.write(ui.fd, b"q")

    assert ui.exit_code() == 0
    (root,) = tmp_path.glob("advisor-runs/*")
    assert json.loads((root / "validation.json").read_text())["passed"]
    assert (root / "bundle" / "run.sh").exists()
    assert not (tmp_path / "state" / "advisor" / "last-command.log").read_text().startswith("error")

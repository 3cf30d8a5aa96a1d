"""Starting, finding and stopping the processes that do the work; they outlive the interface."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 5.0
"""How long a server may take to end before it is killed."""
TAIL_BYTES = 4000
"""Bytes kept of what a process said last: some forty lines."""


@dataclass
class Launched:
    """A command that was started here, with the file that holds what it prints."""

    arguments: list[str]
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether it still works."""
        return self.process.poll() is None

    def tail(self) -> str:
        """The last that it printed."""
        return tail(self.log)


def launch(arguments: list[str], log: Path) -> Launched:
    """Start `advisor ARGUMENTS` in a session of its own: closing the terminal does not stop it."""
    return spawn([sys.executable, "-m", "advisor", *arguments], log, arguments)


def spawn(
    command: list[str], log: Path, arguments: list[str], environment: dict[str, str] | None = None
) -> Launched:
    """Start any command so; `arguments` is how it is called in messages."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    return Launched(arguments, process, log)


def tail(path: Path) -> str:
    """The last lines of a text file; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def owner(root: Path) -> int | None:
    """The live process that works in a run directory, as its lock file names it.

    The operating system's lock is the truth, but testing it means taking it: a run that starts in that
    instant would be refused. So the process named is looked up, and its command line compared.
    """
    try:
        text = (root / "lock").read_text(encoding="utf-8", errors="replace").strip()
        head, _, argv = text.partition(": ")
        pid = int(head.removeprefix("pid "))
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None if Path("/proc/self").exists() else pid
    given = " ".join(argv.split(" ")[1:])
    return pid if line and given in line.replace("\0", " ") else None


def stop(pid: int) -> bool:
    """Ask a run to stop as Ctrl-C would: its children end, finished work is kept. False: it is gone.

    A paused run goes on first: a process that is suspended hears nothing.
    """
    if paused(pid):
        pause(pid, on=False)
    try:
        os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def pause(pid: int, *, on: bool) -> bool:
    """Suspend a run with all its children, or let it go on. Memory stays taken. False: it is gone."""
    import psutil  # type: ignore[import-untyped,unused-ignore]

    try:
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
    except psutil.Error:
        return False
    # The parent stops first and goes on last: it never sees a child that does not answer.
    for one in family if on else reversed(family):
        with contextlib.suppress(psutil.Error):
            one.suspend() if on else one.resume()
    return True


def paused(pid: int | None) -> bool:
    """Whether a process is suspended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return words.rpartition(")")[2].split()[:1] == ["T"]


def stop_group(launched: Launched) -> None:
    """End a command and all that it started, at once: it has nothing to keep."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not launched.running:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(launched.process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launched.process.wait(GRACE_S)


def open_folder(path: Path) -> bool:
    """Show a folder in the desktop's file manager; False where there is no desktop."""
    import shutil

    opener = shutil.which("xdg-open") or shutil.which("open")
    if opener is None or (
        sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    ):
        return False
    quiet = subprocess.DEVNULL
    subprocess.Popen([opener, str(path)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    return True

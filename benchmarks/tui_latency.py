"""How quick the terminal interface is: process start to first picture, key to repaint under load.

    python benchmarks/tui_latency.py

The real application runs in a pseudo-terminal of 140 x 40. A writer appends 1,000 trials to the event
stream of a copied run while `>` and `<` move the budget line: each press is timed until the title of the
plot shows the new place. The steppers of the models screen are timed in the same way. Bars: first picture
under 1.0 s, every 95th percentile under 50 ms.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "tui" / "recorded"
TRIALS, TRIALS_PER_SECOND = 1000, 50.0
PRESSES, PRESS_GAP_S = 80, 0.2
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>]")


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.started = time.perf_counter()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", PYTHONPATH=str(ROOT))
            os.execv(command[0], command)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
        self.seen = b""

    def until(self, words: str, limit_s: float = 60) -> float:
        """Seconds until the words are written, from now; what came before does not count."""
        begin = time.perf_counter()
        while words.encode() not in ESCAPES.sub(b"", self.seen):
            if time.perf_counter() - begin > limit_s:
                raise SystemExit(f"{words!r} never came")
            if select.select([self.fd], [], [], 0.5)[0]:
                self.seen += os.read(self.fd, 1 << 16)
        return time.perf_counter() - begin

    def press(self, keys: str, words: str) -> float:
        """Seconds from a key to the words."""
        self.drain()
        self.seen = b""
        os.write(self.fd, keys.encode())
        return self.until(words)

    def drain(self) -> None:
        """Read what waits."""
        while select.select([self.fd], [], [], 0)[0]:
            os.read(self.fd, 1 << 16)

    def wait(self, seconds: float) -> None:
        """Let it work, and read what it writes."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                os.read(self.fd, 1 << 16)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def stream(path: Path, stop: threading.Event) -> None:
    """Append trials, evenly."""
    lines = [json.loads(line) for line in (RECORDED / "events.jsonl").read_text().splitlines()]
    trials = [line for line in lines if line["kind"] == "trial"]
    begin = time.monotonic()
    for number in range(TRIALS):
        trial = {
            **trials[number % len(trials)],
            "number": number,
            "trials_total": TRIALS,
            "time": time.time(),
        }
        trial["kl"] = trial["kl"] * (1 + number % 97 / 50)
        with path.open("a") as file:
            file.write(json.dumps(trial) + "\n")
        if stop.wait(max(0.0, begin + number / TRIALS_PER_SECOND - time.monotonic())):
            return


def report(name: str, seconds: list[float]) -> None:
    """One line."""
    ms = sorted(s * 1000 for s in seconds)
    print(
        f"{name:44} median {statistics.median(ms):6.1f} ms   p95 {ms[math.ceil(len(ms) * 0.95) - 1]:6.1f} ms"
        f"   worst {ms[-1]:6.1f} ms   n {len(ms)}"
    )


def first_picture(folder: Path) -> list[float]:
    """Five starts of `advisor`."""
    found = []
    for _ in range(5):
        terminal = Terminal([sys.executable, "-m", "advisor"], folder)
        terminal.until("Formats")
        found.append(time.perf_counter() - terminal.started)
        terminal.close()
    return found


def budget_line(folder: Path) -> list[float]:
    """Presses of < and > while trials come."""
    run = folder / "advisor-runs" / "bench"
    shutil.copytree(RECORDED, run)
    terminal = Terminal([sys.executable, "-m", "advisor", "tui", "--run", str(run)], folder)
    terminal.until("Formats")
    terminal.wait(1.5)
    terminal.press("4", "line at")
    terminal.wait(1)
    stop = threading.Event()
    writer = threading.Thread(target=stream, args=(run / "events.jsonl", stop))
    writer.start()
    budget = json.loads((run / "budget.json").read_text())
    bits, found = budget["unit_bytes"] * 8 / budget["weights"], []
    for number in range(PRESSES):
        up = number % 8 < 4
        bits += 0.25 if up else -0.25
        found.append(terminal.press(">" if up else "<", f"line at {bits:.2f} bits"))
        terminal.wait(PRESS_GAP_S)
    stop.set()
    writer.join()
    terminal.close()
    return found


def steppers(folder: Path) -> list[float]:
    """Presses of right on the context stepper of a chosen model."""
    terminal = Terminal([sys.executable, "-m", "advisor"], folder)
    terminal.until("Formats")
    terminal.wait(1)
    terminal.press("2", "tok/s")
    terminal.wait(2)
    from profiles.models import catalogue_index

    terminal.press("/qwen3-8b", f"of {len(catalogue_index())}")
    terminal.press("\r", "Models:")
    terminal.wait(0.3)
    terminal.press("\r", "KV bytes per token")
    terminal.wait(0.5)
    terminal.press("\t", "context")
    terminal.wait(0.5)
    found: list[float] = []
    last = ""
    values = ("2,048", "4,096", "8,192", "16,384", "32,768", "65,536")
    for value in (*values, *values[-2::-1], *values[1:], *values[-2::-1]):
        up = not last or values.index(value) > values.index(last)
        found.append(terminal.press("l" if up else "h", value))
        last = value
        terminal.wait(PRESS_GAP_S)
    terminal.close()
    return found


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        )
        print(f"commit {commit.stdout.strip()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        report("process start to first picture", first_picture(folder))
        report("stepper to repaint", steppers(folder))
        report(f"key to repaint, {TRIALS_PER_SECOND:.0f} trials per second", budget_line(folder))


if __name__ == "__main__":
    main()

"""Programs that a model wrote, run in a limited child process: processor and wall time, memory, no files, no
network, no processes.

The child starts isolated (`python -I`, empty environment, a temporary directory) and forks once for each
program, so that one program cannot touch the next. The kernel limits time and memory; an audit hook refuses
files, network and processes. This guards against accidents: loops without an end, memory without a bound,
files deleted by mistake. It is not a sandbox against an attacker.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SECONDS = 4
"""Processor seconds of one program; the wall clock allows three times that."""

MEMORY_BYTES = 512 * 2**20
"""Address space of one program."""

RUNNER_FAILED = "the runner failed: "
"""How a reason begins that says nothing about the program."""


def run_programs(
    programs: Sequence[str], *, seconds: int = SECONDS, memory_bytes: int = MEMORY_BYTES
) -> list[str | None]:
    """None for each program that ran to its end with all its assertions and doctests true, else why not.

    When the runner itself fails, every reason begins with `RUNNER_FAILED`.
    """
    if not programs:
        return []
    job = {"programs": list(programs), "seconds": seconds, "memory_bytes": memory_bytes}
    with tempfile.TemporaryDirectory(prefix="advisor-items-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(Path(__file__).with_name("limited_child.py"))],
                input=json.dumps(job),
                capture_output=True,
                text=True,
                timeout=30 + 3 * seconds * len(programs),
                cwd=folder,
                env={},
                check=False,
            )
            found = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError) as exc:
            return [f"{RUNNER_FAILED}{type(exc).__name__}"] * len(programs)
    return [None if reason == "" else str(reason) for reason in found]

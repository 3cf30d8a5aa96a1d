"""Child of test_killed.py: the checkpoint writer, killed before each of its file operations in turn.

`python -m tests.quantize.killed_child SPEC.json ANSWER.json` imports the writer once and forks for every
run: a fork that reaches its operation is ended by SIGKILL, as a power cut or the kernel's own kill would.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuners.quantize.job import MARKER, fingerprint, finished, run
from tuners.quantize.schema import QuantizeSpec
from tuners.quantize.source import read_source
from tuners.quantize.verify import verify_checkpoint

OPERATIONS = frozenset(
    {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.copyfile"}
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def killed_before(number: int, root: Path, count: Callable[[], None]) -> None:
    """From now on this process dies before its `number`-th change of a file under `root` (-1: never)."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in OPERATIONS or not any(str(root) in str(a) for a in args[:2]):
            return
        if event == "open" and not (int(args[2] or 0) & WRITES):
            return
        seen += 1
        count()
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def forked(work: Callable[[], None], *, after_s: float | None = None) -> tuple[int, float]:
    """Exit status of `work` in a fork (negative: the signal that ended it) and its seconds."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started


def digest(folder: Path) -> dict[str, str]:
    """Every file's hash; the marker's own holds times and is left out."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != MARKER
    }  # fmt: skip


class Trial:
    """One writer on one folder, beside the files that it must end with."""

    def __init__(self, spec: QuantizeSpec) -> None:
        self.spec, self.out = spec, Path(spec.out_dir)
        self.source = read_source(spec.model_path, spec.units)
        self.key = fingerprint(spec, self.source)
        self.right: dict[str, str] = {}
        self.older: dict[str, str] = {}
        self.tally = self.out.parent / "tally"

    def write(self, number: int, after_s: float | None = None) -> tuple[int, float]:
        """Run the writer to its end, to its `number`-th operation, or for some seconds."""

        def work() -> None:
            with self.tally.open("w") as tally:

                def count() -> None:
                    tally.write(".")
                    tally.flush()

                killed_before(number, self.out, count)
                run(self.spec, lambda _: None)

        return forked(work, after_s=after_s)

    def operations(self) -> int:
        """Of the last run."""
        return len(self.tally.read_text())

    def clear(self) -> None:
        for path in self.out.parent.glob(self.out.name + "*"):
            shutil.rmtree(path)

    def state(self) -> str:
        """What a reader finds: nothing, this checkpoint whole, or (a failure) anything else."""
        taken = finished(self.out, self.key) is not None
        if not self.out.exists():
            return "TAKEN FOR GOOD WITHOUT A FOLDER" if taken else "absent"
        try:
            verify_checkpoint(self.out, self.spec.units, self.spec.plan, self.source)
            whole = digest(self.out) == self.right
        except Exception:
            whole = False
        if taken:
            return "whole" if whole else "TAKEN FOR GOOD BUT NOT WHOLE"
        return "older" if self.older and digest(self.out) == self.older else "A FOLDER THAT IS NO CHECKPOINT"


def main(spec: QuantizeSpec) -> dict[str, Any]:
    """The answer: what was found after every kill, and whether a second run ended with the right files."""
    trial = Trial(spec)
    code, seconds = trial.write(-1)
    assert code == 0
    trial.right, operations = digest(trial.out), trial.operations()
    found: list[tuple[str, int, str, bool]] = []
    rng = random.Random(0)
    points: list[tuple[int, float | None]] = [(n, None) for n in range(1, operations + 1)]
    points += [(-1, seconds * rng.uniform(0.05, 0.98)) for _ in range(6)]
    for place, (number, after_s) in enumerate(points):
        trial.clear()
        code, _ = trial.write(number, after_s)
        state = trial.state()
        # going on is the same run again: for every kill near the end, and a sample of the rest
        resumed = True
        if number < 0 or number > operations - 12 or place % 8 == 0:
            resumed = trial.write(-1)[0] == 0 and trial.state() == "whole" and len(_beside(trial)) == 0
        found.append((f"operation {number}" if after_s is None else f"{after_s:.2f} s", code, state, resumed))
    return {
        "operations": operations,
        "seconds": seconds,
        "found": found,
        "replaced": replaced(trial, operations),
    }


def replaced(trial: Trial, operations: int) -> list[tuple[int, str, bool]]:
    """The same where an older checkpoint is replaced: killed before each of the last operations."""
    other, kept = Trial(trial.spec.model_copy(update={"seed": 1})), trial.out.parent / "kept"
    trial.clear()
    assert other.write(-1)[0] == 0
    trial.older = digest(trial.out)
    trial.out.rename(kept)
    found = []
    for number in range(operations - 4, operations + 40):
        trial.clear()
        shutil.copytree(kept, trial.out)
        code, _ = trial.write(number)
        if code == 0:
            return found  # there is no such operation
        state = trial.state()
        resumed = trial.write(-1)[0] == 0 and trial.state() == "whole" and not _beside(trial)
        found.append((number, state, resumed))
    return found


def _beside(trial: Trial) -> list[str]:
    """What a finished run must not leave beside the checkpoint."""
    return [p.name for p in trial.out.parent.glob(trial.out.name + ".*") if p.is_dir()]


if __name__ == "__main__":
    import llmcompressor  # noqa: F401  once, before the forks
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    answer = main(QuantizeSpec.model_validate_json(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(answer))

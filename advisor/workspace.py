"""The run directory: one owner at a time, inputs that never change under it, stages that finish or do not.

advisor-runs/SmolLM2-135M-3fa1c09e/
    lock             who works here now (an OS lock: it dies with its process)
    inputs.yaml      what was asked; another question needs another directory
    stages/*.json    fingerprint, seconds and peak memory of every finished stage
    events.jsonl     the journal
    logs/*.log       everything that child processes printed
    ...              the artifacts: hardware.json, plan.yaml, checkpoint/, bundle/ ...
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from profiles.errors import EnvironmentProblem, UsageError
from profiles.provenance import Contract

RUNS_DIR = "advisor-runs"


class StageRecord(Contract):
    """A finished stage: what it was made from, what it took, what it said."""

    name: str
    fingerprint: str
    seconds: float
    peak_rss_bytes: int | None = None
    summary: str = ""
    outputs: tuple[str, ...] = ()


def slug(model: str) -> str:
    """The last part of a model's name, safe as a directory name."""
    last = model.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"


def short_hash(data: Mapping[str, Any]) -> str:
    """Eight hex digits that name a set of inputs."""
    return fingerprint(data)[:8]


def fingerprint(data: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of `data`."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def default_run_dir(model: str, identity: Mapping[str, Any]) -> Path:
    """./advisor-runs/<model>-<short hash of the inputs>."""
    return Path(RUNS_DIR) / f"{slug(model)}-{short_hash(identity)}"


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into an EnvironmentProblem with the next step."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentProblem(
                "the disk is full",
                where=str(where),
                got=str(exc),
                next_step="free space or give another --run directory, then run the same command again: "
                "finished stages are kept",
            ) from exc
        if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise EnvironmentProblem(
                "cannot write here",
                where=str(where),
                got=str(exc),
                next_step="give a directory that you may write to with --run",
            ) from exc
        raise


def require_space(where: Path, needed_bytes: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        EnvironmentProblem: less than `needed_bytes` is free at `where`.
    """
    existing = where
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise EnvironmentProblem(
            f"not enough disk space for {what}",
            where=str(where),
            got=f"{free / 2**30:.2f} GiB free",
            allowed=f"at least {needed_bytes / 2**30:.2f} GiB",
            next_step="free space or give another directory with --run; finished stages are kept",
        )


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing: a temporary name beside it, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: BaseModel | Mapping[str, Any]) -> None:
    """Write a contract or a mapping as indented JSON, whole or not at all."""
    if isinstance(value, BaseModel):
        write_text(path, value.model_dump_json(indent=1) + "\n")
    else:
        write_text(path, json.dumps(value, indent=1) + "\n")


class Workspace:
    """An open run directory; `close` (or leaving the `with`) lets the next process in."""

    def __init__(self, root: Path, lock_fd: int | None) -> None:
        self.root = root
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, root: Path, *, create: bool = True) -> Self:
        """Own the directory, alone.

        Raises:
            UsageError: another live process works here, or there is no such run.
            EnvironmentProblem: the directory cannot be written.
        """
        root = root.expanduser()
        if not create and not (root / "inputs.yaml").exists():
            raise UsageError(
                "not a run directory",
                where=str(root),
                got="no inputs.yaml in it" if root.exists() else "it does not exist",
                next_step="advisor runs lists the runs here; advisor tune MODEL --budget 5.5bits starts one",
            )
        if root.exists() and not root.is_dir():
            raise UsageError("the run directory is a file", where=str(root), next_step="give another --run")
        with disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            lock_fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            owner = os.pread(lock_fd, 4096, 0).decode("utf-8", "replace").strip()
            os.close(lock_fd)
            if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise UsageError(
                "another run is working in this directory",
                where=str(root),
                got=owner or "its process did not say which it is",
                next_step="wait for it, stop it with Ctrl-C in its terminal, or give another --run directory",
            ) from exc
        # Whatever an earlier owner wrote is stale now: its OS lock is gone, so its process is too.
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, f"pid {os.getpid()}: {' '.join(sys.argv)[:500]}\n".encode(), 0)
        return cls(root, lock_fd)

    @classmethod
    def read_only(cls, root: Path) -> Self:
        """Look at a run without owning it."""
        return cls(root, None)

    @staticmethod
    def is_busy(root: Path) -> bool:
        """Whether a live process owns the directory now."""
        try:
            fd = os.open(root / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def path(self, *parts: str) -> Path:
        """A path inside the run directory."""
        return self.root.joinpath(*parts)

    def log_path(self, stage: str) -> Path:
        """Where the children of a stage print."""
        return self.root / "logs" / f"{stage}.log"

    def record(self, stage: str) -> StageRecord | None:
        """The finished stage of that name; None when it never finished or its record is damaged."""
        path = self.root / "stages" / f"{stage}.json"
        try:
            return StageRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def records(self) -> dict[str, StageRecord]:
        """Every finished stage, in the order in which they finished."""
        folder = self.root / "stages"
        found = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime) if folder.exists() else []
        named = ((p.stem, self.record(p.stem)) for p in found)
        return {name: record for name, record in named if record is not None}

    def is_fresh(self, stage: str, stage_fingerprint: str) -> StageRecord | None:
        """The record when the stage finished with exactly these inputs and its outputs still exist."""
        record = self.record(stage)
        if record is None or record.fingerprint != stage_fingerprint:
            return None
        return record if all(self.path(o).exists() for o in record.outputs) else None

    def finish(self, record: StageRecord) -> None:
        """Note a stage as finished: the last thing that a stage does."""
        write_json(self.root / "stages" / f"{record.name}.json", record)

"""Heavy work in a child process: typed events over a pipe, everything it prints into a log file.

Parent: `run_child("tuners.quantize.job", spec, emit=..., log_path=...)`.
Child: a module with `if __name__ == "__main__": child_main(SpecClass, run)` where
`run(spec, emit) -> BaseModel | None`; its result is returned to the parent as a dict.

A crash or an out-of-memory kill of the child is an error of one stage, never the end of the program,
and its exit frees all memory it took.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from profiles.errors import AdvisorError, EnvironmentProblem, Interrupted, RunFailed
from tuners.events import ChildLog, Emit, Event, StageFailed, parse_event

EVENTS_FD = "ADVISOR_EVENTS_FD"
RESULT = "ADVISOR_RESULT_PATH"
CHILD_ENV = {
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # waiting threads sleep instead of spinning: on cores shared with other work, spinning at the barriers
    # of many short operations made them ten times slower (read when torch is first imported)
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
}
"""Environment of every child, unless the user's own or the caller's says otherwise."""

GRACE_S = 15.0
"""Seconds between asking a child to stop and killing its process group."""

S = TypeVar("S", bound=BaseModel)


def run_child(
    module: str,
    spec: BaseModel,
    *,
    emit: Emit,
    log_path: Path,
    stage: str,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Run `python -m module SPEC` to its end and return the result that it wrote.

    Events of the child go to `emit` as they come. `cancelled` is polled; when it answers True, or on
    Ctrl-C, the child's whole process group is ended.

    Raises:
        Interrupted: cancelled.
        RunFailed: the child failed, was killed, or wrote no result; its log's end is in the message.
        AdvisorError: the subclass that the child itself reported.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="advisor-") as tmp:
        spec_path, result_path = Path(tmp, "spec.json"), Path(tmp, "result.json")
        spec_path.write_text(spec.model_dump_json())
        read_fd, write_fd = os.pipe()
        child_env = {
            **CHILD_ENV,
            **os.environ,
            **(env or {}),
            EVENTS_FD: str(write_fd),
            RESULT: str(result_path),
        }
        proc = subprocess.Popen(
            [python or sys.executable, "-m", module, str(spec_path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write_fd,),
            env=child_env,
            start_new_session=True,
        )
        os.close(write_fd)
        tail: deque[str] = deque(maxlen=40)
        failure: list[dict[str, Any]] = []
        readers = [
            threading.Thread(target=_read_log, args=(proc, log_path, stage, emit, tail), daemon=True),
            threading.Thread(target=_read_events, args=(read_fd, emit, failure), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            _wait(proc, cancelled)
        except (KeyboardInterrupt, Interrupted):
            _end_group(proc)
            raise Interrupted(
                f"{stage} was stopped",
                next_step="run the same command again to resume: finished steps are kept",
            ) from None
        finally:
            _end_group(proc)
            for reader in readers:
                reader.join(timeout=GRACE_S)
        if proc.returncode == 0 and result_path.exists():
            return dict(json.loads(result_path.read_text()))
        raise _failure_of(stage, proc.returncode, failure, tail, log_path)


def _wait(proc: subprocess.Popen[bytes], cancelled: Callable[[], bool] | None) -> None:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            proc.wait(timeout=0.2)
            return
        if cancelled is not None and cancelled():
            raise Interrupted("cancelled")


def _end_group(proc: subprocess.Popen[bytes]) -> None:
    """End the child's process group: the engine starts workers of its own."""
    for sig, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        try:
            os.killpg(proc.pid, sig)
        except (ProcessLookupError, PermissionError):
            break
        if proc.poll() is not None:
            # the leader is gone: give stragglers one moment, then kill what is left
            time.sleep(0.2)
            continue
        with contextlib.suppress(subprocess.TimeoutExpired):
            proc.wait(timeout=patience)


def _read_log(
    proc: subprocess.Popen[bytes], log_path: Path, stage: str, emit: Emit, tail: deque[str]
) -> None:
    assert proc.stdout is not None
    with proc.stdout, log_path.open("ab") as log:
        for raw in proc.stdout:
            log.write(raw)
            log.flush()
            text = raw.decode("utf-8", "replace").rstrip().rsplit("\r", 1)[-1]
            if text:
                tail.append(text)
                emit(ChildLog(stage=stage, source=stage, text=text))


def _read_events(read_fd: int, emit: Emit, failure: list[dict[str, Any]]) -> None:
    with os.fdopen(read_fd, "rb") as stream:
        for raw in stream:
            try:
                event = parse_event(raw)
            except ValidationError:
                continue  # a line cut by a killed child
            if isinstance(event, StageFailed):
                failure.append(event.error)
            else:
                emit(event)


def _failure_of(
    stage: str, code: int, failure: list[dict[str, Any]], tail: deque[str], log_path: Path
) -> AdvisorError:
    if failure:
        parts = dict(failure[-1])
        kind = _error_class(str(parts.pop("error", "RunFailed")))
        parts.pop("exit_code", None)
        return kind(str(parts.pop("what", f"{stage} failed")), **parts)
    if code < 0:
        name = signal.Signals(-code).name
        memory = " (the kernel does this when memory runs out)" if name == "SIGKILL" else ""
        return RunFailed(
            f"{stage}: its process was ended by {name}{memory}",
            where=str(log_path),
            next_step="free memory or lower --calibration-samples, then run the same command to resume",
        )
    return RunFailed(
        f"{stage}: its process exited with {code}",
        where=str(log_path),
        got=" | ".join(list(tail)[-3:]) or "no output",
        next_step="read the log named above, then run the same command to resume",
    )


def _error_class(name: str) -> type[AdvisorError]:
    known: dict[str, type[AdvisorError]] = {}
    todo: list[type[AdvisorError]] = [AdvisorError]
    while todo:
        cls = todo.pop()
        known[cls.__name__] = cls
        todo.extend(cls.__subclasses__())
    return known.get(name, RunFailed)


def peak_rss_bytes() -> int:
    """Peak resident memory of this process and of its ended children.

    Its own is VmHWM (proc(5)): getrusage starts with the peak of the process that this one was forked from.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(own_peak_rss_bytes(), children)


def own_peak_rss_bytes() -> int:
    """Peak resident memory of this process since it was started."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies: a killed parent leaves nothing running."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG, prctl(2)


def child_main(spec_type: type[S], run: Callable[[S, Emit], BaseModel | None]) -> None:
    """Entry point of a child module: read the spec, run, write the result, report errors as events."""
    _die_with_parent()
    with os.fdopen(int(os.environ[EVENTS_FD]), "w", buffering=1) as stream:
        lock = threading.Lock()

        def emit(event: Event) -> None:
            with lock:
                stream.write(event.model_dump_json() + "\n")

        try:
            spec = spec_type.model_validate_json(Path(sys.argv[1]).read_text())
            result = run(spec, emit)
            payload = "{}" if result is None else result.model_dump_json()
            Path(os.environ[RESULT]).write_text(payload)
        except AdvisorError as exc:
            emit(StageFailed(error=exc.as_dict()))
            sys.exit(int(exc.exit_code))
        except KeyboardInterrupt:
            sys.exit(130)
        except MemoryError as exc:
            emit(
                StageFailed(
                    error=EnvironmentProblem(
                        "out of memory", got=str(exc), next_step="use fewer calibration samples"
                    ).as_dict()
                )
            )
            sys.exit(3)

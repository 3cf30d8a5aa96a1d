"""The limited child of limited.py: reads a job from standard input, forks for each program, prints reasons.

Standard library alone, run as a script with `python -I`.
"""

from __future__ import annotations

import contextlib
import doctest
import json
import os
import resource
import signal
import sys
import time

PASSED = "passed every check"

REFUSED = (
    "socket.", "subprocess.", "shutil.", "tempfile.", "urllib.", "http.", "ftplib.", "smtplib.", "sqlite3.",
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "pty.",
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.chown", "os.chflags", "os.utime", "os.setxattr", "os.removexattr", "os.chdir",
)  # fmt: skip
"""Beginnings of the names of Python's audit events that a program may not raise: network, processes, and
every change of the file system. Reading is left to the folders of Python itself, for `import`."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """One reason for each program, empty when it passed."""
    job = json.load(sys.stdin)
    limits = int(job["seconds"]), int(job["memory_bytes"])
    json.dump([attempt(program, *limits) for program in job["programs"]], sys.stdout)


def attempt(program: str, seconds: int, memory_bytes: int) -> str:
    """Run one program in a fork of its own."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        reason = "ended early"
        try:
            os.setsid()
            limit(seconds, memory_bytes)
            sys.addaudithook(refuse)
            reason = check(program) or PASSED
        except BaseException as exc:
            reason = f"{type(exc).__name__}: {exc}"[:200]
        finally:
            os.write(write_fd, reason.encode("utf-8", "replace"))
            os._exit(0)
    os.close(write_fd)
    try:
        return outcome(pid, read_fd, 3.0 * seconds)
    finally:
        os.close(read_fd)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # whatever the program left running


def outcome(pid: int, read_fd: int, patience: float) -> str:
    """What the fork reported, or how it ended; past its time the whole group is killed."""
    end = time.monotonic() + patience
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "took too long"
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        return f"ended by signal {os.WTERMSIG(status)}"
    said = os.read(read_fd, 4096).decode("utf-8", "replace")
    return "" if said == PASSED else said or "ended early"


def limit(seconds: int, memory_bytes: int) -> None:
    """Processor time, memory, no files of any size, no core; output and input go nowhere.

    The kernel exempts root from the number of processes: forks are refused by the audit hook as well.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)


def refuse(event: str, args: tuple[object, ...]) -> None:
    """An audit hook, which cannot be taken out again.

    Raises:
        PermissionError: the event is refused.
    """
    if event.startswith(REFUSED) or (event == "open" and not readable(*args)):
        raise PermissionError(f"not allowed here: {event}")


def readable(path: object, _mode: object, flags: object) -> bool:
    """Whether a file of Python's own is opened for reading."""
    if not isinstance(path, (str, bytes)) or (isinstance(flags, int) and flags & WRITING):
        return False
    real = os.path.realpath(os.fsdecode(path))
    return real.startswith(tuple(os.path.realpath(root) + os.sep for root in {sys.prefix, sys.base_prefix}))


def check(program: str) -> str:
    """Execute, and run the doctests when the program has any; one of the two must check something."""
    space: dict[str, object] = {"__name__": "item"}
    exec(compile(program, "item", "exec"), space)
    if ">>>" in program:
        written = [v for v in space.values() if callable(v) and ">>>" in (getattr(v, "__doc__", None) or "")]
        if not written:
            return "no documented function"
        examples = doctest.DocTestParser().get_doctest(written[0].__doc__ or "", space, "item", None, None)
        result = doctest.DocTestRunner(verbose=False).run(examples, out=lambda text: None)
        return "an example is wrong" if result.failed else "" if result.attempted else "no example"
    return "" if "assert " in program else "nothing is checked"


if __name__ == "__main__":
    main()

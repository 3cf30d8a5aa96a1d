"""The one exception tree of the product, and the exit codes that its leaves map to.

AdvisorError
 ├── UsageError          2  the request itself is wrong (unknown name, bad number, bad file)
 ├── InfeasibleError     1  the request is fine, but no configuration satisfies it
 ├── EnvironmentProblem  3  this machine lacks something (driver, package, disk, memory)
 ├── RunFailed           4  a stage started and did not finish (child killed, engine died, gate failed)
 └── Interrupted       130  the user stopped it; finished work is kept
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes of every `advisor` command."""

    OK = 0
    INFEASIBLE = 1
    USAGE = 2
    ENVIRONMENT = 3
    RUN_FAILED = 4
    INTERRUPTED = 130


class AdvisorError(Exception):
    """An error that a user can act on: what, where, what was got, what is allowed, what to do next."""

    exit_code = ExitCode.RUN_FAILED

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: str | None = None,
        allowed: str | None = None,
        next_step: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.got = got
        self.allowed = allowed
        self.next_step = next_step

    def __str__(self) -> str:
        """One block of text, a line per known part."""
        parts = [self.what]
        for label, text in (
            ("where", self.where),
            ("got", self.got),
            ("allowed", self.allowed),
            ("next", self.next_step),
        ):
            if text:
                parts.append(f"  {label}: {text}")
        return "\n".join(parts)

    def as_dict(self) -> dict[str, str | int | None]:
        """The same parts for `--json` output and the event stream."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "got": self.got,
            "allowed": self.allowed,
            "next_step": self.next_step,
            "exit_code": int(self.exit_code),
        }


class UsageError(AdvisorError):
    """The request itself is wrong."""

    exit_code = ExitCode.USAGE


class InfeasibleError(AdvisorError):
    """The request is well formed, but nothing satisfies it."""

    exit_code = ExitCode.INFEASIBLE


class EnvironmentProblem(AdvisorError):
    """This machine lacks something the request needs."""

    exit_code = ExitCode.ENVIRONMENT


class RunFailed(AdvisorError):
    """A stage started and did not finish."""

    exit_code = ExitCode.RUN_FAILED


class Interrupted(AdvisorError):
    """The user stopped the run."""

    exit_code = ExitCode.INTERRUPTED


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Words for `allowed`: the nearest known names first, or a short list of all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=count, cutoff=0.5)
    by_lower = {n.lower(): n for n in names}
    if close:
        return "did you mean " + " or ".join(by_lower[c] for c in close) + "?"
    shown = ", ".join(names[:12])
    return shown + (f", ... ({len(names)} in all)" if len(names) > 12 else "")

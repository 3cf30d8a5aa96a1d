"""`advisor` and `python -m advisor`: parse, run, and turn every error into text and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from profiles.errors import AdvisorError, ExitCode, nearest


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is one of `ExitCode`. Errors are text on stderr, stdout stays data."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    if not tokens and sys.stdout.isatty():
        return _interface()
    from cyclopts import CycloptsError

    from advisor.cli.app import build_app

    app = build_app(tokens[0] if tokens else None)
    try:
        result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else int(ExitCode.OK)
    except CycloptsError as exc:
        return _usage(exc, tokens)
    except AdvisorError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return int(exc.exit_code)
    except KeyboardInterrupt:
        print("stopped: finished steps are kept, the same command resumes", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) went away: not an error of ours. Keep Python from flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except Exception as exc:
        if os.environ.get("ADVISOR_DEBUG"):
            raise
        print(
            f"error: {type(exc).__name__}: {exc}\n"
            "  this is a defect of advisor, not of your input\n"
            "  next: run the same command with ADVISOR_DEBUG=1 for the traceback and report it together "
            "with the output of advisor doctor",
            file=sys.stderr,
        )
        return int(ExitCode.RUN_FAILED)


def _interface() -> int:
    """The terminal interface, without the parser's imports: its first picture is awaited."""
    from advisor.tui.app import main as interface

    return interface()


def _usage(exc: Exception, tokens: list[str]) -> int:
    from advisor.cli.app import COMMANDS

    command = tokens[0] if tokens and not tokens[0].startswith("-") else ""
    if command and command not in COMMANDS:
        print(f"error: no command {command!r}\n  allowed: {nearest(command, COMMANDS)}", file=sys.stderr)
        command = ""
    else:
        print(f"error: {str(exc).strip()}", file=sys.stderr)
    print(f"  next: advisor {command + ' ' if command else ''}--help", file=sys.stderr)
    return int(ExitCode.USAGE)


def _on_terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Console entry point. A polite kill is treated like Ctrl-C: children are ended, work is kept."""
    signal.signal(signal.SIGTERM, _on_terminate)
    sys.exit(run())


if __name__ == "__main__":
    main()

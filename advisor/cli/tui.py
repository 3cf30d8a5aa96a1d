"""`advisor tui`: the terminal interface, here or in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from profiles.errors import AdvisorError, EnvironmentProblem, UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def tui(
    *,
    run: Annotated[
        Path | None, Parameter(help="Open this run directory (a run that works is attached to).")
    ] = None,
    web: Annotated[bool, Parameter(help="Serve it to a browser on this machine.", negative="")] = False,
    host: Annotated[str, Parameter(help="Address to listen on; another than loopback needs --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, Parameter(help="Port to listen on.")] = 8300,
    token: Annotated[
        str | None, Parameter(help="A secret of at least 16 characters that the browser must bring.")
    ] = None,
    public_url: Annotated[
        str | None, Parameter(help="How browsers reach it, when that is behind a proxy.")
    ] = None,
) -> int:
    """Open the terminal interface, or serve it to a browser."""
    if run is not None and not (run / "inputs.yaml").exists():
        raise UsageError("not a run directory", where="--run", got=str(run), next_step="advisor runs")
    if not web:
        from advisor.tui.app import AdvisorApp
        from advisor.tui.session import Session

        return AdvisorApp(Session(run=run)).run() or 0
    if run is not None:
        raise UsageError("--run opens a run here; in the browser, screen 7 opens it", got="--run with --web")
    if token is not None and len(token) < 16:
        raise UsageError("a token that can be guessed", where="--token", allowed="16 characters or more",
                         next_step="openssl rand -hex 16 makes one")  # fmt: skip
    if host not in LOOPBACK and token is None:
        raise UsageError(
            "everyone who reaches that address could start work on this machine",
            where="--host",
            got=host,
            allowed=f"{', '.join(LOOPBACK)}; another address together with --token",
            next_step="an SSH tunnel reaches loopback: ssh -L 8300:localhost:8300 HOST",
        )
    _serve(host, port, token, public_url)
    return 0


def _serve(host: str, port: int, token: str | None, public_url: str | None) -> None:
    try:
        from advisor.tui.web import Door
    except ImportError as exc:
        raise _missing(exc) from exc
    try:
        Door(host, port, token, public_url).serve()
    except OSError as exc:
        raise EnvironmentProblem(
            f"cannot listen: {exc.strerror or exc}", where=f"{host}:{port}", next_step="choose another --port"
        ) from exc


def _missing(exc: ImportError) -> AdvisorError:
    return EnvironmentProblem(
        "the browser interface needs a package that is not installed",
        got=exc.name or str(exc),
        next_step="pip install textual-serve; advisor tui without --web needs nothing more",
    )

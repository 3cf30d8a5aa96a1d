"""`advisor mcp`: the tools for other agents, over stdin and stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def mcp(
    *,
    directory: Annotated[Path, Parameter(name="--directory", help="Where the run directories are.")] = Path(
        "advisor-runs"
    ),
) -> int:
    """A Model Context Protocol server: fit, recommend, tune (starts and returns), status, export.

    For a client's configuration: command `advisor`, arguments `mcp`. Runs that it starts outlive it.
    """
    from advisor.mcp.server import build_server

    build_server(directory.expanduser().resolve()).run("stdio")
    return 0

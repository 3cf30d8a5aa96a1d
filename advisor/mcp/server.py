"""The MCP server: the tools with their schemas, over stdio."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.mcp.tools import Tools
from profiles.errors import AdvisorError, EnvironmentProblem

if TYPE_CHECKING:
    from mcp.server import MCPServer

INSTRUCTIONS = (
    "Which precision should a model run at, on this hardware, for this task? fit and recommend answer from "
    "facts and published rules; tune measures (start it, then ask status); export writes the directory to "
    "deploy once validation passed. Every figure says how it is known: exact, measured, calibrated or "
    "estimated."
)


def build_server(directory: Path) -> MCPServer[Any]:
    """A server over the runs in `directory`.

    Raises:
        EnvironmentProblem: the mcp package is not installed.
    """
    try:
        from mcp.server import MCPServer
        from mcp_types import ToolAnnotations
    except ImportError as exc:
        raise EnvironmentProblem(
            "the mcp package is not installed", got=str(exc), next_step="pip install 'mcp>=2'"
        ) from exc
    from advisor.cli.app import _version

    tools = Tools(directory)
    server: MCPServer[Any] = MCPServer("advisor", instructions=INSTRUCTIONS, version=_version())
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=True)
    writes = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True)
    for function, hints in (
        (tools.fit, reads),
        (tools.recommend, reads),
        (tools.tune, writes),
        (tools.status, reads),
        (tools.export, writes),
    ):
        server.tool(name=function.__name__, annotations=hints, structured_output=True)(_told(function))
    return server


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The tool with its errors as text that says what to do; anything else stays a defect."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except AdvisorError as exc:
            raise ToolError(str(exc)) from exc

    return told

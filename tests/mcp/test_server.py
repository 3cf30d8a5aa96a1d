"""The MCP server through the package's own client, in this process: schemas, answers, errors as words."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.app.tiny import write_tiny

pytest.importorskip("mcp")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


def talk(directory: Path, *steps: Callable[[Any], Awaitable[Any]]) -> list[Any]:
    """Run coroutines against a connected client."""
    from mcp import Client

    from advisor.mcp.server import build_server

    async def all_steps() -> list[Any]:
        async with Client(build_server(directory)) as client:
            return [await step(client) for step in steps]

    return asyncio.run(all_steps())


def test_five_tools_with_schemas_of_the_contracts(tmp_path: Path) -> None:
    (found,) = talk(tmp_path, lambda c: c.list_tools())

    tools = {t.name: t for t in found.tools}
    assert set(tools) == {"fit", "recommend", "tune", "status", "export"}
    for tool in tools.values():
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        assert tool.output_schema is not None
        assert tool.description
    assert tools["tune"].input_schema["required"] == ["model"]
    assert tools["fit"].output_schema is not None
    assert "Footprint" in tools["fit"].output_schema["$defs"]


def test_fit_answers_with_footprints_that_match_the_schema(tmp_path: Path, tiny: Path) -> None:
    from advisor.mcp.schema import FitAnswer

    (found,) = talk(
        tmp_path, lambda c: c.call_tool("fit", {"model": str(tiny), "gpu": "rtx-4090", "context": 256})
    )

    assert not found.is_error, found.content
    answer = FitAnswer.model_validate(found.structured_content)
    assert answer.plans["uniform 16-bit"].verdict.value == "fits"
    assert answer.plans["uniform 16-bit"].weights.provenance.value == "exact"


def test_recommend_gives_the_rules_that_fired(tmp_path: Path, tiny: Path) -> None:
    (found,) = talk(
        tmp_path,
        lambda c: c.call_tool(
            "recommend", {"model": str(tiny), "task": "code", "use": "production", "gpu": "h100"}
        ),
    )

    assert not found.is_error, found.content
    assert found.structured_content["choices"][0]["rank"] == 1
    assert found.structured_content["fired"]


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("fit", {"model": "MODEL", "gpu": "rtx-4091"}, "rtx-4090"),
        ("tune", {"model": "MODEL", "budget": "lots"}, "not a memory budget"),
        ("tune", {"model": "MODEL", "budget": "0.1bits"}, "below the smallest possible plan"),
        ("status", {"run": "nowhere"}, "no such run"),
        ("export", {"run": "nowhere"}, "no such run"),
    ],
)
def test_errors_say_what_to_do(
    tmp_path: Path, tiny: Path, tool: str, arguments: dict[str, str], words: str
) -> None:
    given = {k: str(tiny) if v == "MODEL" else v for k, v in arguments.items()}
    (found,) = talk(tmp_path / "runs", lambda c: c.call_tool(tool, given))

    assert found.is_error
    assert words in found.content[0].text
    assert "next:" in found.content[0].text or "allowed:" in found.content[0].text
    assert not (tmp_path / "runs").exists()  # a question without an answer starts nothing


def exit_at_once() -> tuple[subprocess.Popen[bytes], Path]:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process, Path("log")


def test_tune_starts_a_process_of_its_own_and_status_follows_it(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advisor.mcp.tools import Tools

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    tools = Tools(tmp_path / "runs")
    # the tiny model has no tokenizer: the search ends early with an error, which is a status like any other
    started = tools.tune(str(tiny), budget="6bits", sensitivity="exact", trials=0, offline=True)
    process = tools._started[Path(started.run)]

    assert process.pid == started.pid
    assert started.budget_bytes > 0
    assert process.wait(timeout=900) != 0  # it times layers first
    found = tools.status(Path(started.run).name)
    assert found.state == "failed"
    assert [s.name for s in found.stages] == ["profile", "footprint", "latency"]
    assert found.passed is None
    assert any("failed" in m for m in found.messages)
    assert "--run" in started.command
    assert started.command[started.command.index("--sensitivity") + 1] == "exact"


def test_a_quick_tune_makes_no_trials_unless_asked(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advisor.mcp.tools import Tools

    tools, asked = Tools(tmp_path / "runs"), []
    monkeypatch.setattr(Tools, "_start", lambda self, root, command: asked.append(command) or exit_at_once())
    for trials, expected in ((None, "0"), (4, "4")):
        tools.tune(str(tiny), budget="6bits", sensitivity="quick", trials=trials, offline=True)
        assert asked[-1][asked[-1].index("--trials") + 1] == expected


def test_a_run_that_is_worked_on_is_not_started_twice(tmp_path: Path, tiny: Path) -> None:
    from advisor.mcp.tools import Tools
    from advisor.workspace import Workspace
    from profiles.errors import UsageError

    tools = Tools(tmp_path / "runs")
    root = tmp_path / "runs" / "r"
    with Workspace.open(root):
        assert Workspace.is_busy(root)
        with pytest.raises(UsageError, match="worked on already"):
            tools._start(root, ["true"])
    assert not Workspace.is_busy(root)


def test_stdio_speaks_nothing_but_the_protocol(tmp_path: Path) -> None:
    hello = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {},
                   "clientInfo": {"name": "test", "version": "1"}},
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "advisor", "mcp", "--directory", str(tmp_path)],
        input=json.dumps(hello) + "\n", capture_output=True, text=True, timeout=60, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0]["result"]["serverInfo"]["name"] == "advisor"

"""Fixtures of the application's tests: a tiny model, a fixed planned device, a working directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.__main__ import run
from tests.app.tiny import write_tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny checkpoint."""
    return write_tiny(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in its own directory and without network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ADVISOR_DEBUG", raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, stdout, stderr)."""

    def call(*tokens: str | Path) -> tuple[int, str, str]:
        code = run([str(t) for t in tokens])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def cli_json(cli: Callable[..., tuple[int, str, str]]) -> Callable[..., Any]:
    """Run a command with --json: its one document, after checking that stdout holds nothing else."""

    def call(*tokens: str | Path) -> Any:
        code, out, err = cli(*tokens, "--json")
        assert code == 0, err
        return json.loads(out)

    return call

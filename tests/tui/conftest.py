"""Fixtures of the interface's tests: a recorded run, a planned device, a directory of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's files or the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("CACHE", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A finished run of a random six-layer model, as the pipeline wrote it."""
    return Path(shutil.copytree(RECORDED, tmp_path / "advisor-runs" / "tiny"))

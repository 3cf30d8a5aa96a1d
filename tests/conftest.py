"""Fixtures that several folders of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo's run is made once: `advisor-runs/demo`, in which the engine tests go on."""
    return tmp_path_factory.mktemp("demo") / "advisor-runs" / "demo"

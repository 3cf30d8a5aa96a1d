"""What the engine tests of every folder share: one run of the demo on the real model, made once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from platformdirs import user_cache_path

CACHE = user_cache_path("advisor")
"""Taken at import, before other tests point the cache elsewhere: the model is prepared once per machine."""


class DemoRun(NamedTuple):
    """A finished run of the demo: its directory, what it printed as data, and `again`, which repeats it."""

    root: Path
    found: dict[str, Any]
    again: Callable[[], tuple[dict[str, Any], str]]


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """`advisor demo` with two trials, through every stage, as a user would call it."""
    root = tmp_path_factory.mktemp("demo") / "run"

    def call() -> tuple[dict[str, Any], str]:
        done = subprocess.run(
            [sys.executable, "-m", "advisor", "demo", "--trials", "2", "--run", str(root), "--json"],
            capture_output=True,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(CACHE.parent)},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout), done.stderr

    found, _ = call()
    return DemoRun(root, found, call)

"""What the engine tests of every folder share: the demo's model, and one run of the demo, made once."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from platformdirs import user_cache_path

GPU_RUN = "ADVISOR_TEST_GPU"
"""Set to 1, the tests see the GPUs of this machine; without it they do not: they are written for the CPU."""
if os.environ.get(GPU_RUN) != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # here: before any test module imports torch

for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)  # readline sets them in the workers' parent: no terminal's size

CACHE = user_cache_path("advisor")
"""Taken at import, before other tests point the cache elsewhere: the model is prepared once per machine."""

ELSEWHERE = tempfile.mkdtemp(prefix="advisor-tests-")
atexit.register(shutil.rmtree, ELSEWHERE, ignore_errors=True)
"""Settings and what past runs taught: a test neither reads nor changes the user's own."""

EFFORT = ("--trials", "2", "--json")


def advisor(*tokens: str, code: int = 0) -> tuple[Any, str]:
    """Run a command as a user would: its JSON answer and what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "advisor", *tokens],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(CACHE.parent),
            "XDG_CONFIG_HOME": ELSEWHERE,
            "XDG_STATE_HOME": ELSEWHERE,
            "XDG_DATA_HOME": ELSEWHERE,
        },
    )
    assert done.returncode == code, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model alone, prepared as the demo prepares it."""
    from advisor.demo_model import prepare

    return prepare(lambda _event: None, tmp_path_factory.mktemp("prepare") / "log", CACHE)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Engine tests first (`-n 2 --dist loadgroup`): those that share the demo's run in one process, the
    others in the second; both go on with the rest."""
    engine = [item for item in items if item.get_closest_marker("engine")]
    for item in engine:
        shared = "demo_run" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("demo" if shared else "engine"))
    items.sort(key=lambda item: item.get_closest_marker("engine") is None)


class DemoRun(NamedTuple):
    """A finished run of the demo: its directory, and what it answered."""

    root: Path
    found: dict[str, Any]


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """`advisor demo` with two trials, through every stage, in `advisor-runs/demo`."""
    root = tmp_path_factory.mktemp("demo") / "advisor-runs" / "demo"
    return DemoRun(root, advisor("demo", *EFFORT, "--run", str(root))[0])

"""The whole way on the real model, with the real quantizer and the real engine; then once more, warm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

CACHE = user_cache_path("advisor")
"""Taken at import, before other tests point the cache elsewhere: the model is prepared once per machine."""


def demo(root: Path) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "advisor", "demo", "--trials", "2", "--run", str(root), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(CACHE.parent)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.mark.engine
def test_demo_ends_with_a_validated_bundle_and_resumes(demo_root: Path) -> None:
    root = demo_root
    found, _ = demo(root)
    best, *others = found["search"]["held_out"]
    assert best["unit_bytes"] <= found["search"]["budget_bytes"]
    assert best["quality"]["kl"] < next(o for o in others if o["label"] == "uniform int4")["quality"]["kl"]
    assert found["validation"]["passed"]
    assert found["validation"]["kernel_mismatches"] == {}
    assert (root / "bundle" / "run.sh").exists()
    assert set(found["stages"]) == {
        "profile", "footprint", "search", "quantize", "measure-original", "validate", "export",
    }  # fmt: skip

    again, log = demo(root)
    assert again["search"] == found["search"]
    assert again["validation"] == found["validation"]
    assert log.count("unchanged, skipped") == 8  # seven stages and the prepared model

"""The whole way on the real model, with the real quantizer and the real engine; warm; and repaired.

One run of the demo serves every test of this file: each that changes it works on a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from platformdirs import user_cache_path

from advisor.agent.schema import AgentVerdict
from advisor.demo_model import cached_model

CACHE = user_cache_path("advisor")
"""Taken at import, before other tests point the cache elsewhere: the model is prepared once per machine."""

MODEL = cached_model()
EFFORT = ("--trials", "2", "--json")


class Run(NamedTuple):
    """A finished run and what it printed."""

    root: Path
    found: dict[str, Any]
    log: str


def advisor(*tokens: str, code: int = 0) -> tuple[Any, str]:
    done = subprocess.run(
        [sys.executable, "-m", "advisor", *tokens],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(CACHE.parent)},
    )
    assert done.returncode == code, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo, run once."""
    root = tmp_path_factory.mktemp("demo") / "run"
    return Run(root, *advisor("demo", *EFFORT, "--run", str(root)))


@pytest.fixture
def copied(demo_run: Run, tmp_path: Path) -> Path:
    """A copy that may be changed; weights are linked, they are only ever replaced."""

    def copy(source: str, target: str) -> None:
        if source.endswith(".safetensors"):
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.copytree(demo_run.root, tmp_path / "copy", copy_function=copy)
    return tmp_path / "copy"


@pytest.mark.engine
def test_demo_ends_with_a_validated_bundle_and_resumes(demo_run: Run) -> None:
    root, found, _ = demo_run
    best, *others = found["search"]["held_out"]
    assert best["unit_bytes"] <= found["search"]["budget_bytes"]
    assert best["quality"]["kl"] < next(o for o in others if o["label"] == "uniform int4")["quality"]["kl"]
    assert found["validation"]["passed"]
    assert found["validation"]["kernel_mismatches"] == {}
    assert (root / "bundle" / "run.sh").exists()
    assert (root / "bundle" / "report.html").stat().st_size > 10**6
    assert set(found["stages"]) == {
        "profile", "footprint", "search", "quantize", "measure-original", "validate", "export",
    }  # fmt: skip

    again, log = advisor("demo", *EFFORT, "--run", str(root))
    assert again["search"] == found["search"]
    assert again["validation"] == found["validation"]
    assert log.count("unchanged, skipped") == 8  # seven stages and the prepared model


def ratio(validation: dict[str, Any]) -> float:
    return float(validation["quantized"]["perplexity"] / validation["original"]["perplexity"])


@pytest.mark.engine
def test_auto_repairs_a_missed_floor_within_the_budget_that_it_may_use(demo_run: Run, copied: Path) -> None:
    before = ratio(demo_run.found["validation"])
    search = demo_run.found["search"]
    int4 = next(p for p in search["held_out"] if p["label"] == "uniform int4")["quality"]["perplexity"]
    floor = 1 + 0.8 * (before - 1)  # what the first plan measured misses it, by a fifth
    assert int4 / search["perplexity_original"] > floor
    command = ("auto", str(MODEL), "--budget", "6bits", "--max-budget", "8bits", "--floor", f"{floor:.6f}",
               "--run", str(copied), "--offline", *EFFORT)  # fmt: skip

    found, log = advisor(*command)

    verdict = AgentVerdict.model_validate(found)
    first, *_, last = verdict.attempts
    assert verdict.status == "accepted"
    assert first.outcome.ratio == pytest.approx(before)  # measured before: the engine was not started for it
    assert [g.name for g in first.outcome.gates if not g.passed] == ["quality floor"]
    assert last.outcome.ratio is not None
    assert last.outcome.ratio <= floor
    assert all(g.passed for g in last.outcome.gates)
    assert 6.0 < last.outcome.bits_per_weight <= 8.0
    assert "decision 2" in log
    validation = json.loads((copied / "validation.json").read_text())
    assert validation["passed"]
    assert ratio(validation) == pytest.approx(last.outcome.ratio)
    assert json.loads((copied / "bundle" / "bundle.json").read_text())["plan_key"] == validation["plan_key"]

    again, log = advisor(*command)
    assert AgentVerdict.model_validate(again) == verdict
    assert "earlier: decision 1" in log


@pytest.mark.engine
def test_auto_says_that_a_floor_is_impossible_and_what_was_the_best(demo_run: Run, copied: Path) -> None:
    found, log = advisor("auto", str(MODEL), "--budget", "6bits", "--floor", "0.9", "--run", str(copied),
                         "--offline", *EFFORT, code=1)  # fmt: skip

    verdict = AgentVerdict.model_validate(found)
    assert (verdict.status, verdict.passed, verdict.best) == ("impossible", False, 1)
    assert f"{ratio(demo_run.found['validation']):.4f}" in verdict.reason
    assert "measure-original: unchanged, skipped" in log
    bundle = json.loads((copied / "bundle" / "bundle.json").read_text())
    assert bundle["passed"] is False
    served = subprocess.run([str(copied / "bundle" / "run.sh")], capture_output=True, text=True, check=False)
    assert served.returncode == 4

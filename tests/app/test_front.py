"""`advisor front`: the measured plans of a run answer another budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tuners.evaluate_schema import Quality
from tuners.plan import PrecisionPlan
from tuners.search.schema import Front, MeasuredPlan

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose search measured plans of 400, 500 and 800 bytes over 800 weights."""
    points = tuple(
        MeasuredPlan(
            label=str(size),
            plan=PrecisionPlan(formats={"u": fmt}, label=str(size)),
            unit_bytes=size,
            bits_per_weight=size * 8 / 800,
            quality=Quality(split="select", kl=kl, perplexity=10, top1=0.9, tokens=64, sequence_kl=(kl,)),
        )
        for size, fmt, kl in ((400, "W4A16_G64", 0.4), (500, "W4A16_G32", 0.2), (800, "W8A8", 0.01))
    )
    front = Front(points=points, fixed_bytes=100, weights=800, smallest_bytes=400, largest_bytes=1600)
    (tmp_path / "front.json").write_text(front.model_dump_json())
    return tmp_path


def test_another_budget_gets_the_best_measured_plan_below_it(cli: Cli, run_dir: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    code, out, _ = cli(
        "front", "--run", str(run_dir), "--budget", "7.5bits", "--plan-out", str(plan), "--json"
    )
    assert code == 0
    assert json.loads(out)["unit_bytes"] == 500
    assert PrecisionPlan.from_yaml(plan).formats == {"u": "W4A16_G32"}


def test_the_list_and_the_refusals(cli: Cli, run_dir: Path) -> None:
    code, out, _ = cli("front", "--run", str(run_dir))
    assert code == 0
    assert [line for line in out.splitlines() if "W8A8" in line]
    code, _, err = cli("front", "--run", str(run_dir), "--budget", "3bits")
    assert code == 1
    assert "smallest possible plan" in err
    code, _, err = cli("front", "--run", str(run_dir / "nowhere"))
    assert code == 2
    assert "no measured front" in err

"""`advisor front`: the measured plans of a run answer another budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.provenance import Figure
from tuners.evaluate_schema import Quality
from tuners.latency.schema import PlanSpeed
from tuners.plan import PrecisionPlan
from tuners.search.front import efficient
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


def timed(point: MeasuredPlan, ms: float) -> MeasuredPlan:
    """The point with a predicted time per token."""
    figure = Figure.estimated(ms, ms * 0.9, ms * 1.1, "ms", "a test")
    speed = PlanSpeed(decode_ms=figure, decode_16_ms=figure, prefill_ms_per_1k=figure)
    return point.model_copy(update={"speed": speed})


@pytest.fixture
def timed_run(run_dir: Path) -> Path:
    """The same run with times: the largest plan is the fastest, the smallest the slowest."""
    front = Front.model_validate_json((run_dir / "front.json").read_text())
    points = tuple(timed(p, ms) for p, ms in zip(front.points, (9.0, 8.0, 5.0), strict=True))
    (run_dir / "front.json").write_text(front.model_copy(update={"points": points}).model_dump_json())
    return run_dir


def test_a_limit_on_time_or_loss_is_answered_from_the_front(cli: Cli, timed_run: Path) -> None:
    where = ("front", "--run", str(timed_run))
    code, out, _ = cli(*where, "--max-ms-per-token", "8", "--json")
    assert code == 0
    assert json.loads(out)["unit_bytes"] == 800
    code, out, _ = cli(*where, "--max-ms-per-token", "8.5", "--budget", "6bits", "--json")
    assert json.loads(out)["unit_bytes"] == 500
    code, out, _ = cli(*where, "--max-kl", "0.3", "--budget", "6bits", "--json")
    assert json.loads(out)["unit_bytes"] == 500
    code, out, _ = cli(*where, "--target-itl", "8.5", "--budget", "6bits")
    assert "estimated: 8 [7.2 to 8.8] ms per token" in out
    code, out, _ = cli(*where)
    assert "ms/token" in out
    code, _, err = cli(*where, "--max-ms-per-token", "4")
    assert code == 1
    assert "5 ms or more" in err
    code, _, err = cli(*where, "--max-kl", "0.001")
    assert code == 1
    assert "keeps the limit on the KL" in err
    code, _, err = cli(*where, "--max-kl", "0.1", "--max-ms-per-token", "9")
    assert code == 2
    assert "two questions" in err


def test_a_front_without_times_says_so(cli: Cli, run_dir: Path) -> None:
    code, _, err = cli("front", "--run", str(run_dir), "--max-ms-per-token", "8")
    assert code == 2
    assert "no predicted times" in err


def test_only_points_that_nothing_beats_in_size_loss_and_time_stay(run_dir: Path) -> None:
    front = Front.model_validate_json((run_dir / "front.json").read_text())
    small, middle, large = front.points
    slower = middle.model_copy(update={"unit_bytes": 600, "label": "beaten without times"})
    assert efficient([large, small, slower, middle]) == (small, middle, large)
    quick = timed(slower, 3.0)
    kept = efficient([timed(large, 5), timed(small, 9), quick, timed(middle, 8)])
    assert [p.unit_bytes for p in kept] == [400, 500, 600, 800]


def test_contradicting_goals_are_refused(cli: Cli, tiny: Path) -> None:
    for options, words in (
        (("--objective", "fastest"), "needs a limit"),
        (("--max-kl", "0.1"), "is for the fastest plan"),
        (("--objective", "fastest", "--max-kl", "0.1", "--max-ms-per-token", "3"), "needs no limit"),
    ):
        code, _, err = cli("tune", str(tiny), *options, "--dry-run")
        assert code == 2
        assert words in err
    code, out, _ = cli("tune", str(tiny), "--max-ms-per-token", "3", "--gpu", "rtx-4090", "--dry-run")
    assert code == 0
    assert "no limit on the size" in out

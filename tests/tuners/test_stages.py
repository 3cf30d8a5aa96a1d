"""The parts of the search that decide without a model: residuals, contested units, the front."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from profiles.errors import InfeasibleError, UsageError
from tests.tuners.test_solver import make_unit
from tuners.budget import budget_within
from tuners.evaluate_schema import Quality, SequenceLoss
from tuners.plan import PrecisionPlan, Unit
from tuners.search.contested import contested_units, solve_with
from tuners.search.front import efficient, load_front, nearest_below
from tuners.search.front_study import grid
from tuners.search.report import preferred
from tuners.search.residuals import correction
from tuners.search.schema import Front, MeasuredPlan
from tuners.search.trials import open_storage
from tuners.solver import predicted_loss, solve

FORMATS = ("W4A16_G64", "W8A8", "FP8_DYNAMIC")


def scored(count: int) -> tuple[list[Unit], dict[str, dict[str, float]]]:
    units = [make_unit(i) for i in range(count)]
    rng = random.Random(0)
    return units, {
        u.name: {"W4A16_G64": rng.uniform(1, 3), "W8A8": rng.uniform(0.1, 0.3), "FP8_DYNAMIC": 0.25}
        for u in units
    }


def test_residuals_find_the_bucket_whose_scores_are_too_low() -> None:
    units, scores = scored(24)
    rng = random.Random(1)
    plans = [{u.name: rng.choice(FORMATS) for u in units} for _ in range(40)]
    late = {u.name for u in units[16:]}

    def truth(plan: dict[str, str]) -> float:
        return sum(scores[u][f] * (1.6 if u in late and f == "W4A16_G64" else 1.0) for u, f in plan.items())

    learned = correction(units, scores, [(p, truth(p)) for p in plans])

    assert learned is not None
    ratio = learned[units[20].name]["W4A16_G64"] / learned[units[2].name]["W4A16_G64"]
    assert ratio == pytest.approx(1.6, rel=0.1)


def test_residuals_of_an_additive_truth_change_nothing_and_few_plans_teach_nothing() -> None:
    units, scores = scored(12)
    rng = random.Random(2)
    plans = [{u.name: rng.choice(FORMATS) for u in units} for _ in range(20)]
    learned = correction(units, scores, [(p, predicted_loss(p, scores)) for p in plans])
    assert learned is not None
    assert all(f == pytest.approx(1.0, abs=0.02) for row in learned.values() for f in row.values())
    assert correction(units, scores, [(p, 1.0) for p in plans[:3]]) is None


def test_contested_units_are_those_that_good_plans_disagree_on() -> None:
    good = [
        ({"a": "W8A8", "b": "W8A8", "c": "BF16"}, 1.0),
        ({"a": "W8A8", "b": "W4A16_G64", "c": "BF16"}, 1.1),
        ({"a": "W8A8", "b": "W4A16_G64", "c": "W8A8"}, 1.2),
        ({"a": "W8A8", "b": "W8A8", "c": "W8A8"}, 1.15),
    ]
    bad = [({"a": f, "b": "W8A8", "c": "W8A8"}, 9.0) for f in ("BF16", "W4A16_G64")]
    assert contested_units(good + bad, 5) == {"b": ("W8A8", "W4A16_G64"), "c": ("BF16", "W8A8")}
    assert list(contested_units(good + bad, 1)) == ["b"]


def test_forced_formats_stay_and_the_rest_uses_what_they_leave() -> None:
    units, scores = scored(10)
    budget = sum(u.bytes_as("W4A16_G64") for u in units) + 3 * 8000
    forced = {units[0].name: "BF16"}
    plan = solve_with(units, scores, budget, forced)
    assert plan[units[0].name] == "BF16"
    assert sum(u.bytes_as(plan[u.name]) for u in units) <= budget
    assert predicted_loss(plan, scores) >= predicted_loss(solve(units, scores, budget), scores)


def test_what_is_forced_beyond_the_budget_is_given_back() -> None:
    units, scores = scored(6)
    budget = sum(u.bytes_as("W4A16_G64") for u in units) + 5000
    plan = solve_with(units, scores, budget, {u.name: "BF16" for u in units})
    assert sum(u.bytes_as(plan[u.name]) for u in units) <= budget


def point(bytes_: int, kl: float) -> MeasuredPlan:
    quality = Quality(split="select", kl=kl, perplexity=10.0, top1=0.9, tokens=64, sequence_kl=(kl,))
    plan = PrecisionPlan(formats={"u": "W8A8"}, label=str(bytes_))
    return MeasuredPlan(label=str(bytes_), plan=plan, unit_bytes=bytes_, bits_per_weight=8.0, quality=quality)


def test_the_front_drops_what_a_smaller_plan_beats_and_answers_from_below(tmp_path: Path) -> None:
    points = efficient([point(300, 0.2), point(100, 0.9), point(200, 0.1), point(400, 0.05)])
    assert [p.unit_bytes for p in points] == [100, 200, 400]
    front = Front(points=points, fixed_bytes=50, weights=200, smallest_bytes=90, largest_bytes=500)
    path = tmp_path / "front.json"
    path.write_text(front.model_dump_json())

    def ask(text: str) -> MeasuredPlan:
        known = load_front(path)
        asked = budget_within(
            text, weights=known.weights, smallest=known.smallest_bytes, largest=known.largest_bytes,
            fixed_bytes=known.fixed_bytes,
        )  # fmt: skip
        return nearest_below(known, asked)

    assert ask("399B").unit_bytes == 200
    assert ask("450B").unit_bytes == 400
    with pytest.raises(InfeasibleError, match="no measured plan"):
        ask("145B")
    with pytest.raises(UsageError, match="no measured front"):
        load_front(tmp_path / "nothing.json")


def test_the_grid_reaches_from_the_smallest_to_the_largest_quantized_plan() -> None:
    units, _ = scored(3)
    budgets = grid(units, 4)
    assert budgets[0] == sum(u.bytes_as("W4A16_G64") for u in units)
    assert budgets[-1] == sum(max(u.bytes_as(f) for f in FORMATS) for u in units)
    assert budgets == sorted(budgets)


def test_a_storage_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="storage"):
        open_storage("nosuchdb://host/x", tmp_path)


def test_a_plan_replaces_the_exact_solution_only_beyond_the_paired_interval() -> None:
    def measured(name: str, losses: list[float]) -> MeasuredPlan:
        rows = [SequenceLoss(kl=x, nll=1.0, top1=1.0, tokens=2) for x in losses]
        plan = PrecisionPlan(formats={"u": name}, label=name)
        return MeasuredPlan(
            label=name, plan=plan, unit_bytes=1, bits_per_weight=4.0, quality=Quality.of("select", rows)
        )

    base = measured("W8A8", [0.10, 0.12, 0.09, 0.11, 0.10, 0.12, 0.09, 0.11])
    lucky = measured("BF16", [0.02, 0.18, 0.08, 0.12, 0.03, 0.18, 0.08, 0.12])
    better = measured("FP8_DYNAMIC", [0.08, 0.10, 0.07, 0.09, 0.08, 0.10, 0.07, 0.09])

    assert lucky.quality.kl < base.quality.kl
    assert preferred(lucky, base, 0) is base
    assert preferred(better, base, 0) is better

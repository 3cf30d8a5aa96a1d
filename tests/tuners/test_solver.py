"""The solver against brute force, and the invariants of budgets."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import InfeasibleError, UsageError
from profiles.sizes import size
from tuners.budget import parse_budget
from tuners.plan import PrecisionPlan, Unit, UnitLinear
from tuners.solver import predicted_loss, solve

OPTIONS = ("W4A16_G64", "W8A8", "FP8_DYNAMIC", "BF16")


def make_unit(index: int, out_features: int = 64, in_features: int = 128) -> Unit:
    name = f"model.layers.{index}.mlp.down_proj"
    return Unit(
        name=name,
        role="down",
        block=index,
        linears=(UnitLinear(name=name, in_features=in_features, out_features=out_features),),
        options=OPTIONS,
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Unit], dict[str, dict[str, float]], int]:
    count = draw(st.integers(1, 5))
    units = [make_unit(i, 16 * draw(st.integers(1, 6)), 64 * draw(st.integers(1, 4))) for i in range(count)]
    loss = st.floats(0, 10, allow_nan=False)
    scores = {u.name: {f: draw(loss) for f in OPTIONS[:-1]} for u in units}
    low = sum(min(u.bytes_as(f) for f in OPTIONS) for u in units)
    high = sum(u.bytes_as("BF16") for u in units)
    return units, scores, draw(st.integers(low, high))


@given(problems())
@settings(max_examples=60, deadline=None)
def test_exact_solution_equals_brute_force(
    problem: tuple[list[Unit], dict[str, dict[str, float]], int],
) -> None:
    units, scores, budget = problem
    best = min(
        sum(scores[u.name].get(f, 0.0) for u, f in zip(units, combo, strict=True))
        for combo in itertools.product(OPTIONS, repeat=len(units))
        if sum(u.bytes_as(f) for u, f in zip(units, combo, strict=True)) <= budget
    )

    chosen = solve(units, scores, budget)

    assert sum(u.bytes_as(chosen[u.name]) for u in units) <= budget
    assert predicted_loss(chosen, scores) == pytest.approx(best, abs=1e-6)


def test_more_budget_never_predicts_a_worse_plan() -> None:
    units = [make_unit(i) for i in range(12)]
    scores = {
        u.name: {"W4A16_G64": 1.0 + i, "W8A8": 0.1 * i, "FP8_DYNAMIC": 0.2} for i, u in enumerate(units)
    }
    low = sum(u.bytes_as("W4A16_G64") for u in units)
    high = sum(u.bytes_as("BF16") for u in units)

    losses = [predicted_loss(solve(units, scores, b), scores) for b in range(low, high, (high - low) // 9)]

    assert losses == sorted(losses, reverse=True)


def test_missing_score_is_refused() -> None:
    with pytest.raises(UsageError, match="score"):
        solve([make_unit(0)], {}, 10**9)


def test_impossible_budget_names_the_minimum() -> None:
    unit = make_unit(0)
    with pytest.raises(InfeasibleError) as info:
        solve([unit], {unit.name: dict.fromkeys(OPTIONS, 0.0)}, 10)
    assert size(unit.bytes_as("W4A16_G64"), 3) in str(info.value)


@pytest.mark.parametrize(
    "text", ["", "five", "5.5", "5.5 parsecs", "nanbits", "-3bits", "0MiB", "infGB", "1e999bits"]
)
def test_nonsense_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_budget(text, [make_unit(0)], 1000)


def test_budget_bounds_say_what_is_possible() -> None:
    units = [make_unit(i) for i in range(4)]
    with pytest.raises(InfeasibleError, match="smallest possible plan"):
        parse_budget("3bits", units, 1000)
    with pytest.raises(UsageError, match="nothing needs quantizing"):
        parse_budget("16bits", units, 1000)
    with pytest.raises(UsageError, match="nothing needs quantizing"):
        parse_budget("10GiB", units, 1000)


@given(st.floats(4.8, 15.5))
def test_bits_budget_is_an_average_over_unit_weights(bits: float) -> None:
    units = [make_unit(i) for i in range(3)]
    budget = parse_budget(f"{bits}bits", units, 777)
    assert budget.bits_per_weight == pytest.approx(bits, abs=8 / budget.weights)
    assert budget.total_bytes == budget.unit_bytes + 777


@given(st.lists(st.sampled_from(OPTIONS), min_size=3, max_size=3))
def test_plan_round_trips_through_yaml_and_prices_by_unit(
    tmp_path_factory: pytest.TempPathFactory, formats: list[str]
) -> None:
    units = [make_unit(i) for i in range(3)]
    plan = PrecisionPlan(formats={u.name: f for u, f in zip(units, formats, strict=True)}, label="x")
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(plan.to_yaml())

    assert PrecisionPlan.from_yaml(path) == plan
    assert plan.bytes_of(units) == sum(u.bytes_as(f) for u, f in zip(units, formats, strict=True))


def test_twenty_thousand_units_fill_the_budget_and_follow_the_price() -> None:
    rng = random.Random(0)
    units = [make_unit(i, 16 * rng.randint(1, 6), 64 * rng.randint(1, 4)) for i in range(20_000)]
    scores = {}
    for unit in units:
        base = rng.lognormvariate(0, 2)
        scores[unit.name] = {"W4A16_G64": base, "W8A8": base * rng.uniform(0.01, 0.1), "FP8_DYNAMIC": base}
    weights = sum(u.numel for u in units)
    budget = int(6 * weights / 8)
    chosen = solve(units, scores, budget)
    used = sum(u.bytes_as(chosen[u.name]) for u in units)
    assert budget * 0.99999 <= used <= budget
    # what an optimum looks like: no unit left at INT4 gains more per byte than one raised to INT8
    gains = {
        kind: [
            (scores[u.name]["W4A16_G64"] - scores[u.name]["W8A8"])
            / (u.bytes_as("W8A8") - u.bytes_as("W4A16_G64"))
            for u in units
            if chosen[u.name] == kind
        ]
        for kind in ("W4A16_G64", "W8A8")
    }
    assert max(gains["W4A16_G64"]) <= min(gains["W8A8"]) * 1.05


def test_what_c_code_prints_while_highs_runs_never_reaches_stdout() -> None:
    program = (
        "import ctypes\n"
        "from tuners.milp import quiet_stdout\n"
        "c = ctypes.CDLL(None)\n"
        "with quiet_stdout():\n"
        "    c.printf(b'HighsMipSolverData\\n')\n"
        "print('data', flush=True)\n"
        "c.printf(b'later\\n')\n"
    )
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=buffered
    )
    assert done.stdout == "data\nlater\n"  # through a pipe the C library writes at exit

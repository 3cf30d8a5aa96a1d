"""The solver under two limits against brute force, and what it says when nothing fits."""

from __future__ import annotations

import itertools
import os

import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import InfeasibleError
from tests.tuners.test_solver import OPTIONS, make_unit
from tuners.plan import Unit
from tuners.solver import predicted_loss, solve
from tuners.solver_limits import fastest, solve_within_ms, summed

Table = dict[str, dict[str, float]]
Problem = tuple[list[Unit], Table, Table, int]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to five units with losses, milliseconds that are not ordered by bytes, and a budget."""
    count = draw(st.integers(1, 5))
    units = [make_unit(i, 16 * draw(st.integers(1, 6)), 64 * draw(st.integers(1, 4))) for i in range(count)]
    loss, step = (
        st.integers(0, 10**6).map(lambda n: n / 10**5),
        st.integers(1, 10**4).map(lambda n: n / 2000),
    )
    scores = {u.name: {f: draw(loss) for f in OPTIONS[:-1]} for u in units}
    ms = {u.name: {f: draw(step) for f in OPTIONS} for u in units}
    low = sum(min(u.bytes_as(f) for f in OPTIONS) for u in units)
    high = sum(u.bytes_as("BF16") for u in units)
    return units, scores, ms, draw(st.integers(low, high))


def every_plan(units: list[Unit], budget: int) -> list[dict[str, str]]:
    """All assignments within the budget."""
    named = [
        dict(zip([u.name for u in units], c, strict=True))
        for c in itertools.product(OPTIONS, repeat=len(units))
    ]
    return [f for f in named if sum(u.bytes_as(f[u.name]) for u in units) <= budget]


@given(problems(), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_least_loss_under_bytes_and_ms_equals_brute_force(problem: Problem, share: float) -> None:
    units, scores, ms, budget = problem
    plans = every_plan(units, budget)
    low, high = min(summed(f, ms) for f in plans), max(summed(f, ms) for f in plans)
    most = low + share * (high - low) + 1e-9
    best = min(predicted_loss(f, scores) for f in plans if summed(f, ms) <= most)

    chosen = solve_within_ms(units, scores, budget, ms, most)

    assert chosen in plans
    assert summed(chosen, ms) <= most * (1 + 1e-12)
    assert predicted_loss(chosen, scores) == pytest.approx(best, abs=1e-6)


@given(problems(), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_the_fastest_plan_under_a_loss_equals_brute_force(problem: Problem, share: float) -> None:
    units, scores, ms, budget = problem
    plans = every_plan(units, budget)
    low, high = min(predicted_loss(f, scores) for f in plans), max(predicted_loss(f, scores) for f in plans)
    most = low + share * (high - low) + 1e-9
    best = min(summed(f, ms) for f in plans if predicted_loss(f, scores) <= most)

    chosen = fastest(units, scores, budget, ms, most)

    assert chosen in plans
    assert predicted_loss(chosen, scores) <= most * (1 + 1e-12)
    assert summed(chosen, ms) == pytest.approx(best, rel=1e-6)


@given(problems())
@settings(max_examples=40, deadline=None)
def test_a_limit_that_does_not_bind_changes_nothing(problem: Problem) -> None:
    units, scores, ms, budget = problem
    assert solve_within_ms(units, scores, budget, ms, 1e9) == solve(units, scores, budget)
    assert summed(fastest(units, scores, budget, ms), ms) == pytest.approx(
        min(summed(f, ms) for f in every_plan(units, budget))
    )


def test_what_cannot_be_had_names_what_can() -> None:
    units = [make_unit(i) for i in range(3)]
    scores = {u.name: dict.fromkeys(OPTIONS[:-1], 1.0) for u in units}
    ms = {u.name: {"W4A16_G64": 2.0, "W8A8": 1.0, "FP8_DYNAMIC": 3.0, "BF16": 4.0} for u in units}
    everything = sum(u.bytes_as("BF16") for u in units)
    with pytest.raises(InfeasibleError, match="is that fast") as slow:
        solve_within_ms(units, scores, everything, ms, 2.9)
    assert "at least 3 ms" in str(slow.value.allowed)
    with pytest.raises(InfeasibleError, match="loses so little") as lossy:
        fastest(units, scores, sum(u.bytes_as("W8A8") for u in units), ms, 2.0)
    assert "at least 3" in str(lossy.value.allowed)
    with pytest.raises(InfeasibleError, match="budget"):
        solve_within_ms(units, scores, 1, ms, 100.0)


def test_highs_never_writes_to_stdout(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that the library prints from C++ is lost; what Python prints before and after is not."""

    real = scipy.optimize.milp

    def chatty(*args: object, **kwargs: object) -> object:
        os.write(1, b"Set parameter\n")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(scipy.optimize, "milp", chatty)
    units = [make_unit(i, 16 * (1 + i % 5), 64 * (1 + i % 3)) for i in range(12)]
    scores = {
        u.name: {f: (7 * i + 3 * j) % 11 + 0.5 for j, f in enumerate(OPTIONS[:-1])}
        for i, u in enumerate(units)
    }
    print("before")
    solve(units, scores, sum(u.bytes_as("W8A8") for u in units) - 37)
    print("after")
    assert capfd.readouterr().out == "before\nafter\n"

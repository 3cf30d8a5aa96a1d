"""The agent's decisions over measured data: no engine, no model."""

from __future__ import annotations

import math
from typing import Any

import pytest

from advisor.agent.decide import decide
from advisor.agent.diagnose import Cause, best_attempt, diagnose
from advisor.agent.replan import estimated_ratio, exact_plan, promotions, smallest_plan
from advisor.agent.schema import Action, Attempt, Decision, Limits, Outcome, Settings
from advisor.agent.situation import Situation
from tuners.plan import PrecisionPlan, Unit, UnitLinear, uniform
from tuners.solver import predicted_loss
from tuners.validate.schema import Gate

OPTIONS = ("W4A16_G64", "W8A8", "BF16")
COUNT = 12


def units() -> list[Unit]:
    return [
        Unit(
            name=f"u{i}", role="down", block=i, options=OPTIONS,
            linears=(UnitLinear(name=f"u{i}", in_features=256, out_features=256),),
        )
        for i in range(COUNT)
    ]  # fmt: skip


SCORES = {f"u{i}": {"W4A16_G64": 0.01 * (i + 1), "W8A8": 0.0004 * (i + 1)} for i in range(COUNT)}
INT4 = uniform(units(), "int4").bytes_of(units())
INT8 = uniform(units(), "int8").bytes_of(units())
GATES = ("kernels", "weights", "KV cache tokens", "quality floor", "generations")


def limits(**changes: Any) -> Limits:
    facts: dict[str, Any] = {
        "floor": 1.05, "budget_bytes": INT4, "max_budget_bytes": INT4, "fixed_bytes": 1000, "attempts": 6,
        "max_trials": 64, "max_calibration_samples": 64,
    }  # fmt: skip
    return Limits.model_validate(facts | changes)


def settings(**changes: Any) -> Settings:
    facts: dict[str, Any] = {"budget_bytes": INT4, "trials": 32, "calibration_samples": 16, "context": 4096}
    return Settings.model_validate(facts | changes)


def attempt(
    number: int,
    plan: PrecisionPlan,
    ratio: float | None,
    *,
    failed: tuple[str, ...] = (),
    action: Action = Action.START,
    now: Settings | None = None,
    **changes: Any,
) -> Attempt:
    gates = tuple(Gate(name=n, passed=n not in failed, reason=f"reason of {n}") for n in GATES)
    facts: dict[str, Any] = {
        "plan": plan, "unit_bytes": plan.bytes_of(units()), "ratio": ratio, "passed": not failed,
        "gates": gates,
    }  # fmt: skip
    return Attempt(
        decision=Decision(number=number, action=action, reason="r", settings=now or settings()),
        outcome=Outcome.model_validate(facts | changes),
    )


def situation(*attempts: Attempt, **changes: Any) -> Situation:
    return Situation(limits(**changes), settings(), units(), SCORES, attempts)


def int4() -> PrecisionPlan:
    return uniform(units(), "int4")


def test_it_starts_with_a_search() -> None:
    found = decide(situation())
    assert (found.number, found.action, found.plan) == (1, Action.START, None)


def test_it_accepts_only_when_every_gate_passed() -> None:
    found = decide(situation(attempt(1, int4(), 1.01)))
    assert (found.action, found.status) == (Action.STOP, "accepted")


@pytest.mark.parametrize("gate", [*GATES, "a gate of a later version"])
def test_a_failed_gate_is_never_accepted(gate: str) -> None:
    last = attempt(1, int4(), 1.01, failed=(gate,))
    if gate not in GATES:
        outcome = last.outcome.model_copy(update={"gates": (Gate(name=gate, passed=False, reason="no"),)})
        last = last.model_copy(update={"outcome": outcome})
    found = decide(situation(last, max_budget_bytes=INT8))
    assert found.status != "accepted"
    assert diagnose(last.outcome) is not Cause.NONE


def test_a_report_that_did_not_pass_is_not_accepted_even_if_no_gate_says_why() -> None:
    last = attempt(1, int4(), 1.0, passed=False)
    assert decide(situation(last)).status == "unrepairable"


def test_a_missed_floor_grows_the_budget_only_where_that_is_allowed() -> None:
    missed = attempt(1, int4(), 1.3, failed=("quality floor",))

    alone = decide(situation(missed))
    assert (alone.action, alone.status) == (Action.STOP, "not reached")
    assert "estimated" in alone.next_step
    assert "--max-budget" in alone.next_step

    grown = decide(situation(missed, max_budget_bytes=INT8))
    assert grown.action is Action.BUDGET
    assert grown.plan is not None
    assert INT4 < grown.plan.bytes_of(units()) <= INT8
    assert estimated_ratio(1.3, int4(), grown.plan, SCORES) <= 1.05
    assert grown.settings.budget_bytes == grown.plan.bytes_of(units())
    promoted = [n for n, f in grown.plan.formats.items() if f == "W8A8"]
    assert "u11" in promoted  # the most sensitive per byte
    assert "u0" not in promoted
    assert any("u11" in line for line in grown.evidence)


def test_a_plan_below_its_budget_is_promoted_first() -> None:
    slack = settings(budget_bytes=(INT4 + INT8) // 2)
    missed = attempt(1, int4(), 1.3, failed=("quality floor",), now=slack)
    found = decide(situation(missed, max_budget_bytes=INT8))
    assert found.action is Action.PROMOTE
    assert found.plan is not None
    assert found.plan.bytes_of(units()) <= slack.budget_bytes
    assert predicted_loss(found.plan.formats, SCORES) < predicted_loss(int4().formats, SCORES)
    assert found.settings == slack


def test_promotions_that_promise_little_of_a_large_gap_cost_no_attempt_while_the_budget_may_grow() -> None:
    promoted = {"u5", *(f"u{i}" for i in range(7, COUNT))}  # the exact plan has u6 for u5
    formats = {u.name: "W8A8" if u.name in promoted else "W4A16_G64" for u in units()}
    nearly = PrecisionPlan(formats=formats, label="nearly exact")
    half = nearly.bytes_of(units())
    missed = attempt(1, nearly, 1.3, failed=("quality floor",), now=settings(budget_bytes=half))
    exact = exact_plan(units(), SCORES, half, "x")
    gain = 1 - predicted_loss(exact.formats, SCORES) / predicted_loss(formats, SCORES)
    assert 0.02 < gain < 0.1

    assert decide(situation(missed, budget_bytes=half, max_budget_bytes=half)).action is Action.PROMOTE
    assert decide(situation(missed, budget_bytes=half, max_budget_bytes=INT8)).action is Action.BUDGET
    close = attempt(1, nearly, 1.0501, failed=("quality floor",), now=settings(budget_bytes=half))
    found = decide(situation(close, budget_bytes=half, max_budget_bytes=INT8))
    assert found.action is Action.PROMOTE  # a few percent are what is missing


def test_a_larger_budget_that_misses_a_little_is_enlarged_again() -> None:
    larger = exact_plan(units(), SCORES, (INT4 + INT8) // 2, "promoted")
    now = settings(budget_bytes=larger.bytes_of(units()))
    first = attempt(1, int4(), 1.3, failed=("quality floor",))
    second = attempt(2, larger, 1.055, failed=("quality floor",), action=Action.BUDGET, now=now)
    found = decide(situation(first, second, max_budget_bytes=INT8))
    assert found.action is Action.BUDGET
    assert found.settings.budget_bytes > now.budget_bytes


def test_when_no_larger_budget_is_left_a_small_gap_is_still_searched_then_calibrated() -> None:
    most = exact_plan(units(), SCORES, (INT4 + INT8) // 2, "promoted")
    now = settings(budget_bytes=most.bytes_of(units()))
    allowed = now.budget_bytes + 8  # a few bytes more than the plan takes, in which no other plan fits
    first = attempt(1, int4(), 1.3, failed=("quality floor",))
    second = attempt(2, most, 1.052, failed=("quality floor",), action=Action.BUDGET, now=now)
    searched = decide(situation(first, second, max_budget_bytes=allowed))
    assert (searched.action, searched.settings.trials) == (Action.TRIALS, 64)
    third = attempt(3, most, 1.052, failed=("quality floor",), action=Action.TRIALS,
                    now=now.model_copy(update={"trials": 64}), repeated=True)  # fmt: skip
    assert decide(situation(first, second, third, max_budget_bytes=allowed)).action is Action.CALIBRATION
    far = attempt(2, most, 1.2, failed=("quality floor",), action=Action.BUDGET, now=now)
    assert decide(situation(first, far, max_budget_bytes=allowed)).status == "not reached"


def test_a_small_gap_is_searched_then_calibrated_before_it_costs_bytes() -> None:
    close = attempt(1, int4(), 1.055, failed=("quality floor",))
    more = decide(situation(close, max_budget_bytes=INT8))
    assert (more.action, more.settings.trials, more.plan) == (Action.TRIALS, 64, None)

    same = attempt(2, int4(), 1.055, failed=("quality floor",), action=Action.TRIALS,
                   now=settings(trials=64), repeated=True)  # fmt: skip
    again = decide(situation(close, same, max_budget_bytes=INT8))
    assert (again.action, again.settings.calibration_samples) == (Action.CALIBRATION, 64)
    assert again.plan is not None

    tried = attempt(3, int4(), 1.054, failed=("quality floor",), action=Action.CALIBRATION,
                    now=settings(trials=64, calibration_samples=64))  # fmt: skip
    assert decide(situation(close, same, tried, max_budget_bytes=INT8)).action is Action.BUDGET
    assert decide(situation(close, same, tried)).status == "not reached"


def test_an_impossible_floor_ends_with_the_best_that_was_found() -> None:
    first = attempt(1, int4(), 1.3, failed=("quality floor",))
    second = attempt(2, uniform(units(), "int8"), 1.02, failed=("quality floor",), action=Action.BUDGET)
    found = decide(situation(first, second, floor=0.9, max_budget_bytes=INT8))
    assert (found.status, "1.0200" in found.reason) == ("impossible", True)
    best = best_attempt((first, second))
    assert best is not None
    assert best.decision.number == 2


def test_the_loop_ends() -> None:
    """Whatever is measured, decisions end within the attempts that are allowed."""
    for ratio in (1.0501, 1.06, 1.3, 4.0):
        attempts: tuple[Attempt, ...] = ()
        while True:
            found = decide(situation(*attempts, max_budget_bytes=INT8, attempts=8))
            if found.action is Action.STOP:
                break
            plan = found.plan or exact_plan(units(), SCORES, found.settings.budget_bytes, "x")
            made = attempt(found.number, plan, ratio, failed=("quality floor",), action=found.action,
                           now=found.settings)  # fmt: skip
            attempts = (*attempts, made)
            assert len(attempts) <= 8
        assert found.status == "not reached"
        assert all(a.outcome.plan is not None and a.outcome.plan.bytes_of(units()) <= INT8 for a in attempts)


def test_units_on_another_kernel_get_another_format_within_the_budget() -> None:
    budget = settings(budget_bytes=INT8)
    last = attempt(1, uniform(units(), "int8"), 1.0, failed=("kernels",), now=budget, mismatched=("u3",))
    found = decide(situation(last, budget_bytes=INT8, max_budget_bytes=INT8))
    assert found.action is Action.REFORMAT
    assert found.plan is not None
    assert found.plan.formats["u3"] != "W8A8"
    assert found.plan.bytes_of(units()) <= INT8


def test_no_room_for_the_cache_tries_its_dtype_then_a_context_that_was_allowed() -> None:
    error = {"what": "the engine stopped", "got": "ValueError: No available memory for the cache blocks."}
    last = attempt(1, int4(), None, failed=("kernels",), error=error, gates=())

    kv = decide(situation(last, kv_dtypes=("fp8",), min_context=1024))
    assert (kv.action, kv.settings.kv_cache_dtype) == (Action.KV_DTYPE, "fp8")
    assert kv.plan is not None
    assert kv.plan.kv_cache_dtype == "fp8"

    after = last.model_copy(update={"decision": kv})
    shorter = decide(situation(last, after, kv_dtypes=("fp8",), min_context=1024))
    assert (shorter.action, shorter.settings.context) == (Action.CONTEXT, 2048)
    assert decide(situation(last)).status == "not reached"  # nobody allowed a shorter context


def test_an_engine_that_dies_or_memory_that_was_mispredicted_is_not_repaired_by_other_plans() -> None:
    died = attempt(
        1, int4(), None, error={"what": "the engine died", "got": "SIGKILL"}, gates=(), passed=False
    )
    assert decide(situation(died, max_budget_bytes=INT8)).status == "unrepairable"
    off = attempt(1, int4(), 1.01, failed=("weights",))
    found = decide(situation(off, max_budget_bytes=INT8))
    assert found.status == "unrepairable"
    assert "ingest" in found.next_step


def test_the_attempts_are_bounded() -> None:
    missed = attempt(1, int4(), 1.3, failed=("quality floor",))
    found = decide(situation(missed, max_budget_bytes=INT8, attempts=1))
    assert (found.action, found.status) == (Action.STOP, "not reached")
    assert "--attempts" in found.next_step


def test_the_smallest_plan_is_no_larger_than_needed() -> None:
    target = predicted_loss(int4().formats, SCORES) / 3
    found = smallest_plan(units(), SCORES, target, INT4, INT8, "x")
    assert predicted_loss(found.formats, SCORES) <= target
    step = found.bytes_of(units()) - 2 * (INT8 - INT4) // COUNT
    assert predicted_loss(exact_plan(units(), SCORES, step, "y").formats, SCORES) > target
    unreachable = smallest_plan(units(), SCORES, -1, INT4, INT8, "x")
    assert unreachable.formats == uniform(units(), "int8").formats


def test_promotions_come_by_score_per_byte() -> None:
    changed = promotions(units(), SCORES, int4(), uniform(units(), "int8"))
    assert [c[0] for c in changed][:2] == ["u11", "u10"]
    assert estimated_ratio(1.2, int4(), int4(), SCORES) == pytest.approx(1.2)
    half = {u: {f: v / 2 for f, v in row.items()} for u, row in SCORES.items()}
    assert predicted_loss(int4().formats, half) * 2 == pytest.approx(predicted_loss(int4().formats, SCORES))
    assert math.isclose(estimated_ratio(1.2, int4(), int4(), half), 1.2)

"""What the loop tries besides bytes: blamed units, smaller groups, another cache dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advisor.agent.decide import decide
from advisor.agent.diagnose import Cause, diagnose
from advisor.agent.groups import Wider, wider_menu
from advisor.agent.layers import OUTLIER, corrected, outliers, worst_in_words
from advisor.agent.question import other_kv_dtypes
from advisor.agent.schema import Action, Limits, Outcome
from advisor.agent.situation import Situation
from advisor.pipeline.facts import Facts
from advisor.pipeline.inputs import RunInputs
from profiles.hardware.schema import Device
from profiles.models.reader import read_model
from profiles.tasks import load_task
from tests.agent.test_decide import (
    COUNT,
    INT4,
    INT8,
    SCORES,
    attempt,
    int4,
    limits,
    settings,
    situation,
    units,
)
from tests.app.tiny import write_tiny
from tests.validate.examples import cpu_device, cuda_device, hardware
from tuners.plan import uniform
from tuners.solver import predicted_loss
from tuners.units import build_units, fixed_bytes
from tuners.validate.blame import UnitBlame
from tuners.validate.schema import Gate


def blamed(**odd: float) -> tuple[UnitBlame, ...]:
    """Every unit as torch expects it, except those named: as many times more."""
    return tuple(
        UnitBlame(unit=f"u{i}", format="W4A16_G64", error=0.09, drift=0.2,
                  kl=2 * SCORES[f"u{i}"]["W4A16_G64"] * odd.get(f"u{i}", 1.0))
        for i in range(COUNT)
    )  # fmt: skip


def test_healthy_units_leave_the_scores_as_they_are() -> None:
    assert outliers(SCORES, blamed()) == {}
    assert corrected(SCORES, blamed()) == SCORES
    assert outliers(SCORES, ()) == {}
    lines = worst_in_words(SCORES, blamed())
    assert "u11 in W4A16_G64" in lines[1]  # the costliest first
    assert "error 9.0%" in lines[1]


def test_a_unit_that_the_engine_computes_worse_is_found_and_raised() -> None:
    found = outliers(SCORES, blamed(u2=3 * OUTLIER))
    assert list(found) == ["u2"]
    raised = corrected(SCORES, blamed(u2=3 * OUTLIER))
    assert raised["u2"]["W4A16_G64"] == pytest.approx(SCORES["u2"]["W4A16_G64"] * found["u2"])
    assert raised["u2"]["W8A8"] == SCORES["u2"]["W8A8"]
    assert raised["u3"] == SCORES["u3"]
    assert "times what torch lets expect" in worst_in_words(SCORES, blamed(u2=3 * OUTLIER))[1]


def test_a_quick_plan_that_misses_its_floor_is_searched_for_by_measured_sensitivities_once() -> None:
    quick = settings(trials=0, sensitivity="quick")
    asked = limits(budget_bytes=INT4, max_trials=0)
    missed = attempt(1, int4(), 1.3, failed=("quality floor",), now=quick)
    found = decide(Situation(asked, quick, units(), SCORES, (missed,)))
    assert (found.action, found.plan) == (Action.MEASURE, None)
    assert found.settings == quick.model_copy(update={"sensitivity": "auto"})

    again = attempt(2, int4(), 1.3, failed=("quality floor",), now=found.settings, action=Action.MEASURE)
    assert decide(Situation(asked, quick, units(), SCORES, (missed, again))).action is not Action.MEASURE
    far = limits(budget_bytes=INT4, max_budget_bytes=INT8, max_trials=0)
    assert decide(Situation(far, quick, units(), SCORES, (missed,))).action is Action.BUDGET


def test_a_missed_floor_promotes_what_the_engine_showed_within_the_budget() -> None:
    """The exact plan of the table was measured; the engine's outputs say that u2 was the one to promote."""
    from advisor.agent.replan import exact_plan

    budget = INT4 + (INT8 - INT4) // COUNT  # one unit more
    now = settings(budget_bytes=budget)
    first = exact_plan(units(), SCORES, budget, "exact additive")
    assert first.formats["u2"] == "W4A16_G64"
    healthy = attempt(1, first, 1.3, failed=("quality floor",), now=now)
    assert (
        decide(Situation(limits(budget_bytes=budget), now, units(), SCORES, (healthy,))).action is Action.STOP
    )

    odd = attempt(1, first, 1.3, failed=("quality floor",), now=now, blamed=blamed(u2=40.0))
    found = decide(Situation(limits(budget_bytes=budget), now, units(), SCORES, (odd,)))
    assert found.action is Action.PROMOTE
    assert found.plan is not None
    assert found.plan.formats["u2"] == "W8A8"
    assert found.plan.bytes_of(units()) <= budget
    assert any("u2" in line and "times" in line for line in found.evidence)


def test_engine_and_torch_disagree_because_of_named_units() -> None:
    odd = attempt(1, int4(), 1.2, failed=("engine agrees with the search",), blamed=blamed(u2=40.0),
                  now=settings(budget_bytes=INT8),
                  gates=(Gate(name="engine agrees with the search", passed=False, reason="x"),))  # fmt: skip
    assert diagnose(odd.outcome) is Cause.AGREEMENT
    found = decide(situation(odd))
    assert found.action is Action.PROMOTE
    assert "1 units cost more in the engine" in found.reason


def test_a_lost_score_is_repaired_like_a_missed_floor() -> None:
    gate = Gate(name="task accuracy", passed=False, reason="lost")
    lost = attempt(1, int4(), 1.01, failed=("task accuracy",), gates=(gate,))
    assert diagnose(lost.outcome) is Cause.ACCURACY
    assert decide(situation(lost, max_budget_bytes=INT8)).action is Action.BUDGET
    open_gate = Gate(name="task accuracy", passed=True, conclusive=False, reason="cannot tell")
    assert diagnose(Outcome(plan=int4(), passed=True, gates=(open_gate,))) is Cause.NONE


def wider() -> Wider:
    """u6 to u11 may have groups of 32 at six tenths of the loss."""
    more = tuple(
        u.model_copy(update={"options": (*u.options, "W4A16_G32")}) if int(u.name[1:]) >= 6 else u
        for u in units()
    )
    scores = {
        name: {**row, "W4A16_G32": 0.6 * row["W4A16_G64"]} if int(name[1:]) >= 6 else dict(row)
        for name, row in SCORES.items()
    }
    return Wider(more, scores)


def test_smaller_groups_are_tried_once_within_the_budget() -> None:
    budget = INT4 + (INT8 - INT4) // (3 * COUNT)  # room for scales, not for a unit in 8 bits
    now = settings(budget_bytes=budget)
    missed = attempt(1, int4(), 1.3, failed=("quality floor",), now=now)
    at = Situation(
        limits(budget_bytes=budget, max_budget_bytes=budget), now, units(), SCORES, (missed,), "", wider()
    )
    found = decide(at)
    assert found.action is Action.GROUP
    assert found.plan is not None
    finer = [u for u, f in found.plan.formats.items() if f == "W4A16_G32"]
    assert finer
    assert all(int(u[1:]) >= 6 for u in finer)
    assert found.plan.bytes_of(units()) <= budget
    assert predicted_loss(found.plan.formats, wider().scores) < predicted_loss(int4().formats, SCORES)
    assert "estimated" in found.reason

    again = attempt(2, found.plan, 1.25, failed=("quality floor",), now=now, action=Action.GROUP)
    end = decide(Situation(at.limits, now, units(), SCORES, (missed, again), "", wider()))
    assert (end.action, end.status) == (Action.STOP, "not reached")


def test_a_cache_in_few_bits_is_widened_once_when_quality_is_missed() -> None:
    now = settings(kv_cache_dtype="fp8")
    missed = attempt(1, int4(), 1.3, failed=("quality floor",), now=now)
    found = decide(Situation(limits(kv_dtypes=("auto",)), now, units(), SCORES, (missed,)))
    assert (found.action, found.settings.kv_cache_dtype) == (Action.KV_DTYPE, "auto")
    assert found.plan is not None
    assert found.plan.kv_cache_dtype == "auto"
    # and where that does not fit there is no way back and forth
    error = {"what": "the engine stopped", "got": "ValueError: No available memory for the cache blocks."}
    full = attempt(2, int4(), None, action=Action.KV_DTYPE, now=found.settings, error=error, gates=())
    end = decide(Situation(limits(kv_dtypes=("auto",)), now, units(), SCORES, (missed, full)))
    assert end.action is Action.STOP


def test_int8_is_the_cache_between_fp8_and_the_models_own() -> None:
    asked = settings(kv_cache_dtype="fp8")
    allowed = limits(kv_dtypes=("auto", "int8"), attempts=9)
    error = {"what": "the engine stopped", "got": "ValueError: No available memory for the cache blocks."}
    missed = attempt(1, int4(), 1.3, failed=("quality floor",), now=asked)
    full = attempt(
        2, int4(), None, action=Action.KV_DTYPE, now=settings(), error=error, gates=(), passed=False
    )
    found = decide(Situation(allowed, asked, units(), SCORES, (missed, full)))
    assert (found.action, found.settings.kv_cache_dtype) == (Action.KV_DTYPE, "int8")
    assert found.plan is not None
    assert found.plan.kv_cache_dtype == "int8"
    # FP8 was the agent's own way out of too little memory: the model's own dtype is not tried again
    small = attempt(1, int4(), None, error=error, gates=(), passed=False)
    coarse = attempt(2, int4(), 1.3, failed=("quality floor",), action=Action.KV_DTYPE, now=asked)
    finer = decide(Situation(limits(kv_dtypes=("fp8", "int8")), settings(), units(), SCORES, (small, coarse)))
    assert (finer.action, finer.settings.kv_cache_dtype) == (Action.KV_DTYPE, "int8")
    # and after INT8 nothing is left
    last = attempt(3, int4(), 1.2, failed=("quality floor",), action=Action.KV_DTYPE, now=finer.settings)
    at = Situation(limits(kv_dtypes=("fp8", "int8")), settings(), units(), SCORES, (small, coarse, last))
    assert decide(at).action is not Action.KV_DTYPE


@pytest.mark.parametrize(
    ("device", "asked", "other"),
    [
        (cpu_device(), "auto", ()),
        (cpu_device(), "fp8", ("auto",)),
        (cuda_device((8, 0)), "auto", ("int8",)),
        (cuda_device((8, 9)), "auto", ("fp8", "int8")),
        (cuda_device((8, 9)), "fp8", ("auto", "int8")),
        (cuda_device((8, 9)), "int8", ("auto",)),
    ],
)
def test_cache_dtypes_on_offer_are_those_of_the_engine(
    device: Device, asked: str, other: tuple[str, ...]
) -> None:
    assert other_kv_dtypes(device, asked) == other


def test_the_wider_menu_is_estimated_from_the_weights(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "tiny")
    rng = np.random.default_rng(0)
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    values = (rng.standard_normal((len(raw) - 8 - length) // 2) * 0.02).astype(np.float32).view(
        np.uint32
    ) >> 16
    raw[8 + length :] = values.astype(np.uint16).tobytes()
    weights.write_bytes(raw)
    model = read_model(str(folder))
    found: list[Any] = build_units(model, cpu_device(), formats=("W4A16_G128", "W8A8"))
    facts = Facts(hardware=hardware(), model=model, task=load_task("generic"), units=tuple(found),
                  fixed_bytes=fixed_bytes(model, found))  # fmt: skip
    scores = {u.name: {"W4A16_G128": 0.01, "W8A8": 0.001} for u in found}
    menu = wider_menu(RunInputs(model=str(folder), task="generic"), facts, scores)
    assert menu is not None
    for unit in menu.units:
        row = menu.scores[unit.name]
        assert {"W4A16_G32", "W4A16_G64"} <= set(unit.options)
        assert 0.001 < row["W4A16_G32"] < row["W4A16_G64"] < row["W4A16_G128"] == 0.01
    assert uniform(list(menu.units), "int8").formats == uniform(found, "int8").formats


def test_a_small_gap_is_trained_then_rounded_in_other_ways_each_once() -> None:
    """In this order: recovery, each other method, trials, calibration, and bytes at last."""
    allowed = limits(methods=("awq-gptq", "autoround"), recover_steps=100, max_budget_bytes=INT8, attempts=9)
    attempts = (attempt(1, int4(), 1.055, failed=("quality floor",)),)
    seen = []
    while True:
        found = decide(Situation(allowed, settings(), units(), SCORES, attempts))
        seen.append((found.action, found.settings.recover_steps, found.settings.methods.get("int4")))
        if found.action in (Action.BUDGET, Action.STOP):
            break
        made = attempt(found.number, found.plan or int4(), 1.0551, failed=("quality floor",),
                       action=found.action, now=found.settings)  # fmt: skip
        attempts = (*attempts, made)
    assert [action for action, _, _ in seen] == [
        Action.RECOVER, Action.METHOD, Action.METHOD, Action.TRIALS, Action.CALIBRATION, Action.BUDGET,
    ]  # fmt: skip
    # what did not help is not kept: every attempt starts from the best one
    assert [(steps, method) for _, steps, method in seen[:3]] == [
        (100, None), (0, "awq-gptq"), (0, "autoround"),
    ]  # fmt: skip


def test_what_helped_is_kept() -> None:
    allowed = limits(methods=("awq-gptq",), recover_steps=100, attempts=9)
    missed = attempt(1, int4(), 1.06, failed=("quality floor",))
    trained = attempt(2, int4(), 1.054, failed=("quality floor",), action=Action.RECOVER,
                      now=settings(recover_steps=100))  # fmt: skip
    found = decide(Situation(allowed, settings(), units(), SCORES, (missed, trained)))
    assert (found.action, found.settings.recover_steps) == (Action.METHOD, 100)


def test_a_large_gap_goes_to_bytes_first_and_to_the_rest_where_bytes_may_not_grow() -> None:
    allowed = limits(methods=("awq-gptq",), recover_steps=100)
    more = allowed.model_copy(update={"max_budget_bytes": INT8})

    def action(ratio: float, limit: Limits) -> Action:
        missed = attempt(1, int4(), ratio, failed=("quality floor",))
        return decide(Situation(limit, settings(), units(), SCORES, (missed,))).action

    assert [action(r, more) for r in (1.055, 1.07, 1.3)] == [Action.RECOVER, Action.BUDGET, Action.BUDGET]
    assert [action(r, allowed) for r in (1.07, 1.3)] == [Action.RECOVER, Action.METHOD]


def test_a_try_that_cannot_be_carried_out_does_not_end_the_loop() -> None:
    allowed = limits(methods=("awq-gptq",), recover_steps=100, max_budget_bytes=INT8)
    missed = attempt(1, int4(), 1.055, failed=("quality floor",))
    failed = attempt(2, int4(), None, action=Action.RECOVER, now=settings(recover_steps=100), gates=(),
                     passed=False, error={"what": "too large to train here", "got": "12 GiB"})  # fmt: skip
    found = decide(Situation(allowed, settings(), units(), SCORES, (missed, failed)))
    assert (found.number, found.action, found.settings.recover_steps) == (3, Action.METHOD, 0)
    # another plan that fails is still the end: something is broken
    broken = failed.model_copy(
        update={"decision": failed.decision.model_copy(update={"action": Action.BUDGET})}
    )
    assert decide(Situation(allowed, settings(), units(), SCORES, (missed, broken))).status == "unrepairable"

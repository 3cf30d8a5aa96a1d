"""Prior into posterior: what is combined, and which of the two is said to have decided."""

from __future__ import annotations

import pytest

from advisor.recommend import recommend
from advisor.recommend.posterior import beliefs, prior_of
from advisor.recommend.schema import Decision, Recommendation
from profiles.provenance import Figure, Provenance
from profiles.tasks import load_task
from tuners.sensitivity.task_schema import Stopped, TaskSensitivity, UniformLoss


def figure(value: float, half: float, unit: str = "score") -> Figure:
    return Figure(
        value=value, low=value - half, high=value + half, unit=unit, provenance=Provenance.MEASURED,
        source="40 items",
    )  # fmt: skip


def measured(
    task: str, *, score: float = 0.8, change: float = -0.01, half: float = 0.02, ratio: float = 1.01
) -> TaskSensitivity:
    rows = tuple(
        UniformLoss(
            family=family,
            kl=figure(0.01, 0.001),
            top1=figure(0.95, 0.01),
            perplexity_ratio=figure(ratio, 0.005),
            score_change=figure(change, half),
            verdict="passes",
        )
        for family in ("int4", "int8", "fp8")
    )
    return TaskSensitivity(
        task=task, title=task, model_id="m", original_score=figure(score, 0.1), scorer="exact", uniform=rows,
        units=(), stopped=Stopped(sequences=8, tokens=400, items=40, skipped=0, sure=1, why="decided"),
        check=None, reliability=1, plan={}, seconds=1,
    )  # fmt: skip


def test_without_a_measurement_the_prior_stands_and_says_so() -> None:
    for belief in beliefs(load_task("math"), None):
        assert belief.decided_by == "prior"
        assert belief.posterior == belief.prior
        assert "the prior decided" in belief.sentence
        assert "advisor sensitivity" in belief.sentence


def test_published_losses_are_the_prior_where_there_are_any() -> None:
    mean, deviation, source = prior_of(load_task("tool-calling"), "int4")
    assert mean == pytest.approx((1.94 + 1.6) / 2, abs=0.01)
    assert deviation >= 2
    assert "model card" in source
    assert "framework" in prior_of(load_task("classification"), "int4")[2]


def test_a_precise_measurement_outweighs_the_prior_and_a_vague_one_does_not() -> None:
    sharp = beliefs(load_task("code"), measured("code", half=0.01))[0]
    assert sharp.decided_by == "measured"
    assert abs(sharp.posterior.value - 1.25) < 1.5
    assert "the measurement decided" in sharp.sentence
    vague = beliefs(load_task("code"), measured("code", half=0.4))[0]
    assert vague.decided_by == "prior"
    assert abs(vague.posterior.value - vague.prior.value) < 1


def test_the_posterior_lies_between_and_is_narrower_than_both() -> None:
    for belief in beliefs(load_task("reasoning"), measured("reasoning", change=-0.08, half=0.06)):
        assert belief.measured is not None
        low, high = sorted((belief.prior.value, belief.measured.value))
        assert low <= belief.posterior.value <= high
        width = belief.posterior.high - belief.posterior.low
        assert width < min(belief.prior.high - belief.prior.low, belief.measured.high - belief.measured.low)


def test_a_model_that_cannot_do_the_task_says_nothing_about_its_loss() -> None:
    belief = beliefs(load_task("math"), measured("math", score=0.02))[0]
    assert belief.measured is None
    assert "too low" in belief.sentence


def test_no_change_at_all_is_not_certainty() -> None:
    belief = beliefs(load_task("qa"), measured("qa", change=0.0, half=0.0))[0]
    assert belief.measured is not None
    assert belief.measured.high > 1


def test_recommend_uses_the_profile_and_shows_the_beliefs() -> None:
    before = recommend("code")
    assert all(b.decided_by == "prior" for b in before.beliefs)
    assert before.best.option.family != "int4"
    after = recommend("code", sensitivity=measured("code", ratio=1.005))
    assert after.measured["int4"].value == pytest.approx(1.005)
    assert any(c.winner == "measured-int4" for c in after.conflicts)
    assert after.best.option.family == "int4"


def test_the_recommendation_says_whether_a_prior_or_a_measurement_decided() -> None:
    def over(found: Recommendation, family: str) -> Decision:
        of = {c.option.id: c.option.family for c in found.choices}
        return next(d for d in found.decisions if of[d.over] == family)

    before = over(recommend("code", use="cost-optimized"), "int4")
    assert (before.basis, before.rule) == ("prior", "task-high")
    failed = recommend("generic", use="cost-optimized", sensitivity=measured("generic", ratio=1.5))
    assert {d.basis for d in failed.decisions} == {"measured"}
    assert failed.best.option.family == "16-bit"
    assert "by a measurement, measured-" in failed.decisions[0].sentence


def test_what_fails_takes_unmeasured_formats_of_fewer_bits_with_it() -> None:
    found = recommend("generic", use="cost-optimized", measured={"int8": figure(1.5, 0.01)})
    families = [c.option.family for c in found.choices]
    assert found.best.option.family in ("fp8", "16-bit")  # as many bits, another arithmetic: still open
    assert {"int8", "int4", "fp4"} == set(families[-sum(f in ("int8", "int4", "fp4") for f in families) :])
    rule = next(r for r in found.fired if r.id == "measured-int8")
    assert "not measured" in rule.says


def test_the_posterior_is_known_by_what_decided() -> None:
    sharp, vague = (beliefs(load_task("code"), measured("code", half=h))[0] for h in (0.01, 0.4))
    assert sharp.posterior.provenance is Provenance.MEASURED
    assert vague.posterior.provenance is Provenance.ESTIMATED

"""The task's own score: intervals and tests against known values, and a verdict that admits too few items."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from profiles.errors import UsageError
from profiles.tasks import load_task
from tests.validate.examples import cpu_device, measurement, plan, predictions, units
from tuners.validate.accuracy import ACCEPTED_LOSS, judge
from tuners.validate.paired import items_needed, mcnemar, paired_interval, wilson
from tuners.validate.questions import SHOT_CHARACTERS, SHOTS, encoded, questions_of, within
from tuners.validate.report import compare
from tuners.validate.schema import TaskAnswers


def answers(*scores: float | None, chance: float = 0.0, key: str = "k") -> TaskAnswers:
    n = len(scores)
    return TaskAnswers(items=tuple(range(n)), key=key, shots=3, scorers=("exact",), chance=chance,
                       scores=scores, answers=("",) * n, seconds=1.0)  # fmt: skip


def right(count: int, of: int) -> tuple[float, ...]:
    return (1.0,) * count + (0.0,) * (of - count)


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_binomial_test_of_the_items_that_changed(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained, 0.5, "greater").pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(found: tuple[int, int]) -> None:
    count, of = found
    expected = stats.binomtest(count, of).proportion_ci(method="wilson")
    assert wilson(count / of, of) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_paired_interval_is_the_published_one() -> None:
    """Newcombe 1998, table II, row (e, f, g, h) = (36, 12, 2, 0): 0.2 within 0.0569 and 0.3404."""
    before = (1,) * 36 + (0,) * 12 + (1,) * 2
    after = (1,) * 36 + (1,) * 12 + (0,) * 2
    assert paired_interval(before, after) == pytest.approx((0.0569, 0.3404), abs=0.0002)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_the_interval_holds_the_difference_and_turns_with_the_order(pairs: list[tuple[int, int]]) -> None:
    first, second = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    low, high = paired_interval(first, second)
    assert low <= (sum(second) - sum(first)) / len(pairs) <= high
    assert low < high  # even without any change: few items prove nothing
    assert paired_interval(second, first) == pytest.approx((-high, -low))


def test_scores_in_between_are_resampled_and_never_certain() -> None:
    before = [0.5 + i / 100 for i in range(40)]
    low, high = paired_interval(before, [x - 0.1 for x in before])
    assert (low, high) == pytest.approx((-0.1, -0.1))
    low, high = paired_interval(before, before)
    assert low < 0 < high
    assert items_needed(before, before, 0.01) is None


@pytest.mark.parametrize(
    ("before", "after", "accepted", "verdict"),
    [
        (right(60, 72), right(60, 72), 0.05, "cannot tell"),  # no change, but 72 items leave 5 points open
        (right(60, 72), right(60, 72), 0.10, "kept"),
        (right(60, 72), right(40, 72), 0.05, "lost"),
        (right(60, 72), right(55, 72), 0.05, "cannot tell"),  # seven points less: could be chance
        (right(1, 72), right(0, 72), 0.05, "cannot tell"),
        (right(0, 72), right(0, 72), 0.05, "cannot tell"),
    ],
)
def test_a_loss_must_be_shown(
    before: tuple[float, ...], after: tuple[float, ...], accepted: float, verdict: str
) -> None:
    found = judge(answers(*before), answers(*after), accepted)

    assert found.verdict == verdict
    assert ("cannot tell" in found.reason) is (verdict == "cannot tell")
    assert f"{len(before)} items" in found.reason


def test_what_is_significant_but_within_the_accepted_loss_does_not_fail() -> None:
    before, after = right(700, 1000), right(690, 1000)
    found = judge(answers(*before), answers(*after), 0.05)

    assert found.mcnemar is not None
    assert found.mcnemar < 0.01
    assert found.verdict == "kept"


def test_guessing_is_not_doing_the_task() -> None:
    found = judge(answers(*right(20, 72), chance=0.25), answers(*right(20, 72), chance=0.25), 0.5)

    assert found.verdict == "cannot tell"
    assert "guessing gives 25%" in found.reason


def test_items_whose_scorer_failed_are_counted_and_left_out() -> None:
    found = judge(answers(1.0, None, 1.0, 0.0), answers(1.0, 1.0, None, 0.0), 0.05)
    assert (found.items, found.unscored) == (2, 2)
    none = judge(answers(None), answers(None), 0.05)
    assert none.verdict == "cannot tell"
    assert "no item could be scored" in none.reason


def test_other_questions_are_not_compared() -> None:
    with pytest.raises(UsageError, match="other questions"):
        judge(answers(1.0), answers(1.0, key="other"), 0.05)


def test_the_gate_fails_for_a_loss_and_stays_open_otherwise() -> None:
    def gate(after: tuple[float, ...]) -> Any:
        report = compare(
            measurement(quantized=False, task=answers(*right(60, 72))), measurement(task=answers(*after)),
            plan=plan(), units=units(), device=cpu_device(), predicted=predictions(), floor=1.05,
            accepted_loss=ACCEPTED_LOSS["high"],
        )  # fmt: skip
        assert report.task is not None
        assert any(line.name == "task accuracy" and line.measured == report.task.quantized
                   for line in report.lines)  # fmt: skip
        found = next(g for g in report.gates if g.name == "task accuracy")
        assert report.passed is found.passed
        return found

    assert gate(right(30, 72)).mark == "FAIL"
    assert gate(right(59, 72)).mark == "open"
    assert "about" in gate(right(59, 72)).reason


def test_examples_are_never_held_out_and_of_the_items_own_kind() -> None:
    task = load_task("math:0.5,recall:0.5")
    held_out = {item.prompt + item.answer for item in task.items}
    asked = questions_of(task)

    assert len(asked) == len(task.items)
    for question in asked:
        assert 1 <= len(question.shots) <= SHOTS
        assert sum(map(len, question.shots)) <= SHOT_CHARACTERS
        assert not held_out & set(question.shots)
        kind = "The answer is" in question.item.answer
        assert all(("The answer is" in shot) is kind for shot in question.shots)
        assert question.prompt.endswith(question.item.prompt)
    assert not any(q.shots for q in questions_of(load_task("generic")))


def test_questions_are_cut_to_the_work_that_is_allowed_and_to_the_context() -> None:
    def words(text: str, special: bool) -> list[int]:
        return [len(w) for w in text.split()]

    every = encoded(questions_of(load_task("qa")), words, longest=10_000)
    some = within(every, 2_000)
    assert len(every) == len(load_task("qa").items)
    assert 0 < len(some) < len(every)
    assert sum(a.cost for a in some) <= 2_000 * 1.2
    assert some[-1].index > 0.9 * len(every)  # from the whole of the set, not its head
    assert within(every, None) == every
    assert encoded(questions_of(load_task("qa")), words, longest=12) == []

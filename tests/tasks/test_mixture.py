"""A mixture of tasks with weights is a task."""

from __future__ import annotations

import pytest

from profiles.errors import UsageError
from profiles.tasks import load_task


def test_parts_come_in_proportion_and_the_cautious_prior_holds() -> None:
    mixed, code = load_task("code:0.75, chat:0.25"), load_task("code")
    assert mixed.name == "code:0.75+generic:0.25"
    assert mixed.prior == "high"
    assert mixed.quality_floor_ppl_ratio == code.quality_floor_ppl_ratio
    from_code = sum(text in code.splits.search for text in mixed.splits.search)
    assert from_code / len(mixed.splits.search) == pytest.approx(0.75, abs=0.02)
    head = mixed.splits.search[:20]
    assert sum(text in code.splits.search for text in head) / 20 == pytest.approx(0.75, abs=0.06)
    assert {item.scorer for item in mixed.items} == {"run", "next-token"}


def test_splits_of_a_mixture_stay_apart() -> None:
    splits = load_task("math:1,qa:1").splits
    assert not splits.fingerprints("search") & splits.fingerprints("evaluate")


def test_weights_are_scaled_and_one_part_is_the_task_itself() -> None:
    assert load_task("code:7,chat:3") == load_task("code:0.7,chat:0.3")
    assert load_task("code:5") == load_task("code")


@pytest.mark.parametrize(
    "text",
    ["code:0.7,chat", "code:x,chat:1", "code:-1,chat:2", "code:nan,chat:1", "code:1,code:2", "code:,chat:1"],
)
def test_what_is_no_mixture_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        load_task(text)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(UsageError, match="cod2"):
        load_task("cod2:0.5,chat:0.5")

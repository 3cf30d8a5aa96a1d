"""The task catalogue: the framework's sensitivities, honest origins, published losses."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from profiles.errors import UsageError
from profiles.provenance import Provenance
from profiles.tasks import list_tasks, load_task
from profiles.tasks.published import PublishedScore
from profiles.tasks.registry import DEFAULT_PPL_RATIO

FRAMEWORK = {
    "generic": "low",
    "classification": "low",
    "qa": "low",
    "summarization": "medium",
    "translation": "medium",
    "reasoning": "medium",
    "math": "high",
    "code": "high",
    "recall": "high",
}


@pytest.mark.parametrize(("name", "sensitivity"), FRAMEWORK.items())
def test_sensitivity_is_the_framework_s(name: str, sensitivity: str) -> None:
    assert load_task(name).prior == sensitivity


def test_every_task_of_the_issue_is_there() -> None:
    assert {t.name for t in list_tasks()} == {*FRAMEWORK, "long-context", "tool-calling"}


def test_floor_follows_sensitivity_and_says_that_it_is_a_choice() -> None:
    for task in list_tasks():
        assert task.quality_floor_ppl_ratio == DEFAULT_PPL_RATIO[task.prior]
        assert "choice" in task.quality_floor_source
    assert DEFAULT_PPL_RATIO["low"] > DEFAULT_PPL_RATIO["medium"] > DEFAULT_PPL_RATIO["high"] > 1


def test_losses_are_estimates_with_a_source() -> None:
    for task in list_tasks():
        for prior in task.prior_losses:
            assert prior.loss.provenance is Provenance.ESTIMATED
            assert prior.loss.source
            assert prior.loss.low < prior.loss.value < prior.loss.high


@pytest.mark.parametrize(
    ("task", "benchmark", "method", "loss"),
    [
        ("recall", "MMLU 5-shot", "W4A16 g128", 2.1),
        ("recall", "MMLU CoT", "FP8 dynamic", -0.5),
        ("math", "GSM8K", "GPTQ", 3.7),
        ("math", "mathematics sets", "mean of INT4 methods", 11.0),
        ("code", "HumanEval", "AWQ", 7.73),
        ("tool-calling", "tool calls", "NVFP4", 2.28),
        ("long-context", "OneRuler 128k", "FP8", -3.0),
    ],
)
def test_published_losses(task: str, benchmark: str, method: str, loss: float) -> None:
    found = [
        p.loss.value for p in load_task(task).prior_losses if (p.benchmark, p.method) == (benchmark, method)
    ]
    assert found == [pytest.approx(loss, abs=0.005)]


def test_worst_case_widens_the_interval() -> None:
    widest = max(p.loss.high for p in load_task("math").prior_losses)
    assert widest == 32


def test_names_and_aliases_are_unique_and_work() -> None:
    assert load_task("Code_Generation").name == "code"
    assert load_task("chat") == load_task("generic")
    with pytest.raises(UsageError, match="unknown task") as caught:
        load_task("summarisaton")
    assert "summarisation" in (caught.value.allowed or "")


@pytest.mark.parametrize(
    "numbers", [{}, {"points": 1.0, "kept_percent": 99.0}, {"score": 3.0}, {"kept_percent": float("nan")}]
)
def test_a_published_score_is_given_in_exactly_one_way(numbers: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        PublishedScore.model_validate(
            {"family": "int4", "method": "m", "benchmark": "b", "model": "x", "source": "s", **numbers}
        )

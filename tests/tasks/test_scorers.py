"""Scorers: what counts as right, and programs in their limited child."""

from __future__ import annotations

import pytest

from profiles.tasks.limited import run_programs
from profiles.tasks.schema import EvaluationItem, ScorerName
from profiles.tasks.scorers import score_answers


def score(scorer: ScorerName, answer: str, said: str, **more: str) -> float | None:
    item = EvaluationItem(prompt=more.pop("prompt", "?"), answer=answer, scorer=scorer, **more)  # type: ignore[arg-type]
    return score_answers([item], [said])[0]


@pytest.mark.parametrize(
    ("answer", "said", "right"),
    [
        (" Oslo", " Oslo.", 1),
        (" Oslo", "oslo, of course", 1),
        ("21", " 21 o'clock", 1),
        ("21", "212", 0),
        ("A", "", 0),
    ],
)
def test_exact_compares_whole_words(answer: str, said: str, right: int) -> None:
    assert score("exact", answer, said) == right


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (" 3 * 4 = 12. The answer is 12.", 1),
        ("The answer is 12.0", 1),
        ("the answer is: 12", 1),
        ("The answer is 13. The answer is 12", 1),
        ("12", 0),
        ("The answer is twelve", 0),
    ],
)
def test_final_answer_is_compared_as_a_number(said: str, right: int) -> None:
    assert score("final-answer", "3 * 4 = 12. The answer is 12.", said) == right


def test_overlap_is_f1_of_words() -> None:
    assert score("overlap", "the red house", "the red house") == 1
    assert score("overlap", "the red house", "the house\nand more") == pytest.approx(0.8)
    assert score("overlap", "the red house", "") == 0


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ('{"arguments": {"a": 1}, "name": "f"} thanks', 1),
        ('Call: {"name": "f", "arguments": {"a": 2}}', 0),
        ('{"name": "f"', 0),
        ("none", 0),
    ],
)
def test_json_is_compared_as_data(said: str, right: int) -> None:
    assert score("json", ' {"name": "f", "arguments": {"a": 1}}', said) == right


def test_code_is_run_with_what_the_prompt_shows() -> None:
    prompt = "Task: double.\n\n```python\ndef double(n):"
    good, bad = "\n    return 2 * n\n```", "\n    return n\n```"
    items = [
        EvaluationItem(prompt=prompt, answer=good, scorer="run", check="assert double(3) == 6")
        for _ in range(2)
    ]
    assert score_answers(items, [good, bad]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("scorer", "answer"), [("json", "not json"), ("final-answer", "no final"), ("overlap", "!")]
)
def test_a_scorer_that_fails_is_counted_not_raised(scorer: ScorerName, answer: str) -> None:
    assert score(scorer, answer, "the answer is 3 {}") is None


def test_limits_of_the_child() -> None:
    programs = [
        "assert sum([1, 2]) == 3",
        "assert 1 == 2",
        "x = 1",
        "while True: pass",
        "text = 'x' * (1 << 32)\nassert text",
        "with open('left.txt', 'w') as f:\n    f.write('x' * 10**6)\nassert 1",
        "import os\nos._exit(0)\nassert 0",
        "import sys\nsys.exit()",
        "def f(:",
        'def one():\n    """Say one.\n\n    >>> one()\n    1\n    """\n    return 2',
    ]
    found = run_programs(programs, seconds=1)
    assert [reason is None for reason in found] == [True] + [False] * 9
    assert found[3] is not None
    assert "signal" in found[3]
    assert found[4] is not None
    assert "MemoryError" in found[4]


def test_one_program_cannot_touch_the_next() -> None:
    assert run_programs(["import builtins\nbuiltins.len = None\nassert 1", "assert len([1]) == 1"]) == [
        None,
        None,
    ]

"""The math and code sets: every answer computed again, every program run, nothing in two splits."""

from __future__ import annotations

import ast
import json
import operator
import re
from fractions import Fraction
from importlib.resources import files

import pytest

from profiles.tasks import load_task
from profiles.tasks.limited import run_programs
from profiles.tasks.problems.code_items import code_items
from profiles.tasks.problems.functions import functions
from profiles.tasks.problems.math_items import math_items
from profiles.tasks.problems.write import SIZES

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def rows(name: str, part: str) -> list[dict[str, str]]:
    text = files("profiles.tasks").joinpath("data", name, f"{part}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def all_rows(name: str) -> list[dict[str, str]]:
    return [row for part in SIZES for row in rows(name, part)]


def value(expression: str) -> Fraction:
    def of(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](of(node.left), of(node.right))  # type: ignore[no-any-return]
        assert isinstance(node, ast.Constant)
        return Fraction(str(node.value))

    return of(ast.parse(expression, mode="eval").body)


@pytest.mark.parametrize("name", ["math", "code"])
def test_enough_items_and_none_twice(name: str) -> None:
    assert len(rows(name, "search")) >= 64
    assert len(rows(name, "evaluate")) >= 64
    for key in ("text", "prompt"):
        assert len({row[key] for row in all_rows(name)}) == sum(SIZES.values())
    shown = set(load_task(name).splits.prompts)
    assert not shown & {row["prompt"] for row in all_rows(name)}


@pytest.mark.parametrize("name", ["math", "code"])
def test_the_task_uses_its_own_set(name: str) -> None:
    task = load_task(name)
    assert task.own_texts
    assert list(task.splits.evaluate) == [row["text"] for row in rows(name, "evaluate")]


def test_every_math_answer_is_the_value_of_its_expression() -> None:
    for row in all_rows("math"):
        assert value(row["expression"]) == Fraction(row["final"]), row
        assert row["text"].endswith(f"The answer is {row['final']}.")


def test_every_worked_step_is_a_true_equation() -> None:
    for row in all_rows("math"):
        steps = row["text"].split("\nAnswer: ")[1].split(". The answer")[0].split(". ")
        for step in steps:
            left, right = step.split(" = ")
            assert value(left) == Fraction(right), row["text"]
        assert steps[-1].endswith(f"= {row['final']}")


def test_numbers_of_the_calculation_come_from_the_question() -> None:
    known = {"2", "100", "4", "1"}  # written as words, or halves and per cents
    for row in all_rows("math"):
        asked = set(re.findall(r"\d+", row["prompt"])) | known
        first = row["expression"].split(" ")[0].strip("(")
        assert first in asked, row


def test_every_program_passes_its_own_checks_in_a_limited_child() -> None:
    assert run_programs([row["program"] for row in all_rows("code")]) == [None] * sum(SIZES.values())


def test_shown_text_holds_the_program_that_was_run() -> None:
    for row in all_rows("code"):
        solution = row["program"].removesuffix(row["check"]).strip("\n")
        assert f"```python\n{solution}\n```" in row["text"]
        assert row["check"] in row["text"]


def test_generators_are_deterministic() -> None:
    assert math_items(30, 5) == math_items(30, 5)
    assert code_items(5) == code_items(5)
    assert len({item.prompt for item in code_items(5)}) == len(code_items(5))
    assert len(functions()) == 40

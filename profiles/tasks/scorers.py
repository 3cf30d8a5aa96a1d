"""Scores of answers: a number from 0 to 1 for what a model wrote, given the held-out item."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from profiles.tasks.limited import RUNNER_FAILED, run_programs
from profiles.tasks.schema import EvaluationItem, ScorerName

FINAL = re.compile(r"the answer is[:\s]*", re.IGNORECASE)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
STOPS: dict[ScorerName, str] = {
    "exact": "\n",
    "final-answer": "\n",
    "overlap": "\n",
    "json": "\n",
    "run": "```",
}
"""Scorers that read a written answer, and where it ends. `choice` and `next-token` need no writing."""


def score_answers(items: Sequence[EvaluationItem], answers: Sequence[str]) -> list[float | None]:
    """A score for each written answer; None where the scorer itself failed, which is counted, not raised."""
    programs = {i: program(item, text) for i, (item, text) in enumerate(_pairs(items, answers))}
    wanted = {i: p for i, p in programs.items() if p is not None}
    ran = dict(zip(wanted, run_programs(list(wanted.values())), strict=True)) if wanted else {}
    out: list[float | None] = []
    for i, (item, text) in enumerate(_pairs(items, answers)):
        if item.scorer == "run":
            why = ran[i]
            failed = why is not None and why.startswith(RUNNER_FAILED)
            out.append(None if failed else float(why is None))
            continue
        try:
            out.append(SCORERS[item.scorer](item, text))
        except (KeyError, ValueError, TypeError, RecursionError, ArithmeticError):
            out.append(None)
    return out


def _pairs(items: Sequence[EvaluationItem], answers: Sequence[str]) -> list[tuple[EvaluationItem, str]]:
    return list(zip(items, answers, strict=True))


def program(item: EvaluationItem, answer: str) -> str | None:
    """The whole program of a `run` item: what the prompt shows of it, the answer, the checks."""
    if item.scorer != "run":
        return None
    shown = item.prompt.rpartition("```python\n")[2]
    return f"{shown}{answer.partition('```')[0]}\n\n\n{item.check}"


def exact(item: EvaluationItem, answer: str) -> float:
    """1 when the answer, or its beginning up to a word's end, is the reference; a reference without words
    (":-)", "+") is compared as it is written."""
    said, wanted = _words(answer), _words(item.answer)
    if not wanted:
        said, wanted = answer.split(), item.answer.split()
    if not wanted:
        raise ValueError("the reference is empty")
    return float(said[: len(wanted)] == wanted)


def final_answer(item: EvaluationItem, answer: str) -> float:
    """1 when what follows "the answer is" is the reference's, compared as a number if it is one."""
    wanted, said = _final(item.answer), _final(answer)
    if said is None or wanted is None:
        if wanted is None:
            raise ValueError("the reference has no final answer")
        return 0.0
    return float(said == wanted)


def _final(text: str) -> str | None:
    parts = FINAL.split(text)
    if len(parts) < 2:
        return None
    last = parts[-1].strip().partition("\n")[0].rstrip(".")
    number = NUMBER.match(last)
    return str(float(number[0].replace(",", ""))) if number else " ".join(_words(last))


def overlap(item: EvaluationItem, answer: str) -> float:
    """F1 of the words of the first line and the reference's, as ROUGE-1 counts them."""
    said = Counter(_words(answer.strip().partition("\n")[0]))
    wanted = Counter(_words(item.answer))
    if not wanted:
        raise ValueError("the reference is empty")
    shared = sum((said & wanted).values())
    return 2 * shared / (said.total() + wanted.total()) if shared else 0.0


def json_call(item: EvaluationItem, answer: str) -> float:
    """1 when the first JSON object of the answer equals the reference; order of keys is free."""
    wanted = json.loads(item.answer)
    start = answer.find("{")
    if start < 0:
        return 0.0
    try:
        said, _ = json.JSONDecoder().raw_decode(answer[start:])
    except (ValueError, RecursionError):
        return 0.0
    return float(said == wanted)


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.findall(r"\w+(?:[.,]\d+)*", plain)


SCORERS: dict[ScorerName, Callable[[EvaluationItem, str], float]] = {
    "exact": exact,
    "final-answer": final_answer,
    "overlap": overlap,
    "json": json_call,
}
"""Scorers of one written answer; `run` executes all answers in one limited child."""

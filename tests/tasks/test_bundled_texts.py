"""The bundled generic set: sizes, genres, and nothing shared between splits."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from itertools import combinations

import pytest

from profiles.tasks import load_task

MIN_CHARACTERS = {"search": 24_360, "select": 16_240, "evaluate": 20_300}
"""6,000, 4,000 and 5,000 tokens at the 4.06 characters per SmolLM2 token counted on these texts."""


def rows(part: str) -> list[dict[str, str]]:
    text = files("profiles.tasks").joinpath("data", "generic", f"{part}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def word_ngrams(texts: list[str], length: int) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        found.update(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
    return found


@pytest.mark.parametrize("part", MIN_CHARACTERS)
def test_each_split_is_large_enough(part: str) -> None:
    assert sum(len(row["text"]) for row in rows(part)) >= MIN_CHARACTERS[part]


def test_each_split_covers_the_same_genres() -> None:
    genres = [{row["genre"] for row in rows(part)} for part in MIN_CHARACTERS]
    assert genres[0] == genres[1] == genres[2]
    assert len(genres[0]) >= 12


@pytest.mark.parametrize(("one", "other"), list(combinations(MIN_CHARACTERS, 2)))
def test_no_eight_words_in_a_row_occur_in_two_splits(one: str, other: str) -> None:
    shared = word_ngrams([r["text"] for r in rows(one)], 8) & word_ngrams([r["text"] for r in rows(other)], 8)
    assert not shared


def test_no_document_occurs_twice() -> None:
    texts = [row["text"] for part in MIN_CHARACTERS for row in rows(part)]
    assert len(set(texts)) == len(texts)


def test_generic_task_holds_exactly_these_texts() -> None:
    task = load_task("generic")
    assert task.title == "General text and chat"
    assert list(task.splits.evaluate) == [row["text"] for row in rows("evaluate")]
    assert len(task.splits.prompts) == 6
    assert task.own_texts
    assert task.origin == "written for this project"


@pytest.mark.parametrize("part", MIN_CHARACTERS)
def test_python_snippets_compile(part: str) -> None:
    blocks = [b for row in rows(part) for b in re.findall(r"```python\n(.*?)```", row["text"], re.S)]
    assert blocks
    for block in blocks:
        compile(block, part, "exec")


@pytest.mark.parametrize("part", MIN_CHARACTERS)
def test_json_snippets_parse(part: str) -> None:
    for row in rows(part):
        for block in re.findall(r"```json\n(.*?)```", row["text"], re.S):
            json.loads(block)

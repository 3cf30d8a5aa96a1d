"""Write the bundled texts: `python -m profiles.tasks.problems.write`. The generic set is written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from profiles.tasks.problems import (
    classification_items,
    long_items,
    qa_items,
    reasoning_items,
    summary_items,
    tool_items,
    translation_items,
)
from profiles.tasks.problems.code_items import code_items
from profiles.tasks.problems.functions import functions
from profiles.tasks.problems.math_items import math_items
from profiles.tasks.problems.recall_items import recall_rows
from profiles.tasks.problems.rows import Row, distinct

SIZES = {"search": 96, "select": 36, "evaluate": 72}
"""Items of each split; every item is in one only."""

SEED = 20240711
"""Any number would do; with it the files are the same again."""

PROMPTS = 6
NEEDED = sum(SIZES.values()) + PROMPTS
DATA = Path(__file__).parent.parent / "data"


def math_rows() -> list[Row]:
    """Rows of the `math` set."""
    rows: list[Row] = []
    for item in math_items(NEEDED, SEED):
        answer = " " + ". ".join(item.steps) + f". The answer is {item.final}."
        rows.append(
            {
                "genre": item.kind,
                "text": f"Question: {item.question}\nAnswer:{answer}",
                "prompt": item.question,
                "answer": answer,
                "final": item.final,
                "expression": item.expression,
            }
        )
    return rows


def code_rows() -> list[Row]:
    """Rows of the `code` set: written functions and compositions, mixed."""
    rows: list[Row] = []
    for source in functions():
        prompt = source.split('"""')[1].split("\n")[0]
        rows.append(_code_row("written", prompt, source, ""))
    rows.extend(
        _code_row(item.kind, item.prompt, item.solution, "\n".join(item.checks))
        for item in code_items(SEED)[: NEEDED - len(rows)]
    )
    Random(SEED).shuffle(rows)
    return rows


def _code_row(genre: str, prompt: str, solution: str, checks: str) -> Row:
    """Checks, signature and docstring are the question; the body of the function is the answer."""
    lines = solution.splitlines(keepends=True)
    head = 1 + next(i for i, line in enumerate(lines) if line.startswith("def "))
    if lines[head].lstrip().startswith('"""'):
        head += 1
        head = 1 + next(i for i in range(head, len(lines)) if lines[i].rstrip().endswith('"""'))
    asked = f"Task: {prompt}\n" + (f"It must pass:\n{checks}\n" if checks else "")
    before = f"{asked}\n```python\n" + "".join(lines[:head]).removesuffix("\n")
    text = f"{asked}\n```python\n{solution}\n```"
    return {
        "genre": genre,
        "text": text,
        "prompt": f"Write a Python function. {prompt}",
        "answer": text[len(before) :],
        "program": f"{solution}\n\n\n{checks}" if checks else solution,
        "check": checks,
    }


SETS: dict[str, Callable[[], list[Row]]] = {
    "math": math_rows,
    "code": code_rows,
    "recall": partial(recall_rows, NEEDED, SEED),
    "classification": partial(distinct, classification_items.MAKERS, NEEDED, SEED),
    "qa": partial(distinct, qa_items.MAKERS, NEEDED, SEED),
    "summarization": partial(distinct, summary_items.MAKERS, NEEDED, SEED),
    "translation": partial(distinct, translation_items.MAKERS, NEEDED, SEED),
    "reasoning": partial(distinct, reasoning_items.MAKERS, NEEDED, SEED),
    "long-context": partial(distinct, long_items.MAKERS, NEEDED, SEED),
    "tool-calling": partial(distinct, tool_items.MAKERS, NEEDED, SEED),
}
"""Name of a generated set to what makes its rows."""


def write_set(name: str, rows: list[Row]) -> None:
    """Write the splits one after another, and the prompts (there `text` is the prompt)."""
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    left = list(rows)
    for split, size in SIZES.items():
        part, left = left[:size], left[size:]
        _write(folder / f"{split}.jsonl", part)
    _write(folder / "prompts.jsonl", [{"genre": r["genre"], "text": r["prompt"]} for r in left[:PROMPTS]])


def _write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    for set_name, make in SETS.items():
        write_set(set_name, make())

"""Write the bundled `math` and `code` texts: `python -m profiles.tasks.problems.write`."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from profiles.tasks.problems.code_items import code_items
from profiles.tasks.problems.functions import functions
from profiles.tasks.problems.math_items import math_items

SIZES = {"search": 96, "select": 36, "evaluate": 72}
"""Items of each split; every item is in one only."""

SEED = 20240711
"""Any number would do; with it the files are the same again."""

PROMPTS = 6
DATA = Path(__file__).parent.parent / "data"


def math_rows() -> list[dict[str, object]]:
    """Rows of the `math` set."""
    rows: list[dict[str, object]] = []
    for item in math_items(sum(SIZES.values()) + PROMPTS, SEED):
        answer = ". ".join(item.steps) + f". The answer is {item.final}."
        rows.append(
            {
                "genre": item.kind,
                "text": f"Question: {item.question}\nAnswer: {answer}",
                "prompt": item.question,
                "final": item.final,
                "expression": item.expression,
            }
        )
    return rows


def code_rows() -> list[dict[str, object]]:
    """Rows of the `code` set: written functions and compositions, mixed."""
    rows: list[dict[str, object]] = []
    for source in functions():
        prompt = source.split('"""')[1].split("\n")[0]
        rows.append(
            {
                "genre": "written",
                "text": f"Task: {prompt}\n\n```python\n{source}\n```",
                "prompt": f"Write a Python function. {prompt}",
                "program": source,
            }
        )
    needed = sum(SIZES.values()) + PROMPTS - len(rows)
    for item in code_items(SEED)[:needed]:
        checks = "\n".join(item.checks)
        rows.append(
            {
                "genre": item.kind,
                "text": f"Task: {item.prompt}\n\n```python\n{item.solution}\n\n\n{checks}\n```",
                "prompt": f"Write a Python function. {item.prompt}",
                "program": f"{item.solution}\n\n\n{checks}",
            }
        )
    Random(SEED).shuffle(rows)
    return rows


def write_set(name: str, rows: list[dict[str, object]]) -> None:
    """Write the splits one after another, and the prompts (there `text` is the prompt)."""
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    left = list(rows)
    for split, size in SIZES.items():
        part, left = left[:size], left[size:]
        _write(folder / f"{split}.jsonl", part)
    _write(folder / "prompts.jsonl", [{"genre": r["genre"], "text": r["prompt"]} for r in left[:PROMPTS]])


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write_set("math", math_rows())
    write_set("code", code_rows())

"""Questions of plain fact: one for each entry of the tables, with other entries as wrong choices."""

from __future__ import annotations

from random import Random

from profiles.tasks.problems.facts import AUTHORS, CAPITALS, CURRENCIES, ELEMENTS, YEARS, table
from profiles.tasks.problems.rows import Row, choice

WRONG = 3
"""Wrong choices beside the right one."""


def _articled(country: str) -> str:
    return f"the {country}" if country == "Netherlands" else country


def questions() -> list[tuple[str, str, str]]:
    """(kind, question, answer) of every fact."""
    found = [("capital", f"What is the capital of {_articled(c)}?", city) for c, city in table(CAPITALS)]
    found += [("symbol", f"What is the chemical symbol of {name}?", s) for name, s, _ in table(ELEMENTS)]
    found += [("number", f"What is the atomic number of {name}?", n) for name, _, n in table(ELEMENTS)]
    found += [("author", f"Who wrote {work}?", author) for work, author in table(AUTHORS)]
    found += [("year", f"In which year was it that {event}?", year) for event, year in table(YEARS)]
    found += [("currency", f"What is the currency of {c}?", unit) for c, unit in table(CURRENCIES)]
    return found


def recall_rows(count: int, seed: int) -> list[Row]:
    """`count` of the facts, shuffled."""
    random = Random(seed)
    known = questions()
    random.shuffle(known)
    if count > len(known):
        raise ValueError(f"only {len(known)} facts, {count} wanted")
    rows = []
    for kind, question, answer in known[:count]:
        same = sorted({a for k, _, a in known if k == kind and a != answer})
        wrong = [f" {a}" for a in random.sample(same, WRONG)]
        before = f"Question: {question}\nAnswer:"
        rows.append(choice(kind, before, f" {answer}", wrong, question, random))
    return rows

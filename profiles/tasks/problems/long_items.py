"""A record of many small facts, then a question about one of them (or two): retrieval from a longer text."""

from __future__ import annotations

from random import Random

from profiles.tasks.problems.math_items import NAMES
from profiles.tasks.problems.qa_items import COLOURS, OBJECTS, TOWNS
from profiles.tasks.problems.rows import Row, row

LINES = 16
"""Facts in a record: about 350 tokens with a vocabulary of 49,152."""
FILL = (
    "The corridor was swept as usual.",
    "Nothing else was noted that day.",
    "The window in the north wing still does not close.",
    "Tea was late again.",
)


def needle(r: Random) -> Row:
    """Which code was written down for one of sixteen things."""
    keys = r.sample([f"{c} {o}" for c in COLOURS for o in OBJECTS], LINES)
    codes = r.sample(range(1000, 10000), LINES)
    lines = [f"The code of the {k} is {c}." for k, c in zip(keys, codes, strict=True)]
    at = r.randrange(LINES)
    return _asked(r, lines, f"What is the code of the {keys[at]}?", str(codes[at]), "code", at)


def postings(r: Random) -> Row:
    """Who was sent where."""
    people = r.sample(NAMES, LINES)
    towns = [r.choice(TOWNS) for _ in people]
    days = r.sample(range(1, 29), LINES)
    lines = [f"On day {d}, {p} was sent to {t}." for p, t, d in zip(people, towns, days, strict=True)]
    at = r.randrange(LINES)
    if r.random() < 0.5:
        return _asked(r, lines, f"Where was {people[at]} sent?", towns[at], "place", at)
    return _asked(r, lines, f"On which day was {people[at]} sent away?", str(days[at]), "day", at)


def _asked(r: Random, lines: list[str], question: str, answer: str, genre: str, at: int) -> Row:
    shown = list(lines)
    for extra in r.sample(FILL, 2):
        shown.insert(r.randint(0, len(shown)), extra)
    text = " ".join(shown)
    before = f"Record: {text}\nQuestion: {question}\nAnswer:"
    return row(genre, before, f" {answer}", f"{text} {question}", source=lines[at])


MAKERS = (needle, postings)

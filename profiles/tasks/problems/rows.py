"""The row that every generated set is made of: a text whose end is the answer."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Row = dict[str, object]
Maker = Callable[[Random], Row]


def a(word: str) -> str:
    """The word with its article."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def row(genre: str, before: str, answer: str, ask: str, **more: object) -> Row:
    """`before` leads up to the answer, `ask` is the question for a chat, `more` is for scorer and test."""
    return {"genre": genre, "prompt": ask, "text": before + answer, "answer": answer, **more}


def choice(genre: str, before: str, answer: str, others: list[str], ask: str, r: Random) -> Row:
    """A row whose scorer compares the likelihood of several answers."""
    choices = [answer, *others]
    r.shuffle(choices)
    return row(genre, before, answer, ask, choices=choices)


def distinct(makers: tuple[Maker, ...], count: int, seed: int) -> list[Row]:
    """`count` rows with different questions, the makers in turn; makers that run dry are passed over."""
    random, rows, asked = Random(seed), list[Row](), set[str]()
    misses, turn = 0, 0
    while len(rows) < count:
        made = makers[turn % len(makers)](random)
        turn += 1
        key = str(made["text"])[: len(str(made["text"])) - len(str(made["answer"]))]
        if key in asked or str(made["prompt"]) in asked:
            misses += 1
            if misses > 200 * count:
                raise ValueError(f"only {len(rows)} distinct rows, {count} wanted")
            continue
        asked |= {key, str(made["prompt"])}
        rows.append(made)
    return rows

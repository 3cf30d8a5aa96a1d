"""The task's held-out items as the engine is asked them: a few solved examples, then the question."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from profiles.provenance import Contract
from profiles.tasks.schema import EvaluationItem, TaskProfile, TextSplits

SHOTS = 3
"""Solved examples before a question: a base model answers in the form that it has just seen."""

SHOT_CHARACTERS = 1200
"""Of all examples together: longer ones (code, long records) take the time of the questions themselves."""

CPU_ITEM_TOKENS = 16384
"""Work of the items on a CPU, in prompt tokens: bounds the time, at the cost of a wider interval."""

DECODE_WEIGHT = 4
"""A written token takes the time of so many prompt tokens when sixteen answers are written at once (two cores
with AVX-512, the demo model: 850 prompt tokens a second, 200 written ones)."""

LEAST_ANSWER, MOST_ANSWER = 8, 160
"""Tokens that an answer may take; in between, half as many again as the reference has."""


class Question(Contract):
    """One item with the examples that stand before its prompt."""

    item: EvaluationItem
    shots: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """What the engine reads."""
        return "\n\n".join((*self.shots, self.item.prompt))


def questions_of(task: TaskProfile) -> tuple[Question, ...]:
    """Every held-out item. Examples come from the split that was searched on, never from the held-out one;
    in a mixture each item gets those of its own part."""
    homes = [(frozenset(p.splits.evaluate), _shots(p.splits)) for p in task.parts]
    own = _shots(task.splits)

    def shots(item: EvaluationItem) -> tuple[str, ...]:
        if item.scorer == "next-token":
            return ()
        text = item.prompt + item.answer
        return next((found for texts, found in homes if text in texts), own)

    return tuple(Question(item=item, shots=shots(item)) for item in task.items)


def _shots(splits: TextSplits) -> tuple[str, ...]:
    """Examples at even distances, as many as the length allows; none where texts have no answers."""
    if not splits.answers.get("search"):
        return ()
    texts = splits.search
    picked = [texts[i * len(texts) // SHOTS] for i in range(min(SHOTS, len(texts)))]
    out: list[str] = []
    for text in picked:
        if sum(map(len, out)) + len(text) <= SHOT_CHARACTERS:
            out.append(text)
    return tuple(out)


class Asked(Contract):
    """A question in tokens. `answer` is the reference's, `limit` how many tokens may be written."""

    index: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...] = ()
    limit: int = 0

    @property
    def cost(self) -> int:
        """Work in prompt tokens."""
        if self.choices and not self.by_first_token:
            return sum(len(self.prompt) + len(c) for c in self.choices)
        return len(self.prompt) + (len(self.answer) if not self.limit else DECODE_WEIGHT * self.limit)

    @property
    def by_first_token(self) -> bool:
        """Whether the choices differ in their first token, so that one step decides."""
        return len({c[0] for c in self.choices if c}) == len(self.choices)


def encoded(
    questions: Sequence[Question], encode: Callable[[str, bool], Sequence[int]], *, longest: int
) -> list[Asked]:
    """Every question that fits into a context of `longest` tokens. `encode(text, special)`: `special` adds
    what the tokenizer puts at a text's beginning."""
    out = []
    for index, question in enumerate(questions):
        item = question.item
        prompt = tuple(encode(question.prompt, True)) if question.prompt else ()
        answer = tuple(encode(item.answer, not prompt))
        choices = tuple(tuple(encode(c, False)) for c in item.choices) if item.scorer == "choice" else ()
        writes = item.scorer not in ("choice", "next-token")
        limit = min(MOST_ANSWER, max(LEAST_ANSWER, len(answer) * 3 // 2)) if writes else 0
        room = max([len(answer), limit, *map(len, choices)])
        if len(prompt) + room < longest and answer and (prompt or len(answer) > 1):
            out.append(Asked(index=index, prompt=prompt, answer=answer, choices=choices, limit=limit))
    return out


def within(asked: Sequence[Asked], budget: int | None) -> list[Asked]:
    """As many as the work allows, at even distances, so that every kind of item is among them."""
    if budget is None or not asked:
        return list(asked)
    mean = sum(a.cost for a in asked) / len(asked)
    count = min(len(asked), max(1, int(budget / mean)))
    return [asked[i * len(asked) // count] for i in range(count)]


def key_of(asked: Sequence[Asked]) -> str:
    """Short hash of what was asked: two checkpoints are compared on the very same questions."""
    text = "\n".join(a.model_dump_json() for a in asked)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

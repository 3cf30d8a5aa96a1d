"""Is a greedy answer text, or the loop that a broken quantization falls into?"""

from __future__ import annotations

from collections.abc import Iterable
from math import comb

MIN_WORDS = 12
"""Fewer words are never called repetition: a short answer may say one thing twice."""

MIN_DISTINCT_TRIGRAMS = 0.3
"""Share of distinct word triples below which an answer is a loop; ordinary prose has over 0.8, the
demo model's own weakest answers about 0.4."""


def is_degenerate(text: str) -> bool:
    """Empty, without a letter or digit, or mostly the same three words again."""
    if not any(c.isalnum() for c in text):
        return True
    words = text.split()
    if len(words) < MIN_WORDS:
        # no spaces at all: one character repeated is a loop too
        return len(text) >= 2 * MIN_WORDS and len(set(text)) <= 2
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(triples)) / len(triples) < MIN_DISTINCT_TRIGRAMS


def degenerate_count(texts: Iterable[str]) -> int:
    """How many of the answers are degenerate."""
    return sum(map(is_degenerate, texts))


def more_by_chance(before: int, after: int, count: int) -> float:
    """Chance of at least `after` degenerate answers of `count` if they were as likely as the original's
    `before` of as many: Fisher's exact test, one-sided."""
    total = before + after
    ways = comb(2 * count, total)
    worst = range(after, min(total, count) + 1)
    return sum(comb(count, k) * comb(count, total - k) for k in worst) / ways

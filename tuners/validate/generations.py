"""Is a greedy answer text, or the loop that a broken quantization falls into?"""

from __future__ import annotations

from collections.abc import Iterable

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

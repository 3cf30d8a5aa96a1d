"""Documents to splits: by a hash of the document, so that the same one is never in two splits."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from profiles.tasks.schema import EvaluationItem, SplitName

SPLIT_SHARES: dict[SplitName, float] = {"search": 0.5, "select": 0.2, "evaluate": 0.3}
"""Shares of a user's documents: half searches, the rest is held back for choosing and reporting."""

MIN_DOCUMENTS = 3
"""One document for each split at least."""


class Document(NamedTuple):
    """One item: its text, and the part that decides the split (the question of a question and answer).

    `answer_at` is the character at which the answer begins, 0 when the whole text counts.
    """

    text: str
    split_on: str
    prompt: str | None = None
    answer_at: int = 0
    item: EvaluationItem | None = None


def fingerprint(text: str) -> str:
    """SHA-256 of the text without differences of case, white space and Unicode form."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(plain.encode()).hexdigest()


def unique(documents: Iterable[Document]) -> tuple[list[Document], int]:
    """The documents in order without repeats, and how many repeats were dropped."""
    kept: dict[str, Document] = {}
    dropped = 0
    for document in documents:
        key = fingerprint(document.text)
        if key in kept:
            dropped += 1
        else:
            kept[key] = document
    return list(kept.values()), dropped


def split_documents(documents: Iterable[Document]) -> dict[SplitName, list[Document]]:
    """Documents by split; each keeps its split when others are added, none of the three stays empty.

    Documents with the same `split_on` go together. Needs at least `MIN_DOCUMENTS` distinct ones: of
    smaller splits a group moves from the largest, which only happens with a handful of documents.
    """
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(fingerprint(document.split_on), []).append(document)
    if len(groups) < MIN_DOCUMENTS:
        raise ValueError(f"at least {MIN_DOCUMENTS} distinct documents must be given, got {len(groups)}")
    keys: dict[SplitName, list[str]] = {name: [] for name in SPLIT_SHARES}
    for key in sorted(groups):
        keys[_split_of(key)].append(key)
    for name in keys:
        if not keys[name]:
            largest = max(keys, key=lambda other: (len(keys[other]), other))
            keys[name].append(keys[largest].pop())
    return {name: [d for key in own for d in groups[key]] for name, own in keys.items()}


def _split_of(key: str) -> SplitName:
    """The first 64 bits of the fingerprint as a number in [0, 1), cut at the cumulative shares."""
    position = int(key[:16], 16) / 2**64
    edge = 0.0
    for name, share in SPLIT_SHARES.items():
        edge += share
        if position < edge:
            return name
    return "evaluate"

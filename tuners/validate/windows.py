"""Evaluation windows: the same tokens for the original, the quantized model, and the search."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from profiles.errors import UsageError

MIN_WINDOW = 16
"""Shorter pieces are left out: their few tokens have next to no context."""


def cut_windows(
    texts: Iterable[str], encode: Callable[[str], Sequence[int]], *, eval_tokens: int, seq_len: int
) -> list[list[int]]:
    """Windows of at most `seq_len` tokens, never across texts, until `eval_tokens` are predicted.

    A window of n tokens predicts n - 1.

    Raises:
        UsageError: the texts hold no window at all.
    """
    windows: list[list[int]] = []
    left = eval_tokens
    for text in texts:
        ids = list(encode(text))
        for start in range(0, len(ids), seq_len):
            if left <= 0:
                return windows
            piece = ids[start : start + min(seq_len, left + 1)]
            if len(piece) >= min(MIN_WINDOW, left + 1):
                windows.append(piece)
                left -= len(piece) - 1
    if not windows:
        raise UsageError(
            "the evaluation texts are too short",
            got=f"no text of {MIN_WINDOW} tokens",
            next_step="give longer texts, or a task with an evaluation split",
        )
    return windows


def windows_key(windows: Sequence[Sequence[int]]) -> str:
    """Short hash of the tokens: a reference is only comparable on the same windows."""
    text = "\n".join(",".join(map(str, w)) for w in windows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

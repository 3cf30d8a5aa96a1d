"""Calibration texts as token sequences of one length: packed, so that no token is padding."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from profiles.errors import UsageError


def pack(
    texts: Sequence[str],
    tokenize: Callable[[str], list[int]],
    *,
    separator: int | None,
    length: int,
    count: int,
    seed: int,
) -> list[list[int]]:
    """At most `count` sequences of `length` tokens, drawn from all texts with `seed`.

    Texts are joined by `separator` (the end-of-text token). Fewer sequences come back when there is less
    text; one shorter sequence when there is not enough for a single full one.

    Raises:
        UsageError: there is no text.
    """
    stream: list[int] = []
    for text in texts:
        ids = tokenize(text)
        if ids and stream and separator is not None:
            stream.append(separator)
        stream.extend(ids)
    if len(stream) < 2:
        raise UsageError(
            "no calibration text",
            got=f"{len(texts)} texts, {len(stream)} tokens",
            allowed="at least a few thousand tokens of text like the task's",
            next_step="choose a task with texts (advisor tasks) or give your own",
        )
    starts = list(range(0, len(stream) - length + 1, length))
    if not starts:
        return [stream]
    chosen = sorted(random.Random(seed).sample(starts, min(count, len(starts))))
    return [stream[s : s + length] for s in chosen]

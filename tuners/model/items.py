"""Items as token sequences: whole items packed side by side, with a weight where an answer token is next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from profiles.errors import UsageError
from profiles.tasks.schema import SplitName, TaskProfile, TextSplits
from tuners.model.host import ModelHost


@dataclass(frozen=True)
class Sequences:
    """`ids` (sequences, tokens); `weights` of that shape, 1 where the next token counts, None: everywhere.

    `skipped` items were longer than a sequence and are not in it.
    """

    ids: Tensor
    weights: Tensor | None = None
    skipped: int = 0

    def head(self, count: int) -> Sequences:
        """The first sequences."""
        return self.take(torch.arange(min(count, len(self))))

    def spread(self, count: int) -> Sequences:
        """`count` of the sequences at even distances."""
        if count >= len(self):
            return self
        return self.take((torch.arange(count) * len(self)) // count)

    def take(self, rows: Tensor) -> Sequences:
        """The sequences at these places (or where a mask is true)."""
        return Sequences(self.ids[rows], None if self.weights is None else self.weights[rows])

    def __len__(self) -> int:
        return len(self.ids)


def task_sequences(
    host: ModelHost, task: TaskProfile, split: SplitName, *, seq_len: int, max_sequences: int
) -> Sequences:
    """The sequences of a task's split. A mixture has as many of each part as its weight says, in turn.

    Raises:
        UsageError: too little text, or no item is short enough.
    """
    if not task.parts:
        return split_sequences(host, task.splits, split, seq_len=seq_len, max_sequences=max_sequences)
    shares = _shares([p.weight for p in task.parts], max_sequences)
    made = [
        split_sequences(host, part.splits, split, seq_len=seq_len, max_sequences=share)
        for part, share in zip(task.parts, shares, strict=True)
        if share
    ]
    ids = torch.cat([m.ids for m in made])
    weights = torch.cat([torch.ones(m.ids.shape) if m.weights is None else m.weights for m in made])
    # every prefix holds the parts in about the proportion of the whole
    places = torch.tensor([(i + 0.5) / len(m) for m in made for i in range(len(m))])
    order = torch.argsort(places, stable=True)
    return Sequences(ids[order], weights[order], sum(m.skipped for m in made))


def _shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to the weights that sum to `total` (largest remainders)."""
    exact = [w * total for w in weights]
    shares = [int(e) for e in exact]
    for place in sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])[: total - sum(shares)]:
        shares[place] += 1
    return shares


def split_sequences(
    host: ModelHost, splits: TextSplits, name: SplitName, *, seq_len: int, max_sequences: int
) -> Sequences:
    """Texts without answers: one stream cut into sequences. With answers: whole items, packed first-fit.

    Behind the last item of a sequence is end-of-text, with weight 0: causal attention keeps it from
    touching what is before it.
    """
    texts: tuple[str, ...] = getattr(splits, name)
    starts = splits.answers.get(name, ())
    if not starts:
        return Sequences(host.tokenise(texts, seq_len=seq_len, max_sequences=max_sequences))
    bins: list[list[tuple[list[int], int]]] = []
    room: list[int] = []
    skipped = 0
    for text, start in zip(texts, starts, strict=True):
        item = encode_item(host, text, start)
        if not 1 < len(item[0]) <= seq_len:  # a lone token predicts nothing
            skipped += 1
            continue
        place = next((i for i, free in enumerate(room) if free >= len(item[0])), None)
        if place is None:
            if len(bins) == max_sequences:
                continue
            bins.append([])
            room.append(seq_len)
            place = len(bins) - 1
        bins[place].append(item)
        room[place] -= len(item[0])
    if not bins:
        raise UsageError(
            "no item fits into one sequence",
            got=f"{skipped} items longer than {seq_len} tokens",
            allowed=f"items of at most {seq_len} tokens, prompt and answer together",
            next_step="shorten the items of the task",
        )
    ids = torch.full((len(bins), seq_len), _end(host), dtype=torch.long)
    weights = torch.zeros(len(bins), seq_len)
    for row, items in enumerate(bins):
        at = 0
        for tokens, answer in items:
            ids[row, at : at + len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            weights[row, max(0, at + answer - 1) : at + len(tokens) - 1] = 1.0
            at += len(tokens)
    return Sequences(ids, weights, skipped)


def encode_item(host: ModelHost, text: str, start: int) -> tuple[list[int], int]:
    """Tokens of an item with end-of-text behind it, and the place of the answer's first token."""
    prompt = _encode(host, text[:start]) if start else []
    answer = _encode(host, text[start:])
    end = host.tokenizer.eos_token_id
    return [*prompt, *answer, *([int(end)] if end is not None else [])], len(prompt)


def _encode(host: ModelHost, text: str) -> list[int]:
    return [int(i) for i in host.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _end(host: ModelHost) -> int:
    end = host.tokenizer.eos_token_id
    return 0 if end is None else int(end)

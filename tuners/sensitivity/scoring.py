"""Task scores on the model in memory: choices by likelihood, answers by greedy decoding, text by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from profiles.tasks.schema import EvaluationItem
from profiles.tasks.scorers import STOPS, score_answers
from tuners.model.host import ModelHost

SLACK_TOKENS = 12
"""Tokens that an answer may be longer than the reference; a quarter of the reference comes on top."""

TEXT_TOKENS = 192
"""Tokens of a text that the next-token scorer reads."""


ACCEPTED_AT_ONCE = 4
"""Rows whose drafts are read in one pass: their logits are rows x tokens x vocabulary floats."""


class Skipped(StrEnum):
    """Why an item has no score."""

    TOO_LONG = "longer than the model's context"
    FAILED = "whose scorer failed"


class Scored(NamedTuple):
    """A score for each item, or why there is none; and the tokens that were written, by place of the item."""

    scores: list[float | Skipped]
    written: dict[int, list[int]]


def score_items(
    host: ModelHost,
    items: Sequence[EvaluationItem],
    context: int,
    drafts: Mapping[int, list[int]] | None = None,
) -> Scored:
    """Scores with the weights that are installed now. `drafts`: what other weights wrote for these items."""
    out: list[float | Skipped] = [Skipped.TOO_LONG] * len(items)
    answers: dict[int, list[int]] = {}
    written = [i for i, item in enumerate(items) if item.scorer in STOPS]
    fitting = [i for i in written if _fits(host, items[i], context)]
    if fitting:
        chosen = [items[i] for i in fitting]
        found = write(host, chosen, None if drafts is None else [drafts[i] for i in fitting])
        answers = dict(zip(fitting, found, strict=True))
        texts = [cut(host.tokenizer.decode(answers[i]), items[i]) for i in fitting]
        for i, score in zip(fitting, score_answers(chosen, texts), strict=True):
            out[i] = _or_failed(score)
    for i, item in enumerate(items):
        if item.scorer == "choice":
            if _fits(host, item, context):
                out[i] = _or_failed(score_choice(host, item))
        elif item.scorer == "next-token":
            out[i] = _or_failed(score_text(host, item))
    return Scored(out, answers)


def _or_failed(score: float | None) -> float | Skipped:
    return Skipped.FAILED if score is None else score


def encode(host: ModelHost, text: str) -> list[int]:
    """Token ids without special tokens."""
    return [int(i) for i in host.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _budget(host: ModelHost, item: EvaluationItem) -> int:
    return int(1.25 * len(encode(host, item.answer))) + SLACK_TOKENS


def _fits(host: ModelHost, item: EvaluationItem, context: int) -> bool:
    longest = max([_budget(host, item), *(len(encode(host, c)) for c in item.choices)])
    prompt = len(encode(host, item.prompt))
    return prompt > 0 and prompt + longest <= context


@torch.no_grad()
def score_choice(host: ModelHost, item: EvaluationItem) -> float | None:
    """1 when the reference is the likeliest of the choices, by log-probability per character."""
    if item.answer not in item.choices:
        return None
    prompt = encode(host, item.prompt)
    choices = [encode(host, choice) for choice in item.choices]
    if any(not c for c in choices):
        return None
    if all(len(c) == 1 for c in choices):
        logits = host.logits(torch.tensor([prompt]))[0, -1]
        best = max(range(len(choices)), key=lambda i: float(logits[choices[i][0]]))
        return float(item.choices[best] == item.answer)
    width = len(prompt) + max(map(len, choices))
    ids = torch.zeros(len(choices), width, dtype=torch.long)
    for row, choice in enumerate(choices):
        ids[row, : len(prompt) + len(choice)] = torch.tensor([*prompt, *choice])
    logp = torch.log_softmax(host.logits(ids)[:, len(prompt) - 1 : -1], -1)
    scores = [
        sum(float(logp[row, at, token]) for at, token in enumerate(choice)) / len(item.choices[row])
        for row, choice in enumerate(choices)
    ]
    return float(item.choices[max(range(len(scores)), key=scores.__getitem__)] == item.answer)


@torch.no_grad()
def score_text(host: ModelHost, item: EvaluationItem) -> float | None:
    """Share of the text's tokens that the model predicts as the likeliest."""
    ids = encode(host, item.prompt + item.answer)[:TEXT_TOKENS]
    if len(ids) < 2:
        return None
    tokens = torch.tensor([ids])
    found = host.logits(tokens)[0, :-1].argmax(-1).cpu()
    return float((found == tokens[0, 1:]).float().mean())


@torch.no_grad()
def write(
    host: ModelHost, items: Sequence[EvaluationItem], drafts: Sequence[list[int]] | None = None
) -> list[list[int]]:
    """Greedy answers of all items in one batch, as tokens.

    `drafts` are answers with other weights: one pass finds how far these weights would have written the same,
    and decoding goes on from there (what is written is the same as without drafts).
    """
    rows = [_Row(encode(host, item.prompt), _budget(host, item), item) for item in items]
    if drafts is not None:
        _accept(host, rows, drafts)
    _decode(host, [row for row in rows if not row.done])
    return [row.written for row in rows]


@dataclass
class _Row:
    """One answer on its way."""

    prompt: list[int]
    limit: int
    item: EvaluationItem
    written: list[int] = field(default_factory=list)
    done: bool = False

    def take(self, host: ModelHost, token: int) -> None:
        """The next token: it ends the answer, or is written and may complete it."""
        if token == host.tokenizer.eos_token_id:
            self.done = True
            return
        self.written.append(token)
        text = host.tokenizer.decode(self.written)
        self.done = len(self.written) >= self.limit or stopped(text, self.item)


def _padded(contexts: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, mask and positions (rows, width), padded on the left."""
    width = max(map(len, contexts))
    ids = torch.zeros(len(contexts), width, dtype=torch.long)
    mask = torch.zeros(len(contexts), width, dtype=torch.long)
    for row, context in enumerate(contexts):
        ids[row, width - len(context) :] = torch.tensor(context)
        mask[row, width - len(context) :] = 1
    return ids, mask, (mask.cumsum(-1) - 1).clamp_min(0)


def _accept(host: ModelHost, rows: Sequence[_Row], drafts: Sequence[list[int]]) -> None:
    """Take over each draft as far as these weights write it too, with the token that follows."""
    for first in range(0, len(rows), ACCEPTED_AT_ONCE):
        group = rows[first : first + ACCEPTED_AT_ONCE]
        given = drafts[first : first + ACCEPTED_AT_ONCE]
        padded = _padded([row.prompt + draft for row, draft in zip(group, given, strict=True)])
        ids, mask, positions = (x.to(host.device) for x in padded)
        logits = host.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits
        for at, (row, draft) in enumerate(zip(group, given, strict=True)):
            following = logits[at, -len(draft) - 1 :].argmax(-1).tolist()
            for token, drafted in zip(following, [*draft, None], strict=True):
                row.take(host, token)
                if row.done or token != drafted:
                    break


def _decode(host: ModelHost, rows: list[_Row]) -> None:
    """Greedy steps with a cache until every row is done; finished rows leave the batch."""
    if not rows:
        return
    step, mask, positions = (x.to(host.device) for x in _padded([r.prompt + r.written for r in rows]))
    past = None
    while True:
        out = host.model(
            input_ids=step, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
        )
        past = out.past_key_values
        following: Tensor = out.logits[:, -1].argmax(-1)
        for row, token in zip(rows, following.tolist(), strict=True):
            if not row.done:
                row.take(host, token)
        left = [i for i, row in enumerate(rows) if not row.done]
        if not left:
            return
        if len(left) < len(rows) and _selectable(past):
            keep = torch.tensor(left, device=mask.device)
            past.batch_select_indices(keep)
            rows = [rows[i] for i in left]
            mask, positions, following = mask[keep], positions[keep], following[keep]
        step = following[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], -1)
        positions = positions[:, -1:] + 1


def _selectable(past: Any) -> bool:
    """Whether rows can be taken out of the cache (recurrent layers may not know how)."""
    return all(hasattr(layer, "batch_select_indices") for layer in getattr(past, "layers", [None]))


def stopped(text: str, item: EvaluationItem) -> bool:
    """Whether the answer has ended: its stop came after something was written."""
    return STOPS[item.scorer] in text.lstrip()


def cut(text: str, item: EvaluationItem) -> str:
    """The answer without its stop and what follows; the line break that code begins with is kept."""
    stop = STOPS[item.scorer]
    lead = len(text) - len(text.lstrip()) if stop == "\n" else 0
    at = text.find(stop, lead)
    return text if at < 0 else text[:at]

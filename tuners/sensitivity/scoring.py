"""Task scores on the model in memory: choices by likelihood, answers by greedy decoding, text by token."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor

from profiles.tasks.schema import EvaluationItem
from profiles.tasks.scorers import STOPS, score_answers
from tuners.model.host import ModelHost

SLACK_TOKENS = 12
"""Tokens that an answer may be longer than the reference; a quarter of the reference comes on top."""

TEXT_TOKENS = 192
"""Tokens of a text that the next-token scorer reads."""


class Skipped(StrEnum):
    """Why an item has no score."""

    TOO_LONG = "longer than the model's context"
    FAILED = "whose scorer failed"


def score_items(host: ModelHost, items: Sequence[EvaluationItem], context: int) -> list[float | Skipped]:
    """A score for each item with the weights that are installed now, or why there is none: the caller
    counts these."""
    out: list[float | Skipped] = [Skipped.TOO_LONG] * len(items)
    written = [i for i, item in enumerate(items) if item.scorer in STOPS]
    fitting = [i for i in written if _fits(host, items[i], context)]
    if fitting:
        chosen = [items[i] for i in fitting]
        for i, score in zip(fitting, score_answers(chosen, write(host, chosen)), strict=True):
            out[i] = _or_failed(score)
    for i, item in enumerate(items):
        if item.scorer == "choice":
            if _fits(host, item, context):
                out[i] = _or_failed(score_choice(host, item))
        elif item.scorer == "next-token":
            out[i] = _or_failed(score_text(host, item))
    return out


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
def write(host: ModelHost, items: Sequence[EvaluationItem]) -> list[str]:
    """Greedy answers of all items in one batch, prompts padded on the left, each cut at its stop."""
    prompts = [encode(host, item.prompt) for item in items]
    limits = [_budget(host, item) for item in items]
    width = max(map(len, prompts))
    ids = torch.zeros(len(items), width, dtype=torch.long)
    mask = torch.zeros(len(items), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    device, end = host.device, host.tokenizer.eos_token_id
    written: list[list[int]] = [[] for _ in items]
    done = [False] * len(items)
    mask, step = mask.to(device), ids.to(device)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    past = None
    for _ in range(max(limits)):
        out = host.model(
            input_ids=step, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
        )
        past = out.past_key_values
        following: Tensor = out.logits[:, -1].argmax(-1)
        for row, token in enumerate(following.tolist()):
            if done[row]:
                continue
            if token == end or len(written[row]) >= limits[row]:
                done[row] = True
                continue
            written[row].append(token)
            done[row] = stopped(host.tokenizer.decode(written[row]), items[row])
        if all(done):
            break
        step = following[:, None]
        mask = torch.cat([mask, mask.new_ones(len(items), 1)], -1)
        positions = positions[:, -1:] + 1
    return [cut(host.tokenizer.decode(tokens), item) for tokens, item in zip(written, items, strict=True)]


def stopped(text: str, item: EvaluationItem) -> bool:
    """Whether the answer has ended: its stop came after something was written."""
    return STOPS[item.scorer] in text.lstrip()


def cut(text: str, item: EvaluationItem) -> str:
    """The answer without its stop and what follows; the line break that code begins with is kept."""
    stop = STOPS[item.scorer]
    lead = len(text) - len(text.lstrip()) if stop == "\n" else 0
    at = text.find(stop, lead)
    return text if at < 0 else text[:at]

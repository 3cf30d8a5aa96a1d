"""Text that a model writes itself, where there is too little of the task's own to calibrate on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PREFIX = 16
"""Tokens of a text that a written sequence begins with."""


@torch.no_grad()
def written(model: Any, ids: Tensor, count: int, batch: int = 32) -> Tensor:
    """(count, tokens) sampled from the model (LLM-QAT, arXiv 2305.17888), begun as `ids` (texts, tokens) are.

    The tokens of `ids` must be more than `PREFIX`. It comes out of torch's random state.
    """
    length = ids.shape[1]
    starts = ids[torch.arange(count) % len(ids)]
    offsets = (torch.arange(count) // len(ids) * PREFIX) % (length - PREFIX)
    prefixes = torch.stack([row[o : o + PREFIX] for row, o in zip(starts, offsets, strict=True)])
    made = []
    for part in prefixes.split(batch):
        part = part.to(model.device)
        out = model.generate(
            input_ids=part,
            attention_mask=torch.ones_like(part),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=length - PREFIX,
            max_new_tokens=length - PREFIX,
        )
        made.append(out.cpu())
    return torch.cat(made)

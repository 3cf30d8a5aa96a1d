"""Text that a model writes itself (LLM-QAT, arXiv 2305.17888): more of it where a task has too little to
calibrate on, and half of what a search measures plans on where the text stands for any.

A served model reads its prompt and then what it wrote: differences count there as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PREFIX = 16
"""Tokens of a text that a written sequence begins with."""

WRITER_PARAMETERS = 2_000_000_000
"""The largest model that writes without a GPU: every token of a sequence is a pass over its weights. A
choice, not a measurement: minutes at that size are an estimate."""

Tick = Callable[[int, int], None]
"""Tokens done and their total, of one sequence of a batch."""


def can_write(model: Any) -> bool:
    """Whether the model generates, and fast enough where it is."""
    if not model.can_generate():
        return False
    return bool(model.device.type == "cuda" or model.num_parameters() <= WRITER_PARAMETERS)


@torch.no_grad()
def written(model: Any, ids: Tensor, count: int, batch: int = 32, tick: Tick | None = None) -> Tensor:
    """(count, tokens) sampled from the model, begun as `ids` (texts, tokens) are.

    The tokens of `ids` must be more than `PREFIX`. It comes out of torch's random state.
    """
    from transformers import StoppingCriteria

    class Ticks(StoppingCriteria):  # type: ignore[misc]
        """Stops nothing."""

        done = 0

        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
            self.done += 1
            if tick is not None:
                tick(self.done, steps)
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    length = ids.shape[1]
    starts = ids[torch.arange(count) % len(ids)]
    offsets = (torch.arange(count) // len(ids) * PREFIX) % (length - PREFIX)
    prefixes = torch.stack([row[o : o + PREFIX] for row, o in zip(starts, offsets, strict=True)])
    parts = prefixes.split(batch)
    steps = (length - PREFIX) * len(parts)
    ticks = Ticks()
    made = []
    for part in parts:
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
            stopping_criteria=[ticks],
        )
        made.append(out.cpu())
    return torch.cat(made)


def is_written(place: int) -> bool:
    """Whether that sequence of a split is the model's own: half of them, and half of every prefix of a power
    of two and of every even spread (the Thue-Morse sequence), so that a share of a split is mixed alike."""
    return place.bit_count() % 2 == 1


def half_written(model: Any, ids: Tensor, path: Path, *, seed: int, tick: Tick | None = None) -> Tensor:
    """`ids` (sequences, tokens), half of the sequences (`is_written`) gone on with by the model after their
    first `PREFIX` tokens; made once, then read from `path`."""
    places = [i for i in range(len(ids)) if is_written(i)]
    if not path.exists():
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            made = written(model, ids[places], len(places), tick=tick)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, made.numpy())
        partial.replace(path)
    out = ids.clone()
    out[places] = torch.from_numpy(np.load(path))
    return out

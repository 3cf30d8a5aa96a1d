"""A measured quality, free of torch so that every layer can read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiles.provenance import Contract


@dataclass(frozen=True)
class SequenceLoss:
    """Means over one sequence: KL(original || plan) and negative log-likelihood in nats per token,
    and the share of positions whose most likely token is the original's."""

    kl: float
    nll: float
    top1: float


class Quality(Contract):
    """A plan's measured quality on one split. `sequence_kl` keeps the samples for paired comparison."""

    split: str
    kl: float
    perplexity: float
    top1: float
    tokens: int
    sequence_kl: tuple[float, ...]

    @classmethod
    def of(cls, split: str, losses: Sequence[SequenceLoss], tokens: int) -> Quality:
        """Average the sequences (all have the same length)."""
        return cls(
            split=split,
            kl=float(np.mean([s.kl for s in losses])),
            perplexity=math.exp(float(np.mean([s.nll for s in losses]))),
            top1=float(np.mean([s.top1 for s in losses])),
            tokens=tokens,
            sequence_kl=tuple(s.kl for s in losses),
        )

"""A measured quality, free of torch so that every layer can read it.

One definition holds in search, task profiles and engine: a mean over tokens. A token counts when the text
says which one it is and its loss is asked for (an answer's where there is one); the last position of a
sequence predicts a token that nobody knows and does not count. A sequence weighs as many tokens as it counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profiles.provenance import Contract


@dataclass(frozen=True)
class SequenceLoss:
    """Means over one sequence's `tokens` counted tokens: KL(original || plan) and negative log-likelihood in
    nats per token, and the share of positions whose most likely token is the original's."""

    kl: float
    nll: float
    top1: float
    tokens: int


def token_mean(values: Sequence[float], tokens: Sequence[int]) -> float:
    """Mean over tokens of per-sequence means; `tokens` may go on beyond the values (a stopped trial), and
    without any all sequences weigh the same."""
    if not tokens:
        return float(np.mean(values))
    return float(np.average(values, weights=tokens[: len(values)]))


def bootstrap(
    values: Sequence[float] | npt.NDArray[np.float64],
    tokens: Sequence[int] = (),
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean over tokens of per-sequence means with a 95 % interval: percentiles over redrawn sequences."""
    known = np.asarray(values, dtype=float)
    weight = np.asarray(tokens, dtype=float) if len(tokens) else np.ones(len(known))
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(known), (resamples, len(known)))
    means = (known * weight)[rows].sum(1) / weight[rows].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.average(known, weights=weight)), float(low), float(high)


class Quality(Contract):
    """A plan's measured quality on one split, as means over its tokens.

    `sequence_kl`, `sequence_nll` and `sequence_tokens` keep the samples for paired comparison.
    """

    split: str
    kl: float
    perplexity: float
    top1: float
    tokens: int
    sequence_kl: tuple[float, ...]
    sequence_nll: tuple[float, ...] = ()
    sequence_tokens: tuple[int, ...] = ()

    @classmethod
    def of(cls, split: str, losses: Sequence[SequenceLoss]) -> Quality:
        """Of all tokens of the sequences."""
        tokens = tuple(s.tokens for s in losses)
        return cls(
            split=split,
            kl=token_mean([s.kl for s in losses], tokens),
            perplexity=math.exp(token_mean([s.nll for s in losses], tokens)),
            top1=token_mean([s.top1 for s in losses], tokens),
            tokens=sum(tokens),
            sequence_kl=tuple(s.kl for s in losses),
            sequence_nll=tuple(s.nll for s in losses),
            sequence_tokens=tokens,
        )

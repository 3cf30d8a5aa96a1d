"""Measured quality of a plan: KL to the original's stored predictions, perplexity, top-1 agreement."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tuners.evaluate_schema import Quality, SequenceLoss, bootstrap
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore


class Evaluator:
    """Token ids of one split with the original model's log-probabilities, kept on disk in float32.

    The reference costs 4 bytes x vocabulary per token (0.4 GB for 2,048 tokens of a 49k vocabulary); it
    is memory-mapped and reused by later runs with the same model and text. With `weights` (the same shape
    as the ids, above zero where the next token counts) only the counted positions are stored and compared.
    """

    def __init__(
        self,
        host: ModelHost,
        store: VariantStore,
        ids: Tensor,
        folder: Path,
        split: str,
        *,
        batch_size: int = 4,
        weights: Tensor | None = None,
    ) -> None:
        self.host = host
        self.store = store
        self.ids = ids
        self.weights = weights
        self.split = split
        self.batch_size = batch_size
        counted = b"" if weights is None else weights.numpy().tobytes()
        digest = hashlib.sha256(ids.numpy().tobytes() + counted).hexdigest()[:16]
        self.path = folder / f"reference-{split}-{digest}.f32"

    @property
    def sequence_tokens(self) -> tuple[int, ...]:
        """What each sequence weighs."""
        return counted_tokens(self.ids, self.weights)

    def _counted(self, rows: slice) -> slice:
        """Where the counted positions of some sequences lie in the stored reference."""
        if self.weights is None:
            return rows
        before = (self.weights[: rows.start] > 0).sum()
        return slice(int(before), int(before + (self.weights[rows] > 0).sum()))

    def reference(self) -> np.ndarray:
        """Log-probabilities of the original, made once: (sequences, tokens, vocabulary), or (counted
        positions, vocabulary) with weights."""
        vocab = int(self.host.model.config.vocab_size)
        shape = (*self.ids.shape, vocab)
        if self.weights is not None:
            shape = (int((self.weights > 0).sum()), vocab)
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".partial")
            out = np.memmap(partial, dtype=np.float32, mode="w+", shape=shape)
            for rows, batch in self._batches():
                logits = self.host.logits(batch)[..., :vocab]
                if self.weights is not None:
                    logits = logits[(self.weights[rows] > 0).to(logits.device)]
                out[self._counted(rows)] = torch.log_softmax(logits, -1).cpu().numpy()
            out.flush()
            del out
            partial.replace(self.path)
        return np.memmap(self.path, dtype=np.float32, mode="c", shape=shape)

    def losses(self, formats: Mapping[str, str]) -> Iterator[list[SequenceLoss]]:
        """Losses of a plan, a batch of sequences at a time, so that the caller may stop early."""
        reference = self.reference()
        with self.store.installed(formats):
            for rows, batch in self._batches():
                logits = self.host.logits(batch)
                stored = torch.from_numpy(reference[self._counted(rows)])
                yield compare(logits, stored, batch, None if self.weights is None else self.weights[rows])

    def quality(self, formats: Mapping[str, str]) -> Quality:
        """A plan measured on the whole split."""
        losses = [loss for batch in self.losses(formats) for loss in batch]
        return Quality.of(self.split, losses)

    def _batches(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.ids), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield rows, self.ids[rows]


def counted_tokens(ids: Tensor, weights: Tensor | None = None) -> tuple[int, ...]:
    """Tokens that count in each sequence: what it weighs in a mean. All but the last position, or of these
    the ones whose weight is above zero."""
    marks = torch.ones_like(ids) if weights is None else weights > 0
    return tuple(int(n) for n in marks[:, :-1].sum(1))


@torch.no_grad()
def compare(
    logits: Tensor, reference: Tensor, ids: Tensor, weights: Tensor | None = None
) -> list[SequenceLoss]:
    """Per-sequence losses of `logits` (batch, tokens, vocab) against reference log-probabilities.

    `reference` is (batch, tokens, vocab). With `weights` (batch, tokens) only positions above zero count;
    `reference` may then also hold these positions alone, (marked, vocab). The last position of a sequence
    never counts: its next token is not known.
    """
    marks = torch.ones_like(ids) if weights is None else weights > 0
    out, done = [], 0
    for row in range(len(ids)):
        at = marks[row].nonzero().squeeze(-1)
        known = at + 1 < ids.shape[1]
        if reference.dim() == 3:
            ref = reference[row][at[known].to(reference.device)]
        else:
            ref = reference[done : done + len(at)][known.to(reference.device)]
            done += len(at)
        at, ref = at[known].to(logits.device), ref.to(logits.device)
        logp = torch.log_softmax(logits[row, at, : ref.shape[-1]], -1)
        kl = (ref.exp() * (ref - logp)).sum(-1).mean()
        targets = ids[row].to(logits.device)[at + 1]
        nll = -logp.gather(-1, targets.unsqueeze(-1)).mean()
        top1 = (logp.argmax(-1) == ref.argmax(-1)).float().mean()
        out.append(SequenceLoss(kl=max(0.0, float(kl)), nll=float(nll), top1=float(top1), tokens=len(at)))
    return out


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    tokens: Sequence[int] = (),
    *,
    resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of a - b over paired sequences with a 95 % bootstrap interval (percentile method).

    `tokens` weighs the sequences (none: all the same): whole sequences are drawn, with their tokens.
    """
    delta = np.asarray(a) - np.asarray(b)
    return bootstrap(delta, tokens, resamples=resamples, seed=seed)

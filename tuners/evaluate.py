"""Measured quality of a plan: KL to the original's stored predictions, perplexity, top-1 agreement."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tuners.evaluate_schema import Quality, SequenceLoss
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore


class Evaluator:
    """Token ids of one split with the original model's log-probabilities, kept on disk in float32.

    The reference costs 4 bytes x vocabulary per token (0.4 GB for 2,048 tokens of a 49k vocabulary); it
    is memory-mapped and reused by later runs with the same model and text.
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
    ) -> None:
        self.host = host
        self.store = store
        self.ids = ids
        self.split = split
        self.batch_size = batch_size
        digest = hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:16]
        self.path = folder / f"reference-{split}-{digest}.f32"

    @property
    def tokens(self) -> int:
        """Tokens of the split."""
        return int(self.ids.numel())

    def reference(self) -> np.ndarray:
        """Log-probabilities (sequences, tokens, vocabulary) of the original, made once."""
        vocab = int(self.host.model.config.vocab_size)
        shape = (*self.ids.shape, vocab)
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".partial")
            out = np.memmap(partial, dtype=np.float32, mode="w+", shape=shape)
            for rows, batch in self._batches():
                logits = self.host.logits(batch)[..., :vocab]
                out[rows] = torch.log_softmax(logits, -1).cpu().numpy()
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
                yield compare(logits, torch.from_numpy(reference[rows]), batch)

    def quality(self, formats: Mapping[str, str]) -> Quality:
        """A plan measured on the whole split."""
        losses = [loss for batch in self.losses(formats) for loss in batch]
        return Quality.of(self.split, losses, self.tokens)

    def _batches(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.ids), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield rows, self.ids[rows]


@torch.no_grad()
def compare(logits: Tensor, reference: Tensor, ids: Tensor) -> list[SequenceLoss]:
    """Per-sequence losses of `logits` (batch, tokens, vocab) against reference log-probabilities."""
    out = []
    for row in range(len(ids)):
        ref = reference[row].to(logits.device)
        logp = torch.log_softmax(logits[row, :, : ref.shape[-1]], -1)
        kl = (ref.exp() * (ref - logp)).sum(-1).mean()
        targets = ids[row, 1:].to(logits.device)
        nll = -logp[:-1].gather(-1, targets.unsqueeze(-1)).mean()
        top1 = (logp.argmax(-1) == ref.argmax(-1)).float().mean()
        out.append(SequenceLoss(kl=max(0.0, float(kl)), nll=float(nll), top1=float(top1)))
    return out


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, resamples: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of a - b over paired sequences with a 95 % bootstrap interval (percentile method)."""
    delta = np.asarray(a) - np.asarray(b)
    rng = np.random.default_rng(seed)
    means = delta[rng.integers(0, len(delta), (resamples, len(delta)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(delta.mean()), float(low), float(high)

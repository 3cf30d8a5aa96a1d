"""Measured quality of a plan: KL to the original's stored predictions, perplexity, top-1 agreement."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tuners.evaluate_schema import Quality, SequenceLoss, bootstrap
from tuners.model.host import ModelHost, batches
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
        self._top: dict[int, Tensor] = {}  # of each batch, the original's likeliest tokens
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

    @property
    def _shape(self) -> tuple[int, ...]:
        vocab = int(self.host.model.config.vocab_size)
        if self.weights is None:
            return (*self.ids.shape, vocab)
        return (int((self.weights > 0).sum()), vocab)

    def reference(self) -> np.ndarray:
        """Log-probabilities of the original, made once: (sequences, tokens, vocabulary), or (counted
        positions, vocabulary) with weights."""
        self._make_reference()
        return np.memmap(self.path, dtype=np.float32, mode="c", shape=self._shape)

    def _make_reference(self) -> None:
        if self.path.exists():
            return
        vocab = self._shape[-1]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("wb") as file:
            for rows, logits in self.host.sweep(self.ids, self.batch_size):
                counted = logits[..., :vocab]
                if self.weights is not None:
                    counted = counted[(self.weights[rows] > 0).to(logits.device)]
                torch.log_softmax(counted, -1).cpu().numpy().tofile(file)
        partial.replace(self.path)

    def _stored(self, rows: slice) -> Tensor:
        """The reference of some sequences, mapped alone so that no more than it is resident."""
        where, shape = self._counted(rows), self._shape
        row_items = math.prod(shape[1:])
        stored = np.memmap(
            self.path,
            dtype=np.float32,
            mode="c",
            offset=4 * row_items * where.start,
            shape=(where.stop - where.start, *shape[1:]),
        )
        return torch.from_numpy(stored)

    def losses(self, formats: Mapping[str, str]) -> Iterator[list[SequenceLoss]]:
        """Losses of a plan, a batch of sequences at a time, so that the caller may stop early."""
        self._make_reference()
        with self.store.installed(formats):
            for rows, logits in self.host.sweep(self.ids, self.batch_size):
                counted = None if self.weights is None else self.weights[rows]
                stored = self._stored(rows)
                if rows.start not in self._top:
                    self._top[rows.start] = stored.max(-1).indices
                yield compare(logits, stored, self.ids[rows], counted, self._top[rows.start])

    def original(self) -> Quality:
        """The original model itself, out of its stored predictions."""
        self._make_reference()
        losses: list[SequenceLoss] = []
        for rows in batches(len(self.ids), self.batch_size):
            stored = logits = self._stored(rows)
            counted = None if self.weights is None else self.weights[rows]
            if counted is not None:
                logits = torch.zeros(*counted.shape, stored.shape[-1])
                logits[counted > 0] = stored
            losses += compare(logits, stored, self.ids[rows], counted)
        return Quality.of(self.split, losses)

    def quality(self, formats: Mapping[str, str]) -> Quality:
        """A plan measured on the whole split."""
        losses = [loss for batch in self.losses(formats) for loss in batch]
        return Quality.of(self.split, losses)


CHUNK_BYTES = 2**20
"""Logits compared at once on a CPU: a few temporaries of this size stay in the second-level cache."""


def counted_tokens(ids: Tensor, weights: Tensor | None = None) -> tuple[int, ...]:
    """Tokens that count in each sequence: what it weighs in a mean. All but the last position, or of these
    the ones whose weight is above zero."""
    marks = torch.ones_like(ids) if weights is None else weights > 0
    return tuple(int(n) for n in marks[:, :-1].sum(1))


@torch.no_grad()
def compare(
    logits: Tensor,
    reference: Tensor,
    ids: Tensor,
    weights: Tensor | None = None,
    top: Tensor | None = None,
) -> list[SequenceLoss]:
    """Per-sequence losses of `logits` (batch, tokens, vocab) against reference log-probabilities.

    `reference` is (batch, tokens, vocab). With `weights` (batch, tokens) only positions above zero count;
    `reference` may then also hold these positions alone, (marked, vocab). The last position of a sequence
    never counts: its next token is not known. `top` are the reference's likeliest tokens where they are
    known, shaped as `reference` without its last dimension.
    """
    marks = torch.ones_like(ids) if weights is None else weights > 0
    out, done = [], 0
    for row in range(len(ids)):
        at = marks[row].nonzero().squeeze(-1)
        if reference.dim() == 3:
            rows: Tensor | slice = slice(None) if weights is None else at.to(reference.device)
            ref, best = reference[row][rows], None if top is None else top[row][rows]
        else:
            ref, best = reference[done : done + len(at)], None if top is None else top[done : done + len(at)]
            done += len(at)
        known = at[at + 1 < ids.shape[1]]  # the last position alone can be left out: it is at the end
        count = len(known)
        picked = logits[row, :count] if weights is None else logits[row, known.to(logits.device)]
        kl, nll, same = _position_losses(
            picked, ref[:count], ids[row, known + 1], None if best is None else best[:count]
        )
        out.append(
            SequenceLoss(
                kl=max(0.0, float(kl.mean())), nll=float(nll.mean()), top1=float(same.mean()), tokens=count
            )
        )
    return out


def _position_losses(
    logits: Tensor, reference: Tensor, targets: Tensor, top: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """KL, negative log-likelihood of the target, and whether the likeliest token is the same: (positions,).

    A few positions at a time in two buffers that stay in the cache: whole temporaries cost three times as
    much. The softmax is the reference's own kernel, whose rounding then cancels in small differences.
    """
    vocab, device = reference.shape[-1], logits.device
    step = max(1, CHUNK_BYTES // (4 * vocab)) if device.type == "cpu" else len(logits)
    kl, nll, same = (torch.empty(len(logits)) for _ in range(3))
    logq_buffer, p_buffer = (torch.empty(min(step, len(logits)), vocab, device=device) for _ in range(2))
    for start in range(0, len(logits), step):
        part = slice(start, min(start + step, len(logits)))
        z, ref = logits[part, :vocab].float(), reference[part].to(device)
        logq, p = logq_buffer[: len(z)], p_buffer[: len(z)]
        torch.log_softmax(z, -1, out=logq)
        nll[part] = -logq.gather(-1, targets[part].to(device).unsqueeze(-1)).squeeze(-1)
        kl[part] = torch.linalg.vecdot(torch.exp(ref, out=p), torch.sub(ref, logq, out=logq))
        likeliest = ref.max(-1).indices if top is None else top[part].to(device)
        best = z.gather(-1, likeliest.unsqueeze(-1)) == z.amax(-1, keepdim=True)
        same[part] = best.squeeze(-1).float()
    return kl, nll, same


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

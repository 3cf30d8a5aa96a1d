"""Next-token distributions as an engine gives them (top-k), and what is computed from two of them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from profiles.errors import RunFailed, UsageError

FLOOR = 1e-10
"""Probability below which a bucket is taken as this: the engine's float32 sums are no finer."""


@dataclass(frozen=True)
class TopK:
    """Per predicted token: the target's log-probability, and the k likeliest tokens, best first."""

    target_logprobs: npt.NDArray[np.float32]  # (n,)
    ids: npt.NDArray[np.int32]  # (n, k)
    logprobs: npt.NDArray[np.float32]  # (n, k)
    windows_key: str

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood; NaN stays NaN, an overflow is infinite."""
        with np.errstate(over="ignore"):
            return float(np.exp(-self.target_logprobs.astype(np.float64).mean()))

    def only(self, counted: Sequence[bool]) -> TopK:
        """The predictions that count, one flag for each."""
        keep = np.asarray(counted, dtype=bool)
        return TopK(self.target_logprobs[keep], self.ids[keep], self.logprobs[keep], self.windows_key)

    def save(self, path: Path) -> None:
        """Write to `path` (.npz), whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as out:
            np.savez(
                out,
                target_logprobs=self.target_logprobs,
                ids=self.ids,
                logprobs=self.logprobs,
                windows_key=np.array(self.windows_key),
            )
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> TopK:
        """Read what `save` wrote.

        Raises:
            RunFailed: missing or damaged.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
                return cls(data["target_logprobs"], data["ids"], data["logprobs"], str(data["windows_key"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
            raise RunFailed(
                "the original's reference distributions cannot be read",
                where=str(path),
                got=f"{type(exc).__name__}: {exc}",
                next_step="measure the original again (is_reference), it is written then",
            ) from exc


def from_prompt_logprobs(outputs: Any, top_k: int, windows_key: str) -> TopK:
    """vLLM's `FlatLogprobs` per request -> arrays. Row: the target first, then the top-k."""
    ids: list[npt.NDArray[np.int64]] = []
    logprobs: list[npt.NDArray[np.float64]] = []
    width = top_k + 1
    for output in outputs:
        flat = output.prompt_logprobs
        # the first token of a prompt has no prediction: its range is empty
        ids.append(np.asarray(flat.token_ids, dtype=np.int64).reshape(-1, width))
        logprobs.append(np.asarray(flat.logprobs, dtype=np.float64).reshape(-1, width))
    all_ids, all_logprobs = np.concatenate(ids), np.concatenate(logprobs)
    return TopK(
        target_logprobs=all_logprobs[:, 0].astype(np.float32),
        ids=all_ids[:, 1:].astype(np.int32),
        logprobs=all_logprobs[:, 1:].astype(np.float32),
        windows_key=windows_key,
    )


def check_same_windows(reference: TopK, other: TopK) -> None:
    """Both must have predicted the same tokens.

    Raises:
        UsageError: they did not.
    """
    if reference.windows_key != other.windows_key or len(reference.ids) != len(other.ids):
        raise UsageError(
            "the reference was measured on other evaluation windows",
            got=f"{len(other.ids)} tokens ({other.windows_key})",
            allowed=f"{len(reference.ids)} tokens ({reference.windows_key})",
            next_step="measure both checkpoints with the same texts, eval_tokens, seq_len and tokenizer",
        )


def truncated_kl(reference: TopK, other: TopK) -> float:
    """KL(reference || other) in nats per token over the reference's top-k that `other` reports too,
    plus one bucket for the rest of the vocabulary.

    Merging outcomes never raises a KL (data-processing inequality), so this is a lower bound of the
    full KL; the log-sum inequality makes it tight when the bucket is small.
    """
    check_same_windows(reference, other)
    total = 0.0
    for ref_ids, ref_lp, ids, lp in zip(
        reference.ids, reference.logprobs, other.ids, other.logprobs, strict=True
    ):
        shared, at_ref, at_other = np.intersect1d(ref_ids, ids, assume_unique=True, return_indices=True)
        p_log, q_log = ref_lp[at_ref].astype(np.float64), lp[at_other].astype(np.float64)
        p = np.exp(p_log)
        p_rest, q_rest = max(1 - p.sum(), FLOOR), max(1 - np.exp(q_log).sum(), FLOOR)
        total += float((p * (p_log - q_log)).sum() + p_rest * np.log(p_rest / q_rest))
        del shared
    return max(total / len(reference.ids), 0.0) if np.isfinite(total) else float("nan")


def top1_agreement(reference: TopK, other: TopK) -> float:
    """Share of positions where both find the same token likeliest."""
    check_same_windows(reference, other)
    return float((reference.ids[:, 0] == other.ids[:, 0]).mean())

"""Child process: a GGUF file read and run by llama.cpp itself, and its perplexity on given tokens.

`python -m tuners.gguf.measure SPEC`. llama.cpp is the build that `cyllama` packs: its own reader, tokenizer
and kernels, nothing of this project's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from profiles.errors import EnvironmentProblem, RunFailed
from profiles.provenance import Contract
from tuners.child import child_main
from tuners.events import Emit, Ticker

STAGE = "gguf"
CHECKED_TEXTS = 8
"""Texts that both tokenizers cut."""


class GgufMeasureSpec(Contract):
    """The file, and windows of token ids; a window of n predicts n - 1. `counted` says
    for each token whether the next one counts; without it all do. `texts` are cut by llama.cpp's
    tokenizer and held against `text_ids`, the original tokenizer's."""

    path: str
    windows: tuple[tuple[int, ...], ...] = Field(min_length=1)
    counted: tuple[tuple[bool, ...], ...] = ()
    texts: tuple[str, ...] = ()
    text_ids: tuple[tuple[int, ...], ...] = ()
    threads: int = Field(default=0, ge=0)  # 0: all that this process may use


class GgufMeasurement(Contract):
    """Perplexity in llama.cpp, and texts that its tokenizer cuts in another way than the original's."""

    perplexity: float
    tokens: int
    prefill_tokens_s: float
    differently_cut: int
    checked: int
    build: str
    ratio: float | None = None  # over the original's perplexity on the same tokens, where that is known


def measure_gguf(spec: GgufMeasureSpec, emit: Emit) -> GgufMeasurement:
    """Load the file and run every window.

    Raises:
        EnvironmentProblem: no llama.cpp is installed.
        RunFailed: llama.cpp does not load the file, or its numbers are none.
    """
    model, context, build = _loaded(spec)
    tick = Ticker(emit, STAGE, len(spec.windows))
    total, count, seconds = 0.0, 0, 0.0
    for done, window in enumerate(spec.windows, 1):
        started = time.monotonic()
        logits = _logits(context, window)
        seconds += time.monotonic() - started
        losses = _losses(logits[:-1], window[1:])
        if spec.counted:
            losses = losses[np.asarray(spec.counted[done - 1][:-1], dtype=bool)]
        total += float(losses.sum())
        count += len(losses)
        tick(done, "windows in llama.cpp")
    if not np.isfinite(total):
        raise RunFailed(
            "llama.cpp's probabilities are not numbers: the file is broken", where=spec.path, got=str(total)
        )
    vocabulary = model.get_vocab()
    cut = [vocabulary.tokenize(text, False, False) for text in spec.texts[:CHECKED_TEXTS]]
    other = sum(list(a) != list(b) for a, b in zip(cut, spec.text_ids, strict=False))
    return GgufMeasurement(
        perplexity=float(np.exp(total / count)), tokens=count,
        prefill_tokens_s=sum(map(len, spec.windows)) / seconds, differently_cut=other, checked=len(cut),
        build=build,
    )  # fmt: skip


def _loaded(spec: GgufMeasureSpec) -> tuple[Any, Any, str]:
    try:
        import cyllama
        from cyllama.llama import llama_cpp
    except ImportError as exc:
        raise EnvironmentProblem(
            "no llama.cpp is installed to measure with",
            next_step="pip install 'precision-advisor[llamacpp]', or llama-perplexity -m FILE -f TEXT",
        ) from exc

    class Model(llama_cpp.LlamaModel):  # type: ignore[misc, unused-ignore]
        """With the size that cyllama 0.2.18's `get_logits_ith` asks its model for, and does not find."""

        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    llama_cpp.llama_backend_init()
    longest = max(map(len, spec.windows))
    try:
        model = Model(path_model=spec.path, verbose=False)
        params = llama_cpp.LlamaContextParams()
        params.n_ctx = params.n_batch = params.n_ubatch = longest
        params.n_threads = params.n_threads_batch = spec.threads or len(os.sched_getaffinity(0))
        context = llama_cpp.LlamaContext(model=model, params=params, verbose=False)
    except (RuntimeError, OSError, ValueError, MemoryError) as exc:
        raise RunFailed(
            "llama.cpp does not load this file", where=spec.path, got=str(exc), next_step="see the log"
        ) from exc
    return model, context, f"cyllama {cyllama.__version__}"


def _logits(context: Any, window: Sequence[int]) -> npt.NDArray[np.float32]:
    """(tokens, vocabulary) of one sequence: llama_decode with every position asked for."""
    from cyllama.llama import llama_cpp

    context.kv_cache_clear()
    batch = llama_cpp.LlamaBatch(n_tokens=len(window), embd=0, n_seq_max=1)
    try:
        for at, token in enumerate(window):
            batch.add(token, at, [0], True)
        context.decode(batch)
        return np.asarray([context.get_logits_ith(at) for at in range(len(window))], dtype=np.float32)
    finally:
        batch.close()


def _losses(logits: npt.NDArray[np.float32], targets: Sequence[int]) -> npt.NDArray[np.float64]:
    """Negative log-likelihood of each target."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normal = np.log(np.exp(shifted).sum(axis=1))
    losses: npt.NDArray[np.float64] = normal - shifted[np.arange(len(targets)), list(targets)]
    return losses


if __name__ == "__main__":
    child_main(GgufMeasureSpec, measure_gguf)

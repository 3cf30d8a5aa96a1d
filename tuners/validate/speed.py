"""Speed of one request at a time in an engine that is already warm."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from typing import Any

REPEATS = 2
"""Timed runs of each kind; the median is kept."""

SHORT_PROMPT = 16
"""Prompt tokens of the decoding run: short, so that the cache it reads hardly counts."""


@dataclass(frozen=True)
class Speed:
    """Medians for one request alone. `ttft_ms` is that of the long prompt."""

    prefill_tokens_s: float
    decode_tokens_s: float
    ttft_ms: float
    itl_ms: float


def measure_speed(
    llm: Any, *, vocab_size: int, prefill_tokens: int, decode_tokens: int, seed: int = 0
) -> Speed:
    """Prefill: a long prompt and one token. Decode: a short prompt and `decode_tokens` tokens.

    Times are the engine's own (`RequestStateStats`): scheduled to first token, first to last token.
    """
    rng = random.Random(seed)
    _timed(llm, _tokens(rng, SHORT_PROMPT, vocab_size), 2)  # warm-up, not counted
    first = [_timed(llm, _tokens(rng, prefill_tokens, vocab_size), 1)[0] for _ in range(REPEATS)]
    gaps = [
        seconds / (decode_tokens - 1)
        for _, seconds in (
            _timed(llm, _tokens(rng, SHORT_PROMPT, vocab_size), decode_tokens) for _ in range(REPEATS)
        )
    ]
    ttft_s, itl_s = statistics.median(first), statistics.median(gaps)
    return Speed(
        prefill_tokens_s=prefill_tokens / ttft_s,
        decode_tokens_s=1 / itl_s,
        ttft_ms=ttft_s * 1e3,
        itl_ms=itl_s * 1e3,
    )


def _tokens(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    return [rng.randrange(vocab_size) for _ in range(count)]


def _timed(llm: Any, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and from the first to the last."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=new_tokens, temperature=0, ignore_eos=True, detokenize=False)
    stats = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].metrics
    return stats.first_token_ts - stats.scheduled_ts, stats.last_token_ts - stats.first_token_ts

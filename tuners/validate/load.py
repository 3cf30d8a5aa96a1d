"""TTFT, ITL and throughput with several requests at once, by the engine's own clock."""

from __future__ import annotations

import random
import statistics
from typing import Any

from tuners.validate.schema import LoadPoint

CONCURRENCIES = (1, 4, 16)
PROMPT_TOKENS, NEW_TOKENS = 32, 8
"""Short on purpose: sixteen requests take seconds on two cores, and nothing is extrapolated from them."""


def measure_load(
    llm: Any, *, vocab_size: int, max_num_seqs: int, kv_tokens: int, max_model_len: int, seed: int = 0
) -> tuple[LoadPoint, ...]:
    """A closed batch of each size that the engine can run at once; larger ones are left out.

    TTFT counts from when the engine queued the request (`RequestStateStats.queued_ts`), so it includes the
    wait for the others' prompts; ITL is first to last token over the gaps. Medians over the requests.
    """
    per_request = PROMPT_TOKENS + NEW_TOKENS
    if per_request >= max_model_len:
        return ()
    fits = [n for n in CONCURRENCIES if n <= max_num_seqs and n * per_request <= kv_tokens]
    return tuple(_point(llm, n, vocab_size, seed) for n in fits)


def _point(llm: Any, concurrency: int, vocab_size: int, seed: int) -> LoadPoint:
    from vllm import SamplingParams

    rng = random.Random(seed)
    prompts = [
        {"prompt_token_ids": [rng.randrange(vocab_size) for _ in range(PROMPT_TOKENS)]}
        for _ in range(concurrency)
    ]
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True, detokenize=False)
    stats = [o.metrics for o in llm.generate(prompts, params, use_tqdm=False)]
    seconds = max(s.last_token_ts for s in stats) - min(s.queued_ts for s in stats)
    return LoadPoint(
        concurrency=concurrency,
        ttft_ms=1e3 * statistics.median(s.first_token_ts - s.queued_ts for s in stats),
        itl_ms=1e3
        * statistics.median((s.last_token_ts - s.first_token_ts) / (NEW_TOKENS - 1) for s in stats),
        output_tokens_s=concurrency * NEW_TOKENS / seconds,
    )

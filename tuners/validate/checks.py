"""Does the engine behave with this checkpoint: same answer twice, stops by itself, reads a long prompt."""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any

from tuners.validate.schema import EngineChecks

SAME_TOKENS = 16
"""Greedy tokens that are compared between two passes; a difference shows early."""

STOP_PROMPTS = (
    "Answer with one word: what is the capital of France?",
    "Answer with one number: what is 2 + 2?",
    "Say hello and nothing else.",
)
"""Questions whose answer ends soon, if the template and the stop token are right."""

STOP_TOKENS = 32
LONG_TOKENS = 2048
"""Tokens of the long prompt, less where the context is shorter: a smoke test of late positions."""

LONG_ANSWER = 4


def run_checks(
    llm: Any, tokenizer: Any, prompts: tuple[str, ...], *, vocab_size: int, max_model_len: int, seed: int = 0
) -> EngineChecks:
    """Every check in the engine that is already started."""
    asked = prompts or STOP_PROMPTS
    first, second = (_greedy(llm, tokenizer, asked, SAME_TOKENS, seed) for _ in range(2))
    same = sum(a.token_ids == b.token_ids for a, b in zip(first, second, strict=True))
    short = _greedy(llm, tokenizer, STOP_PROMPTS, STOP_TOKENS, seed)
    specials = _special_texts(tokenizer)
    long_tokens, long_ok = _long(llm, vocab_size, max_model_len, seed)
    template = getattr(tokenizer, "chat_template", None)
    return EngineChecks(
        asked_twice=len(asked),
        same_answers=same,
        asked_to_stop=len(STOP_PROMPTS),
        stopped=sum(o.finish_reason == "stop" for o in short),
        leaked=sum(any(s in o.text for s in specials) for o in short),
        chat_template_sha256=hashlib.sha256(str(template).encode()).hexdigest() if template else None,
        long_tokens=long_tokens,
        long_ok=long_ok,
    )


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a user's turn, through the chat template where there is one."""
    if not getattr(tokenizer, "chat_template", None):
        return list(tokenizer(prompt)["input_ids"])
    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _greedy(llm: Any, tokenizer: Any, prompts: tuple[str, ...], tokens: int, seed: int) -> list[Any]:
    """The completions, special tokens left in their text."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=tokens, temperature=0, seed=seed, skip_special_tokens=False)
    given = [{"prompt_token_ids": prompt_ids(tokenizer, p)} for p in prompts]
    return [o.outputs[0] for o in llm.generate(given, params, use_tqdm=False)]


def _special_texts(tokenizer: Any) -> tuple[str, ...]:
    """Markers that must not be part of an answer. The stop token itself is cut off by the engine."""
    end = getattr(tokenizer, "eos_token", None)
    return tuple(s for s in getattr(tokenizer, "all_special_tokens", ()) if s and s != end)


def _long(llm: Any, vocab_size: int, max_model_len: int, seed: int) -> tuple[int, bool]:
    """Tokens of a random prompt up to LONG_TOKENS or the context, and whether what follows is sane."""
    from vllm import SamplingParams

    count = min(LONG_TOKENS, max_model_len - LONG_ANSWER - 1)
    if count < 1:
        return 0, True
    rng = random.Random(seed)
    prompt = [rng.randrange(vocab_size) for _ in range(count)]
    params = SamplingParams(
        max_tokens=LONG_ANSWER, temperature=0, logprobs=1, ignore_eos=True, detokenize=False
    )
    answer = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0]
    likely = [entry.logprob for step in answer.logprobs for entry in step.values()]
    return count, len(answer.token_ids) == LONG_ANSWER and all(math.isfinite(x) for x in likely)
